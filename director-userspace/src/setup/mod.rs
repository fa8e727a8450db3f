//! Setup of hosts. Nothing here changes a running director.
//!
//! Begin with [`realserver::Settings`] or [`lab::Lab`].
//!
//! - [`realserver`]: a backend host: its VIPs, ARP settings and decapsulation, and their removal;
//! - [`lab`]: a private network of namespaces for any configuration.

pub mod lab;
pub mod realserver;
