//! The outcome of a packet. Every packet gets exactly one [`Verdict`].
//!
//! The numbers are permanent: counters, metrics and recorded decisions carry them. An unused reason
//! keeps its number, a new one gets the next.

/// Declares an enum of reasons: its variants with their permanent numbers and their labels, `ALL`
/// of them by number, and `label`, which is what metrics, the command line and the docs print.
macro_rules! reasons {
    (
        $(#[$of_enum:meta])*
        $name:ident { $($(#[$of_variant:meta])* $variant:ident = $number:literal, $label:literal;)+ }
    ) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$of_variant])* $variant = $number,)+
        }

        impl $name {
            /// Every reason, by number.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$variant),+];

            /// The label in metrics and on the command line.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// Why a packet is passed to the host, unmodified.
    PassReason {
        /// Too short for its headers.
        Truncated = 0, "truncated";
        /// Neither IPv4 nor IPv6: ARP and the like.
        NotIp = 1, "not-ip";
        /// Addressed to another machine's MAC, or to a group MAC.
        NotOurMac = 2, "not-our-mac";
        /// A header is inconsistent with itself or the frame, or its checksum is wrong: the host
        /// counts it.
        Malformed = 3, "malformed";
        /// Neither TCP, UDP nor an ICMP error: echo, OSPF, ESP.
        OtherProtocol = 4, "other-protocol";
        /// No service has this address, protocol and port.
        NoService = 5, "no-service";
        /// More extension headers or tags than the program parses.
        TooManyHeaders = 6, "too-many-headers";
        /// The service has no usable backend and `when_empty: pass`.
        NoBackend = 7, "no-backend";
    }
}

reasons! {
    /// Why a packet for a service is dropped.
    DropReason {
        /// A fragment for a service's address and protocol: not supported yet.
        Fragment = 0, "fragment";
        /// The service has no usable backend and `when_empty: drop`; or `reject`, but the limit on
        /// ICMP errors is reached.
        NoBackend = 1, "no-backend";
        /// Too big for the path to the backend, and no ICMP error can be sent: the packet is an
        /// ICMP error itself, or the limit on ICMP errors is reached.
        TooBig = 2, "too-big";
        /// The kernel has no route to the backend.
        NoRoute = 3, "no-route";
        /// The next hop's MAC address is not known (yet).
        NoNeighbour = 4, "no-neighbour";
        /// The driver leaves no headroom in front of the frame for the outer header.
        NoHeadroom = 5, "no-headroom";
        /// The egress interface towards the backend is not one that Director may send from.
        NoInterface = 6, "no-interface";
        /// The source is an address that no host can send from, or the service's own.
        MartianSource = 7, "martian-source";
        /// It arrived with TTL or hop limit 0.
        HopLimit = 8, "hop-limit";
        /// Too big for the path to the backend, and no bigger than the 1,280 bytes that every IPv6 path
        /// must take: its sender cannot make it smaller.
        BelowMinimumMtu = 9, "below-minimum-mtu";
    }
}

impl DropReason {
    /// Its meaning and remedy, for operators.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Fragment => "a fragment for a service's address: fragments are not supported yet",
            Self::NoBackend => "no usable backend (when_empty: drop, or no ICMP error can be sent)",
            Self::TooBig => "too big for the path to the backend, no ICMP sent: raise the MTU",
            Self::NoRoute => "no route to the backend: see `ip route get`, and ip_forward",
            Self::NoNeighbour => "the next hop does not answer ARP or ND: see `ip neigh`",
            Self::NoHeadroom => "the driver leaves no room for the outer header: try mode: generic",
            Self::NoInterface => "the egress interface towards the backend is not listed",
            Self::MartianSource => "forged: no host can send from this source address",
            Self::HopLimit => "arrived with TTL or hop limit 0: a loop, or forged",
            Self::BelowMinimumMtu => {
                "the path to the backend takes less than IPv6's 1280 bytes: raise the MTU"
            }
        }
    }
}

reasons! {
    /// Why Director sends the client an ICMP error.
    ReplyReason {
        /// No usable backend: ICMP port unreachable (`when_empty: reject`).
        NoBackend = 0, "no-backend";
        /// The packet does not fit the path to the backend: ICMP too big, with the size that fits.
        TooBig = 1, "too-big";
    }
}

/// The outcome of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forwarded out of the ingress interface.
    Tx,
    /// Forwarded out of another interface.
    Redirect,
    /// Turned into an ICMP error for its sender, out of the ingress interface.
    Reply(ReplyReason),
    /// Passed to the host, unmodified.
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

    /// The verdict with this number, if there is one.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::all().find(|verdict| verdict.code() == code)
    }

    /// Every verdict.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Tx, Self::Redirect]
            .into_iter()
            .chain(ReplyReason::ALL.into_iter().map(Self::Reply))
            .chain(PassReason::ALL.into_iter().map(Self::Pass))
            .chain(DropReason::ALL.into_iter().map(Self::Drop))
    }

    /// `tx`, `redirect`, `pass` or `drop`; a reply leaves by the ingress interface: `tx`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tx | Self::Reply(_) => "tx",
            Self::Redirect => "redirect",
            Self::Pass(_) => "pass",
            Self::Drop(_) => "drop",
        }
    }

    /// The reason's label; `None` for a forwarded packet.
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

    /// Dashboards and scripts use these numbers: entries may only be added.
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
                (7, "martian-source"),
                (8, "hop-limit"),
                (9, "below-minimum-mtu"),
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
