//! What the kernel knows about interfaces, addresses, routes and neighbours, and how to change it.
//!
//! By netlink only: /sys/class/net shows the namespace that mounted it, not the one that the
//! caller is in. Everything here works in the network namespace of the calling thread; a
//! [`Netlink`] stays in the namespace it was made in.

mod error;
pub mod netns;

pub use self::{error::NetError, netns::NetNs};
use self::error::failed;
