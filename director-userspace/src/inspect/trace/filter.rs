//! Packet filters in text form: `tcp client 198.51.100.0/24 port 443 verdict drop`.

use std::{net::IpAddr, str::FromStr};

use director_common::{
    address::Address,
    trace::{FILTER_SERVICES, MAX_SNAP, TraceFilter},
    verdict::Verdict,
    wire::{tcp::PROTOCOL_TCP, udp::PROTOCOL_UDP},
};

use super::names::Names;

/// Conditions on a packet; an empty filter matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    protocol: Option<u8>,
    client: Option<(IpAddr, u8)>,
    vip: Option<(IpAddr, u8)>,
    client_port: Option<u16>,
    vip_port: Option<u16>,
    backend: Option<IpAddr>,
    service: Option<String>,
    /// Bits of verdict codes.
    verdicts: u64,
}

/// An invalid filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// An unknown word.
    #[error(
        "filter: unknown word {0:?}: a filter consists of words like `tcp`, `udp`, `client \
         198.51.100.0/24`, `client-port 40000`, `vip 192.0.2.10`, `port 443`, `service web`, \
         `backend 10.0.0.11`, `verdict drop`"
    )]
    Word(String),
    /// A key without its value.
    #[error("filter: `{0}` needs a value")]
    NoValue(String),
    /// An invalid value.
    #[error("filter: {key} {value}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A condition given twice.
    #[error("filter: {0} is given twice, but a packet has only one")]
    Twice(String),
    /// The client and the VIP are of different families.
    #[error(
        "filter: the client and the VIP are of different address families, so that no packet \
         matches"
    )]
    Families,
    /// No such service.
    #[error("filter: there is no service {name:?}; there are: {}", .existing.join(", "))]
    NoService {
        /// The name in the filter.
        name: String,
        /// The names of existing services.
        existing: Vec<String>,
    },
}

/// Parses an address with an optional prefix length.
fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr =
        bare.parse().map_err(|_| "not an IPv4 or IPv6 address or prefix".to_owned())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(length) => {
            let length = length.parse().ok().filter(|length| *length <= bits);
            length.ok_or_else(|| format!("a prefix has 0 to {bits} bits"))?
        }
    };
    Ok((address, length))
}

/// A mask of `length` one bits.
fn mask(is_v4: bool, length: u8) -> Address {
    let length = u32::from(length);
    if is_v4 {
        let ones = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        Address::v4(ones.to_be_bytes())
    } else {
        let ones = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        Address::v6(ones.to_be_bytes())
    }
}

/// The verdicts that match a word: a kind of verdict, or a reason.
fn verdicts(word: &str) -> Option<u64> {
    let means = |verdict: &Verdict| match word {
        "reply" | "answer" | "answered" => matches!(verdict, Verdict::Reply(_)),
        "tx" => *verdict == Verdict::Tx,
        "forwarded" => matches!(verdict, Verdict::Tx | Verdict::Redirect),
        "dropped" => verdict.label() == "drop",
        "passed" => verdict.label() == "pass",
        _ => verdict.label() == word || verdict.reason() == Some(word),
    };
    let bits = Verdict::all().filter(means).map(|verdict| 1 << verdict.code());
    let bits = bits.fold(0u64, |all, bit| all | bit);
    (bits != 0).then_some(bits)
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let text = text.replace(['=', ','], " ");
        let mut words = text.split_whitespace();
        let mut filter = Self::default();
        while let Some(word) = words.next() {
            let key = word.to_ascii_lowercase();
            let mut value = || words.next().ok_or_else(|| FilterError::NoValue(key.clone()));
            let wrong = |value: &str, problem: String| FilterError::Value {
                key: key.clone(),
                value: value.into(),
                problem,
            };
            let port = |text: &str| {
                let port = text.parse::<u16>().ok().filter(|port| *port != 0);
                port.ok_or_else(|| wrong(text, "not a port from 1 to 65535".into()))
            };
            let twice = match key.as_str() {
                "and" | "&&" => false,
                "tcp" => filter.protocol.replace(PROTOCOL_TCP).is_some(),
                "udp" => filter.protocol.replace(PROTOCOL_UDP).is_some(),
                "protocol" | "proto" => match value()? {
                    "tcp" => filter.protocol.replace(PROTOCOL_TCP).is_some(),
                    "udp" => filter.protocol.replace(PROTOCOL_UDP).is_some(),
                    other => return Err(wrong(other, "tcp or udp".into())),
                },
                "client" | "source" | "src" => {
                    let text = value()?;
                    let prefix = prefix(text).map_err(|problem| wrong(text, problem))?;
                    filter.client.replace(prefix).is_some()
                }
                "vip" | "destination" | "dst" => {
                    let text = value()?;
                    let prefix = prefix(text).map_err(|problem| wrong(text, problem))?;
                    filter.vip.replace(prefix).is_some()
                }
                "client-port" | "sport" => filter.client_port.replace(port(value()?)?).is_some(),
                "port" | "vip-port" | "dport" => filter.vip_port.replace(port(value()?)?).is_some(),
                "backend" => {
                    let text = value()?;
                    let address = text
                        .parse()
                        .map_err(|_| wrong(text, "not an IPv4 or IPv6 address".into()))?;
                    filter.backend.replace(address).is_some()
                }
                "service" => filter.service.replace(value()?.into()).is_some(),
                "verdict" | "reason" => {
                    let text = value()?;
                    let bits = verdicts(&text.to_ascii_lowercase()).ok_or_else(|| {
                        let all = "tx, redirect, reply, pass or drop, or a reason like no-route";
                        wrong(text, format!("not a verdict: use {all}"))
                    })?;
                    filter.verdicts |= bits;
                    false
                }
                // A verdict needs no keyword.
                other => match verdicts(other) {
                    Some(bits) => {
                        filter.verdicts |= bits;
                        false
                    }
                    None => return Err(FilterError::Word(word.into())),
                },
            };
            if twice {
                return Err(FilterError::Twice(key));
            }
        }
        if let (Some((client, _)), Some((vip, _))) = (filter.client, filter.vip)
            && client.is_ipv4() != vip.is_ipv4()
        {
            return Err(FilterError::Families);
        }
        Ok(filter)
    }
}

impl Filter {
    /// Restricts the filter to dropped packets.
    #[must_use]
    pub fn drops(mut self) -> Self {
        self.verdicts = verdicts("drop").unwrap_or(0);
        self
    }

    /// Lowers the filter to the program's form, with `snap` bytes per frame.
    ///
    /// # Errors
    ///
    /// [`FilterError::NoService`].
    pub fn lower(&self, names: &Names, snap: u32) -> Result<TraceFilter, FilterError> {
        let mut services = [0; FILTER_SERVICES];
        if let Some(name) = &self.service {
            let slots = names.services_called(name);
            if slots.is_empty() {
                let mut existing: Vec<String> = names.services.values().cloned().collect();
                existing.dedup();
                existing.truncate(20);
                return Err(FilterError::NoService { name: name.clone(), existing });
            }
            for (place, slot) in services.iter_mut().zip(slots) {
                *place = slot + 1;
            }
        }
        let family = |address: IpAddr| if address.is_ipv4() { 4 } else { 6 };
        let ends = self.client.or(self.vip);
        let part = |prefix: Option<(IpAddr, u8)>| match prefix {
            None => (Address::default(), Address::default()),
            Some((address, length)) => {
                let mask = mask(address.is_ipv4(), length);
                let Address { first, second } = address.into();
                let address = Address { first: first & mask.first, second: second & mask.second };
                (address, mask)
            }
        };
        let ((client, client_mask), (vip, vip_mask)) = (part(self.client), part(self.vip));
        let port = |port: Option<u16>| {
            port.map_or(0, |port| u32::from(u16::from_ne_bytes(port.to_be_bytes())))
        };
        Ok(TraceFilter {
            client,
            client_mask,
            vip,
            vip_mask,
            backend: self.backend.map_or_else(Address::default, Address::from),
            verdicts: self.verdicts,
            services,
            family: ends.map_or(0, |(address, _)| family(address)),
            backend_family: self.backend.map_or(0, family),
            protocol: self.protocol.map_or(0, u32::from),
            client_port: port(self.client_port),
            vip_port: port(self.vip_port),
            snap: snap.min(MAX_SNAP),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use director_common::{
        flow::FlowKey,
        verdict::{DropReason, PassReason},
    };

    use super::*;
    use crate::inspect::trace::FlowSpec;

    fn names() -> Names {
        let services = [(0, "web"), (3, "dns"), (5, "dns")];
        Names {
            services: services.map(|(slot, name)| (slot, name.to_owned())).into(),
            backends: BTreeMap::new(),
            interfaces: BTreeMap::new(),
        }
    }

    fn lowered(text: &str) -> TraceFilter {
        text.parse::<Filter>().expect(text).lower(&names(), 96).expect(text)
    }

    #[test]
    fn a_filter_matches_its_conditions() {
        let flow = |text: &str| -> FlowKey { text.parse::<FlowSpec>().expect(text).key() };
        let v4 = flow("tcp 198.51.100.7:40000 -> 192.0.2.10:443");
        let v6 = flow("udp [2001:db8:1::7]:40000 -> [2001:db8::10]:53");
        for (text, matches_v4, matches_v6) in [
            ("", true, true),
            ("tcp", true, false),
            ("proto=udp", false, true),
            ("client 198.51.100.0/24", true, false),
            ("client 198.51.0.0/16 and port 443", true, false),
            ("client 198.51.101.0/24", false, false),
            ("client 0.0.0.0/0", true, false),
            ("client ::/0", false, true),
            ("src 2001:db8:1::/48", false, true),
            ("vip 192.0.2.10", true, false),
            ("vip 192.0.2.11", false, false),
            ("vip [2001:db8::10] port 53", false, true),
            ("port 53", false, true),
            ("client-port 40000", true, true),
            ("client-port 443", false, false),
        ] {
            let filter = lowered(text);
            assert_eq!(
                (filter.takes_flow(&v4), filter.takes_flow(&v6)),
                (matches_v4, matches_v6),
                "{text}"
            );
            assert_eq!(filter.snap, 96);
        }
    }

    #[test]
    fn verdicts_are_kinds_and_reasons() {
        let bit = |verdict: Verdict| 1u64 << verdict.code();
        assert_eq!(lowered("verdict no-route").verdicts, bit(Verdict::Drop(DropReason::NoRoute)));
        assert_eq!(lowered("no-service").verdicts, bit(Verdict::Pass(PassReason::NoService)));
        let drops = DropReason::ALL.iter().fold(0, |all, reason| all | bit(Verdict::Drop(*reason)));
        assert_eq!(lowered("verdict drop").verdicts, drops);
        assert_eq!(lowered("drop").verdicts, drops);
        assert_eq!(Filter::default().drops().lower(&names(), 0).expect("lowers").verdicts, drops);
        assert_eq!(lowered("tx redirect").verdicts, bit(Verdict::Tx) | bit(Verdict::Redirect));
    }

    #[test]
    fn one_name_is_a_service_for_each_protocol() {
        assert_eq!(lowered("service web").services, [1, 0, 0, 0]);
        assert_eq!(lowered("service dns").services, [4, 6, 0, 0]);
        let missing = "service mail".parse::<Filter>().expect("parses").lower(&names(), 0);
        assert!(missing.expect_err("none").to_string().contains("no service \"mail\""));
    }

    #[test]
    fn invalid_filters_are_explained() {
        for (text, words) in [
            ("http", "unknown word \"http\""),
            ("port", "needs a value"),
            ("port 0", "from 1 to 65535"),
            ("port http", "from 1 to 65535"),
            ("client 198.51.100.0/33", "0 to 32 bits"),
            ("client web", "not an IPv4 or IPv6 address"),
            ("backend 10.0.0.0/8", "not an IPv4 or IPv6 address"),
            ("tcp udp", "twice"),
            ("port 1 port 2", "twice"),
            ("verdict lost", "not a verdict"),
            ("client 198.51.100.7 vip ::1", "different address families"),
            ("protocol sctp", "tcp or udp"),
        ] {
            let error = text.parse::<Filter>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
