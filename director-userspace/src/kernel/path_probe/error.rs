//! Why checks cannot go the way of the traffic.

use std::{error::Error, io, net::IpAddr, path::PathBuf};

use crate::kernel::net::NetError;

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
    /// Addresses that cannot be what they are for.
    #[error("cannot check {backend} by way of {vip}: {what}")]
    Mismatch {
        /// The VIP.
        vip: IpAddr,
        /// The backend.
        backend: IpAddr,
        /// What does not fit.
        what: &'static str,
    },
    /// No marks left.
    #[error(
        "as many directors as can be check by `via: path` on this host already: `director detach \
         --instance NAME` for one that is no longer in use frees its marks (noted in {})",
        .directory.display()
    )]
    NoRange {
        /// Where the claims are.
        directory: PathBuf,
    },
    /// Somebody uses our marks.
    #[error(
        "{interface} carries the path probes of another director ({owner}) with the same marks: the \
         two have different /run directories. Let one of them check with `via: direct`"
    )]
    RangeTaken {
        /// The interface.
        interface: String,
        /// The filter's name.
        owner: String,
    },
    /// No place for the programs.
    #[error(
        "{interface} has an `ingress` qdisc, which leaves no place for a program where packets leave: \
         replace it by `clsact` (`tc qdisc del dev {interface} ingress; tc qdisc add dev {interface} \
         clsact`, then its filters again), or check with `via: direct`"
    )]
    IngressQdisc {
        /// The interface.
        interface: String,
    },
    /// The BPF side.
    #[error("cannot {doing}: {reason}")]
    Bpf {
        /// What was tried, to stand after "cannot".
        doing: String,
        /// What the kernel said.
        reason: String,
    },
    /// A note that could not be kept.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The network configuration.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// A [`PathProbeError::Bpf`] of an error and its causes, less what they repeat.
pub(super) fn refused(doing: &str, error: &dyn Error) -> PathProbeError {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !reason.contains(&said) {
            reason = format!("{reason}: {said}");
        }
        cause = error.source();
    }
    PathProbeError::Bpf { doing: doing.into(), reason }
}
