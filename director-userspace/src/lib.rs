//! Director's control plane: configuration file to BPF maps, and what the `director` binary shows.

pub mod cli;
pub mod config;
pub mod datapath;
pub mod doctor;
pub mod lab;
pub mod net;
pub mod plan;
pub mod realserver;
