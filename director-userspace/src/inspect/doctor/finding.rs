//! Findings of doctor, and the report that contains them.

use std::fmt;

use serde::Serialize;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could, or not in every case; or could not be checked.
    Warn,
    /// Some traffic does not arrive.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// The result of one check of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity.
    pub level: Level,
    /// The check: a stable word, for scripts.
    pub check: &'static str,
    /// The subject: an interface, an address, a service, a setting.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// How to fix it; none if no action is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// A finding of level `Ok`.
    pub fn ok(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            check,
            subject: subject.into(),
            message: message.into(),
            fix: None,
        }
    }

    /// A finding of level `Warn`.
    pub fn warn(
        check: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warn, fix: Some(fix.into()), ..Self::ok(check, subject, message) }
    }

    /// A finding of level `Fail`.
    pub fn fail(
        check: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, fix: Some(fix.into()), ..Self::ok(check, subject, message) }
    }
}

/// All findings of one examination, in the order of the packet's path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings have this level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// Whether nothing failed. Warnings don't count.
    pub fn healthy(&self) -> bool {
        self.count(Level::Fail) == 0
    }
}

/// The text table: one line per finding, its fix below it, a summary at the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Finding) -> &str| {
            self.findings.iter().map(|finding| of(finding).chars().count()).max().unwrap_or(0)
        };
        let (check, subject) = (width(|f| f.check), width(|f| &f.subject));
        for finding in &self.findings {
            writeln!(
                f,
                "{:<4}  {:<check$}  {:<subject$}  {}",
                finding.level, finding.check, finding.subject, finding.message
            )?;
            if let Some(fix) = &finding.fix {
                writeln!(f, "{:indent$}fix: {fix}", "", indent = 4 + 2 + check + 2 + subject + 2)?;
            }
        }
        writeln!(
            f,
            "{} ok, {} to improve, {} failed",
            self.count(Level::Ok),
            self.count(Level::Warn),
            self.count(Level::Fail)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_healthy_and_failures_are_not() {
        let mut report = Report::default();
        assert!(report.healthy());
        report.findings.push(Finding::warn("mtu", "eth0", "small", "raise it"));
        assert!(report.healthy());
        report.findings.push(Finding::fail("link", "eth0", "down", "set it up"));
        assert!(!report.healthy());
    }

    #[test]
    fn the_table_lines_up() {
        let report = Report {
            findings: vec![
                Finding::ok("kernel", "6.18", "fine"),
                Finding::fail("link", "eth0", "is down", "`ip link set eth0 up`"),
            ],
        };
        assert_eq!(
            report.to_string(),
            "ok    kernel  6.18  fine\n\
             FAIL  link    eth0  is down\n\
             \x20                   fix: `ip link set eth0 up`\n\
             1 ok, 0 to improve, 1 failed\n"
        );
    }
}
