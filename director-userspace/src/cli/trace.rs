//! `director trace`: prints verdicts on packets live.

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use anyhow::Context as _;

use super::watch::{Sink, WatchArgs, summary, watch};
use crate::inspect::trace::Event;

/// Print packets live: verdict, reason, flow, service, backend
///
/// The programs on the interfaces record each packet while this runs, and stop two seconds after it
/// was killed. One trace or capture at a time. Records that arrive faster than they are read are
/// lost, and counted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    watch_args: WatchArgs,
    /// How to print; json is one object per line
    #[arg(long, value_enum, default_value = "table")]
    output: Lines,
}

/// How packets are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lines {
    /// A table.
    Table,
    /// One JSON object per line.
    Json,
}

/// Runs the command. 0: done, also when a signal ended it; 1: failed.
///
/// # Errors
/// If packets cannot be traced.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut printer = Printer { lines: args.output, to: BufWriter::new(io::stdout()), printed: 0 };
    let ended = watch(&args.watch_args, 0, &mut printer).await?;
    printer.pause()?;
    summary("shown", &ended);
    Ok(ExitCode::SUCCESS)
}

struct Printer {
    lines: Lines,
    to: BufWriter<io::Stdout>,
    printed: u64,
}

/// Lines after which the headings are printed again.
const PAGE: u64 = 50;

impl Sink for Printer {
    fn event(&mut self, event: &Event) -> anyhow::Result<bool> {
        let text = match self.lines {
            Lines::Json => serde_json::to_string(event)? + "\n",
            Lines::Table => {
                let line = line(event);
                let is_first = self.printed.is_multiple_of(PAGE);
                if is_first { headings() + &line } else { line }
            }
        };
        self.printed += 1;
        is_reader_open(self.to.write_all(text.as_bytes()))
    }

    fn pause(&mut self) -> anyhow::Result<bool> {
        is_reader_open(self.to.flush())
    }
}

/// `director trace | head` is not an error.
fn is_reader_open(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

fn headings() -> String {
    row([
        "TIME", "VERDICT", "PROTO", "CLIENT", "VIP", "FLAGS", "SERVICE", "BACKEND", "CONN", "BYTES",
    ])
}

fn line(event: &Event) -> String {
    let backend = event.backend.map(|backend| backend.to_string());
    // The time of day is enough for a live trace.
    let time = event.time.get(11..26).unwrap_or(&event.time);
    let protocol = match (event.content, event.protocol.as_deref()) {
        ("icmp-error", Some(protocol)) => format!("icmp:{protocol}"),
        ("fragment", Some(protocol)) => format!("frag:{protocol}"),
        (_, protocol) => protocol.unwrap_or("-").into(),
    };
    row([
        time,
        &event.outcome(),
        &protocol,
        event.client.as_deref().unwrap_or("-"),
        event.vip.as_deref().unwrap_or("-"),
        event.flags.as_deref().filter(|flags| !flags.is_empty()).unwrap_or("-"),
        event.service.as_deref().unwrap_or("-"),
        backend.as_deref().unwrap_or("-"),
        event.connection,
        &event.bytes.to_string(),
    ])
}

fn row(cells: [&str; 10]) -> String {
    let [time, verdict, protocol, client, vip, flags, service, backend, connection, bytes] = cells;
    format!(
        "{time:<15}  {verdict:<18}  {protocol:<5}  {client:<21}  {vip:<21}  {flags:<5}  {service:<10}  \
         {backend:<15}  {connection:<5}  {bytes:>5}\n"
    )
}
