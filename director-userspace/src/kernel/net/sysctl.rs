//! Kernel settings under /proc/sys, above all /proc/sys/net.
//!
//! /proc/sys/net is the network namespace's of the thread that opens a file there, so these work
//! under setns(2), where /sys does not.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::{NetError, Netlink, failed};

impl Netlink {
    /// Reads a setting in this connection's namespace. See [`read_sysctl`].
    ///
    /// # Errors
    /// As [`read_sysctl`].
    pub fn sysctl(&self, path: &str) -> Result<Option<String>, NetError> {
        self.inside(|| read_sysctl(path))
    }

    /// Reads many settings in this connection's namespace; leaves out those that this kernel does
    /// not have, or that can't be read.
    ///
    /// # Errors
    /// [`NetError::System`] if the namespace can't be entered.
    pub fn sysctls(
        &self,
        paths: impl IntoIterator<Item = String> + Send,
    ) -> Result<BTreeMap<String, String>, NetError> {
        self.inside(|| {
            let read = |path: String| Some((read_sysctl(&path).ok().flatten()?, path));
            Ok(paths.into_iter().filter_map(read).map(|(value, path)| (path, value)).collect())
        })
    }

    /// Writes a setting in this connection's namespace. See [`write_sysctl`].
    ///
    /// # Errors
    /// As [`write_sysctl`].
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<(), NetError> {
        self.inside(|| write_sysctl(path, value))
    }
}

/// Reads a setting in the calling thread's network namespace: `net/ipv4/conf/all/rp_filter`.
/// Written with slashes, since interfaces' names may hold dots. None if this kernel has no such
/// setting.
///
/// # Errors
/// [`NetError::System`] if it is there and can't be read.
pub fn read_sysctl(path: &str) -> Result<Option<String>, NetError> {
    let file = file(path);
    match fs::read_to_string(&file) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(format!("read {}", file.display()), e)),
    }
}

/// Writes a setting in the calling thread's network namespace.
///
/// # Errors
/// [`NetError::System`] if there is no such setting or it can't be written.
pub fn write_sysctl(path: &str, value: &str) -> Result<(), NetError> {
    let file = file(path);
    fs::write(&file, value).map_err(|e| failed(format!("write {value:?} to {}", file.display()), e))
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_not_there_is_none() {
        assert_eq!(read_sysctl("net/no-such-thing").expect("no error"), None);
    }

    #[test]
    fn a_setting_comes_without_its_newline() {
        let value = read_sysctl("kernel/ostype").expect("readable");
        assert_eq!(value.as_deref(), Some("Linux"));
    }
}
