//! Director's control plane: the library behind the `director` binary.
//!
//! Ten top-level modules (wings); the `mod.rs` of each describes its purpose, its limits and where
//! to begin. A wing uses only the wings in its row, which `tests/tests/architecture.rs` checks:
//!
//! | wing | purpose | uses |
//! |---|---|---|
//! | [`policy`] | the desired state: configuration, health policy, plans; pure | nothing |
//! | [`kernel`] | all kernel interfaces: BPF maps and programs, netlink, this host | policy |
//! | [`health`] | health checks and agents | policy, kernel |
//! | [`alarm`] | delivery of state changes: programs, webhooks, mail | policy, kernel::unprivileged, kernel::wall_clock |
//! | [`migrate`] | import and export of configurations of LVS and keepalived | policy |
//! | [`serve`] | views, API, metrics, status page | policy, kernel |
//! | [`setup`] | setup of hosts: real servers, the lab | policy, kernel |
//! | [`control`] | the reconciler, the only one that changes a running director | policy, kernel, health, alarm, serve |
//! | [`inspect`] | inspection of packets, flows and hosts: doctor, trace, simulate | policy, kernel, setup |
//! | [`cli`] | the commands, one per file | all of them |

pub mod policy;

pub mod kernel;

pub mod alarm;
pub mod health;
pub mod migrate;
pub mod serve;
pub mod setup;

pub mod control;
pub mod inspect;

pub mod cli;
