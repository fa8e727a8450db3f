//! The cost of a packet, and of a change: `cargo xtask bench`.
//!
//! Programs are measured side by side in one run, each net of a program that does nothing, because
//! machines differ and are noisy: only ratios within one run are comparable.

mod control;
mod host;
mod measurement;
mod packet;
mod plot;
mod report;
mod scale;
mod session;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use session::Session;

/// Measures Director beside other programs, on this machine
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Args {
    #[command(flatten)]
    options: Options,
    /// One part; all parts if omitted
    #[command(subcommand)]
    part: Option<Part>,
}

/// Options of every part.
#[derive(clap::Args)]
struct Options {
    #[command(flatten)]
    outputs: report::Outputs,
    /// How often each figure is measured; the median is used
    #[arg(long, global = true, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Fewer workloads and shorter runs: minutes become seconds, and the figures noisier
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Subcommand)]
enum Part {
    /// One packet's cost, by `BPF_PROG_TEST_RUN`: Director, the same on conventional maps, and
    /// programs that are pinned
    Packet(packet::Options),
    /// The same as services, backends and the flow table grow, and the memory of each of them
    Scale,
    /// The cost of changes: building rings, a large configuration, a weight
    Control,
    /// Instructions per packet in virtual machines, beside the kernel's own balancers
    Vm(vm::Args),
    /// Measures nothing: shows results of earlier runs, and writes them as `--report` does
    Report(report::Args),
    /// What a virtual machine runs
    #[command(hide = true)]
    InsideVm(vm::GuestArgs),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let mut session = Session::new(args.options.repeats, args.options.quick);
    match args.part {
        None => {
            packet::run(&mut session, &packet::Options::default())?;
            scale::run(&mut session)?;
            control::run(&mut session)?;
            vm::run(&mut session, &vm::Args::default())?;
        }
        Some(Part::Packet(options)) => packet::run(&mut session, &options)?,
        Some(Part::Scale) => scale::run(&mut session)?,
        Some(Part::Control) => control::run(&mut session)?,
        Some(Part::Vm(args)) => vm::run(&mut session, &args)?,
        Some(Part::Report(earlier)) => return report::run(&earlier, &args.options.outputs),
        Some(Part::InsideVm(args)) => return vm::inside(&args),
    }
    session.finish(&args.options.outputs)
}
