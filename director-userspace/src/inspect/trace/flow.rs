//! A flow as somebody writes it down: `tcp 198.51.100.7:40000 -> 192.0.2.10:443`.

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

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
}

/// Which packet of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// TCP control bits; without meaning for UDP.
    pub flags: u8,
    /// Bytes of IP packet; what headers take, if that is more.
    pub length: u16,
}

/// What is wrong with a flow that somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not two ends.
    #[error(
        "a flow has two ends, and this has {0}: write `tcp 198.51.100.7:40000 -> 192.0.2.10:443`"
    )]
    Ends(usize),
    /// An end that is none.
    #[error("{0:?} is no address with a port: write 192.0.2.10:443 or [2001:db8::10]:443")]
    End(String),
    /// No protocol.
    #[error("say `tcp` or `udp` first: `tcp {from} -> {to}`")]
    NoProtocol {
        /// One end.
        from: SocketAddr,
        /// The other.
        to: SocketAddr,
    },
    /// Both.
    #[error("a flow has one protocol, and this has several")]
    Protocols,
    /// IPv4 and IPv6.
    #[error("{from} and {to} are not of one family: no packet goes from one to the other")]
    Families {
        /// One end.
        from: SocketAddr,
        /// The other.
        to: SocketAddr,
    },
}

/// Words that may stand between the ends, or before them.
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
            // `198.51.100.7 40000` and `198.51.100.7 port 40000` are ends in several words.
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
    fn flows_may_be_written_in_many_ways() {
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
    fn what_is_no_flow_is_said_to_be_none() {
        for (text, words) in [
            ("", "two ends, and this has 0"),
            ("tcp 192.0.2.10:443", "two ends, and this has 1"),
            ("198.51.100.7:40000 -> 192.0.2.10:443", "say `tcp` or `udp`"),
            ("tcp udp 198.51.100.7:40000 -> 192.0.2.10:443", "several"),
            ("tcp 198.51.100.7:40000 -> [2001:db8::10]:443", "not of one family"),
            ("tcp 198.51.100.7 -> 192.0.2.10:443", "no address with a port"),
            ("sctp 198.51.100.7:1 -> 192.0.2.10:2", "\"sctp\" is no address"),
            ("tcp 198.51.100.7:70000 -> 192.0.2.10:443", "no address with a port"),
            ("tcp web:80 -> 192.0.2.10:443", "no address with a port"),
        ] {
            let error = text.parse::<FlowSpec>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
