//! The plots of results. Workloads that were not measured have none.

use crate::{
    measurement::{Measurement, Part},
    plot::{Kind, Plot, Point, Series},
};

/// Number of known flows shown beside new and unmatched flows.
const KNOWN: u64 = 1 << 16;
/// Frames of this size or more, bytes, are left out.
const SMALL: u32 = 100;

/// All plots of these results, each with its part.
pub(crate) fn plots(results: &[Measurement]) -> Vec<(Part, Plot)> {
    let mut plots: Vec<(Part, Plot)> = Vec::new();
    plots.extend(over_flows(results).map(|plot| (Part::Packet, plot)));
    plots.extend(workloads(results).map(|plot| (Part::Packet, plot)));
    for (workloads, across, at) in growths() {
        plots.extend(growth(results, workloads, across, at).map(|plot| (Part::Scale, plot)));
    }
    plots.extend(machines(results).into_iter().map(|plot| (Part::Vm, plot)));
    plots
}

/// The figure net of its floor; none without one.
fn net(result: &Measurement, at: f64) -> Option<Point> {
    let value = result.net?;
    let floor = result.median - value;
    Some(Point { at, value, least: result.min - floor, most: result.max - floor })
}

/// Adds a point to the series of this name, which is created if missing.
fn add(series: &mut Vec<Series>, name: &str, point: Point) {
    match series.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(point),
        None => series.push(Series { name: name.to_owned(), points: vec![point] }),
    }
}

/// The plot, unless it is empty.
fn plot(name: &str, title: &str, figures: &str, kind: Kind, series: Vec<Series>) -> Option<Plot> {
    (!series.is_empty()).then(|| Plot {
        name: name.to_owned(),
        title: title.to_owned(),
        figures: figures.to_owned(),
        kind,
        series,
    })
}

fn is_forwarder(result: &Measurement) -> bool {
    // `traced` is measured at one point only, which is in the table.
    !result.program.starts_with("floor")
        && result.program != "traced"
        && result.workload != "self-check"
}

const NS: &str = "ns per packet, net of the floor";

fn over_flows(results: &[Measurement]) -> Option<Plot> {
    let mut shown: Vec<&Measurement> = results
        .iter()
        .filter(|m| m.part == Part::Packet && is_forwarder(m) && m.workload == "known")
        .filter(|m| m.family == "v4" && m.mode == "tunnel" && m.cpus == 1 && m.size < SMALL)
        .collect();
    shown.sort_by_key(|m| m.flows);
    let mut series = Vec::new();
    for result in shown {
        if let Some(point) = net(result, result.flows as f64) {
            add(&mut series, &result.program, point);
        }
    }
    let title = "Known flows, IPv4 tunnel, one CPU";
    plot("packet-flows", title, NS, Kind::Lines("flows (logarithmic)".to_owned()), series)
}

fn workloads(results: &[Measurement]) -> Option<Plot> {
    let (mut groups, mut series) = (Vec::new(), Vec::new());
    let shown = results
        .iter()
        .filter(|m| m.part == Part::Packet && is_forwarder(m) && m.cpus == 1 && m.size < SMALL)
        .filter(|m| m.workload != "known" || m.flows == KNOWN);
    for result in shown {
        let what = match result.workload.as_str() {
            "known" => "known, 64 Ki",
            "nobody" => "unmatched",
            other => other,
        };
        let name = format!("{} {}: {what}", result.family, result.mode);
        let group = index_of(&mut groups, name);
        if let Some(point) = net(result, group) {
            add(&mut series, &result.program, point);
        }
    }
    let title = "Kinds of packets, one CPU: 64 Ki known flows, new flows, unmatched packets";
    plot("packet-workloads", title, NS, Kind::Bars(groups), series)
}

/// The index of `name` in `names`, to which it is appended if missing.
fn index_of(names: &mut Vec<String>, name: String) -> f64 {
    let at = names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    at as f64
}

type Growth = (&'static [(&'static str, &'static str)], &'static str, fn(&Measurement) -> f64);

/// Workloads of part `scale` with their names in the legend, and the axis of growth.
fn growths() -> [Growth; 3] {
    [
        (
            &[("services", "packets to one VIP"), ("services-spread", "spread over the VIPs")],
            "services",
            |m| f64::from(m.services),
        ),
        (&[("backends", "director")], "backends of the service", |m| f64::from(m.backends)),
        (&[("table", "64 Ki flows in use")], "capacity of the flow table, in flows", |m| {
            m.flows as f64
        }),
    ]
}

fn growth(
    results: &[Measurement],
    workloads: &[(&str, &str)],
    across: &str,
    at: fn(&Measurement) -> f64,
) -> Option<Plot> {
    let mut series = Vec::new();
    for (workload, name) in workloads {
        let mut points: Vec<Point> = results
            .iter()
            .filter(|m| m.part == Part::Scale && is_forwarder(m) && m.workload == *workload)
            .filter_map(|m| net(m, at(m)))
            .collect();
        points.sort_by(|one, other| one.at.total_cmp(&other.at));
        points.into_iter().for_each(|point| add(&mut series, name, point));
    }
    let (workload, _) = workloads.first()?;
    let title = format!("Director as it grows: {across}");
    let across = format!("{across} (logarithmic)");
    plot(&format!("scale-{workload}"), &title, NS, Kind::Lines(across), series)
}

fn machines(results: &[Measurement]) -> Vec<Plot> {
    let shown = |m: &&Measurement| m.part == Part::Vm && m.program != "floor-drop";
    let mut places: Vec<(&str, &str)> = Vec::new();
    for result in results.iter().filter(shown) {
        let place = (result.kernel.as_str(), result.wire.as_str());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.iter().filter_map(|place| machine(results, &places, *place)).collect()
}

/// The plot of one kernel and wire.
fn machine(
    results: &[Measurement],
    places: &[(&str, &str)],
    (kernel, wire): (&str, &str),
) -> Option<Plot> {
    let (mut groups, mut series) = (Vec::new(), Vec::new());
    for result in results {
        let here = result.part == Part::Vm && result.kernel == kernel && result.wire == wire;
        if !here || result.program == "floor-drop" {
            continue;
        }
        let program = if result.program == "floor" { "bare XDP_TX" } else { &result.program };
        let mode = if result.program == "floor" { "" } else { &result.mode };
        let group = index_of(&mut groups, format!("{program} {mode}").trim().to_owned());
        if let Some(point) = net(result, group) {
            add(&mut series, &format!("{} {} flows", result.family, result.workload), point);
        }
    }
    // Stable names for links, as long as they are unique.
    let series_of = |kernel: &str| kernel.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let equal = places.iter().filter(|(k, w)| series_of(k) == series_of(kernel) && *w == wire);
    let short = if equal.count() == 1 { series_of(kernel) } else { kernel.to_owned() };
    let name: String = format!("vm-{short}-{wire}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' })
        .collect();
    let title = format!("Linux {kernel}, over {wire}");
    let figures = "instructions per packet, net of XDP_DROP";
    plot(&name, &title, figures, Kind::Bars(groups), series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn plots_are_of_what_was_measured() {
        let all = fixture::results();
        let plots = plots(&all);
        let names: Vec<&str> = plots.iter().map(|(_, plot)| plot.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "packet-flows",
                "packet-workloads",
                "scale-services",
                "scale-table",
                "vm-6.1-virtio-net"
            ]
        );
        let over_flows = &plots[0].1;
        let director = over_flows.series.iter().find(|s| s.name == "director").unwrap();
        let first = Point { at: 1.0, value: 50.0, least: 49.0, most: 52.0 };
        assert_eq!(director.points[0], first);
        assert_eq!(director.points[1].at, 65_536.0);
        assert!(over_flows.series.iter().all(|series| series.name != "floor"));
        let Kind::Bars(groups) = &plots[4].1.kind else { panic!("not bars") };
        assert_eq!(groups, &["bare XDP_TX", "ipvs direct", "director direct", "director tunnel"]);
        assert!(super::plots(&[]).is_empty());
    }

    #[test]
    fn kernels_of_one_series_have_separate_plots() {
        let mut all = fixture::results();
        let mut other = all.iter().rfind(|m| m.part == Part::Vm).unwrap().clone();
        other.kernel = "6.1.0-51-cloud-amd64".to_owned();
        all.push(other);
        let names: Vec<String> = machines(&all).into_iter().map(|plot| plot.name).collect();
        assert_eq!(
            names,
            ["vm-6.1.0-50-cloud-amd64-virtio-net", "vm-6.1.0-51-cloud-amd64-virtio-net"]
        );
    }
}
