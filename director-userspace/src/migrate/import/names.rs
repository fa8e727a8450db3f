//! Names of hosts and ports, from the files of this host: `ipvsadm -S` without `-n` prints them.

use std::{collections::HashMap, fs, net::IpAddr};

use super::table::Protocol;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What names stand for. No name server is queried: that would take time for every name.
#[derive(Debug, Clone, Default)]
pub struct Names {
    hosts: HashMap<String, Vec<IpAddr>>,
    ports: HashMap<(String, &'static str), u16>,
}

impl Names {
    /// Those of /etc/hosts and /etc/services; none of a file that cannot be read.
    pub fn of_this_host() -> Self {
        let read = |path: &str| {
            let fits =
                fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() < MAX_BYTES);
            fits.then(|| fs::read_to_string(path).ok()).flatten().unwrap_or_default()
        };
        Self::new(&read("/etc/hosts"), &read("/etc/services"))
    }

    /// Those of texts in the format of /etc/hosts and /etc/services.
    pub fn new(hosts: &str, services: &str) -> Self {
        let mut names = Self::default();
        for line in hosts.lines() {
            let mut words = words(line);
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words {
                names.hosts.entry(name.to_ascii_lowercase()).or_default().push(address);
            }
        }
        for line in services.lines() {
            let mut words = words(line);
            let (Some(name), Some(port)) = (words.next(), words.next()) else { continue };
            let Some((port, protocol)) = port.split_once('/') else { continue };
            let Ok(port) = port.parse() else { continue };
            let Some(protocol) = ["tcp", "udp", "sctp"].into_iter().find(|p| *p == protocol) else {
                continue;
            };
            for name in [name].into_iter().chain(words) {
                names.ports.entry((name.to_owned(), protocol)).or_insert(port);
            }
        }
        names
    }

    /// The first address of this name.
    pub(super) fn host(&self, name: &str) -> Option<IpAddr> {
        self.hosts.get(&name.to_ascii_lowercase())?.first().copied()
    }

    /// The port of this name.
    pub(super) fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let find = |protocol| self.ports.get(&(name.to_owned(), protocol)).copied();
        // Most lists have no sctp; the numbers are the same.
        find(protocol.word()).or_else(|| find("tcp"))
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split('#').next().unwrap_or_default().split_whitespace()
}
