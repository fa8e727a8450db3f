//! The project's own files, for tests that compare them with what is said of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The project's directory.
///
/// # Panics
///
/// Never: the tests crate has a parent directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

/// The text of a file below the project's directory.
///
/// # Panics
///
/// If it cannot be read.
pub fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every file below `directory`, itself below the project's, with one of these extensions; sorted.
///
/// # Panics
///
/// If a directory cannot be listed.
pub fn files(directory: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root().join(directory), extensions, &mut found);
    found.sort();
    found
}

fn collect(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, extensions, found);
        } else if path.extension().is_some_and(|own| extensions.iter().any(|one| own == *one)) {
            found.push(path);
        }
    }
}
