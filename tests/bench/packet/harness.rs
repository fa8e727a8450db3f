//! Runs a program over many packets: `director-ebpf/src/bench/harness.rs` in the kernel, and this
//! in userspace.

use std::{fs, sync::Barrier, thread};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xtask::workspace;

use super::frame::Frame;

/// Packets of one call: the kernel reports the mean in whole nanoseconds, and many short calls give
/// a finer figure than a long one.
const CHUNK: u32 = 1 << 16;
/// Buffer space for headers that a program adds.
const GROWTH: usize = 256;

/// A program's return value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

impl Action {
    fn of(code: u32) -> Result<Self> {
        Ok(match code {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => bail!("the program returned {other}, which is no XDP action"),
        })
    }
}

/// The object with the harness and the reference programs.
pub(crate) fn object() -> Result<Vec<u8>> {
    let file = workspace::bpf_object("bench");
    fs::read(&file)
        .with_context(|| format!("{}: not built; `cargo xtask bench` builds it", file.display()))
}

/// A loaded program of an object.
pub(crate) fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp =
        ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("the kernel refuses {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

/// A harness for one frame and a number of flows.
pub(crate) struct Harness {
    ebpf: Ebpf,
    under_test: ProgramArray<aya::maps::MapData>,
    frame: Vec<u8>,
}

/// The cost of one CPU's packets, and the result of the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Mean, ns.
    pub(crate) ns: f64,
    /// The last packet's action.
    pub(crate) action: Action,
    /// Its length, bytes.
    pub(crate) length: u32,
}

impl Harness {
    /// Sends `frame` as `flows` flows (a power of two; 0: each packet a new one), to `vips` VIPs (a
    /// power of two), starting at its own.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(crate) fn new(frame: &Frame, flows: u64, vips: u32) -> Result<Self> {
        let bytes = frame.bytes();
        let flows_mask = if flows == 0 { u64::MAX >> 8 } else { flows - 1 };
        let mut ebpf = EbpfLoader::new()
            .override_global("FRAME_LENGTH", &(bytes.len() as u32), true)
            .override_global("FRAME_IS_V6", &u32::from(frame.vip.is_ipv6()), true)
            .override_global("FLOWS_MASK", &flows_mask, true)
            .override_global("VIPS_MASK", &u64::from(vips - 1), true)
            .load(&object()?)
            .context("cannot load the harness")?;
        load(&mut ebpf, "harness")?;
        let mut template: Array<_, [u64; 11]> =
            ebpf.map_mut("TEMPLATE").context("no map TEMPLATE")?.try_into()?;
        template.set(0, template_of(frame), 0)?;
        let under_test = ebpf.take_map("UNDER_TEST").context("no map UNDER_TEST")?.try_into()?;
        let mut harness = Self { ebpf, under_test, frame: bytes };
        harness.start_at(0)?;
        Ok(harness)
    }

    /// Sets the number of each CPU's next flow; CPUs have different flows.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub(crate) fn start_at(&mut self, number: u64) -> Result<()> {
        let mut sent: PerCpuArray<_, u64> =
            self.ebpf.map_mut("SENT").context("no map SENT")?.try_into()?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let starts = (0..cpus as u64).map(|cpu| cpu << 56 | number).collect::<Vec<_>>();
        sent.set(0, PerCpuValues::try_from(starts)?, 0)?;
        Ok(())
    }

    /// Sends one packet of flow `number` and returns the resulting frame.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the run.
    pub(crate) fn send(&mut self, number: u64) -> Result<Vec<u8>> {
        self.start_at(number)?;
        let mut out = vec![0; self.frame.len() + GROWTH];
        let program: &Xdp = self.ebpf.program("harness").context("no harness")?.try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.data_out = Some(&mut out);
        let length = program.test_run(options).context("BPF_PROG_TEST_RUN")?.data_size_out;
        out.truncate(length as usize);
        Ok(out)
    }

    /// Sets the program to be run from now on.
    ///
    /// # Errors
    ///
    /// If it is no XDP program, or one of a kind that cannot be called from another.
    pub(crate) fn put(&mut self, program: &ProgramFd) -> Result<()> {
        Ok(self.under_test.set(0, program, 0)?)
    }

    /// Runs `packets` packets on this CPU.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the run.
    pub(crate) fn run(&self, packets: u64) -> Result<Sample> {
        let program: &Xdp = self.ebpf.program("harness").context("no harness")?.try_into()?;
        let mut out = vec![0; self.frame.len() + GROWTH];
        let (mut total, mut left) = (0.0, packets);
        let mut last = None;
        while left > 0 {
            let repeat = u32::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut options = TestRunOptions::new();
            options.data_in = Some(&self.frame);
            options.data_out = Some(&mut out);
            options.repeat = repeat;
            let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
            // Truncated to whole nanoseconds, for the floor as for any program.
            total += (result.duration.as_nanos() as f64 + 0.5) * f64::from(repeat);
            left -= u64::from(repeat);
            last = Some((result.return_value, result.data_size_out));
        }
        let (code, length) = last.context("no packets to run")?;
        Ok(Sample { ns: total / packets as f64, action: Action::of(code)?, length })
    }

    /// As [`Harness::run`], on the first `cpus` CPUs at once; each sends different flows.
    ///
    /// # Errors
    ///
    /// As [`Harness::run`]; if there are fewer CPUs.
    pub(crate) fn run_on(&self, cpus: u32, packets: u64) -> Result<Vec<Sample>> {
        let barrier = Barrier::new(cpus as usize);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..cpus as usize)
                .map(|cpu| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let pinned = pin(cpu);
                        // Also after a failure: the other threads wait here.
                        barrier.wait();
                        pinned?;
                        self.run(packets)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a CPU's thread panicked")))
                .collect()
        })
    }
}

/// The frame in the format of the harness: `Template` in `director-ebpf/src/bench/harness.rs`.
fn template_of(frame: &Frame) -> [u64; 11] {
    let mut bytes = frame.bytes();
    bytes.resize(80, 0);
    let word = |at: usize| {
        u64::from(u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
    };
    let mut template = [0; 11];
    template[0] = word(0) | word(4) << 32;
    template[1] = word(8) | (word(12) & 0xffff) << 32;
    for (at, pair) in template[2..10].iter_mut().enumerate() {
        let from = 14 + 8 * at;
        *pair = word(from) | word(from + 4) << 32;
    }
    template[10] = frame.partial_sum();
    template
}

/// Pins this thread to one CPU.
///
/// # Errors
///
/// If there is no such CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("there is no CPU {cpu}"))
}
