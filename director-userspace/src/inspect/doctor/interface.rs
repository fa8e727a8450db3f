//! Checks of the configured interfaces: existing, up, and capable of XDP.

use super::{
    Finding,
    facts::{DirectorFacts, HostFacts, Nic},
};
use crate::{
    kernel::{
        host::hidden_tags,
        net::{Link, XdpMode},
    },
    policy::config::model::{AttachMode, Interface, Role},
};

/// The name of Director's XDP program, as the kernel shows it.
const PROGRAM: &str = "director";
/// The name of its program on interfaces with `role: egress`.
const EGRESS_PROGRAM: &str = "egress";

/// The configured interfaces that exist, with the properties of their NICs.
fn existing(facts: &DirectorFacts) -> impl Iterator<Item = (&Interface, &Link, Option<&Nic>)> {
    facts.config.interfaces.iter().filter_map(|interface| {
        let link = facts.host.link(&interface.name)?;
        Some((interface, link, facts.host.nics.get(&interface.name)))
    })
}

pub(super) fn links(facts: &DirectorFacts) -> Vec<Finding> {
    if facts.config.interfaces.is_empty() {
        return vec![Finding::fail(
            "link",
            "interfaces",
            "the configuration names no interface, so Director attaches nowhere",
            "add `interfaces: [{name: eth0}]` with the interface that VIP traffic arrives on",
        )];
    }
    facts.config.interfaces.iter().map(|i| link(&facts.host, &i.name)).collect()
}

/// Whether an interface exists and has a carrier.
pub(super) fn link(host: &HostFacts, name: &str) -> Finding {
    let Some(link) = host.link(name) else {
        let existing = host.links.iter().filter(|l| l.ethernet && !l.loopback);
        let existing: Vec<&str> = existing.map(|l| l.name.as_str()).collect();
        return Finding::fail(
            "link",
            name,
            "does not exist in this network namespace",
            match existing[..] {
                [] => "create it, or run in the namespace that has it".to_owned(),
                _ => format!("correct the name; there are: {}", existing.join(", ")),
            },
        );
    };
    if !link.up {
        let fix = format!("`ip link set {name} up`");
        return Finding::fail("link", name, "interface is down", fix);
    }
    if !link.running {
        return Finding::fail(
            "link",
            name,
            "is up but has no carrier",
            format!("check the cable, the switch port or the other end: `ip link show {name}`"),
        );
    }
    let kind = link.kind.as_deref().unwrap_or("hardware");
    let driver = host.nics.get(name).and_then(|nic| nic.driver.as_ref());
    let driver = driver.map_or(kind, |driver| driver.name.as_str());
    Finding::ok("link", name, format!("up, with carrier, MTU {}, driver {driver}", link.mtu))
}

pub(super) fn native_xdp(facts: &DirectorFacts) -> Vec<Finding> {
    let check = |(interface, link, nic): (&Interface, &Link, Option<&Nic>)| {
        let name = &interface.name;
        if !link.ethernet || link.loopback {
            return Finding::fail(
                "xdp",
                name,
                "is not an Ethernet interface, and Director forwards Ethernet frames only",
                "attach to the Ethernet interface below it",
            );
        }
        if interface.mode == AttachMode::Generic {
            return Finding::ok("xdp", name, "generic mode: works with any driver, slower");
        }
        let nic_driver = nic.and_then(|nic| nic.driver.as_ref());
        let driver = nic_driver.map_or("its driver", |driver| driver.name.as_str());
        match nic.and_then(|nic| nic.xdp) {
            Some(xdp) if !xdp.basic() => Finding::fail(
                "xdp",
                name,
                format!("{driver} has no native XDP here, only the generic one"),
                format!(
                    "set `mode: generic` for {name} (slower), or use a NIC whose driver has it"
                ),
            ),
            // On a veth even XDP_TX requires that the other end accepts raw frames.
            Some(xdp) if link.kind.as_deref() == Some("veth") && !xdp.redirect_target() => {
                Finding::warn(
                    "xdp",
                    name,
                    "native XDP, but the veth's other end does not accept frames sent by XDP",
                    "on its other end: `ethtool -K <peer> gro on`, or, if frames are still lost (seen \
                     on 6.18), an XDP program (`role: egress`)",
                )
            }
            Some(_) => Finding::ok("xdp", name, format!("{driver} has native XDP")),
            // An attached native program shows that the driver has native XDP.
            None if link.xdp.is_some_and(|xdp| xdp.mode == XdpMode::Native) => {
                Finding::ok("xdp", name, format!("{driver} runs a program in native mode"))
            }
            None => Finding::warn(
                "xdp",
                name,
                format!("this kernel does not report whether {driver} has native XDP"),
                "if attaching fails, set `mode: generic` for it",
            ),
        }
    };
    existing(facts).map(check).collect()
}

pub(super) fn foreign_program(facts: &DirectorFacts) -> Vec<Finding> {
    let check = |(interface, link, _): (&Interface, &Link, Option<&Nic>)| {
        let xdp = link.xdp?;
        let name = facts.host.programs.get(&xdp.prog_id).map_or("unknown name", String::as_str);
        let mode = match xdp.mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Offloaded => "offloaded",
            XdpMode::Several => "several",
        };
        let id = xdp.prog_id;
        let own = if interface.role == Role::Egress { EGRESS_PROGRAM } else { PROGRAM };
        Some(if name == own {
            let message = format!("Director's program is attached ({mode}, id {id})");
            Finding::ok("program", &interface.name, message)
        } else {
            Finding::fail(
                "program",
                &interface.name,
                format!("has a foreign XDP program: {name} ({mode}, id {id})"),
                format!(
                    "identify it (`bpftool prog show id {id}`), then stop its owner, or `ip link set \
                     {} xdp off`",
                    interface.name
                ),
            )
        })
    };
    existing(facts).filter_map(check).collect()
}

pub(super) fn ports(facts: &DirectorFacts) -> Vec<Finding> {
    let check = |(interface, link, _): (&Interface, &Link, Option<&Nic>)| {
        let master = facts.host.link_at(link.master?)?;
        let kind = master.kind.as_deref()?;
        (kind == "bond" || kind == "team").then(|| {
            Finding::fail(
                "link",
                &interface.name,
                format!("is a port of the {kind} {}", master.name),
                format!("attach to {}: it passes the program on to its ports", master.name),
            )
        })
    };
    existing(facts).filter_map(check).collect()
}

pub(super) fn offloads(facts: &DirectorFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (interface, link, nic) in existing(facts) {
        let (Some(nic), name) = (nic, &interface.name) else {
            continue;
        };
        for (feature, word) in [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")] {
            if nic.has(feature) {
                findings.push(Finding::warn(
                    "offloads",
                    name,
                    format!(
                        "{feature} is on: the NIC merges packets into ones too long to forward"
                    ),
                    format!("`ethtool -K {name} {word} off`"),
                ));
            }
        }
        let has = |link: &Link, offload: &str| {
            facts.host.nics.get(&link.name).is_some_and(|nic| nic.has(offload))
        };
        match (interface.mode, hidden_tags(link, &facts.host.links, has)) {
            (_, None) => {}
            (AttachMode::Generic, Some(tags)) if interface.role == Role::Both => {
                findings.push(Finding::fail(
                    "offloads",
                    name,
                    format!(
                        "VLAN tags are taken off before XDP in `mode: generic`, and stay on what it \
                         sends: {} is on it",
                        tags.vlan
                    ),
                    tags.remedy(),
                ));
            }
            (AttachMode::Generic | AttachMode::Native, Some(_)) => findings.push(Finding::warn(
                "offloads",
                name,
                "the NIC strips VLAN tags before XDP, and there are VLANs on it",
                format!("`ethtool -K {name} rxvlan off`"),
            )),
        }
    }
    findings
}

pub(super) fn queues(facts: &DirectorFacts) -> Vec<Finding> {
    let check = |(interface, link, nic): (&Interface, &Link, Option<&Nic>)| {
        let channels = nic?.channels?;
        let useful = channels.max_rx.min(u32::try_from(facts.host.cpus).unwrap_or(u32::MAX));
        // Queues of virtual devices are not hardware that could be idle.
        (link.kind.is_none() && channels.rx < useful).then(|| {
            Finding::warn(
                "queues",
                &interface.name,
                format!(
                    "{} receive queues in use, of {} that the NIC has, for {} CPUs: the other \
                     CPUs do not forward",
                    channels.rx, channels.max_rx, facts.host.cpus
                ),
                format!("`ethtool -L {} combined {useful}`", interface.name),
            )
        })
    };
    existing(facts).filter_map(check).collect()
}
