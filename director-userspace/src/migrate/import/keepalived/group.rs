//! A `virtual_server_group` block: several addresses of one service.

use std::net::IpAddr;

use super::{
    super::{error::ImportError, table::Place},
    tree::Node,
    value,
};

/// Addresses that one range may stand for: its last byte, or IPv6's last 16 bits.
const MAX_RANGE: u32 = 256;

/// One of a group's addresses.
#[derive(Debug, Clone)]
pub(super) enum Member {
    Address(Place, IpAddr, u16),
    Mark(Place, u32),
}

/// The members of a group: `192.0.2.10 80`, `192.0.2.10-14 80`, `fwmark 3`.
pub(super) fn read(node: &Node) -> Result<Vec<Member>, ImportError> {
    let mut members = Vec::new();
    for line in node.lines() {
        if line.keyword() == "fwmark" {
            members.push(Member::Mark(line.place.clone(), value::number(line, "the mark")?));
            continue;
        }
        let port = value::port(line, 1)?;
        let Some((first, last)) = line.keyword().split_once('-') else {
            let address = value::address(line, 0)?;
            members.push(Member::Address(line.place.clone(), address, port));
            continue;
        };
        let range = range(first, last).ok_or_else(|| {
            let message = format!("{}: no range of addresses", line.keyword());
            let hint = format!("write FIRST-LAST, as in 192.0.2.10-14; at most {MAX_RANGE}");
            ImportError::at(&line.place, message, hint)
        })?;
        members.extend(range.map(|a| Member::Address(line.place.clone(), a, port)));
    }
    Ok(members)
}

/// From an address to the one that ends in `last`: decimal for IPv4, hexadecimal for IPv6.
fn range(first: &str, last: &str) -> Option<impl Iterator<Item = IpAddr>> {
    let first: IpAddr = first.parse().ok()?;
    let (from, to) = match first {
        IpAddr::V4(v4) => (u32::from(v4.octets()[3]), u32::from(last.parse::<u8>().ok()?)),
        IpAddr::V6(v6) => {
            let last = u16::from_str_radix(last, 16).ok()?;
            (u32::from(v6.segments()[7]), u32::from(last))
        }
    };
    let fits = to >= from && to - from < MAX_RANGE;
    fits.then(|| {
        (0..=to - from).map(move |n| match first {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + n).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(n)).into()),
        })
    })
}
