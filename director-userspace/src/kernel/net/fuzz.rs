//! For the fuzz targets in `tests/src/fuzz`: what the kernel and the network send.

use std::net::IpAddr;

use super::{Change, announce, features, watch};

/// The changes that a datagram of a netlink socket notifies of.
pub fn changes(datagram: &[u8]) -> Vec<Change> {
    watch::changes_of(datagram)
}

/// The value of an attribute in an answer of a generic netlink family.
///
/// # Errors
///
/// The error that the answer carries.
pub fn attribute(answer: Vec<u8>, kind: u16) -> std::io::Result<Option<Vec<u8>>> {
    features::payload(answer).map(|all| features::find(&all, kind).map(<[u8]>::to_vec))
}

/// The MAC address that a frame of ARP or neighbour discovery claims for an address.
pub fn claimed_mac(frame: &[u8], address: IpAddr) -> Option<[u8; 6]> {
    announce::claimed_mac(frame, address)
}
