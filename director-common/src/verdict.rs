//! What becomes of a packet. Every packet ends in exactly one [`Verdict`].
//!
//! The numbers are permanent: counters, metrics and recorded decisions carry them. A reason that
//! goes out of use keeps its number, a new one takes the next.

/// Why a packet is left to the host, untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PassReason {
    /// Too short for the headers it announces.
    Truncated = 0,
    /// Neither IPv4 nor IPv6: ARP and the like.
    NotIp = 1,
    /// Addressed to another machine's MAC, or to many.
    NotOurMac = 2,
    /// A header contradicts itself or the frame, or its checksum is wrong: the host counts it.
    Malformed = 3,
    /// Neither TCP, UDP nor an ICMP error: echo, OSPF, ESP.
    OtherProtocol = 4,
    /// No service has this address, protocol and port.
    NoService = 5,
    /// More extension headers or tags than the program follows.
    TooManyHeaders = 6,
    /// The service has no usable backend and says `when_empty: pass`.
    NoBackend = 7,
}

impl PassReason {
    /// Every reason, by number.
    pub const ALL: [Self; 8] = [
        Self::Truncated,
        Self::NotIp,
        Self::NotOurMac,
        Self::Malformed,
        Self::OtherProtocol,
        Self::NoService,
        Self::TooManyHeaders,
        Self::NoBackend,
    ];

    /// As metrics and the command line print it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotIp => "not-ip",
            Self::NotOurMac => "not-our-mac",
            Self::Malformed => "malformed",
            Self::OtherProtocol => "other-protocol",
            Self::NoService => "no-service",
            Self::TooManyHeaders => "too-many-headers",
            Self::NoBackend => "no-backend",
        }
    }
}

/// Why a packet for a service is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// A fragment for a service's address and protocol: not supported yet.
    Fragment = 0,
    /// The service has no usable backend and says `when_empty: drop`.
    NoBackend = 1,
    /// Too big for the way to the backend, and nothing to tell the sender with: the packet is an
    /// ICMP error itself.
    TooBig = 2,
    /// The kernel has no route to the backend.
    NoRoute = 3,
    /// The next hop's MAC address is not known (yet).
    NoNeighbour = 4,
    /// The driver gave no room in front of the frame for the outer header.
    NoHeadroom = 5,
    /// The backend's interface is not one that Director may send from.
    NoInterface = 6,
}

impl DropReason {
    /// Every reason, by number.
    pub const ALL: [Self; 7] = [
        Self::Fragment,
        Self::NoBackend,
        Self::TooBig,
        Self::NoRoute,
        Self::NoNeighbour,
        Self::NoHeadroom,
        Self::NoInterface,
    ];

    /// As metrics and the command line print it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fragment => "fragment",
            Self::NoBackend => "no-backend",
            Self::TooBig => "too-big",
            Self::NoRoute => "no-route",
            Self::NoNeighbour => "no-neighbour",
            Self::NoHeadroom => "no-headroom",
            Self::NoInterface => "no-interface",
        }
    }

    /// What it means and what helps, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Fragment => "a fragment for a service's address: fragments are not supported yet",
            Self::NoBackend => "no usable backend, and the service says when_empty: drop",
            Self::TooBig => "an ICMP error too big for the way to the backend: raise the MTU",
            Self::NoRoute => "no route to the backend: see `ip route get`, and ip_forward",
            Self::NoNeighbour => "the next hop does not answer ARP or ND: see `ip neigh`",
            Self::NoHeadroom => "the driver leaves no room for the outer header: try mode: generic",
            Self::NoInterface => "the way to the backend leaves by an interface not listed",
        }
    }
}

/// Why Director answers the client itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReplyReason {
    /// No usable backend: ICMP port unreachable (`when_empty: reject`).
    NoBackend = 0,
    /// The packet does not fit the way to the backend: ICMP too big, with the size that does.
    TooBig = 1,
}

impl ReplyReason {
    /// Every reason, by number.
    pub const ALL: [Self; 2] = [Self::NoBackend, Self::TooBig];

    /// As metrics and the command line print it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoBackend => "no-backend",
            Self::TooBig => "too-big",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forwarded by the interface it came from.
    Tx,
    /// Forwarded by another interface.
    Redirect,
    /// Turned into an ICMP error for its sender, by the interface it came from.
    Reply(ReplyReason),
    /// Left to the host, untouched.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
}

const TX: u32 = 0;
const REDIRECT: u32 = 1;
const REPLY: u32 = 8;
const PASS: u32 = 16;
const DROP: u32 = 32;

/// Verdict codes are below this.
pub const VERDICT_CODES: u32 = 64;

impl Verdict {
    /// The number under which it is counted.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::Tx => TX,
            Self::Redirect => REDIRECT,
            Self::Reply(reason) => REPLY + reason as u32,
            Self::Pass(reason) => PASS + reason as u32,
            Self::Drop(reason) => DROP + reason as u32,
        }
    }

    /// The verdict of this number, if there is one.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::all().find(|verdict| verdict.code() == code)
    }

    /// Every verdict there is.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Tx, Self::Redirect]
            .into_iter()
            .chain(ReplyReason::ALL.into_iter().map(Self::Reply))
            .chain(PassReason::ALL.into_iter().map(Self::Pass))
            .chain(DropReason::ALL.into_iter().map(Self::Drop))
    }

    /// `tx`, `redirect`, `pass` or `drop`; a reply leaves by the way the packet came: `tx`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tx | Self::Reply(_) => "tx",
            Self::Redirect => "redirect",
            Self::Pass(_) => "pass",
            Self::Drop(_) => "drop",
        }
    }

    /// The reason's label, for a packet that was not simply forwarded.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Tx | Self::Redirect => None,
            Self::Reply(reason) => Some(reason.label()),
            Self::Pass(reason) => Some(reason.label()),
            Self::Drop(reason) => Some(reason.label()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::collections::HashSet;

    #[test]
    fn codes_are_distinct_and_fit() {
        let codes: HashSet<u32> = Verdict::all().map(Verdict::code).collect();
        assert_eq!(codes.len(), Verdict::all().count());
        assert!(codes.iter().all(|code| *code < VERDICT_CODES));
        for verdict in Verdict::all() {
            assert_eq!(Verdict::from_code(verdict.code()), Some(verdict));
        }
    }

    /// Dashboards and scripts carry these numbers: only ever add to this list.
    #[test]
    fn numbers_are_permanent() {
        let drops: std::vec::Vec<_> =
            DropReason::ALL.iter().map(|r| (*r as u8, r.label())).collect();
        assert_eq!(
            drops,
            [
                (0, "fragment"),
                (1, "no-backend"),
                (2, "too-big"),
                (3, "no-route"),
                (4, "no-neighbour"),
                (5, "no-headroom"),
                (6, "no-interface"),
            ]
        );
        let passes: std::vec::Vec<_> =
            PassReason::ALL.iter().map(|r| (*r as u8, r.label())).collect();
        assert_eq!(
            passes,
            [
                (0, "truncated"),
                (1, "not-ip"),
                (2, "not-our-mac"),
                (3, "malformed"),
                (4, "other-protocol"),
                (5, "no-service"),
                (6, "too-many-headers"),
                (7, "no-backend"),
            ]
        );
    }
}
