//! Hosts made ready. Nothing here touches a running director.
//!
//! Begin with [`realserver::Settings`] or [`lab::Lab`].
//!
//! - [`realserver`]: a backend host: VIPs on loopback, ARP settings, decapsulation; and back;
//! - [`lab`]: a private network of namespaces for any configuration.

pub mod lab;
pub mod realserver;
