//! Director's control plane: the library behind the `director` binary.
//!
//! In the order in which a configuration travels:
//!
//! - [`config`]: YAML to a model that is valid by construction; pure;
//! - [`host`]: the model against this host: interfaces, ways to backends;
//! - [`plan`]: what should be against what is, as a list of steps; pure;
//! - [`datapath`]: BPF maps, programs and links; nothing else names aya's director;
//! - [`director`]: these in their order, and [`daemon`]: again whenever something changes.
//!
//! Beside it: [`health`] asks the backends how they are, [`by_address`] is what tables of addresses
//! are made of, [`net`] the kernel's network configuration by netlink, [`cli`] the commands,
//! [`view`] what they show, [`metrics`] and [`page`] the same over HTTP,
//! [`simulate`] the program over captures, [`trace`] a look at packets that pass,
//! [`doctor`] what keeps packets from arriving,
//! [`path_probe`] checks that go the way of the traffic,
//! [`realserver`] the backend's side, [`lab`] a network to try all of it in, and [`unprivileged`]
//! runs the operator's programs.

pub mod alarm;
pub mod api;
pub mod by_address;
pub mod cli;
pub mod conditions;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod director;
pub mod doctor;
pub mod export;
pub mod health;
pub mod host;
pub mod import;
pub mod lab;
pub mod metrics;
pub mod net;
pub mod page;
pub mod path_probe;
pub mod plan;
pub mod realserver;
pub mod simulate;
pub mod trace;
pub mod unprivileged;
pub mod view;
mod wall_clock;
