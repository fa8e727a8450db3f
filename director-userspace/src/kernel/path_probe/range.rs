//! The instance's share of the host's marks: a range per instance, claimed by a file.
//!
//! The claim stays until the programs are removed, also over a crash: programs that were left on
//! interfaces must not match another instance's marks.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use director_common::probe::{FIRST_RANGE, MAX_RANGES};

use super::PathProbeError;
use crate::kernel::{datapath::Instance, private_file};

/// Beside the instances' directories; no instance can have this name.
const CLAIMS: &str = ".path-marks";

/// Claims a range for the instance: the one that it has, or a free one.
///
/// # Errors
///
/// [`PathProbeError::NoRange`] if all are taken, or [`PathProbeError::File`].
pub(super) fn claim(instance: &Instance) -> Result<u16, PathProbeError> {
    let Some(directory) = directory(instance) else { return Ok(FIRST_RANGE) };
    // Its absence means that an instance is gone.
    for path in [&directory, &instance.run_dir()] {
        private_file::create_passable_directory(path).map_err(file(path))?;
    }
    claim_in(&directory, instance.name(), |name| {
        Instance::new(name).is_ok_and(|other| other.run_dir().exists())
    })
}

/// Releases the instance's range.
///
/// # Errors
///
/// [`PathProbeError::File`].
pub(super) fn release(instance: &Instance) -> Result<(), PathProbeError> {
    let Some(directory) = directory(instance) else { return Ok(()) };
    for range in ranges() {
        let path = directory.join(file_name(range));
        if owner(&path).is_some_and(|owner| owner == instance.name()) {
            remove(&path)?;
        }
    }
    // If this was the last.
    let _ = fs::remove_dir(&directory);
    Ok(())
}

fn directory(instance: &Instance) -> Option<PathBuf> {
    instance.run_dir().parent().map(|parent| parent.join(CLAIMS))
}

fn claim_in(
    directory: &Path,
    name: &str,
    is_there: impl Fn(&str) -> bool,
) -> Result<u16, PathProbeError> {
    let paths = || ranges().map(|range| (range, directory.join(file_name(range))));
    if let Some((range, _)) = paths().find(|(_, path)| owner(path).is_some_and(|o| o == name)) {
        return Ok(range);
    }
    for (range, path) in paths() {
        if owner(&path).is_some_and(|owner| !is_there(&owner)) {
            remove(&path)?;
        }
        match private_file::create_new(&path) {
            Ok(mut new) => {
                return new.write_all(name.as_bytes()).map(|()| range).map_err(file(&path));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(file(&path)(error)),
        }
    }
    Err(PathProbeError::NoRange { directory: directory.to_path_buf() })
}

fn ranges() -> impl Iterator<Item = u16> {
    (0..MAX_RANGES).map(|n| FIRST_RANGE + n)
}

fn file_name(range: u16) -> String {
    format!("{range:04x}")
}

/// The instance that claimed it; none if it has not written its name yet.
fn owner(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|owner| !owner.is_empty())
}

fn remove(path: &Path) -> Result<(), PathProbeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file(path)(error)),
        _ => Ok(()),
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> PathProbeError {
    let path = path.to_path_buf();
    move |error| PathProbeError::File { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed with the value.
    struct Claims(PathBuf);

    impl Claims {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("claims-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn claim(&self, name: &str) -> Result<u16, PathProbeError> {
            claim_in(&self.0, name, |_| true)
        }
    }

    impl Drop for Claims {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_instance_has_a_range_of_its_own_and_keeps_it() {
        let claims = Claims::new("own");
        let (a, b) = (claims.claim("a").expect("free"), claims.claim("b").expect("free"));
        assert_eq!(a, FIRST_RANGE);
        assert_ne!(a, b);
        assert_eq!(claims.claim("a").expect("has one"), a);
        assert_eq!(claims.claim("b").expect("has one"), b);
    }

    #[test]
    fn concurrent_claims_get_different_ranges() {
        let claims = Claims::new("race");
        let ranges: Vec<u16> = std::thread::scope(|scope| {
            let claims = &claims;
            let threads: Vec<_> = (0..MAX_RANGES)
                .map(|n| scope.spawn(move || claims.claim(&format!("i{n}")).expect("free")))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut sorted = ranges.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), usize::from(MAX_RANGES), "{ranges:?}");
    }

    #[test]
    fn the_range_of_an_instance_that_is_gone_is_reused() {
        let claims = Claims::new("gone");
        for n in 0..MAX_RANGES {
            claims.claim(&format!("i{n}")).expect("free");
        }
        assert!(matches!(claims.claim("late"), Err(PathProbeError::NoRange { .. })));
        let range = claim_in(&claims.0, "late", |name| name != "i3").expect("one is free");
        assert_eq!(range, FIRST_RANGE + 3);
    }
}
