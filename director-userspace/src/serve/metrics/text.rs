//! The text format: https://prometheus.io/docs/instrumenting/exposition_formats/

use std::fmt::{Display, Write as _};

use super::catalogue::Metric;

/// A page of metrics, while it is written.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric: its series must follow before the next one begins.
    pub(super) fn family(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
    }

    /// Writes one series of `metric`; `labels` has the value of each of its labels.
    pub(super) fn series(&mut self, metric: &Metric, labels: &[&str], value: impl Display) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        self.0.push_str(metric.name);
        for (at, (label, value)) in metric.labels.iter().zip(labels).enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !metric.labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// Writes a metric of one series without labels.
    pub(super) fn single(&mut self, metric: &Metric, value: impl Display) {
        self.family(metric);
        self.series(metric, &[], value);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::catalogue::Kind, *};

    #[test]
    fn values_of_labels_are_escaped() {
        let metric = Metric { name: "m", kind: Kind::Gauge, labels: &["a", "b"], help: "h." };
        let mut text = Text::default();
        text.family(&metric);
        text.series(&metric, &["x\"} 1\n", "\\"], 2.5);
        assert_eq!(
            text.finish(),
            "# HELP m h.\n# TYPE m gauge\nm{a=\"x\\\"} 1\\n\",b=\"\\\\\"} 2.5\n"
        );
    }
}
