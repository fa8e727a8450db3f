//! `docs/metrics.md` lists exactly the existing metrics, and the dashboard queries no others.

use std::{collections::BTreeMap, fs, path::Path};

use director_userspace::serve::metrics::{ALL, Metric};
use serde_json::Value;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of metrics in a text.
fn names(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
        .filter(|word| word.starts_with("director_"))
        .collect()
}

#[test]
fn every_metric_is_listed_correctly() {
    let text = read("docs/metrics.md");
    let rows: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `director_"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`'), cells)
        })
        .collect();
    let listed: Vec<&str> = rows.keys().copied().collect();
    let mut existing: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
    existing.sort_unstable();
    assert_eq!(listed, existing);
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = metric.help.trim_end_matches('.');
        let name = format!("`{}`", metric.name);
        let expected = [&name, metric.kind.as_str(), &labels.join(", "), help];
        assert_eq!(rows[metric.name], expected);
    }
    for name in names(&text) {
        assert!(of(name).is_some(), "{name} does not exist");
    }
}

fn of(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
}

#[test]
fn the_dashboard_queries_existing_metrics_and_labels() {
    let dashboard: Value = serde_json::from_str(&read("docs/grafana/director.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queried = 0;
    let mut titles = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        if panel["type"] == "row" {
            titles.push(title);
            continue;
        }
        for target in panel["targets"].as_array().expect(title) {
            let query = target["expr"].as_str().expect(title);
            let names = names(query);
            assert!(!names.is_empty(), "{title}: {query}");
            for name in &names {
                let metric = of(name).unwrap_or_else(|| panic!("{title}: {name}"));
                let legend = target["legendFormat"].as_str().expect(title);
                for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                    let exists = label == "instance" || metric.labels.contains(&label);
                    assert!(exists, "{title}: {name} has no label {label}");
                }
            }
            queried += names.len();
        }
    }
    for title in ["Services", "Backends", "Health", "Drops"] {
        assert!(titles.contains(&title), "{titles:?}");
    }
    assert!(queried > 25, "{queried}");
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        for name in names(variable["definition"].as_str().unwrap_or_default()) {
            assert!(of(name).is_some(), "{name}");
        }
    }
}
