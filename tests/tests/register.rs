//! The project's words are the field's: identifiers and idioms that were replaced stay away.

use std::{
    fs,
    path::{Path, PathBuf},
};

use director_tests::tree::{self, root};

/// Identifiers that have another name now, and where the old one must stay.
const FORMER_NAMES: &[(&str, &[&str])] = &[
    ("shortcut", &[]),
    ("long_way", &[]),
    ("LONG_WAY", &["CHANGELOG.md", "director-common/src/abi.rs"]),
    ("glance", &[]),
    ("Glance", &[]),
    ("Touch", &[]),
    ("TOUCH_AFTER", &[]),
    ("willingness", &[]),
    (
        "unrecorded",
        &[
            "CHANGELOG.md",
            "tests/tests/cli_commands.rs",
            "director-userspace/src/serve/view/former_names.rs",
        ],
    ),
    ("Assigned", &[]),
    ("Matched", &[]),
    ("fn opens", &[]),
    ("Alike", &[]),
    ("Hops", &[]),
    ("BackendNote", &[]),
    ("ServiceNote", &[]),
    (
        "SERVICE_NOTES",
        &["CHANGELOG.md", "director-common/src/abi.rs", "tests/tests/live_growth.rs"],
    ),
    (
        "BACKEND_NOTES",
        &["CHANGELOG.md", "director-common/src/abi.rs", "tests/tests/live_growth.rs"],
    ),
    ("record_clients", &[]),
    ("Care", &[]),
    ("judge", &[]),
    ("Judgement", &[]),
    ("Standing", &[]),
    ("Conditions", &[]),
    ("by_hand", &[]),
    ("WeightByHand", &[]),
    ("News", &[]),
    ("Alarmist", &[]),
    ("Beats", &[]),
    ("let_go", &[]),
    ("last_words", &[]),
    ("LAST_WORDS", &[]),
    ("ADMITTED_A_TICK", &[]),
    ("MOST_QUOTED", &[]),
    ("Looker", &[]),
    ("PATIENCE", &[]),
    ("SEATS", &[]),
    ("knobs", &[]),
    ("manners", &[]),
];

/// Idioms of conversation and personification, which a reader from the kernel would look up.
const IDIOMS: &[&str] = &[
    "nobody",
    "nobody's",
    "somebody",
    "whoever",
    "anybody",
    "everybody",
    "by hand",
    "of late",
    "the heart",
    "last words",
    "written down",
    "moving in",
    "gives way",
    "goes the way",
    "the way to the backend",
    "says that it lives",
];

/// What is no idiom: the Unix account, a permanent label of alarms, a workload of the benchmark and
/// inputs of tests.
const NOT_AN_IDIOM: &[&str] = &[
    "\"nobody\"",
    "\"nobody\\\"",
    "`nobody`",
    "| nobody |",
    "user: nobody",
    "user nobody",
    "such as nobody",
    "as nobody",
    "= nobody",
    "const nobody",
    "uid(nobody)",
    "gid(nobody)",
    "|| nobody.to_owned()",
    "550 nobody of this name",
    "(\"drain nobody 10.0.0.11\"",
    "\"nobody backend 10.0.0.13",
    "virtual_server group nobody {",
    "\"changed by somebody else\"",
];

/// Every file with prose of the project's own.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in
        ["director-common", "director-ebpf", "director-userspace", "tests", "xtask", "docs"]
    {
        found.extend(tree::files(directory, &["rs", "md", "sh", "html"]));
    }
    found.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
            .map(|file| root().join(file)),
    );
    assert!(found.len() > 400, "only {} files", found.len());
    found
}

/// Whether `text` has `word` with no letter or digit around it.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Path below the project's directory.
fn name(file: &Path) -> String {
    file.strip_prefix(root()).expect("below").display().to_string()
}

#[test]
fn former_identifiers_are_gone() {
    let mut found = Vec::new();
    for file in files() {
        let name = name(&file);
        if name.ends_with("tests/register.rs") || name.starts_with("docs/") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("UTF-8");
        for (word, stays) in FORMER_NAMES {
            let is_code = |line: &str| !line.trim_start().starts_with("//");
            let named = |line: &str| is_code(line) && has_word(line, word);
            let lines = text.lines().enumerate().filter(|(_, line)| named(line));
            for (at, line) in lines.filter(|_| !stays.contains(&name.as_str())) {
                found.push(format!("{name}:{}: {word}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn idioms_are_gone() {
    let mut found = Vec::new();
    for file in files() {
        let name = name(&file);
        if name.ends_with("tests/register.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("UTF-8").to_lowercase();
        for (at, line) in text.lines().enumerate() {
            let prose =
                NOT_AN_IDIOM.iter().fold(line.to_owned(), |line, legal| line.replace(legal, ""));
            for idiom in IDIOMS.iter().filter(|idiom| has_word(&prose, idiom)) {
                found.push(format!("{name}:{}: {idiom}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}\n{} lines", found.join("\n"), found.len());
}
