//! The settings of a real server.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Refusal;

/// The settings of the command line, or of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to serve.
    pub vips: BTreeSet<IpAddr>,
    /// Allowed sources of tunnels.
    pub from: BTreeSet<Prefix>,
    /// The interface that faces the director; none for the only one there is.
    pub interface: Option<String>,
    /// Where the decapsulation program runs.
    pub mode: Mode,
    /// How packets arrive.
    pub forward: Forward,
}

/// Where in the receive path the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook: any driver, slower.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// How packets arrive from the director.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Forward {
    /// Inside another IP packet.
    Tunnel,
    /// As they are, with this host's MAC address.
    Direct,
    /// Some inside another IP packet, some as they are.
    Both,
}

impl Forward {
    /// Whether tunnels must be decapsulated.
    pub const fn tunnels(self) -> bool {
        matches!(self, Self::Tunnel | Self::Both)
    }
}

impl Settings {
    /// What is wrong with the settings on any host.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if self.vips.is_empty() {
            refusals.push(Refusal::NoVip);
        }
        refusals.extend(
            self.vips
                .iter()
                .filter_map(|&vip| unusable(vip).map(|what| Refusal::UnusableVip { vip, what })),
        );
        if self.forward.tunnels() && self.from.is_empty() {
            refusals.push(Refusal::NoDirector);
        }
        refusals.extend(
            self.from
                .iter()
                .filter(|prefix| prefix.network() != **prefix)
                .map(|&given| Refusal::PrefixHasHostBits { given }),
        );
        refusals
    }
}

/// Why an address cannot be a VIP, if it can't.
fn unusable(vip: IpAddr) -> Option<&'static str> {
    match vip {
        _ if vip.is_unspecified() => Some("the unspecified address"),
        _ if vip.is_loopback() => Some("a loopback address"),
        _ if vip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

/// An address prefix. One that was parsed may have bits set beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits that count, at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The prefix with the bits beyond its length cleared.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, len: self.len }
    }
}

/// The prefix that holds this address only.
impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }
}

/// A text that is no address prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an address or a prefix, such as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")]
pub struct NoPrefix;

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let Some((address, len)) = text.split_once('/') else {
            return text.parse().map(IpAddr::into).map_err(|_| NoPrefix);
        };
        let address: IpAddr = address.parse().map_err(|_| NoPrefix)?;
        // `parse` alone would take "+8".
        let len = len.bytes().all(|b| b.is_ascii_digit()).then(|| len.parse().ok()).flatten();
        match len {
            Some(len) if len <= Self::from(address).len => Ok(Self { address, len }),
            _ => Err(NoPrefix),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_printed() {
        for (text, printed) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Prefix>().expect(text).to_string(), printed);
        }
        for text in ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10.0.0/8", "a"]
        {
            assert_eq!(text.parse::<Prefix>(), Err(NoPrefix), "{text}");
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_network_that_was_meant() {
        for (given, network) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("fe80::1/0", "::/0"),
        ] {
            let given: Prefix = given.parse().expect(given);
            assert_eq!(given.network().to_string(), network);
        }
    }

    #[test]
    fn every_flaw_of_the_settings_is_named_at_once() {
        let settings = Settings {
            vips: ["127.0.0.1", "ff02::1", "::ffff:1.2.3.4", "192.0.2.1"]
                .map(|vip| vip.parse().expect(vip))
                .into(),
            from: ["10.1.0.0/8".parse().expect("a prefix")].into(),
            interface: None,
            mode: Mode::Native,
            forward: Forward::Tunnel,
        };
        assert_eq!(settings.refusals().len(), 4, "{:?}", settings.refusals());
        let nothing = Settings { vips: BTreeSet::new(), from: BTreeSet::new(), ..settings };
        assert_eq!(nothing.refusals(), [Refusal::NoVip, Refusal::NoDirector]);
    }
}
