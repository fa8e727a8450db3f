//! `director import` and `director export`: what is carried over, what is not, and that the result
//! forwards like the source.
//!
//! A fixture is a file under `import/`, and beside it `NAME.expected`: the resulting services, then
//! what was not carried over. `DIRECTOR_WRITE_EXPECTED=1` writes these files, which must then be
//! reviewed.

#[path = "import/fixture.rs"]
mod fixture;
#[path = "import/forwarding.rs"]
mod forwarding;
#[path = "import/garbage.rs"]
mod garbage;
#[path = "import/program.rs"]
mod program;
#[path = "import/round_trip.rs"]
mod round_trip;

use std::fs;

use director_userspace::policy::config;

use self::fixture::{Fixture, summary};

#[test]
fn every_fixture_imports_as_expected() {
    let all = Fixture::all();
    assert!(all.len() >= 30, "{} fixtures", all.len());
    let mut wrong = Vec::new();
    for fixture in &all {
        let imported = fixture.import();
        let found = summary(&imported);
        if std::env::var_os("DIRECTOR_WRITE_EXPECTED").is_some() {
            fs::write(fixture.expected_path(), &found).expect("writable");
        }
        let expected = fs::read_to_string(fixture.expected_path()).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\n{found}instead of\n{expected}", fixture.name()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The counts add up, and each service that was left out appears as a comment.
#[test]
fn every_service_is_accounted_for() {
    for fixture in Fixture::all() {
        let imported = fixture.import();
        let config = config::parse("import", &imported.yaml).expect("valid").config;
        let report = &imported.report;
        assert_eq!(config.services.len(), report.carried, "{}", fixture.name());
        let commented = imported.yaml.lines().filter(|line| line.starts_with("  # - name: "));
        assert_eq!(commented.count(), report.services - report.carried, "{}", fixture.name());
        assert!(report.warnings.iter().any(|warning| warning.contains("iptables")));
        for note in &report.notes {
            assert!(!note.why.is_empty() && !note.instead.is_empty(), "{note:?}");
        }
    }
}

/// A commented-out service is valid without the comment signs, except for unsupported keys.
#[test]
fn commented_services_are_valid_when_uncommented() {
    let fixture = Fixture::named("ipvsadm/save-persistent.rules");
    let yaml = fixture.import().yaml;
    let lines = yaml.lines().filter(|line| !line.starts_with("services:"));
    let lines =
        lines.map(|line| line.strip_prefix("  # ").map_or(line.into(), |l| format!("  {l}")));
    let lines = lines.filter(|line| !line.contains("persistence") && !line.contains("Left out"));
    let text: Vec<String> = lines.collect();
    let text = format!("services:\n{}", text.join("\n"));
    let config =
        config::parse("uncommented", &text).unwrap_or_else(|e| panic!("{e}\n{text}")).config;
    assert_eq!(config.services.len(), 3);
}

#[test]
fn lossy_carries_services_with_noticeable_differences() {
    let fixture = Fixture::named("ipvsadm/save-persistent.rules");
    let imported = fixture.import_with(true);
    assert_eq!(imported.report.carried, 3, "{}", imported.yaml);
    let fixture = Fixture::named("ipvsadm/save-schedulers.rules");
    assert_eq!(fixture.import_with(true).report.carried, 17);
}
