//! Why checks cannot go the way of the traffic.

use std::net::IpAddr;

use crate::net::NetError;

/// Why path probes could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PathProbeError {
    /// More probes than marks.
    #[error(
        "{wanted} pairs of a VIP and a backend are to be checked with `via: path`, and at most {most} \
         can be: check some services with `via: direct`"
    )]
    TooMany {
        /// How many are wanted.
        wanted: usize,
        /// How many there can be.
        most: usize,
    },
    /// A tunnel without a source.
    #[error(
        "cannot check {backend} through the tunnel for {vip}: the tunnel's source is not known; set \
         `tunnel: {{source: ADDRESS}}`, or give this host an address that reaches the backend"
    )]
    NoSource {
        /// The VIP.
        vip: IpAddr,
        /// The backend.
        backend: IpAddr,
    },
    /// No address that answers could come to.
    #[error(
        "cannot check {backend} by way of {vip}: it would answer to an {family} address of this \
         host, and there is none beside VIPs: give it one, or check with `via: direct`"
    )]
    NoAddress {
        /// The VIP.
        vip: IpAddr,
        /// The backend.
        backend: IpAddr,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Not there yet.
    #[error("checks by `via: path` are not built into this director (interface {interface})")]
    NotBuilt {
        /// Where it would have been.
        interface: String,
    },
    /// The network configuration.
    #[error(transparent)]
    Net(#[from] NetError),
}
