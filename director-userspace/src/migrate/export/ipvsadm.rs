//! The form that `ipvsadm -S -n` prints and `ipvsadm -R` reads.

use std::{fmt::Write as _, net::SocketAddr};

use super::VirtualService;
use crate::policy::{
    config::model::{ForwardMode, Protocol},
    scheduler::Lvs,
};

/// Rules, and what they do not express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// One rule a line.
    pub text: String,
    /// What differs with IPVS, for people.
    pub notes: Vec<String>,
}

/// Writes services as rules.
pub fn ipvsadm(services: &[VirtualService]) -> Exported {
    let mut text = String::new();
    let mut notes = Vec::new();
    let mut has_any_port = false;
    for service in services {
        let flag = match service.protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        };
        let name = format!("{flag} {}", service.address);
        // The kernel accepts port 0 only with persistence.
        let is_any = service.address.port() == 0;
        has_any_port |= is_any;
        let persistent = if is_any { " -p 300" } else { "" };
        let Lvs { name: scheduler, flags } = service.scheduler.description().nearest_lvs;
        let flags = if flags.is_empty() { String::new() } else { format!(" -b {flags}") };
        put(&mut text, &format!("-A {name} -s {scheduler}{flags}{persistent}"));
        for server in &service.servers {
            // Without NAT, ports are not rewritten.
            let address = SocketAddr::new(server.address, service.address.port());
            let how = match server.forward {
                ForwardMode::Direct => format!("-g -w {}", server.weight),
                ForwardMode::Tunnel => format!("-i -w {} --tun-type ipip", server.weight),
            };
            put(&mut text, &format!("-a {name} -r {address} {how}"));
        }
    }
    if has_any_port {
        notes.push(
            "services of any port have -p 300 here: IPVS needs persistence where there is no port"
                .to_owned(),
        );
    }
    if !services.is_empty() {
        notes.push(
            "mh with mh-port is not Director's maglev: flows go to other servers than with \
             Director, shares are the same"
                .to_owned(),
        );
    }
    Exported { text, notes }
}

fn put(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
