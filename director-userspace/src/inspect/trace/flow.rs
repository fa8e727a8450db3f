//! A flow in text form: `tcp 198.51.100.7:40000 -> 192.0.2.10:443`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use director_common::{
    address::Address,
    flow::{Family, FlowKey},
};

use crate::policy::config::model::Protocol;

/// A flow's protocol and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
}

/// A packet of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// TCP control bits; without meaning for UDP.
    pub flags: u8,
    /// Bytes of IP packet; the length of the headers, if that is more.
    pub length: u16,
}

/// An invalid flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not two endpoints.
    #[error("a flow has two endpoints, not {0}: write `tcp 198.51.100.7:40000 -> 192.0.2.10:443`")]
    Ends(usize),
    /// An invalid endpoint.
    #[error("{0:?} is not an address with a port: write 192.0.2.10:443 or [2001:db8::10]:443")]
    End(String),
    /// No protocol.
    #[error("no protocol: write `tcp` or `udp` first: `tcp {from} -> {to}`")]
    NoProtocol {
        /// The source.
        from: SocketAddr,
        /// The destination.
        to: SocketAddr,
    },
    /// Several protocols.
    #[error("a flow has one protocol, not several")]
    Protocols,
    /// IPv4 and IPv6.
    #[error("{from} and {to} are of different address families")]
    Families {
        /// The source.
        from: SocketAddr,
        /// The destination.
        to: SocketAddr,
    },
}

/// Words that are ignored between and before the endpoints.
const FILLERS: [&str; 6] = ["->", "to", "from", ">", "=>", "→"];

impl FromStr for FlowSpec {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        // An arrow needs no spaces; `>` is in all of them.
        let text = text.replace("->", " -> ").replace("=>", " => ").replace(',', " ");
        let mut protocol = None;
        let mut ends: Vec<SocketAddr> = Vec::new();
        let mut words = text.split_whitespace().map(str::to_ascii_lowercase).peekable();
        while let Some(word) = words.next() {
            if FILLERS.contains(&word.as_str()) {
                continue;
            }
            let found = Protocol::ALL.iter().find(|protocol| protocol.as_str() == word);
            if let Some(found) = found {
                if protocol.replace(*found).is_some_and(|before| before != *found) {
                    return Err(FlowError::Protocols);
                }
                continue;
            }
            // `198.51.100.7 40000` and `198.51.100.7 port 40000` are endpoints in several words.
            let end = match word.parse::<SocketAddr>() {
                Ok(end) => end,
                Err(_) => {
                    let bare = word.trim_start_matches('[').trim_end_matches(']');
                    let address: IpAddr = bare.parse().map_err(|_| FlowError::End(word.clone()))?;
                    if words.peek().is_some_and(|next| next == "port") {
                        words.next();
                    }
                    let port = words.next_if(|next| next.parse::<u16>().is_ok());
                    let port = port.and_then(|port| port.parse().ok());
                    SocketAddr::new(address, port.ok_or(FlowError::End(word))?)
                }
            };
            ends.push(end);
        }
        let [source, destination] = ends[..] else { return Err(FlowError::Ends(ends.len())) };
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(FlowError::Families { from: source, to: destination });
        }
        let protocol = protocol.ok_or(FlowError::NoProtocol { from: source, to: destination })?;
        Ok(Self { protocol, source, destination })
    }
}

impl fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.source, self.destination)
    }
}

impl FlowSpec {
    /// The flow as the program hashes it.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            source: Address::from(self.source.ip()),
            destination: Address::from(self.destination.ip()),
            source_port: self.source.port().to_be_bytes(),
            destination_port: self.destination.port().to_be_bytes(),
            protocol: self.protocol as u8,
            family: if self.source.is_ipv4() { Family::V4 } else { Family::V6 } as u8,
            _pad: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<String, FlowError> {
        text.parse::<FlowSpec>().map(|spec| spec.to_string())
    }

    #[test]
    fn flows_have_several_text_forms() {
        for text in [
            "tcp 198.51.100.7:40000 -> 192.0.2.10:443",
            "tcp 198.51.100.7:40000->192.0.2.10:443",
            "TCP 198.51.100.7:40000 => 192.0.2.10:443",
            "tcp 198.51.100.7:40000 192.0.2.10:443",
            "tcp from 198.51.100.7:40000 to 192.0.2.10:443",
            "198.51.100.7:40000 -> 192.0.2.10:443 tcp",
            "tcp 198.51.100.7 40000 192.0.2.10 443",
            "tcp 198.51.100.7 port 40000 to 192.0.2.10 port 443",
            "tcp, 198.51.100.7:40000, 192.0.2.10:443",
        ] {
            assert_eq!(
                spec(text).as_deref(),
                Ok("tcp 198.51.100.7:40000 -> 192.0.2.10:443"),
                "{text}"
            );
        }
        for text in [
            "udp [2001:db8:1::7]:5353 -> [2001:db8::10]:53",
            "udp 2001:db8:1::7 5353 2001:db8::10 53",
            "udp [2001:db8:1::7] port 5353 [2001:db8::10] 53",
        ] {
            assert_eq!(
                spec(text).as_deref(),
                Ok("udp [2001:db8:1::7]:5353 -> [2001:db8::10]:53"),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_flows_are_explained() {
        for (text, words) in [
            ("", "two endpoints, not 0"),
            ("tcp 192.0.2.10:443", "two endpoints, not 1"),
            ("198.51.100.7:40000 -> 192.0.2.10:443", "write `tcp` or `udp`"),
            ("tcp udp 198.51.100.7:40000 -> 192.0.2.10:443", "several"),
            ("tcp 198.51.100.7:40000 -> [2001:db8::10]:443", "different address families"),
            ("tcp 198.51.100.7 -> 192.0.2.10:443", "not an address with a port"),
            ("sctp 198.51.100.7:1 -> 192.0.2.10:2", "\"sctp\" is not an address"),
            ("tcp 198.51.100.7:70000 -> 192.0.2.10:443", "not an address with a port"),
            ("tcp web:80 -> 192.0.2.10:443", "not an address with a port"),
        ] {
            let error = text.parse::<FlowSpec>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
