//! `director capture`: writes packets before and after, with their verdicts, for Wireshark.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use director_common::trace::MAX_SNAP;

use super::watch::{Sink, WatchArgs, summary, unix_ns, watch};
use crate::{
    inspect::trace::{Event, Pcapng},
    kernel::private_file,
};

/// Write packets to a pcapng file, each as received and as sent, with the verdict
///
/// Received frames are on the file's first interface (`before`, inbound), sent frames on the second
/// (`after`, outbound). Each has a comment: verdict, reason, service, backend. tcpdump does not
/// capture these packets, because XDP processes them before; this command does.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; - is stdout
    #[arg(short, long = "write", value_name = "FILE")]
    write: PathBuf,
    /// Bytes of each frame to keep
    #[arg(long, value_name = "BYTES", default_value_t = MAX_SNAP,
          value_parser = clap::value_parser!(u32).range(14..=i64::from(MAX_SNAP)))]
    snaplen: u32,
    #[command(flatten)]
    watch_args: WatchArgs,
}

/// Runs the command. 0: done, also when a signal ended it; 1: failed.
///
/// # Errors
/// If packets cannot be captured.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shown = args.write.display();
    let failed = || format!("cannot write {shown}");
    let to: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(std::io::stdout())
    } else {
        Box::new(private_file::create(&args.write).with_context(failed)?)
    };
    let file = Pcapng::new(BufWriter::new(to), args.snaplen).with_context(failed)?;
    let mut sink = Frames { file, frames: 0, shown: shown.to_string() };
    let ended = watch(&args.watch_args, args.snaplen, &mut sink).await;
    // Captured packets are kept, even after an error.
    let lost = ended.as_ref().map_or(0, |ended| ended.counts.lost);
    let frames = sink.frames;
    let finished = sink.file.finish(unix_ns(), lost).with_context(failed);
    let ended = ended?;
    finished?;
    summary(&format!("captured as {frames} frames"), &ended);
    Ok(ExitCode::SUCCESS)
}

struct Frames<W: Write> {
    file: Pcapng<W>,
    frames: u64,
    shown: String,
}

impl<W: Write> Sink for Frames<W> {
    fn event(&mut self, event: &Event) -> anyhow::Result<bool> {
        let failed = || format!("cannot write {}", self.shown);
        self.frames += self.file.event(event).with_context(failed)?;
        Ok(true)
    }

    fn pause(&mut self) -> anyhow::Result<bool> {
        self.file.flush().with_context(|| format!("cannot write {}", self.shown))?;
        Ok(true)
    }
}
