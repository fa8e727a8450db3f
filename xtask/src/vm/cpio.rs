//! Writes cpio archives in the "newc" format, which the kernel unpacks as its first root
//! filesystem (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    io::{Result, Write},
};

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;

/// An archive being written; directories are added as paths need them.
pub(super) struct Archive<W> {
    out: W,
    written_bytes: usize,
    directories: BTreeSet<String>,
    n_entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written_bytes: 0, directories: BTreeSet::new(), n_entries: 0 }
    }

    /// Adds a directory and its parents. Paths are taken from the archive's root.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, TYPE_DIRECTORY | 0o755, &[])
    }

    /// Adds a file with the permissions of `mode`.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(path, TYPE_FILE | (mode & 0o7777), content)
    }

    /// Ends the archive and returns what it was written to.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.n_entries += 1;
        let inode = self.n_entries;
        let links = if mode & TYPE_DIRECTORY == 0 { 1 } else { 2 };
        let (n_content, n_name) = (content.len(), path.len() + 1);
        // Order: inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), name size, check.
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{n_content:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{n_name:08x}{0:08x}",
            0
        );
        self.write(header.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written_bytes += bytes.len();
        self.out.write_all(bytes)
    }

    /// Names and contents start at multiples of four.
    fn pad(&mut self) -> Result<()> {
        let n_padding = self.written_bytes.next_multiple_of(4) - self.written_bytes;
        self.write(&[0; 3][..n_padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_and_padded_content() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let header = "07070100000001000081ed000000000000000000000001000000000000000500000000\
                      0000000000000000000000000000000200000000";
        assert!(text.starts_with(&format!("{header}a\0hello\0\0\0070701")), "{text}");
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/usr/bin/x", 0o644, b"").unwrap();
        archive.file("/usr/bin/y", 0o644, b"").unwrap();
        let text = String::from_utf8_lossy(&archive.finish().unwrap()).into_owned();
        let offsets: Vec<_> =
            ["usr\0", "usr/bin\0", "usr/bin/x\0", "usr/bin/y\0"].map(|p| text.find(p)).into();
        assert!(offsets.is_sorted() && offsets.iter().all(Option::is_some), "{offsets:?}");
        assert_eq!(text.matches("usr/bin\0").count(), 1);
    }
}
