//! The documentation is correct: its commands, reasons and configuration files exist and are valid,
//! and its links resolve.

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::CommandFactory as _;
use director_common::verdict::{DropReason, PassReason, ReplyReason};
use director_tests::tree::{self, read, root};
use director_userspace::{
    cli::Cli,
    policy::{
        config,
        scheduler::{Description, Scheduler},
    },
};

const OPERATIONS: &str = "docs/operations.md";
/// Files for users: every example in them must be valid.
const FOR_USERS: [&str; 8] = [
    "README.md",
    "docs/install.md",
    "docs/guide.md",
    "docs/config.md",
    OPERATIONS,
    "docs/troubleshooting.md",
    "docs/migrating.md",
    "docs/threat-model.md",
];

/// Every Markdown file of the project.
fn markdown() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The text of the section under `heading`, up to the next heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect(heading);
    rest.split("\n#").next().unwrap()
}

/// The fenced blocks of a language: line number of the fence, and text.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == format!("```{language}") {
            let block = lines.by_ref().map(|(_, line)| line).take_while(|l| l.trim() != "```");
            found.push((number + 1, block.map(|line| format!("{line}\n")).collect()));
        }
    }
    found
}

#[test]
fn every_reason_is_documented_in_its_section() {
    let text = read(OPERATIONS);
    let expect = |heading: &str, labels: Vec<&str>| {
        let section = section(&text, heading);
        let explained: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(explained, labels.into_iter().collect(), "{heading}");
    };
    let pass = PassReason::ALL.iter().map(|reason| reason.label()).collect();
    expect("### Passed to the host", pass);
    expect("### Answered", ReplyReason::ALL.iter().map(|reason| reason.label()).collect());
    expect("### Dropped", DropReason::ALL.iter().map(|reason| reason.label()).collect());
}

#[test]
fn every_command_is_listed_and_every_listed_command_exists() {
    let text = read(OPERATIONS);
    let listed: BTreeSet<String> = section(&text, "## Commands")
        .lines()
        .filter_map(|line| line.strip_prefix("| `director ")?.split('`').next())
        .map(ToOwned::to_owned)
        .collect();
    let cli = Cli::command();
    let existing: BTreeSet<String> =
        cli.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(listed, existing);
}

/// Each `director ...` line of a shell block, parsed by the program's own parser.
#[test]
fn every_command_line_parses() {
    let mut tried = 0;
    for file in FOR_USERS {
        for (line, block) in blocks(&read(file), "sh") {
            for command in block.lines() {
                let command = command.split(" #").next().unwrap().trim();
                let command = command.trim_start_matches("sudo ");
                let words =
                    command.split_whitespace().take_while(|word| !matches!(*word, "&" | ">"));
                if !command.starts_with("director ") {
                    continue;
                }
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{file}:{line}: {command}: {}", parsed.unwrap_err());
                tried += 1;
            }
        }
    }
    assert!(tried > 20, "only {tried} command lines found");
}

#[test]
fn every_configuration_is_valid() {
    let mut tried = 0;
    for file in FOR_USERS {
        for (line, block) in blocks(&read(file), "yaml") {
            let name = format!("{file}:{line}");
            let loaded = config::parse(&name, &block).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
            tried += 1;
        }
    }
    assert!(tried >= 4, "only {tried} files found");
}

/// docs/config.md describes every scheduler as its registry does.
#[test]
fn every_scheduler_is_described() {
    let text = read("docs/config.md");
    let row = text.lines().find(|line| line.starts_with("| `scheduler` |")).expect("a row");
    for scheduler in Scheduler::ALL {
        let Description { name, aliases, help, .. } = scheduler.description();
        assert!(row.contains(&format!("`{name}`: {help}")), "{name}: {help} is not in: {row}");
        assert!(aliases.iter().all(|alias| row.contains(&format!("`{alias}`"))), "{row}");
    }
}

/// Each test that the threat model names, as `FILE` (`FUNCTION`), exists.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let text = read("docs/threat-model.md");
    let mut named = 0;
    for part in text.split("(`").skip(1) {
        let test = part.split('`').next().unwrap();
        let before = &text[..part.as_ptr() as usize - text.as_ptr() as usize];
        let file = before.trim_end_matches("(`").trim_end().trim_end_matches('`');
        let file = file.rsplit('`').next().unwrap();
        if file.ends_with(".rs") {
            assert!(read(file).contains(&format!("fn {test}(")), "{file} has no test {test}");
            named += 1;
        }
    }
    assert!(named > 20, "only {named} tests found");
}

/// A heading's anchor, as Git forges generate it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced && line.starts_with('#') {
            found.insert(anchor(line));
        }
    }
    found
}

#[test]
fn every_link_resolves() {
    let mut followed = 0;
    for file in markdown() {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link} does not exist", file.display());
            if !place.is_empty() {
                let existing = anchors(&fs::read_to_string(&target).unwrap());
                assert!(existing.contains(place), "{}: no heading for {link}", file.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "only {followed} links found");
}

/// Programs loaded only by the benchmark.
const BENCH: &[&str] = &["bench.rs", "conventional.rs", "harness.rs"];

/// Constructs that ARCHITECTURE.md excludes, as far as a text search finds them.
#[test]
fn constructs_excluded_by_the_architecture_are_absent() {
    let rows: [(&str, &[&str], &[&str]); 6] = [
        (
            "director-ebpf/src",
            &[&["main.rs", "realserver.rs"], BENCH].concat(),
            &["XDP_", "xdp_action"],
        ),
        (
            "director-ebpf/src",
            &[&["frame.rs", "realserver.rs"], BENCH].concat(),
            &["data_end", "adjust_head"],
        ),
        ("director-ebpf/src", &[], &["bpf_printk", "spin_lock", "core::intrinsics"]),
        // Compiled with the feature `verbose` only: `live_verbose.rs` looks into the builds.
        ("director-ebpf/src", &["log.rs"], &["aya_log"]),
        (
            "director-userspace/src/policy",
            &["config/mod.rs"],
            &["Instant", "SystemTime", "tracing", "fs::", "File", "nix::", "libc::", "tokio::"],
        ),
        ("director-userspace/src", &["mod.rs"], &["/sys/class/net"]),
    ];
    for (directory, except, absent) in rows {
        let mut checked = 0;
        for file in tree::files(directory, &["rs"]) {
            if except.iter().any(|name| file.ends_with(name)) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let found = absent.iter().find(|word| line.contains(**word));
                assert!(found.is_none(), "{}: {line}", file.display());
            }
            checked += 1;
        }
        assert!(checked > 0, "no file in {directory}");
    }
}
