//! The types, constants and formats that Director's data plane and control plane share.
//!
//! The programs in the kernel and userspace both compile this crate, so their layouts agree:
//!
//! - [`address`]: IP addresses as two words;
//! - [`wire`]: one header per file, as byte arrays in network order;
//! - [`checksum`]: the Internet checksum and its incremental form;
//! - [`flow`]: what identifies a flow, and the keyed hash of it;
//! - [`flow_table`]: entries of the flow table;
//! - [`service`], [`backend`], [`interface`], [`tunables`]: map keys and values;
//! - [`maglev`]: the ring a new flow is placed on: built in userspace, read by the program;
//! - [`verdict`], [`stats`], [`decision`]: the outcome of a packet, and its counters;
//! - [`realserver`]: map names and counters of the program on a backend's host;
//! - [`probe`]: map names and layouts of the programs that carry path probes;
//! - [`abi`]: names, limits and the version of everything pinned.
//!
//! This crate uses no map, clock, allocator or I/O.
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
