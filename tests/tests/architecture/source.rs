//! Source files as text, without the tests in them.

use std::{fs, path::PathBuf};

use director_tests::tree::{self, root};

/// A file, and its text up to its tests.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Every source file below `directory` that is not a test.
pub(crate) fn sources(directory: &str) -> Vec<Source> {
    let is_test = |path: &PathBuf| {
        let below = path.strip_prefix(root().join(directory)).expect("below");
        below.with_extension("").iter().any(|name| {
            let name = name.to_str().expect("UTF-8");
            name == "tests" || name.ends_with("_tests")
        })
    };
    let files = tree::files(directory, &["rs"]).into_iter().filter(|path| !is_test(path));
    let found: Vec<Source> = files
        .map(|path| {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            Source { path, text: text[..end].to_owned() }
        })
        .collect();
    assert!(!found.is_empty(), "no file in {directory}");
    found
}

impl Source {
    /// Paths that start at the crate, `use` trees spread out: at most two names each.
    pub(crate) fn paths_of_the_crate(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        for line_start in line_starts(&self.text) {
            let line = &self.text[line_start..];
            let line_end = line.find('\n').unwrap_or(line.len());
            let is_comment = line.trim_start().starts_with("//");
            let prefix = "crate::";
            for (at, _) in line[..line_end].match_indices(prefix) {
                let before = line[..at].chars().next_back();
                if !is_comment && !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    paths.extend(spread(&line[at + prefix.len()..], 2));
                }
            }
        }
        paths
    }
}

fn line_starts(text: &str) -> impl Iterator<Item = usize> + '_ {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1))
}

/// The paths of a `use` tree that begins here, cut off after `depth` names.
fn spread(tree: &str, depth: usize) -> Vec<Vec<String>> {
    if depth == 0 {
        return vec![Vec::new()];
    }
    if let Some(inside) = tree.strip_prefix('{') {
        return branches(inside).iter().flat_map(|branch| spread(branch, depth)).collect();
    }
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let name = tree[..end].to_owned();
    if name.is_empty() {
        return vec![Vec::new()];
    }
    match tree[end..].strip_prefix("::") {
        Some(rest) => spread(rest, depth - 1)
            .into_iter()
            .map(|path| std::iter::once(name.clone()).chain(path).collect())
            .collect(),
        None => vec![vec![name]],
    }
}

/// What stands between the commas of a `{`, which has been read, and its `}`.
fn branches(inside: &str) -> Vec<String> {
    let (mut depth, mut branches, mut branch) = (0, Vec::new(), String::new());
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(std::mem::take(&mut branch));
                continue;
            }
            c if c.is_whitespace() => continue,
            _ => {}
        }
        branch.push(c);
    }
    branches.push(branch);
    branches.retain(|branch| !branch.is_empty());
    branches
}
