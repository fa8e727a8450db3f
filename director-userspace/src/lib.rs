//! Director's control plane: configuration file to BPF maps, and what the `director` binary shows.

pub mod config;
pub mod net;
pub mod realserver;
