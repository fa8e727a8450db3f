//! Announces an address on a link, and finds the owner of an address.
//!
//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861), as raw frames: the kernel announces only
//! addresses that it assigns itself, and resolves only where its routes point.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::{
    NetError, Netlink, failed,
    packet::{ARP, IPV6, PacketSocket},
};

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERNET_LEN: usize = 14;
const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;
/// Neighbour solicitation and advertisement: type to target, and one link-layer option.
const ND_LEN: usize = 24 + 8;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// An ARP request is repeated after this long without an answer.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

/// A host on the link that claims an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOwner {
    /// Its MAC address, as the answer gives it.
    pub mac: [u8; 6],
}

impl Netlink {
    /// Announces on a link that an address is now at this interface: a gratuitous ARP, or an
    /// unsolicited neighbour advertisement that overrides cached entries.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_RAW is needed, and the interface must be up).
    pub async fn announce(&self, link_index: u32, address: IpAddr) -> Result<(), NetError> {
        let mac = self.link_by_index(link_index).await?.mac;
        let doing = || format!("announce {address} on interface {link_index}");
        self.inside(|| {
            let (ethertype, frame) = match address {
                // Sender and target are the same: RFC 5944 section 4.6.
                IpAddr::V4(v4) => (ARP, arp_request(mac, v4, v4)),
                IpAddr::V6(v6) => (IPV6, advertisement(mac, v6)),
            };
            PacketSocket::open(link_index, ethertype)
                .and_then(|socket| socket.send(&frame))
                .map_err(|e| failed(doing(), e))
        })
    }

    /// Sends a request for an address on a link, and waits for the first answer. This host's own
    /// addresses do not answer: a host does not receive its own frames. None if there is no answer
    /// in time.
    ///
    /// Blocks a thread while it waits.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_RAW is needed, and the interface must be up).
    pub async fn who_has(
        &self,
        link_index: u32,
        address: IpAddr,
        wait: Duration,
    ) -> Result<Option<AddressOwner>, NetError> {
        let mac = self.link_by_index(link_index).await?.mac;
        let mine = self.addresses().await?;
        let on_link = mine.iter().filter(|a| a.link_index == link_index && !a.tentative);
        let source = on_link.map(|a| a.address).find(|ip| match (ip, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) => true,
            // From a link-local address the answer comes back without any route.
            (IpAddr::V6(v6), IpAddr::V6(_)) => v6.is_unicast_link_local(),
            _ => false,
        });
        let (ethertype, request) = match (address, source) {
            (IpAddr::V4(target), Some(IpAddr::V4(source))) => {
                (ARP, arp_request(mac, source, target))
            }
            // A probe: RFC 5227.
            (IpAddr::V4(target), _) => (ARP, arp_request(mac, Ipv4Addr::UNSPECIFIED, target)),
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                (IPV6, solicitation(mac, source, target))
            }
            (IpAddr::V6(target), _) => (IPV6, solicitation(mac, Ipv6Addr::UNSPECIFIED, target)),
        };
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            this.inside(|| {
                PacketSocket::open(link_index, ethertype)
                    .and_then(|socket| request_owner(&socket, &request, address, mac, wait))
                    .map_err(|e| {
                        failed(format!("find the owner of {address} on interface {link_index}"), e)
                    })
            })
        });
        task.await.map_err(|e| failed("wait for an answer", std::io::Error::other(e)))?
    }
}

/// Repeats the request until there is an answer or the time is over.
fn request_owner(
    socket: &PacketSocket,
    request: &[u8],
    address: IpAddr,
    own_mac: [u8; 6],
    wait: Duration,
) -> std::io::Result<Option<AddressOwner>> {
    let deadline = Instant::now() + wait;
    let mut buffer = [0; 2048];
    loop {
        socket.send(request)?;
        let repeat_at = deadline.min(Instant::now() + REPEAT_AFTER);
        while let Some(frame) = socket.receive(&mut buffer, repeat_at)? {
            match claimed_mac(frame, address) {
                Some(mac) if mac != own_mac => return Ok(Some(AddressOwner { mac })),
                _ => {}
            }
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
}

/// The MAC address that a frame claims for an address, if it does.
pub(super) fn claimed_mac(frame: &[u8], address: IpAddr) -> Option<[u8; 6]> {
    let (ethernet, body) = frame.split_at_checked(ETHERNET_LEN)?;
    let ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    match (ethertype, address) {
        (ARP, IpAddr::V4(v4)) => {
            let arp = body.get(..ARP_LEN)?;
            let is_reply = arp[6..8] == [0, 2];
            (is_reply && arp[14..18] == v4.octets()).then(|| arp[8..14].try_into().ok())?
        }
        (IPV6, IpAddr::V6(v6)) => {
            let (header, nd) = body.split_at_checked(IPV6_LEN)?;
            let target = nd.get(8..24)?;
            // Hop limit 255: it did not come through a router (RFC 4861 section 7.1.2).
            let is_advertisement =
                header[6] == ICMPV6 && header[7] == 255 && nd[0] == ADVERTISEMENT;
            if !is_advertisement || target != v6.octets() {
                return None;
            }
            // The option may be left out of a unicast answer; its sender is the owner then.
            match nd.get(24..32) {
                Some([2, 1, mac @ ..]) => mac.try_into().ok(),
                _ => ethernet[6..12].try_into().ok(),
            }
        }
        _ => None,
    }
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV6_LEN + ND_LEN);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn arp_request(mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ARP);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(source.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn solicitation(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let t = target.octets();
    // The solicited-node group of the target: RFC 4291 section 2.7.1.
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(t[13]),
        u16::from_be_bytes([t[14], t[15]]),
    );
    // RFC 4861 section 4.3: no source option when the source is unspecified.
    let option = (!source.is_unspecified()).then_some((1, mac));
    neighbour_discovery(mac, source, group, SOLICITATION, [0; 4], target, option)
}

fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];
    neighbour_discovery(mac, address, all_nodes, ADVERTISEMENT, OVERRIDE, address, Some((2, mac)))
}

fn neighbour_discovery(
    mac: [u8; 6],
    source: Ipv6Addr,
    group: Ipv6Addr,
    kind: u8,
    flags: [u8; 4],
    target: Ipv6Addr,
    option: Option<(u8, [u8; 6])>,
) -> Vec<u8> {
    let g = group.octets();
    let mut message = vec![kind, 0, 0, 0];
    message.extend(flags);
    message.extend(target.octets());
    if let Some((option, mac)) = option {
        message.extend([option, 1]);
        message.extend(mac);
    }
    let sum = icmpv6_checksum(source, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    // A group's MAC address: RFC 2464 section 7.
    let mut frame = ethernet([0x33, 0x33, g[12], g[13], g[14], g[15]], mac, IPV6);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(g);
    frame.extend(message);
    frame
}

/// RFC 1071 over the pseudo header (RFC 8200 section 8.1) and the message; host byte order.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)])))
            .sum()
    };
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + message.len() as u32
        + u32::from(ICMPV6)
        + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

    fn arp_reply(owner: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
        let mut frame = arp_request(owner, address, Ipv4Addr::new(10, 0, 0, 1));
        frame[ETHERNET_LEN + 7] = 2;
        frame
    }

    #[test]
    fn sender_and_target_of_a_gratuitous_arp_are_equal() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        let frame = arp_request(MAC, vip, vip);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], BROADCAST);
        assert_eq!(frame[12..14], [8, 6]);
        assert_eq!((&frame[28..32], &frame[38..42]), (&vip.octets()[..], &vip.octets()[..]));
    }

    #[test]
    fn the_checksum_of_an_advertisement_is_correct() {
        let vip: Ipv6Addr = "2001:db8::10".parse().expect("address");
        let frame = advertisement(MAC, vip);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let message = &frame[ETHERNET_LEN + IPV6_LEN..];
        // Summed with its own checksum in place, a correct message gives zero.
        let all_nodes: Ipv6Addr = "ff02::1".parse().expect("address");
        assert_eq!(icmpv6_checksum(vip, all_nodes, message), 0);
        assert_eq!(usize::from(frame[ETHERNET_LEN + 5]), message.len());
    }

    #[test]
    fn a_solicitation_goes_to_the_target_s_group() {
        let target: Ipv6Addr = "2001:db8::12:3456".parse().expect("address");
        let frame = solicitation(MAC, Ipv6Addr::UNSPECIFIED, target);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        // Without a source address there is no option with the MAC address.
        assert_eq!(frame.len(), ETHERNET_LEN + IPV6_LEN + 24);
    }

    #[test]
    fn answers() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        let vip6: Ipv6Addr = "2001:db8::10".parse().expect("address");
        let mut routed = advertisement(OTHER, vip6);
        routed[ETHERNET_LEN + 7] = 64;
        let mut bare = advertisement(OTHER, vip6);
        bare.truncate(ETHERNET_LEN + IPV6_LEN + 24);
        let table = [
            ("arp reply", arp_reply(OTHER, vip), IpAddr::from(vip), Some(OTHER)),
            ("for another address", arp_reply(OTHER, [10, 0, 0, 9].into()), vip.into(), None),
            ("arp request", arp_request(OTHER, vip, vip), vip.into(), None),
            ("truncated", arp_reply(OTHER, vip)[..30].to_vec(), vip.into(), None),
            ("advertisement", advertisement(OTHER, vip6), vip6.into(), Some(OTHER)),
            ("without its option", bare, vip6.into(), Some(OTHER)),
            ("through a router", routed, vip6.into(), None),
            ("nothing", vec![], vip6.into(), None),
        ];
        for (name, frame, address, expected) in table {
            assert_eq!(claimed_mac(&frame, address), expected, "{name}");
        }
    }
}
