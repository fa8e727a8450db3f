//! Files by pattern: `conf.d/*.conf`.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Most directory entries that are read.
const MAX_ENTRIES: usize = 65_536;

/// The files that a pattern matches, in order. A pattern without wildcards matches itself. An error
/// is a text for people.
pub(super) fn find(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    if pattern.contains(['{', '}']) {
        return Err("braces are not supported".into());
    }
    let mut found = vec![PathBuf::new()];
    let mut n_entries = 0;
    for component in directory.join(pattern).components() {
        let Component::Normal(name) = component else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let name = name.to_string_lossy();
        if !name.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(name.as_ref()));
            continue;
        }
        let mut matching = Vec::new();
        for path in &found {
            let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let Ok(entries) = fs::read_dir(here) else { continue };
            for entry in entries.flatten() {
                n_entries += 1;
                if n_entries > MAX_ENTRIES {
                    return Err("too many files to compare".into());
                }
                let file = entry.file_name();
                let Some(file) = file.to_str() else { continue };
                // As in a shell.
                let is_hidden = file.starts_with('.') && !name.starts_with('.');
                if !is_hidden && matches(name.as_bytes(), file.as_bytes()) {
                    matching.push(path.join(file));
                }
            }
        }
        matching.sort();
        found = matching;
    }
    let is_pattern = pattern.contains(['*', '?', '[']);
    found.retain(|path| if is_pattern { path.is_file() } else { path.exists() });
    Ok(found)
}

/// `*`, `?` and `[a-z]`, without recursion: backtracks to the last star.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], name[n]),
            Some(byte) => (*byte == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((at, from))) => {
                p = at + 1;
                n = from + 1;
                star = Some((at, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the class that `pattern` begins with, if it has the byte.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = 2 + pattern.get(2..)?.iter().position(|byte| *byte == b']')?;
    let inside = &pattern[1..end];
    let (is_not, inside) = match inside {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, inside),
    };
    let mut has = false;
    let mut at = 0;
    while at < inside.len() {
        if let [low, b'-', high, ..] = inside[at..] {
            has |= (low..=high).contains(&byte);
            at += 3;
        } else {
            has |= inside[at] == byte;
            at += 1;
        }
    }
    (has != is_not).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.conf", "web.conf", true),
            ("*.conf", "web.conf.bak", false),
            ("v?-*", "v1-web", true),
            ("v?-*", "v12", false),
            ("[a-c]*", "beta", true),
            ("[!a-c]*", "beta", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("[", "[", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
