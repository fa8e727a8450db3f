//! `director simulate`: runs the real program over a capture, without side effects.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, ErrorKind, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::{ConfigFile, load_config, output::Output, print_message};
use crate::{
    inspect::simulate::{Capture, PacketResult, Simulator, Writer, offline},
    kernel::{host::privileges, private_file},
    policy::config::model::Config,
};

/// Run the real XDP program over a capture, with its own maps, without side effects
///
/// Prints the verdict on each packet: `tx`, `redirect`, `pass` or `drop`, the reason, and the
/// selected backend. Flows are kept from packet to packet; the clock is the capture's. Configured
/// interfaces need not exist, and frames for any MAC address are accepted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The capture: pcap or pcapng, of Ethernet frames
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Write the sent frames (tx, redirect) to this pcap file
    #[arg(long = "out", value_name = "FILE")]
    frames: Option<PathBuf>,
    /// How to print; json is one object per line
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command. 0: done, 1: failed, 2: wrong usage or invalid configuration.
///
/// # Errors
/// If the capture cannot be processed to its end.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = load_config(&args.file.config)?.config;
    let shown = args.input.display();
    let input = File::open(&args.input).with_context(|| format!("cannot open {shown}"))?;
    if let Some(frames) = &args.frames
        && is_same(&input, frames)
    {
        print_message("error", "--in and --out name the same file: the capture would be lost");
        return Ok(ExitCode::from(2));
    }
    let capture = Capture::new(BufReader::new(input)).with_context(|| shown.to_string())?;
    simulate(args, &config, capture)?;
    Ok(ExitCode::SUCCESS)
}

fn simulate(
    args: &Args,
    config: &Config,
    mut capture: Capture<BufReader<File>>,
) -> anyhow::Result<()> {
    if let Some(missing) = privileges::missing(privileges::effective()?) {
        bail!("simulate runs the real program in the kernel: {missing}");
    }
    let assumed = offline(config);
    let mut simulator = Simulator::new(config, &assumed.paths)?;
    for note in &assumed.notes {
        print_message("note", note);
    }
    let mut frames = args.frames.as_deref().map(|path| out(path, &capture)).transpose()?;
    let mut printer = Printer::new(args.output, config);
    let end = loop {
        let packet = match capture.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let simulated = simulator.run(&packet)?;
        if !printer.print(&simulated.result)? {
            return Ok(());
        }
        if let Some(note) = &simulated.note {
            print_message("note", note);
        }
        if let (Some(frames), Some(frame)) = (&mut frames, simulated.leaves) {
            let cut_off = packet.original_length.saturating_sub(packet.bytes.len() as u32);
            frames
                .write(packet.timestamp_ns, &frame, cut_off)
                .with_context(|| not_written(args))?;
        }
    };
    printer.finish()?;
    if let Some(frames) = frames {
        frames.finish().with_context(|| not_written(args))?;
    }
    end.with_context(|| args.input.display().to_string())
}

fn out<R: io::Read>(path: &Path, capture: &Capture<R>) -> anyhow::Result<Writer<BufWriter<File>>> {
    let failed = || format!("cannot write {}", path.display());
    let file = private_file::create(path).with_context(failed)?;
    Writer::new(BufWriter::new(file), capture.nanoseconds()).with_context(failed)
}

fn not_written(args: &Args) -> String {
    let path = args.frames.as_deref().unwrap_or(Path::new("--out"));
    format!("cannot write {}", path.display())
}

/// Whether `path` is the open file.
fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(a), Ok(b)) = (file.metadata(), path.metadata()) else { return false };
    a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Prints results packet by packet.
struct Printer {
    format: Output,
    to: BufWriter<io::Stdout>,
    /// Widths of the service and backend columns.
    widths: (usize, usize),
    counts: [u64; 4],
    packets: u64,
}

/// The verdicts that are counted, in the order in which they are printed.
const VERDICTS: [&str; 4] = ["tx", "redirect", "pass", "drop"];

impl Printer {
    fn new(format: Output, config: &Config) -> Self {
        let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).max(7);
        let services = widest(&mut config.services.iter().map(|s| s.name.to_string().len()));
        let backends = config.services.iter().flat_map(|s| &s.backends);
        let backends = widest(&mut backends.map(|b| b.address.to_string().len()));
        Self {
            format,
            to: BufWriter::new(io::stdout()),
            widths: (services, backends),
            counts: [0; 4],
            packets: 0,
        }
    }

    /// Prints a result. Returns false if the reader has closed stdout.
    fn print(&mut self, result: &PacketResult) -> anyhow::Result<bool> {
        let is_first = self.packets == 0;
        self.packets += 1;
        if let Some(at) = VERDICTS.iter().position(|verdict| *verdict == result.verdict) {
            self.counts[at] += 1;
        }
        let text = match self.format {
            Output::Json => serde_json::to_string(result)? + "\n",
            // Items of one list.
            Output::Yaml => serde_yaml::to_string(&[result])?,
            Output::Table => {
                let mut text = String::new();
                if is_first {
                    let heads = [
                        "PACKET",
                        "VERDICT",
                        "REASON",
                        "SERVICE",
                        "BACKEND",
                        "CONNECTION",
                        "BYTES",
                    ];
                    text = self.row(&heads);
                }
                let backend = result.backend.map(|address| address.to_string());
                text + &self.row(&[
                    &result.packet.to_string(),
                    result.verdict,
                    result.reason.unwrap_or("-"),
                    result.service.as_deref().unwrap_or("-"),
                    backend.as_deref().unwrap_or("-"),
                    result.connection,
                    &result.bytes.to_string(),
                ])
            }
        };
        Self::is_reader_open(self.to.write_all(text.as_bytes()))
    }

    fn row(&self, cells: &[&str; 7]) -> String {
        let [packet, verdict, reason, service, backend, connection, bytes] = cells;
        let (services, backends) = self.widths;
        format!(
            "{packet:>6}  {verdict:<8}  {reason:<16}  {service:<services$}  {backend:<backends$}  \
             {connection:<10}  {bytes:>5}\n"
        )
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let text = match self.format {
            Output::Json => String::new(),
            Output::Yaml if self.packets == 0 => "[]\n".into(),
            Output::Yaml => String::new(),
            Output::Table => {
                let mut counts: Vec<String> = VERDICTS
                    .iter()
                    .zip(self.counts)
                    .filter(|(_, count)| *count > 0)
                    .map(|(verdict, count)| format!("{count} {verdict}"))
                    .collect();
                let skipped = self.packets - self.counts.iter().sum::<u64>();
                if skipped > 0 {
                    counts.push(format!("{skipped} skipped"));
                }
                let s = if self.packets == 1 { "" } else { "s" };
                let colon = if counts.is_empty() { "" } else { ": " };
                format!("{} packet{s}{colon}{}\n", self.packets, counts.join(", "))
            }
        };
        Self::is_reader_open(self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()))?;
        Ok(())
    }

    /// `director simulate | head` is not an error.
    fn is_reader_open(written: io::Result<()>) -> anyhow::Result<bool> {
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error).context("cannot write to stdout"),
        }
    }
}
