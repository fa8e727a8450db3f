//! What the decapsulation program of a real server and its loader share.
//!
//! The program accepts IP-in-IP from the directors' prefixes only, for the host's VIPs only. Each
//! configuration is loaded into maps of its own and swapped in with the program, so these layouts
//! may change freely between versions.

/// LPM trie of 4-byte keys (an IPv4 address, network byte order): allowed tunnel sources.
pub const FROM_V4: &str = "FROM_V4";
/// LPM trie of 16-byte keys (an IPv6 address, network byte order): allowed tunnel sources.
pub const FROM_V6: &str = "FROM_V6";
/// Hash of 4-byte keys (an IPv4 address, network byte order): inner destinations accepted.
pub const VIPS_V4: &str = "VIPS_V4";
/// Hash of 16-byte keys (an IPv6 address, network byte order): inner destinations accepted.
pub const VIPS_V6: &str = "VIPS_V6";
/// Per-CPU array of `u64` packet counts, indexed by [`DecapCounter`].
pub const COUNTERS: &str = "COUNTERS";
/// The name of the XDP program.
pub const PROGRAM: &str = "realserver";

/// Maximum number of tunnel source prefixes per address family.
pub const MAX_FROM: u32 = 1024;
/// Maximum number of VIPs per address family.
pub const MAX_VIPS: u32 = 4096;

/// The outcome of an IP-in-IP packet. Other packets are passed to the kernel and not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DecapCounter {
    /// The outer header was removed; the inner packet was passed up the stack.
    Decapsulated = 0,
    /// The outer source is not a director: passed unmodified.
    RefusedSource = 1,
    /// The inner destination is not a VIP of this host: passed unmodified.
    RefusedVip = 2,
    /// Lengths, version or the outer checksum are wrong: passed unmodified.
    Malformed = 3,
    /// Congestion was signalled to a flow that cannot react (RFC 6040, section 4.2): dropped.
    EcnDropped = 4,
}

impl DecapCounter {
    /// Every counter, in index order.
    pub const ALL: [Self; 5] = [
        Self::Decapsulated,
        Self::RefusedSource,
        Self::RefusedVip,
        Self::Malformed,
        Self::EcnDropped,
    ];

    /// The name in output and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Decapsulated => "decapsulated",
            Self::RefusedSource => "refused_source",
            Self::RefusedVip => "refused_vip",
            Self::Malformed => "malformed",
            Self::EcnDropped => "ecn_dropped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DecapCounter;

    #[test]
    fn all_is_in_index_order_and_labels_differ() {
        for (index, counter) in DecapCounter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            let same = DecapCounter::ALL.iter().filter(|c| c.label() == counter.label());
            assert_eq!(same.count(), 1, "{}", counter.label());
        }
    }
}
