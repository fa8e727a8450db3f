//! IP addresses on interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::{
    AddressMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        address::{
            AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
            AddressScope as Scope,
        },
    },
};

use super::{NetError, Netlink, failed};

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface it is on.
    pub link_index: u32,
    /// The host's own end.
    pub address: IpAddr,
    /// Length of the subnet's prefix, in bits.
    pub prefix_len: u8,
    /// How far it may be used as a source.
    pub scope: AddressScope,
    /// Still being checked for duplicates (IPv6), or found to be one: not in use yet.
    pub tentative: bool,
    /// Not the first of its subnet (IPv4).
    pub secondary: bool,
}

/// How far from this host an address is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// Everywhere.
    Global,
    /// On this link.
    Link,
    /// Inside this host.
    Host,
    /// Something else that `ip address` shows by number.
    Other(u8),
}

impl Netlink {
    /// All addresses of this namespace.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let answer = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .await
            .map_err(|e| failed("list the addresses", e))?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => address_of(&message),
                _ => None,
            })
            .collect())
    }

    /// Adds an address, usable at once (no duplicate address detection). False if the interface
    /// had it already.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn add_address(
        &self,
        link_index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<bool, NetError> {
        let mut message = address_message(link_index, address, prefix_len);
        if address.is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await
        {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => {
                Err(failed(format!("add {address}/{prefix_len} to interface {link_index}"), e))
            }
        }
    }

    /// Removes an address. False if the interface did not have it.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn remove_address(
        &self,
        link_index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<bool, NetError> {
        let message = address_message(link_index, address, prefix_len);
        match self.change(RouteNetlinkMessage::DelAddress(message), 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(e) => {
                Err(failed(format!("remove {address}/{prefix_len} from interface {link_index}"), e))
            }
        }
    }
}

fn address_message(link_index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    match address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link_index)
            .address(address, prefix_len)
            .build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(link_index)
            .address(address, prefix_len)
            .build(),
    }
}

/// Reads one RTM_NEWADDR or RTM_DELADDR message.
pub(super) fn address_of(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other end's; IPv6 sends only that one.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = local.or(peer)?;
    Some(Address {
        link_index: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
        scope: match message.header.scope {
            Scope::Universe => AddressScope::Global,
            Scope::Link => AddressScope::Link,
            Scope::Host => AddressScope::Host,
            other => AddressScope::Other(other.into()),
        },
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        secondary: address.is_ipv4() && flags.contains(AddressFlags::Secondary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_end_of_a_point_to_point_link_is_ours() {
        let (ours, theirs): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(theirs), AddressAttribute::Local(ours)];
        assert_eq!(address_of(&message).map(|a| a.address), Some(ours));
        message.attributes.pop();
        assert_eq!(address_of(&message).map(|a| a.address), Some(theirs));
        message.attributes.clear();
        assert_eq!(address_of(&message), None);
    }

    #[test]
    fn an_address_under_test_is_tentative() {
        let mut message = AddressMessage::default();
        message.attributes = vec![
            AddressAttribute::Address("2001:db8::1".parse().expect("address")),
            AddressAttribute::Flags(AddressFlags::Tentative | AddressFlags::Permanent),
        ];
        assert!(address_of(&message).expect("has an address").tentative);
    }
}
