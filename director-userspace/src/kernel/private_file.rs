//! Files and directories that only their owner can read, from the first byte on, whatever the umask:
//! state, and configurations with their keys and tokens.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
};

/// The mode of files.
const FILE: u32 = 0o600;
/// The mode of directories.
const DIRECTORY: u32 = 0o700;
/// The mode of directories with sockets, which a group may reach.
const PASSABLE: u32 = 0o755;

/// Creates a directory, and those above it that are missing.
///
/// # Errors
/// The system's error.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Creates a directory below which others reach a socket, and those above it that are missing. Files
/// in it are private by their own mode.
///
/// # Errors
/// The system's error.
pub(crate) fn create_passable_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    for path in missing.into_iter().rev() {
        match DirBuilder::new().mode(PASSABLE).create(path) {
            // The umask may be narrower.
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(PASSABLE))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Creates a file that does not exist yet.
///
/// # Errors
/// The system's error; also if it exists, as a link too.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

/// Creates a file, or empties the one that is there, whose mode stays.
///
/// # Errors
/// The system's error.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE).open(path)
}

/// Replaces a file atomically by a private one; its directory is created if missing. The new content
/// is on disk before the rename.
///
/// # Errors
/// The system's error; the file is unchanged then.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        create_directory(directory)?;
    }
    Replacement::write(path, content)?.rename()
}

/// A temporary file that is to replace another; removed when dropped.
#[derive(Debug)]
pub(crate) struct Replacement {
    temporary: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Writes it to disk, beside the file that it is to replace.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<Self> {
        Self::write_like(path, content, None)
    }

    /// The same, with the owner, the group and the permissions of the file that it is to replace, if
    /// there is one. If `path` is a symbolic link, its target is replaced.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn write_as_it_was(path: &Path, content: &[u8]) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let model = fs::metadata(&path).ok();
        Self::write_like(&path, content, model.as_ref())
    }

    fn write_like(path: &Path, content: &[u8], model: Option<&fs::Metadata>) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut file = match create_new(&temporary) {
            // Of a process that was killed, and had this number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
                create_new(&temporary)?
            }
            created => created?,
        };
        let new = Self { temporary, path: path.to_path_buf() };
        file.write_all(content)?;
        if let Some(model) = model {
            // A file that is another user's needs a capability to change its mode: its owner is last.
            fchown(&file, None, Some(model.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(model.mode() & 0o777))?;
            fchown(&file, Some(model.uid()), None)?;
        }
        file.sync_all()?;
        Ok(new)
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The system's error; the file is unchanged then, unless only its directory could not be
    /// written to disk.
    pub(crate) fn rename(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Absent after `rename`.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Removes the temporary files that killed processes left in place of `path`; also those that former
/// versions left, which were readable by others.
pub(crate) fn sweep(path: &Path) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let Some(directory) = path.parent() else { return };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let former = format!(".{name}.apply");
    for entry in entries(directory) {
        let found = entry.file_name();
        let Some(found) = found.to_str() else { continue };
        let is_former =
            found == former || left_behind(found).is_some_and(|replaced| replaced == former);
        if is_former || left_behind(found).is_some_and(|replaced| replaced == name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The same for every file of a directory that is Director's alone. Files and directory become
/// private: those of former versions were not.
///
/// # Errors
/// The system's error. An absent directory is none.
pub(crate) fn tidy(directory: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if metadata.is_dir() && metadata.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY))?;
    }
    for entry in entries(directory) {
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_str().and_then(left_behind).is_some() {
            let _ = fs::remove_file(&path);
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(FILE))?;
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

/// The name of the file that a temporary file was to replace, if no other living process has it.
fn left_behind(name: &str) -> Option<&str> {
    let (replaced, process) = name.strip_prefix('.')?.rsplit_once('.')?;
    let process: u32 = process.parse().ok()?;
    let is_others =
        process != std::process::id() && Path::new(&format!("/proc/{process}")).exists();
    (!is_others && !replaced.is_empty()).then_some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("director-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("created");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn new_files_and_directories_are_private() {
        let scratch = Scratch::new("private");
        let path = scratch.0.join("a/b/state.json");
        replace(&path, b"1").expect("written");
        assert_eq!((mode(&path), mode(&scratch.0.join("a"))), (0o600, 0o700));
        // What a former version wrote does not stay readable.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        replace(&path, b"2").expect("written");
        assert_eq!((mode(&path), fs::read(&path).expect("there")), (0o600, b"2".to_vec()));
        create_passable_directory(&scratch.0.join("run/instance")).expect("created");
        assert_eq!(mode(&scratch.0.join("run/instance")), 0o755);
    }

    #[test]
    fn a_file_of_the_operator_keeps_its_mode_and_is_never_wider() {
        let scratch = Scratch::new("as-it-was");
        let path = scratch.0.join("director.yaml");
        for wanted in [0o600, 0o640, 0o644, 0o400] {
            fs::write(&path, "before").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).expect("set");
            let new = Replacement::write_as_it_was(&path, b"after").expect("written");
            assert_eq!(mode(&new.temporary), wanted);
            new.rename().expect("renamed");
            assert_eq!((mode(&path), fs::read(&path).expect("there")), (wanted, b"after".to_vec()));
            fs::remove_file(&path).expect("removed");
        }
        let new = Replacement::write_as_it_was(&path, b"x").expect("written");
        assert_eq!(mode(&new.temporary), 0o600, "there was none");
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let scratch = Scratch::new("swept");
        let (own, dead, alive) = (std::process::id(), u32::MAX, 1);
        let path = scratch.0.join("director.yaml");
        let left = [
            format!(".director.yaml.{own}"),
            format!(".director.yaml.{dead}"),
            ".director.yaml.apply".to_owned(),
            format!("..director.yaml.apply.{dead}"),
        ];
        let stay = [
            "director.yaml".to_owned(),
            ".director.yaml.swp".to_owned(),
            format!(".other.{dead}"),
            format!(".director.yaml.{alive}"),
        ];
        for name in left.iter().chain(&stay) {
            fs::write(scratch.0.join(name), "secret").expect("written");
        }
        sweep(&path);
        for name in &left {
            assert!(!scratch.0.join(name).exists(), "{name}");
        }
        for name in &stay {
            assert!(scratch.0.join(name).exists(), "{name}");
        }
        tidy(&scratch.0).expect("tidied");
        assert!(!scratch.0.join(&stay[2]).exists() && scratch.0.join(&stay[3]).exists());
        assert_eq!((mode(&path), mode(&scratch.0)), (0o600, 0o700));
        tidy(&scratch.0.join("absent")).expect("nothing to do");
    }
}
