//! The figures as a table: Director beside IPVS in the same mode.

use std::fmt::Write as _;

use crate::measurement::{Measurement, Part};

/// One block for each kernel, wire, family and workload; a line for each program.
pub(super) fn of(results: &[Measurement]) -> String {
    let results: Vec<&Measurement> = results.iter().filter(|m| m.part == Part::Vm).collect();
    let mut groups: Vec<_> = results.iter().map(|figure| group(figure)).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut text = String::new();
    for block in groups {
        let Group { kernel, wire, family, workload } = block;
        let _ = writeln!(text, "Linux {kernel}, {wire}, {family}, {workload} flows");
        let _ = writeln!(text, "{:>40} {:>8}", "instructions/packet", "net");
        for figure in results.iter().filter(|figure| group(figure) == block) {
            let Measurement { program, mode, median, min, max, .. } = figure;
            let spread = (max - min) / 2.0;
            let whole = format!("{median:.0} ± {spread:.0}");
            let net = figure.net.map_or(String::new(), |net| format!("{net:.0}"));
            let _ = write!(text, "  {program:10} {mode:7} {whole:>19} {net:>8}");
            if let Some(ratio) = of_ipvs(figure, &results) {
                let _ = write!(text, "  {ratio:.2} of IPVS");
            }
            text.push('\n');
        }
    }
    text
}

/// The net cost of Director's forwarding, relative to IPVS in the same mode and the same boot.
pub(super) fn of_ipvs(figure: &Measurement, results: &[&Measurement]) -> Option<f64> {
    if figure.program != "director" {
        return None;
    }
    let ipvs = results.iter().find(|other| {
        other.program == "ipvs" && other.mode == figure.mode && group(other) == group(figure)
    });
    Some(figure.net? / ipvs?.net?)
}

/// What figures must have in common to be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group<'m> {
    kernel: &'m str,
    wire: &'m str,
    family: &'m str,
    workload: &'m str,
}

fn group(figure: &Measurement) -> Group<'_> {
    let Measurement { kernel, wire, family, workload, .. } = figure;
    Group { kernel, wire, family, workload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    #[test]
    fn director_is_compared_with_ipvs_of_the_same_group_and_mode() {
        let session = Session::new(1, true);
        let figure = |program: &str, mode: &str, wire: &str, net| {
            let mut figure = session.blank(Part::Vm, program, "instructions/packet", &[net]);
            mode.clone_into(&mut figure.mode);
            wire.clone_into(&mut figure.wire);
            figure.net = Some(net);
            figure
        };
        let results = [
            figure("ipvs", "direct", "veth", 100.0),
            figure("ipvs", "tunnel", "virtio-net", 800.0),
            figure("ipvs", "direct", "virtio-net", 1_000.0),
            figure("director", "direct", "virtio-net", 250.0),
        ];
        let all: Vec<&Measurement> = results.iter().collect();
        assert_eq!(of_ipvs(&results[3], &all), Some(0.25));
        assert_eq!(of_ipvs(&results[0], &all), None);
        assert_eq!(of_ipvs(&results[3], &all[..2]), None);
        let text = of(&results);
        assert!(text.contains("0.25 of IPVS"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("Linux")).count(), 2, "{text}");
    }
}
