//! Why health checks through the data path are not possible.

use std::{error::Error, io, net::IpAddr, path::PathBuf};

use crate::kernel::net::NetError;

/// Why path probes could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PathProbeError {
    /// More probes than marks.
    #[error(
        "{wanted} pairs of a VIP and a backend have checks with `via: path`, and at most {most} \
         can: check some services with `via: direct`"
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
    /// No address for replies.
    #[error(
        "cannot check {backend} through {vip}: replies need an {family} address of this host, and \
         it has only VIPs: add one, or check with `via: direct`"
    )]
    NoAddress {
        /// The VIP.
        vip: IpAddr,
        /// The backend.
        backend: IpAddr,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Addresses that do not fit.
    #[error("cannot check {backend} through {vip}: {what}")]
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
        "all mark ranges for `via: path` on this host are taken: `director detach --instance NAME` \
         for an instance that is no longer in use frees its range (claims are in {})",
        .directory.display()
    )]
    NoRange {
        /// Where the claims are.
        directory: PathBuf,
    },
    /// Another director uses this instance's marks.
    #[error(
        "{interface} carries the path probes of another director ({owner}) with the same marks: the \
         two have different /run directories. Check with `via: direct` on one of them"
    )]
    RangeTaken {
        /// The interface.
        interface: String,
        /// The filter's name.
        owner: String,
    },
    /// No place for the programs.
    #[error(
        "{interface} has an `ingress` qdisc, which has no place for an egress program: replace it \
         by `clsact` (`tc qdisc del dev {interface} ingress; tc qdisc add dev {interface} \
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
        /// The kernel's error.
        reason: String,
    },
    /// A file that could not be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The network configuration.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// A [`PathProbeError::Bpf`] of an error and its causes, without repetitions.
pub(super) fn refused(doing: &str, error: &dyn Error) -> PathProbeError {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !reason.contains(&message) {
            reason = format!("{reason}: {message}");
        }
        cause = error.source();
    }
    PathProbeError::Bpf { doing: doing.into(), reason }
}
