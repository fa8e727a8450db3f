//! Output of results: tables for the terminal, JSON, and a document with plots.
//!
//! Document, plots and the JSON beside them are made from the same results, so that each can be
//! checked against the others.

pub(crate) mod format;
mod markdown;
mod plots;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use crate::measurement::{Measurement, Part};

/// The document's name in the directory of `--report`.
const DOCUMENT: &str = "benchmarks.md";
/// Where its plots and results are, beside it.
const FILES: &str = "benchmarks";
const RESULTS: &str = "results.json";

/// Where results are written.
#[derive(clap::Args, Default)]
pub(crate) struct Outputs {
    /// Write the results here as JSON, one object each
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write DIR/benchmarks.md, its plots, and the results that it was made from
    #[arg(long, global = true, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Arguments of `bench report`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Results that `--json` wrote; those of several runs are joined
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
}

/// Shows and writes results of earlier runs.
///
/// # Errors
///
/// If a file cannot be read or written, or two runs measured the same.
pub(crate) fn run(args: &Args, outputs: &Outputs) -> Result<ExitCode> {
    let mut runs = Vec::new();
    for file in &args.from {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let results: Vec<Measurement> = serde_json::from_str(&text)
            .with_context(|| format!("{}: not the results of a run", file.display()))?;
        runs.push((file.as_path(), results));
    }
    let results = join(runs)?;
    show(&results, |_| true);
    write(&results, outputs)?;
    Ok(ExitCode::SUCCESS)
}

/// Joins the results of several runs. Figures that two of them measured are refused: figures are
/// compared only within one run, which would be ambiguous.
fn join(runs: Vec<(&Path, Vec<Measurement>)>) -> Result<Vec<Measurement>> {
    let mut all: Vec<Measurement> = Vec::new();
    for (file, results) in runs {
        let twice = results.iter().find(|new| {
            new.workload != "self-check" && all.iter().any(|known| is_same(known, new))
        });
        if let Some(Measurement { part, program, mode, family, workload, flows, .. }) = twice {
            bail!(
                "{}: {program} {mode} {family} {workload} with {flows} flows, of part {part:?}, is also in an earlier file, and only figures of one run can be compared: name one of the two",
                file.display()
            );
        }
        all.extend(results);
    }
    Ok(all)
}

/// Whether both are figures of the same thing.
fn is_same(one: &Measurement, other: &Measurement) -> bool {
    let numbers = |m: &Measurement| (m.flows, m.size, m.cpus, m.services, m.backends);
    let texts = |m: &Measurement| {
        [&m.program, &m.mode, &m.family, &m.workload, &m.wire, &m.unit, &m.kernel].map(Clone::clone)
    };
    one.part == other.part && numbers(one) == numbers(other) && texts(one) == texts(other)
}

/// Prints the tables of the parts that are `wanted`.
pub(crate) fn show(results: &[Measurement], wanted: impl Fn(Part) -> bool) {
    for table in table::tables(results) {
        if wanted(table.part) {
            println!("{}", table.text());
        }
    }
}

/// Writes the results to the paths in `outputs`.
///
/// # Errors
///
/// If a file cannot be written, or a plot not be drawn.
pub(crate) fn write(results: &[Measurement], outputs: &Outputs) -> Result<()> {
    let json = serde_json::to_string_pretty(results).context("results as JSON")? + "\n";
    if let Some(file) = &outputs.json {
        put(file, &json)?;
    }
    let Some(dir) = &outputs.report else { return Ok(()) };
    let files = dir.join(FILES);
    fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
    put(&files.join(RESULTS), &json)?;
    let plots = plots::plots(results);
    for (_, plot) in &plots {
        let svg = plot.svg().with_context(|| format!("plot {}", plot.name))?;
        put(&files.join(format!("{}.svg", plot.name)), &svg)?;
    }
    let command = markdown::command(std::env::args().skip(1));
    put(&dir.join(DOCUMENT), &markdown::document(results, &plots, &command))
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_different_parts_are_joined() {
        let (packet, rest): (Vec<_>, Vec<_>) =
            fixture::results().into_iter().partition(|m| m.part == Part::Packet);
        let count = packet.len() + rest.len();
        let runs = vec![(Path::new("a.json"), packet.clone()), (Path::new("b.json"), rest)];
        assert_eq!(join(runs).unwrap().len(), count);
        let twice = vec![(Path::new("a.json"), packet.clone()), (Path::new("b.json"), packet)];
        let error = join(twice).unwrap_err().to_string();
        assert!(error.starts_with("b.json: floor tunnel v4 known with 1 flows"), "{error}");
    }

    #[test]
    fn the_report_links_files_that_are_there() {
        let dir = std::env::temp_dir().join(format!("director-report-{}", std::process::id()));
        let outputs = Outputs { json: None, report: Some(dir.clone()) };
        let results = fixture::results();
        write(&results, &outputs).unwrap();
        let text = fs::read_to_string(dir.join(DOCUMENT)).unwrap();
        let mut links = 0;
        for link in text.split("](benchmarks/").skip(1) {
            let name = link.split(')').next().unwrap();
            assert!(dir.join(FILES).join(name).is_file(), "{name}");
            links += 1;
        }
        // Five plots and the results.
        assert!(links >= 6, "{text}");
        let json = fs::read_to_string(dir.join(FILES).join(RESULTS)).unwrap();
        let read: Vec<Measurement> = serde_json::from_str(&json).unwrap();
        assert_eq!(read.len(), results.len());
        fs::remove_dir_all(&dir).unwrap();
    }
}
