//! The commands: output streams and exit codes.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use director_tests::live::{binary, command, finish};
use serde_json::Value;

use super::fixture::Fixture;

/// Runs `director` with these arguments and this standard input to its end.
fn director(words: &[&str], input: &[u8]) -> Output {
    let mut command = std::process::Command::new(binary());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    // The program may end without reading everything.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn the_configuration_goes_to_stdout_and_the_list_to_stderr() {
    let fixture = Fixture::named("ipvsadm/save-nat.rules");
    let path = fixture.path().to_str().expect("UTF-8");
    let output = director(&["import", "ipvsadm", path, "--interface", "eth7"], b"");
    assert_eq!(output.status.code(), Some(0));
    let (yaml, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(yaml.contains("- name: \"eth7\"") && yaml.contains("# Left out: tcp 203.0.113.1:80"));
    assert!(stderr.contains("1 of 2 services carried over, 1 left out"), "{stderr}");
    assert!(stderr.contains("left out: nat: ") && stderr.contains("  instead: "), "{stderr}");
    assert!(stderr.contains("warning: firewall rules do not see"), "{stderr}");

    let file = std::env::temp_dir().join(format!("imported-{}.yaml", std::process::id()));
    fs::write(&file, &yaml).expect("writable");
    finish(command(&["check", "-c", file.to_str().expect("UTF-8")])).succeeded();
    let exported = finish(command(&["export", "ipvsadm", "-c", file.to_str().expect("UTF-8")]));
    let exported = exported.succeeded();
    assert_eq!(
        exported.stdout,
        "-A -t 203.0.113.1:25 -s mh -b mh-port\n\
         -a -t 203.0.113.1:25 -r 192.168.7.9:25 -g -w 1\n"
    );
    fs::remove_file(&file).expect("there");
}

#[test]
fn standard_input_and_a_report_for_programs() {
    let source = fs::read(Fixture::named("ipvsadm/live.listing").path()).expect("there");
    let output = director(&["import", "ipvsadm", "-", "--report", "json"], &source);
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!((&report["source"], &report["services"]), (&"stdin".into(), &8.into()), "{report}");
    let notes = report["notes"].as_array().expect("a list");
    let mark = notes.iter().find(|note| note["what"] == "fwmark").expect("reported");
    assert_eq!((&mark["line"], &mark["effect"]), (&12.into(), &"left-out".into()), "{mark}");
    assert!(report["warnings"][0].as_str().expect("a text").contains("firewall"));

    let source = fs::read(Fixture::named("keepalived/web-dr.conf").path()).expect("there");
    let output = director(&["import", "keepalived", "-"], &source);
    assert!(text(&output.stdout).contains("health: {type: tcp, interval: 6s"));
}

#[test]
fn malformed_input_exits_with_2_and_prints_no_configuration() {
    for (words, input, expected) in [
        (&["import", "ipvsadm", "-"][..], "rubbish\n", "stdin:1: "),
        (&["import", "keepalived", "-"], "a {\n", "stdin:1: a { has no }"),
        (&["import", "ipvsadm", "-", "--interface", "a b"], "", "a b"),
    ] {
        let output = director(words, input.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    let output = director(&["import", "ipvsadm", "-", "--report", "json"], b"rubbish");
    let report: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(report["errors"][0]["line"], 1, "{report}");
}

#[test]
fn conditional_lines_apply_to_their_config_id() {
    let fixture = Fixture::named("keepalived/definitions.conf");
    let path = fixture.path().to_str().expect("UTF-8");
    let both = director(&["import", "keepalived", path, "--config-id", "standby"], b"");
    assert!(text(&both.stdout).contains("address: 192.0.2.141"), "{}", text(&both.stdout));
    let one = director(&["import", "keepalived", path, "--config-id", "active"], b"");
    assert!(!text(&one.stdout).contains("192.0.2.141"));
    assert!(!text(&one.stderr).contains("condition"), "{}", text(&one.stderr));
}
