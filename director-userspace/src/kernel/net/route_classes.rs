//! Which IPv4 destinations share a route, so that one lookup serves many.

use std::{
    collections::HashSet,
    hash::BuildHasherDefault,
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage},
    rule::{RuleAttribute, RuleMessage},
};

use super::{NetError, Netlink, failed};
use crate::policy::by_address::AddressHasher;

/// Destinations of one class take the same route, gateway and source address.
///
/// Prefixes are nested or disjoint, so the longest one around an address, of all routing tables and
/// rules together, determines which others are around it: addresses that share it are equal to
/// every lookup. Left out, to be looked up one by one: destinations with a path MTU or redirect of
/// their own, everything where some route has several next hops (the kernel picks by destination),
/// and IPv6 (the source address depends on the destination).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteClasses {
    prefixes: HashSet<RouteClass, BuildHasherDefault<AddressHasher>>,
    /// Lengths of the prefixes, the longest first.
    lengths: Vec<u8>,
    exceptions: HashSet<u32>,
    /// Whether some route has several next hops.
    is_split: bool,
}

/// A class of destinations: its prefix and that prefix's length.
pub type RouteClass = (u32, u8);

impl RouteClasses {
    /// The class of a destination; `None` if it must be looked up by itself.
    pub fn class(&self, destination: IpAddr) -> Option<RouteClass> {
        let IpAddr::V4(address) = destination else { return None };
        let address = address.to_bits();
        if self.is_split || self.exceptions.contains(&address) {
            return None;
        }
        let around = |length: &u8| (masked(address, *length), *length);
        self.lengths.iter().map(around).find(|prefix| self.prefixes.contains(prefix))
    }

    fn add(&mut self, destination: Option<Ipv4Addr>, length: u8) {
        let destination = destination.unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits();
        self.prefixes.insert((masked(destination, length), length));
        if let Err(place) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(place, length);
        }
    }

    fn add_route(&mut self, message: &RouteMessage) {
        let mut destination = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => destination = Some(*v4),
                RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => self.is_split = true,
                _ => {}
            }
        }
        self.add(destination, message.header.destination_prefix_length);
    }
}

/// The first `length` bits of an address.
fn masked(address: u32, length: u8) -> u32 {
    address & u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

impl Netlink {
    /// The present route classes: a few requests for any number of destinations.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn route_classes(&self) -> Result<RouteClasses, NetError> {
        let mut route_classes = RouteClasses::default();
        for is_cache in [false, true] {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            if is_cache {
                message.header.flags |= RouteFlags::Cloned;
            }
            let answer = self.dump(RouteNetlinkMessage::GetRoute(message)).await;
            for message in answer.map_err(|e| failed("list the routes", e))? {
                let RouteNetlinkMessage::NewRoute(message) = message else { continue };
                // An old kernel lists both, whatever is requested.
                if !message.header.flags.contains(RouteFlags::Cloned) {
                    route_classes.add_route(&message);
                    continue;
                }
                let destination = message.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(v4.to_bits()),
                    _ => None,
                });
                route_classes.exceptions.extend(destination);
            }
        }
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        let answer = self.dump(RouteNetlinkMessage::GetRule(message)).await;
        for message in answer.map_err(|e| failed("list the routing rules", e))? {
            let RouteNetlinkMessage::NewRule(message) = message else { continue };
            let destination = message.attributes.iter().find_map(|attribute| match attribute {
                RuleAttribute::Destination(IpAddr::V4(v4)) => Some(*v4),
                _ => None,
            });
            route_classes.add(destination, message.header.dst_len);
        }
        Ok(route_classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(route_classes: &RouteClasses, address: [u8; 4]) -> Option<String> {
        let (prefix, length) = route_classes.class(address.into())?;
        Some(format!("{}/{length}", Ipv4Addr::from_bits(prefix)))
    }

    #[test]
    fn the_longest_prefix_of_all_tables_determines_the_class() {
        let mut route_classes = RouteClasses::default();
        for (prefix, length) in [([0; 4], 0), ([10, 0, 0, 0], 8), ([10, 1, 2, 3], 32)] {
            route_classes.add(Some(prefix.into()), length);
        }
        // As rules and routes have it: bits beyond the length do not count.
        route_classes.add(Some([10, 1, 9, 9].into()), 16);
        assert_eq!(class(&route_classes, [10, 1, 2, 3]).as_deref(), Some("10.1.2.3/32"));
        assert_eq!(class(&route_classes, [10, 1, 2, 4]).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(class(&route_classes, [10, 2, 2, 4]).as_deref(), Some("10.0.0.0/8"));
        assert_eq!(class(&route_classes, [11, 2, 2, 4]).as_deref(), Some("0.0.0.0/0"));
        assert_eq!(route_classes.class(std::net::Ipv6Addr::LOCALHOST.into()), None);
        route_classes.exceptions.insert(Ipv4Addr::new(10, 2, 2, 4).to_bits());
        assert_eq!(class(&route_classes, [10, 2, 2, 4]), None);
        let mut split = RouteMessage::default();
        split.attributes.push(RouteAttribute::NhId(7));
        route_classes.add_route(&split);
        assert_eq!(class(&route_classes, [11, 2, 2, 4]), None);
    }
}
