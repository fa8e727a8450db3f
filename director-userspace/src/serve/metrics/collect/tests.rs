use std::collections::{HashMap, HashSet};

use super::*;
use crate::serve::view::fixture::{snapshot, status};

/// Parses a page strictly: each series with its value.
///
/// Panics on what the format does not allow: an invalid line, a series outside its metric, a
/// duplicate metric or series, a value that is not a number.
fn parse(page: &str) -> HashMap<String, f64> {
    let known: HashMap<&str, &Metric> = metric::ALL.iter().map(|m| (m.name, m)).collect();
    let mut seen = HashSet::new();
    let mut series = HashMap::new();
    let mut current: Option<&Metric> = None;
    assert!(page.ends_with('\n'));
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            let metric = known.get(name).copied().expect(line);
            assert_eq!(help, metric.help);
            assert!(seen.insert(name), "{name} twice");
            let kind = format!("# TYPE {name} {}", metric.kind.as_str());
            assert_eq!(lines.next(), Some(&*kind));
            current = Some(metric);
            continue;
        }
        let metric = current.expect("a metric has begun");
        let rest = line.strip_prefix(metric.name).expect(line);
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ").expect(line),
            None => ("", rest.strip_prefix(' ').expect(line)),
        };
        let names: Vec<&str> = labels
            .split("\",")
            .filter(|label| !label.is_empty())
            .map(|label| label.split_once("=\"").expect(line).0)
            .collect();
        assert_eq!(names, metric.labels, "{line}");
        let value: f64 = value.parse().expect(line);
        let name = line.rsplit_once(' ').expect(line).0.to_owned();
        assert!(series.insert(name, value).is_none(), "{line} twice");
    }
    series
}

#[test]
fn every_metric_is_present_with_the_snapshot_s_value() {
    let snapshot = snapshot(1000).with(Some(status(&["10.0.0.12"])));
    let page = render(&snapshot, 1000);
    let series = parse(&page);
    for metric in metric::ALL {
        assert!(series.keys().any(|name| name.starts_with(metric.name)), "{}", metric.name);
    }
    let web = r#"{service="web",frontend="tcp 192.0.2.10:80"}"#;
    let backend =
        |n| format!(r#"{{service="web",frontend="tcp 192.0.2.10:80",backend="10.0.0.{n}"}}"#);
    for (name, value) in [
        ("director_config_revision".to_owned(), 7.0),
        (format!("director_service_packets_total{web}"), 3000.0),
        (format!("director_service_backends_up{web}"), 2.0),
        (format!("director_service_backends{web}"), 3.0),
        (format!("director_service_up{web}"), 1.0),
        (format!("director_backend_up{}", backend(11)), 1.0),
        (format!("director_backend_up{}", backend(12)), 0.0),
        (format!("director_backend_flows_total{}", backend(12)), 100.0),
        (r#"director_packets_total{verdict="drop",reason="no-neighbour"}"#.to_owned(), 6.0),
        (r#"director_packets_total{verdict="tx",reason="none"}"#.to_owned(), 3100.0),
        ("director_metrics_truncated".to_owned(), 0.0),
    ] {
        assert_eq!(series.get(&name), Some(&value), "{name}\n{page}");
    }
}

#[test]
fn without_a_daemon_its_metrics_are_absent() {
    let series = parse(&render(&snapshot(1000), 1000));
    for absent in ["director_config_revision", "director_backend_up", "director_service_up"] {
        assert!(!series.keys().any(|name| name.split('{').next() == Some(absent)), "{absent}");
    }
}

#[test]
fn with_too_many_backends_only_services_have_series() {
    let snapshot = snapshot(1000).with(Some(status(&[])));
    let page = render(&snapshot, 31);
    let series = parse(&page);
    assert_eq!(series["director_metrics_truncated"], 1.0);
    assert!(!page.contains("backend="), "{page}");
    assert!(page.contains("director_service_flows_total{"), "{page}");
    assert_eq!(parse(&render(&snapshot, 32))["director_metrics_truncated"], 0.0);
}

#[test]
fn a_backend_that_drains_in_its_old_slot_is_one_series() {
    let mut snapshot = snapshot(1000);
    let service = &mut snapshot.services[1];
    let mut old = service.backends[0].clone();
    (old.state, old.drain_left_s) = ("draining", Some(9));
    service.backends.push(old);
    let series = parse(&render(&snapshot, 1000));
    let labels = r#"{service="web",frontend="tcp 192.0.2.10:80",backend="10.0.0.11"}"#;
    assert_eq!(series[&format!("director_backend_packets_total{labels}")], 2000.0);
    assert_eq!(series[&format!("director_backend_draining{labels}")], 0.0);
}
