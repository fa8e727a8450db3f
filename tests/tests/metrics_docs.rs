//! `docs/metrics.md` lists the metrics that there are, and the dashboard asks for no others.

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
fn every_metric_is_listed_as_it_is() {
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
    let mut there: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
    there.sort_unstable();
    assert_eq!(listed, there);
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
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("docs/grafana/director.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = 0;
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
                    let known = label == "instance" || metric.labels.contains(&label);
                    assert!(known, "{title}: {name} has no label {label}");
                }
            }
            asked += names.len();
        }
    }
    for title in ["Services", "Backends", "Health", "Drops"] {
        assert!(titles.contains(&title), "{titles:?}");
    }
    assert!(asked > 25, "{asked}");
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        for name in names(variable["definition"].as_str().unwrap_or_default()) {
            assert!(of(name).is_some(), "{name}");
        }
    }
}
