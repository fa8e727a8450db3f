//! Files that an earlier process left, damaged: the daemon starts without them.

use std::{fs, path::PathBuf, process, sync::LazyLock};

use director_userspace::{
    control::daemon::fuzz,
    policy::config::{self, Config},
};

use super::Outcome;
use crate::given::EVERYTHING;

static CONFIG: LazyLock<Config> = LazyLock::new(|| match config::parse("state", EVERYTHING) {
    Ok(loaded) => loaded.config,
    Err(errors) => panic!("{errors}"),
});

/// A directory of this process and thread.
fn directory() -> PathBuf {
    let thread = std::thread::current().id();
    std::env::temp_dir().join(format!("director-fuzz-{}-{thread:?}", process::id()))
}

/// The list of backends that are down, admin overrides, or the history's index: by the first byte.
pub(super) fn state(input: &[u8]) -> Outcome {
    let Some((choice, text)) = input.split_first() else { return 0 };
    match choice % 3 {
        0 => {
            let down = fuzz::down(text, &CONFIG);
            assert!(down.iter().all(|(f, _)| CONFIG.services.iter().any(|s| s.frontend == *f)));
            1 + usize::from(!down.is_empty())
        }
        1 => {
            let path = directory().join("overrides.json");
            write(&path, text);
            match fuzz::overrides(&path) {
                Ok([read, again]) => {
                    assert_eq!(read, again, "overrides are read as they were stored");
                    3 + usize::from(read != "[]")
                }
                Err(error) => {
                    let _ = error.to_string();
                    5
                }
            }
        }
        _ => {
            let _ = fs::remove_dir_all(directory().join("history"));
            write(&directory().join("history/index.json"), text);
            let (revision, kept) = fuzz::history(&directory(), "# text");
            assert!(revision > 0 && kept <= 20, "revision {revision}, {kept} kept");
            6 + kept.min(2)
        }
    }
}

fn write(path: &std::path::Path, text: &[u8]) {
    fs::create_dir_all(path.parent().expect("one")).expect("a directory");
    fs::write(path, text).expect("written");
}
