//! Runs one frame through a loaded program by `BPF_PROG_TEST_RUN`: nothing is received or sent.

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};

use super::{DatapathError, load, object};

/// `XDP_PACKET_HEADROOM`: the headroom of the kernel's test frames, and of most drivers' frames.
const HEADROOM: usize = 256;
/// Frames up to this size fit the page that the kernel tests with (4096 less headroom and the
/// `skb_shared_info` behind). The program would see only a part of a longer one.
pub(super) const MAX_FRAME: usize = 3072;
/// Frames shorter than an Ethernet header are refused by the kernel's test, not by the program.
pub(super) const MIN_FRAME: usize = 14;

/// Runs `director` over a frame with `metadata` bytes in front, which reduce its headroom; returns
/// the action, and the frame as the program left it. `number` identifies the frame in errors.
pub(super) fn test_run(
    ebpf: &mut Ebpf,
    frame: &[u8],
    metadata: usize,
    number: u64,
) -> Result<(u32, Vec<u8>), DatapathError> {
    if frame.len() > MAX_FRAME {
        return Err(DatapathError::FrameTooLong { length: frame.len(), limit: MAX_FRAME });
    }
    let program = load::program_of(ebpf, object::PROGRAM)?;
    let mut left = vec![0; MAX_FRAME + HEADROOM];
    let input = [&vec![0; metadata], frame].concat();
    // `struct xdp_md`, of which a test sets `data` and `data_end`; what precedes `data` is
    // metadata.
    let context = [metadata as u32, input.len() as u32, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    let (action, length) = {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&input);
        options.ctx_in = Some(&context).filter(|_| metadata > 0).map(Vec::as_slice);
        options.data_out = Some(&mut left);
        let failed = |error| DatapathError::TestRun { number, length: frame.len(), error };
        let result = program.test_run(options).map_err(failed)?;
        (result.return_value, result.data_size_out as usize)
    };
    left.truncate(length);
    left.drain(..metadata.min(length));
    Ok((action, left))
}
