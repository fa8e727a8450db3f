//! Director's control plane: the library behind the `director` binary.
//!
//! Ten wings, each a directory whose `mod.rs` says what it is for, what it may not do and where to
//! begin. A wing uses only the wings named in its line, and `tests/tests/architecture.rs` holds that:
//!
//! | wing | is for | uses |
//! |---|---|---|
//! | [`policy`] | what should be: configuration, health policy, plans; pure | nothing |
//! | [`kernel`] | all that touches the kernel: BPF maps and programs, netlink, this host | policy |
//! | [`health`] | health checks and agents | policy, kernel |
//! | [`alarm`] | state changes reach people | policy, and two modules of kernel |
//! | [`migrate`] | configurations of LVS and keepalived, in and out | policy |
//! | [`serve`] | what others read and ask: views, API, metrics, status page | policy, kernel |
//! | [`setup`] | hosts made ready: real servers, the lab | policy, kernel |
//! | [`control`] | the reconciler, the only one that changes a running director | policy, kernel, health, alarm, serve |
//! | [`inspect`] | what happens to packets, and why not: doctor, trace, simulate | policy, kernel, setup |
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
