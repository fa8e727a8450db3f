//! What `ethtool` shows and sets: the driver, its queues and its offloads.
//!
//! By the SIOCETHTOOL ioctl, which every kernel and driver supports. Its requests are arrays of
//! native-endian 32-bit words; the numbers are those of linux/ethtool.h.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::{NetError, Netlink, failed};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STRING_SET: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
/// The string set that names the features.
const FEATURE_NAMES: u32 = 4;
/// Words of a feature's name.
const NAME_WORDS: usize = 8;
/// Longest request, in words: far more than any driver has features.
const MAX_WORDS: usize = 4096;

/// A network driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its name: ixgbe, mlx5_core, veth.
    pub name: String,
    /// Its version, usually the kernel's.
    pub version: String,
    /// Where the device is, such as a PCI address; empty for virtual ones.
    pub bus: String,
}

/// How many queues a device uses, and how many it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Receive queues in use, combined ones included.
    pub rx: u32,
    /// Transmit queues in use, combined ones included.
    pub tx: u32,
    /// Receive queues that the device has.
    pub max_rx: u32,
    /// Transmit queues that the device has.
    pub max_tx: u32,
}

/// An offload, as `ethtool -k` shows it, under the kernel's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Such as `rx-lro`, `rx-gro-hw`, `rx-vlan-hw-parse`, `tx-checksum-ip-generic`.
    pub name: String,
    /// In force now.
    pub active: bool,
    /// Can't be changed.
    pub fixed: bool,
}

impl Netlink {
    /// The driver of an interface. None if it has no ethtool support at all.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], [`NetError::System`].
    pub fn driver(&self, interface: &str) -> Result<Option<Driver>, NetError> {
        let mut request = [0u32; 49];
        request[0] = GET_DRIVER;
        match self.ethtool(interface, &mut request) {
            Ok(_) => Ok(Some(Driver {
                name: text(&request[1..9]),
                version: text(&request[9..17]),
                bus: text(&request[25..33]),
            })),
            Err(e) => unsupported(e, interface, "driver").map(|()| None),
        }
    }

    /// The queues of an interface. None if its driver does not report them.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], [`NetError::System`].
    pub fn channels(&self, interface: &str) -> Result<Option<Channels>, NetError> {
        let mut request = [0u32; 9];
        request[0] = GET_CHANNELS;
        match self.ethtool(interface, &mut request) {
            Ok(_) => {
                let [_, max_rx, max_tx, _, max_combined, rx, tx, _, combined] = request;
                Ok(Some(Channels {
                    rx: rx + combined,
                    tx: tx + combined,
                    max_rx: max_rx.max(max_combined),
                    max_tx: max_tx.max(max_combined),
                }))
            }
            Err(e) => unsupported(e, interface, "queues").map(|()| None),
        }
    }

    /// All offloads of an interface. Empty if its driver does not report them.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], [`NetError::System`].
    pub fn features(&self, interface: &str) -> Result<Vec<Feature>, NetError> {
        match self.read_features(interface) {
            Ok(features) => Ok(features),
            Err(e) => unsupported(e, interface, "offloads").map(|()| Vec::new()),
        }
    }

    /// Switches an offload on or off (`rx-gro`), or all that start with a name that ends in a dash
    /// (`tx-checksum-`). Leaves out those that can't be changed; returns how many could.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub fn set_features(&self, interface: &str, name: &str, on: bool) -> Result<usize, NetError> {
        let is_meant = |feature: &Feature| {
            feature.name == name || name.ends_with('-') && feature.name.starts_with(name)
        };
        let set = || -> io::Result<usize> {
            let features = self.read_features(interface)?;
            let blocks = features.len().div_ceil(32);
            let mut request = vec![0u32; 2 + 2 * blocks];
            (request[0], request[1]) = (SET_FEATURES, blocks as u32);
            let mut changed = 0;
            for (number, feature) in features.iter().enumerate() {
                if is_meant(feature) && !feature.fixed {
                    let (block, bit) = (2 + 2 * (number / 32), 1 << (number % 32));
                    request[block] |= bit;
                    request[block + 1] |= if on { bit } else { 0 };
                    changed += 1;
                }
            }
            self.ethtool(interface, &mut request)?;
            Ok(changed)
        };
        set().map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => NetError::NoSuchInterface { name: interface.to_owned() },
            _ => failed(format!("switch {name} of {interface}"), e),
        })
    }

    fn read_features(&self, interface: &str) -> io::Result<Vec<Feature>> {
        let mut count = [GET_STRING_SET, 0, 1 << FEATURE_NAMES, 0, 0];
        self.ethtool(interface, &mut count)?;
        let count = count[4] as usize;
        if count * NAME_WORDS + 3 > MAX_WORDS {
            return Err(io::Error::other(format!("implausible number of features: {count}")));
        }
        let mut names = vec![0u32; 3 + count * NAME_WORDS];
        names[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, count as u32]);
        self.ethtool(interface, &mut names)?;
        let blocks = count.div_ceil(32);
        // Each block: available, requested, active, never changed.
        let mut states = vec![0u32; 2 + 4 * blocks];
        (states[0], states[1]) = (GET_FEATURES, blocks as u32);
        self.ethtool(interface, &mut states)?;
        Ok((0..count)
            .map(|number| {
                let name = &names[3 + number * NAME_WORDS..][..NAME_WORDS];
                let block = &states[2 + 4 * (number / 32)..][..4];
                let bit = 1 << (number % 32);
                Feature {
                    name: text(name),
                    active: block[2] & bit != 0,
                    fixed: block[3] & bit != 0 || block[0] & bit == 0,
                }
            })
            .collect())
    }

    fn ethtool(&self, interface: &str, request: &mut [u32]) -> io::Result<i32> {
        ioctl(std::os::fd::AsFd::as_fd(&*self.control), interface, request)
    }
}

/// What an errno means where a driver may not support the request.
fn unsupported(error: io::Error, interface: &str, what: &str) -> Result<(), NetError> {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Ok(()),
        Some(libc::ENODEV) => Err(NetError::NoSuchInterface { name: interface.to_owned() }),
        _ => Err(failed(format!("read the {what} of {interface}"), error)),
    }
}

fn ioctl(socket: BorrowedFd<'_>, interface: &str, request: &mut [u32]) -> io::Result<i32> {
    // SAFETY: ifreq is plain data, for which all zeros are valid.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the kernel reads and writes as many words as the command and the counts in the
    // request say; every caller sizes its request by those counts.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A NUL-terminated string in words as they lie in memory.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_nul_or_at_the_end() {
        let word = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
        assert_eq!(text(&[word(b"rx-l"), word(b"ro\0x")]), "rx-lro");
        assert_eq!(text(&[word(b"full")]), "full");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_name_too_long_for_an_interface_is_no_device() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let answer = ioctl(std::os::fd::AsFd::as_fd(&socket), "a-name-of-16-byt", &mut [0]);
        assert_eq!(answer.expect_err("too long").raw_os_error(), Some(libc::ENODEV));
    }
}
