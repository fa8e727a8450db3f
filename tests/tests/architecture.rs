//! The tree is what ARCHITECTURE.md, CONTRIBUTING.md and `director-userspace/src/lib.rs` say it is.

#[path = "architecture/source.rs"]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use director_tests::tree::{read, root};
use source::{Source, sources};

const USERSPACE: &str = "director-userspace/src";
const EBPF: &str = "director-ebpf/src";
/// Programs of director-ebpf that are not the director's.
const OTHER_PROGRAMS: [&str; 3] = ["bench", "path_probe", "realserver"];

/// A row of the table in lib.rs: a wing, and what it may use.
struct Wing {
    name: String,
    uses: BTreeSet<String>,
}

/// The table in lib.rs.
fn wings() -> Vec<Wing> {
    let text = read(&format!("{USERSPACE}/lib.rs"));
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [name, _, uses] = cells[..] else { panic!("three cells: {row}") };
        Wing {
            name: name.trim_end_matches("`]").to_owned(),
            uses: uses.split(", ").map(|used| used.trim_matches('`').to_owned()).collect(),
        }
    })
    .collect()
}

#[test]
fn every_wing_is_listed_and_has_a_first_page() {
    let listed: Vec<String> = wings().into_iter().map(|wing| wing.name).collect();
    let there = fs::read_dir(root().join(USERSPACE)).expect("listed");
    let mut there: Vec<String> = there
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().join("mod.rs").is_file())
        .map(|entry| entry.file_name().into_string().expect("UTF-8"))
        .collect();
    there.sort_unstable();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, there);
    for wing in listed {
        let page = read(&format!("{USERSPACE}/{wing}/mod.rs"));
        let head: Vec<&str> = page.lines().take_while(|line| line.starts_with("//!")).collect();
        let head = head.join("\n");
        assert!(head.contains("Begin with ["), "{wing}/mod.rs says where to begin: {head}");
    }
}

/// Arrows between wings, as code that is not a test draws them.
#[test]
fn wings_use_only_the_wings_that_their_line_names() {
    let wings = wings();
    let names: BTreeSet<&str> = wings.iter().map(|wing| wing.name.as_str()).collect();
    let mut drawn: BTreeSet<(String, String)> = BTreeSet::new();
    for wing in &wings {
        for source in sources(&format!("{USERSPACE}/{}", wing.name)) {
            for path in source.paths_of_the_crate() {
                let [used, rest @ ..] = path.as_slice() else { continue };
                if *used == wing.name || !names.contains(used.as_str()) {
                    continue;
                }
                let module = rest.first().map(|module| format!("{used}::{module}"));
                let allowed = wing.uses.contains("all of them")
                    || wing.uses.contains(used)
                    || module.as_ref().is_some_and(|module| wing.uses.contains(module));
                let file = source.path.display();
                assert!(allowed, "{file}: {} may not use {}", wing.name, path.join("::"));
                drawn.insert((wing.name.clone(), used.clone()));
            }
        }
    }
    // What a line permits is used, and nothing points back up.
    let order = |name: &str| wings.iter().position(|wing| wing.name == name).expect("a wing");
    for (from, to) in &drawn {
        assert!(order(to) < order(from), "{from} uses {to}, which stands below it");
    }
    for wing in wings.iter().filter(|wing| !wing.uses.contains("all of them")) {
        for used in wing.uses.iter().filter(|used| *used != "nothing") {
            let used = used.split("::").next().expect("a name");
            let pair = (wing.name.clone(), used.to_owned());
            assert!(drawn.contains(&pair), "{} does not use {used}", wing.name);
        }
    }
}

/// The director's program: files point in one direction only. A parent and its parts count as one.
#[test]
fn files_of_the_xdp_program_form_no_circle() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources(EBPF) {
        let below = source.path.strip_prefix(root().join(EBPF)).expect("below");
        let first = below.components().next().expect("a name");
        let module = Path::new(&first).with_extension("").display().to_string();
        if module == "main" || OTHER_PROGRAMS.contains(&module.as_str()) {
            continue;
        }
        let used = source.paths_of_the_crate().into_iter().map(|path| path[0].clone());
        let used: Vec<String> = used.filter(|used| *used != module).collect();
        uses.entry(module).or_default().extend(used);
    }
    assert!(uses.len() > 15, "{uses:?}");
    // Files that use no file which is left go first; a circle is what stays.
    let mut left = uses;
    loop {
        let leaves: Vec<String> = left
            .iter()
            .filter(|(_, used)| used.iter().all(|used| !left.contains_key(used)))
            .map(|(module, _)| module.clone())
            .collect();
        if leaves.is_empty() {
            break;
        }
        left.retain(|module, _| !leaves.contains(module));
    }
    assert!(left.is_empty(), "a circle in: {left:#?}");
}

/// Words that name a mode, a state or a protocol: what has one of these is an enum.
const NOT_A_BOOL: &[&str] = &[
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "tunnel",
    "tunnelled",
    "direct",
    "nat",
    "fullnat",
    "local",
    "simulate",
    "explain",
    "native",
    "generic",
    "egress",
    "draining",
    "established",
    "closing",
    "active",
    "down",
    "up",
    "alive",
    "healthy",
];

/// Booleans of these names that stand for something else, each with the reason.
const BOOL_ALL_THE_SAME: &[(&str, &str)] = &[
    ("kernel/net/link.rs", "flags of the kernel's interfaces (IFF_UP)"),
    ("kernel/net/ethtool.rs", "flags of the kernel's features"),
    ("setup/realserver/", "flags of the kernel's interfaces, and an option of the command line"),
    ("cli/", "options of the command line, and JSON"),
    ("serve/view/status.rs", "JSON: `up` of a check is true, false or null"),
    ("serve/page/event.rs", "JSON"),
];

#[test]
fn no_mode_state_or_protocol_is_a_bool() {
    let mut found = Vec::new();
    for directory in [USERSPACE, EBPF, "director-common/src"] {
        for source in sources(directory) {
            let path = source.path.display().to_string();
            let excepted = BOOL_ALL_THE_SAME.iter().any(|(part, _)| path.contains(part));
            for line in source.code() {
                let compared = ["== ForwardMode::", "!= ForwardMode::"].map(|c| line.contains(c));
                let matched = line.contains("matches!(") && line.contains("ForwardMode::");
                if compared.contains(&true) || matched {
                    found.push(format!("{path}: {line}"));
                }
                // `name: bool` of a field or a parameter, and `is_name` of any kind.
                let field = line.split(": bool").next().filter(|before| before.len() < line.len());
                let name = field.and_then(|before| before.rsplit([' ', '(']).next());
                let is_state = |name: &str| NOT_A_BOOL.contains(&name.trim_start_matches("is_"));
                if !excepted && name.is_some_and(is_state) {
                    found.push(format!("{path}: {line}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The code map: each path exists, and each directory and each file of the XDP program is in it.
#[test]
fn the_code_map_is_complete() {
    let text = read("ARCHITECTURE.md");
    let (_, map) = text.split_once("\n## Code map\n").expect("a code map");
    let map = map.split("\n## ").next().expect("its text");
    let mut mapped = BTreeSet::new();
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().expect("a cell");
        let mut directory = String::new();
        for path in cell.split('`').skip(1).step_by(2) {
            // Further files of a row stand in the directory of the first.
            let path = if path.contains('/') || path.ends_with(".rs") && directory.is_empty() {
                path.to_owned()
            } else {
                format!("{directory}{path}")
            };
            assert!(root().join(&path).exists(), "{path} does not exist");
            directory = path[..=path.trim_end_matches('/').rfind('/').unwrap_or(0)].to_owned();
            mapped.insert(path.trim_end_matches('/').to_owned());
        }
    }
    let mut missing = Vec::new();
    for crate_files in [EBPF, "director-common/src"] {
        for source in sources(crate_files) {
            let path = source.path.strip_prefix(root()).expect("below").display().to_string();
            let is_mapped = mapped.iter().any(|known| {
                path == *known
                    || path.starts_with(&format!("{known}/"))
                    || path.starts_with(&format!("{}/", known.trim_end_matches(".rs")))
            });
            if !is_mapped && !path.ends_with("lib.rs") {
                missing.push(path);
            }
        }
    }
    for wing in wings() {
        let directory = format!("{USERSPACE}/{}", wing.name);
        for entry in fs::read_dir(root().join(&directory)).expect("listed").flatten() {
            let is_module = entry.path().is_dir();
            let path = format!("{directory}/{}", entry.file_name().display());
            let is_part = mapped.contains(&path)
                || mapped.contains(&format!("{path}.rs"))
                || mapped.contains(&directory);
            if is_module && !is_part {
                missing.push(path);
            }
        }
    }
    assert!(missing.is_empty(), "not in the code map: {missing:#?}");
}

/// "Where a change goes": each place exists, and holds what it is said to hold.
#[test]
fn places_to_add_something_exist() {
    let text = read("CONTRIBUTING.md");
    let (_, section) = text.split_once("\n## Where a change goes\n").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let mut checked = 0;
    for line in section.lines() {
        // `path` (`name`): the file has the name.
        for (at, _) in line.match_indices("` (`") {
            let path = line[..at].rsplit('`').next().expect("a path");
            let name = line[at + 4..].split('`').next().expect("a name");
            let text = fs::read_to_string(root().join(path))
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(text.contains(name), "{path} has no {name}");
            checked += 1;
        }
        for path in line.split('`').skip(1).step_by(2).filter(|word| word.contains('/')) {
            if !path.contains(['*', ' ']) && !path.contains("NAME") {
                assert!(root().join(path).exists(), "{path} does not exist");
            }
        }
    }
    assert!(checked >= 8, "only {checked} places name what they hold");
}

impl Source {
    /// Lines that are neither comments nor tests.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }
}
