//! Everything that calls the kernel: it applies plans, and reports the state of maps and host. No
//! decision about services is made here.
//!
//! Begin with [`datapath::Datapath`], the pinned maps of an instance, and [`net::Netlink`].
//!
//! - [`datapath`]: BPF maps, programs and links; nothing else opens the director's maps. `open`, `load`
//!   and `instance` adopt pinned maps, `apply` writes plans, `stats` reads counters, `census` counts
//!   established flows;
//! - [`net`]: netlink, ethtool, sysctls, network namespaces;
//! - [`host`]: a configuration on this host: its interfaces, the routes to its backends, privileges;
//! - [`path_probe`]: the tc programs of health checks through the data path;
//! - `private_file`: files that only their owner can read: state, configurations;
//! - [`unprivileged`]: runs the operator's programs (checks, alarms) without privileges;
//! - `wall_clock`: the time of day.

pub mod datapath;
pub mod host;
pub mod net;
pub mod path_probe;
pub(crate) mod private_file;
pub mod unprivileged;
pub(crate) mod wall_clock;
