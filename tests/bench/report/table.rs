//! Results as tables: aligned text for a terminal, and Markdown.

use std::fmt::Write as _;

use super::format::{count, figure};
use crate::measurement::{Measurement, Part};

/// Figures that are compared.
pub(crate) struct Table<'a> {
    /// Their part.
    pub(crate) part: Part,
    /// Their subject and unit.
    pub(crate) title: String,
    figures: Vec<&'a Measurement>,
    /// All results, including the references of ratios.
    all: &'a [Measurement],
}

/// The results in tables, in the order in which they came.
pub(crate) fn tables(all: &[Measurement]) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    for part in Part::ALL {
        for result in all.iter().filter(|result| result.part == part) {
            let title = title(result);
            match tables.iter_mut().find(|table| table.part == part && table.title == title) {
                Some(table) => table.figures.push(result),
                None => tables.push(Table { part, title, figures: vec![result], all }),
            }
        }
    }
    tables
}

fn title(result: &Measurement) -> String {
    let Measurement { kernel, wire, workload, unit, .. } = result;
    match result.part {
        Part::Packet if workload == "self-check" => format!("Self-check of the benchmark, {unit}"),
        Part::Packet => format!("Cost of a packet, {unit}"),
        Part::Scale if result.mode == "memory" => format!("Memory, {unit}"),
        Part::Scale => format!("Cost of a packet as tables grow, {unit}"),
        Part::Control => format!("Changes, {unit}"),
        Part::Vm => format!("Linux {kernel}, {wire}, {unit}"),
    }
}

/// The ratio of the net cost to that of the reference in the same run, for the same kind of
/// packets: `conventional` in part `packet`, `ipvs` in the same mode in part `vm`, in part `scale`
/// the first, which is the smallest. None for the floor, and without a reference.
pub(crate) fn ratio(result: &Measurement, all: &[Measurement]) -> Option<f64> {
    if result.program.starts_with("floor") || result.workload == "self-check" {
        return None;
    }
    let same = |other: &&Measurement| {
        (other.part, &other.mode, &other.family, &other.workload, &other.unit)
            == (result.part, &result.mode, &result.family, &result.workload, &result.unit)
    };
    let reference = all.iter().filter(same).find(|other| match result.part {
        Part::Packet => {
            other.program == "conventional"
                && (other.flows, other.size, other.cpus) == (result.flows, result.size, result.cpus)
        }
        Part::Scale => other.program == result.program,
        Part::Control => false,
        Part::Vm => {
            other.program == "ipvs"
                && (&other.kernel, &other.wire) == (&result.kernel, &result.wire)
        }
    })?;
    let (net, reference) = (result.net?, reference.net?);
    (reference > 0.0).then(|| net / reference)
}

/// A column: its name, whether it is aligned to the right, and what is in it. A column that is
/// empty in all rows is left out.
type Column = (&'static str, bool, fn(&Measurement) -> String);

const PROGRAM: Column = ("program", false, |m| m.program.clone());
const MODE: Column = ("mode", false, |m| m.mode.clone());
const FAMILY: Column = ("family", false, |m| m.family.clone());
const WORKLOAD: Column = ("workload", false, |m| m.workload.clone());
const FLOWS: Column = ("flows", true, |m| some(m.flows));
const SIZE: Column = ("size", true, |m| some(m.size.into()));
const CPUS: Column = ("cpus", true, |m| some(m.cpus.into()));
const SERVICES: Column = ("services", true, |m| some(m.services.into()));
const BACKENDS: Column = ("backends", true, |m| some(m.backends.into()));
const MEDIAN: Column = ("median", true, |m| figure(m.median, &m.unit));
const MIN: Column = ("min", true, |m| figure(m.min, &m.unit));
const MAX: Column = ("max", true, |m| figure(m.max, &m.unit));
const SPREAD: Column =
    ("min..max", true, |m| format!("{}..{}", figure(m.min, &m.unit), figure(m.max, &m.unit)));
const NET: Column = ("net", true, |m| m.net.map_or(String::new(), |net| figure(net, &m.unit)));

fn some(number: u64) -> String {
    if number == 0 { String::new() } else { count(number) }
}

fn described(part: Part) -> &'static [Column] {
    match part {
        Part::Packet => &[PROGRAM, MODE, FAMILY, WORKLOAD, FLOWS, SIZE, CPUS],
        Part::Scale => &[PROGRAM, MODE, WORKLOAD, SERVICES, BACKENDS, FLOWS],
        Part::Control => &[MODE, WORKLOAD, SERVICES, BACKENDS],
        Part::Vm => &[PROGRAM, MODE, FAMILY, WORKLOAD, FLOWS, SIZE],
    }
}

fn reference(part: Part) -> &'static str {
    match part {
        Part::Packet => "of conv.",
        Part::Scale => "of first",
        Part::Control => "",
        Part::Vm => "of ipvs",
    }
}

impl Table<'_> {
    /// Text for a terminal: the title, the names of the columns, and the rows.
    pub(crate) fn text(&self) -> String {
        let (heads, rows) = self.cells(&[MEDIAN, SPREAD, NET]);
        let width = |at: usize| {
            let cells = rows.iter().map(|row| &row[at]).chain([&heads[at].0]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        let names: Vec<String> = heads.iter().map(|(name, _)| name.clone()).collect();
        for row in [&names].into_iter().chain(&rows) {
            let mut line = String::new();
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&heads) {
                let _ = if *right {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:width$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// A Markdown table, without the title.
    pub(crate) fn markdown(&self) -> String {
        let (heads, rows) = self.cells(&[MEDIAN, MIN, MAX, NET]);
        let names: Vec<&str> = heads.iter().map(|(name, _)| name.as_str()).collect();
        let rules: Vec<&str> =
            heads.iter().map(|(_, right)| if *right { "---:" } else { "---" }).collect();
        let mut text = format!("| {} |\n| {} |\n", names.join(" | "), rules.join(" | "));
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }

    /// Names of columns, whether they are aligned to the right, and the rows.
    fn cells(&self, figures: &[Column]) -> (Vec<(String, bool)>, Vec<Vec<String>>) {
        let columns: Vec<&Column> = described(self.part).iter().chain(figures).collect();
        let mut heads: Vec<(String, bool)> =
            columns.iter().map(|(name, right, _)| ((*name).to_owned(), *right)).collect();
        heads.push((reference(self.part).to_owned(), true));
        let row = |result: &&Measurement| {
            let mut row: Vec<String> = columns.iter().map(|(_, _, cell)| cell(result)).collect();
            let ratio = ratio(result, self.all);
            row.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
            row
        };
        let rows: Vec<Vec<String>> = self.figures.iter().map(row).collect();
        let used: Vec<bool> =
            (0..heads.len()).map(|at| rows.iter().any(|row| !row[at].is_empty())).collect();
        let mut keep = used.iter().copied().cycle();
        heads.retain(|_| keep.next().unwrap_or(true));
        let rows = rows.into_iter().map(|row| {
            row.into_iter().zip(&used).filter(|(_, used)| **used).map(|(cell, _)| cell).collect()
        });
        (heads, rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn costs_are_compared_with_the_reference_of_the_same_packets() {
        let all = fixture::results();
        let of = |program: &str, flows: u64| {
            let found = all.iter().find(|m| {
                (m.part, m.program.as_str(), m.workload.as_str(), m.flows)
                    == (Part::Packet, program, "known", flows)
            });
            ratio(found.unwrap(), &all)
        };
        assert_eq!(of("director", 1), Some(0.5));
        assert_eq!(of("director", 65_536), Some(0.25));
        assert_eq!(of("conventional", 1), Some(1.0));
        assert_eq!(of("floor", 1), None);
        let vm = |mode: &str| {
            let found = all
                .iter()
                .find(|m| m.part == Part::Vm && m.program == "director" && m.mode == mode);
            ratio(found.unwrap(), &all)
        };
        assert_eq!(vm("direct"), Some(0.4));
        // IPVS was not measured in this mode.
        assert_eq!(vm("tunnel"), None);
    }

    #[test]
    fn each_part_has_its_tables_and_they_fit_a_terminal() {
        let all = fixture::results();
        let tables = tables(&all);
        let titles: Vec<&str> = tables.iter().map(|table| table.title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "Self-check of the benchmark, ns/packet",
                "Cost of a packet, ns/packet",
                "Cost of a packet as tables grow, ns/packet",
                "Memory, bytes",
                "Changes, ms",
                "Linux 6.1.0-50-cloud-amd64, virtio-net, instructions/packet",
            ]
        );
        for table in &tables {
            for line in table.text().lines() {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
        let text = tables[1].text();
        let lines: Vec<&str> = text.lines().collect();
        let columns: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(
            columns,
            [
                "program", "mode", "family", "workload", "flows", "size", "cpus", "median",
                "min..max", "net", "of", "conv."
            ]
        );
        let director = lines.iter().find(|line| line.contains("director")).unwrap();
        let cells: Vec<&str> = director.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "director",
                "tunnel",
                "v4",
                "known",
                "1",
                "64",
                "1",
                "110.0",
                "109.0..112.0",
                "50.0",
                "0.50"
            ]
        );
        // Columns are aligned, here by the last character of a right-aligned one.
        assert_eq!(director.len(), lines[1].len());
    }

    #[test]
    fn markdown_has_median_minimum_and_maximum() {
        let all = fixture::results();
        let text = tables(&all)[1].markdown();
        assert!(
            text.contains("| director | tunnel | v4 | known | 1 | 64 | 1 | 110.0 | 109.0 | 112.0 | 50.0 | 0.50 |"),
            "{text}"
        );
        let width = |line: &str| line.matches(" |").count();
        assert!(text.lines().all(|line| width(line) == 12), "{text}");
        let memory = tables(&all)[3].markdown();
        assert!(!memory.contains("flows |"), "an empty column: {memory}");
    }
}
