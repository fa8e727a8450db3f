//! The vocabulary that Director's data plane and control plane share.
//!
//! Both sides of the kernel line compile this crate, so what one writes the other reads:
//!
//! - [`address`]: IP addresses as two words;
//! - [`wire`]: one header per file, as byte arrays in network order;
//! - [`checksum`]: the Internet checksum and its incremental form;
//! - [`flow`]: what identifies a flow, and the keyed hash of it;
//! - [`flow_table`]: entries of the flow table;
//! - [`service`], [`backend`], [`interface`], [`tunables`]: map keys and values;
//! - [`maglev`]: the ring a new flow is placed on: built in userspace, read by the program;
//! - [`verdict`], [`stats`], [`decision`]: what became of a packet, and how that is counted;
//! - [`realserver`]: the same for the program on a backend's host;
//! - [`probe`]: the same for the programs that carry path probes;
//! - [`abi`]: names, limits and the version of all that is pinned.
//!
//! Nothing here knows a map, a clock, an allocator or I/O.
#![no_std]

pub mod abi;
pub mod address;
pub mod backend;
pub mod checksum;
pub mod client;
pub mod decision;
pub mod flow;
pub mod flow_table;
pub mod interface;
pub mod maglev;
mod numbered;
pub mod probe;
pub mod realserver;
pub mod service;
pub mod stats;
pub mod trace;
pub mod tunables;
pub mod verdict;
pub mod wire;
