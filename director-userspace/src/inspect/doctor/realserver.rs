//! Checks of a backend host: the VIPs, ARP, reverse-path filter, decapsulation.

use std::{collections::BTreeSet, net::IpAddr};

use director_common::backend::ForwardMode;

use super::{
    Finding,
    facts::{HostFacts, contains},
    interface,
};
use crate::{
    kernel::net::{Link, NetError, Netlink},
    setup::realserver::{Forward, Prefix, Status},
};

const LOOPBACK: &str = "lo";
/// The name of the decapsulation program, as the kernel shows it.
const PROGRAM: &str = director_common::realserver::PROGRAM;
/// Kinds of the kernel's own devices that decapsulate IP-in-IP tunnels.
const TUNNEL_KINDS: [&str; 3] = ["ipip", "ip6tnl", "sit"];
/// `rp_filter`: a packet must arrive on the interface that a reply would leave by.
const STRICT: u32 = 1;

/// The expected setup of a backend host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealserverExpectation {
    /// The VIPs it serves.
    pub vips: BTreeSet<IpAddr>,
    /// The interface that faces the directors; none to find it by the route to them.
    pub interface: Option<String>,
    /// The directors, if known.
    pub from: BTreeSet<Prefix>,
    /// How packets arrive.
    pub forward: Forward,
}

impl RealserverExpectation {
    /// The setup that `director realserver` made on this host; none if there is none.
    pub fn of(status: &Status) -> Option<Self> {
        let decap = status.decapsulation.as_ref().map(|decap| &decap.settings);
        status.up.then(|| Self {
            vips: status.vips.iter().map(|vip| vip.address).collect(),
            interface: decap.map(|decap| decap.interface.clone()).or_else(|| changed_on(status)),
            from: decap.map(|decap| decap.from.clone()).unwrap_or_default(),
            // The record has no mode; ARP is set up in either case and must stay so.
            forward: match decap {
                Some(_) => Forward::Both,
                None => Forward::Direct,
            },
        })
    }
}

/// The interface whose settings were changed.
fn changed_on(status: &Status) -> Option<String> {
    status.sysctls.iter().find_map(|changed| {
        let name = changed.key.strip_prefix("net/ipv4/conf/")?.split('/').next()?;
        (name != "all").then(|| name.to_owned())
    })
}

/// A backend host and its expected setup.
#[derive(Debug)]
pub(super) struct RealserverFacts {
    /// The host.
    pub(super) host: HostFacts,
    /// The expected setup.
    pub(super) expect: RealserverExpectation,
    /// The interface that faces the directors, if it is unambiguous.
    pub(super) interface: Option<String>,
}

impl RealserverFacts {
    /// Gathers the facts of the host.
    ///
    /// # Errors
    /// As [`HostFacts::gather`].
    pub(super) async fn gather(
        netlink: &Netlink,
        expect: RealserverExpectation,
    ) -> Result<Self, NetError> {
        let links = netlink.links().await?;
        let interface = match &expect.interface {
            Some(name) => Some(name.clone()),
            None => facing(netlink, &links, &expect.from).await,
        };
        let named: Vec<&str> = interface.as_deref().into_iter().collect();
        let host = HostFacts::gather(netlink, &named).await?;
        Ok(Self { host, expect, interface })
    }

    fn link(&self) -> Option<&Link> {
        self.host.link(self.interface.as_deref()?)
    }

    fn has_v4(&self) -> bool {
        self.expect.vips.iter().any(IpAddr::is_ipv4)
    }
}

/// The interface of the route to the first director, else the only Ethernet interface.
async fn facing(netlink: &Netlink, links: &[Link], from: &BTreeSet<Prefix>) -> Option<String> {
    if let Some(director) = from.first()
        && let Ok(route) = netlink.route_to(director.address).await
        && let Some(link) = links.iter().find(|l| l.index == route.link_index && !l.loopback)
    {
        return Some(link.name.clone());
    }
    let mut candidates = links.iter().filter(|l| l.ethernet && !l.loopback && l.master.is_none());
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some(only.name.clone()),
        _ => None,
    }
}

pub(super) fn link(facts: &RealserverFacts) -> Vec<Finding> {
    match &facts.interface {
        Some(name) => vec![interface::link(&facts.host, name)],
        None => vec![Finding::fail(
            "link",
            "interface",
            "the interface that faces the directors is ambiguous",
            "name it: `--interface NAME`, or the directors: `--from ADDRESS`",
        )],
    }
}

pub(super) fn vips(facts: &RealserverFacts) -> Vec<Finding> {
    let ipv6_off = facts.host.sysctl_number("net/ipv6/conf/lo/disable_ipv6") == Some(1);
    let one = |vip: &IpAddr| {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        let here = facts.host.addresses.iter().find(|a| a.address == *vip);
        let owner = here.map(|address| facts.host.name_of(address.link_index));
        match (owner, here) {
            (Some(LOOPBACK), _) => Finding::ok("vip", vip.to_string(), "is on lo"),
            (Some(other), Some(address)) => Finding::fail(
                "vip",
                vip.to_string(),
                format!("is on {other}, where this host answers for the director's address"),
                format!(
                    "`ip address delete {vip}/{} dev {other}`, then `ip address add {vip}/{bits} \
                     dev lo`",
                    address.prefix_len
                ),
            ),
            _ if vip.is_ipv6() && ipv6_off => Finding::fail(
                "vip",
                vip.to_string(),
                "IPv6 is disabled on lo, so it can't have this VIP",
                "`sysctl -w net.ipv6.conf.lo.disable_ipv6=0`",
            ),
            _ => Finding::fail(
                "vip",
                vip.to_string(),
                "is missing on lo: this host drops or forwards the packets for it",
                format!("run `director realserver`, or `ip address add {vip}/{bits} dev lo`"),
            ),
        }
    };
    if facts.expect.vips.is_empty() {
        return vec![Finding::fail(
            "vip",
            "VIPs",
            "the VIPs that this host should serve are not known",
            "name them: `--vip ADDRESS`, or set the host up with `director realserver`",
        )];
    }
    facts.expect.vips.iter().map(one).collect()
}

pub(super) fn arp(facts: &RealserverFacts) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|_| facts.has_v4()) else {
        return Vec::new();
    };
    // On the VIPs' own link a wrong answer directs the clients' traffic to this host, past the
    // director.
    let on_link = facts.expect.vips.iter().any(|vip| {
        vip.is_ipv4()
            && facts.host.addresses.iter().any(|a| {
                a.link_index == link.index
                    && a.address != *vip
                    && contains(a.address, a.prefix_len, *vip)
            })
    });
    let name = &link.name;
    let is_failure = match facts.expect.forward {
        Forward::Direct | Forward::Both => true,
        Forward::Tunnel => on_link,
    };
    let check = |(setting, least, what): (&str, u32, &str)| {
        let value = facts.host.ipv4_setting(name, setting);
        let subject = format!("{setting} on {name}");
        if value >= least {
            return Finding::ok("arp", subject, format!("is {value}"));
        }
        let message = format!("is {value}: {what}");
        let fix = format!(
            "run `director realserver`, or `sysctl -w net/ipv4/conf/all/{setting}={least}`"
        );
        if is_failure {
            Finding::fail("arp", subject, message, fix)
        } else {
            Finding::warn("arp", subject, message, fix)
        }
    };
    [
        ("arp_ignore", 1, "this host answers ARP for VIPs on lo instead of the director"),
        ("arp_announce", 2, "this host sends ARP requests from a VIP, and so claims it"),
    ]
    .map(check)
    .into()
}

pub(super) fn reverse_path(facts: &RealserverFacts) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|_| facts.expect.forward.tunnels() && facts.has_v4())
    else {
        return Vec::new();
    };
    let tunnels = tunnel_devices(&facts.host).map(|device| device.name.as_str());
    let check = |name: &str| {
        let value = facts.host.ipv4_setting(name, "rp_filter");
        let subject = format!("rp_filter on {name}");
        if value == STRICT {
            Finding::fail(
                "rp_filter",
                subject,
                "is 1 (strict): packets out of a tunnel are dropped unless the reply to the client \
                 leaves by the same interface",
                format!("`sysctl -w net/ipv4/conf/{name}/rp_filter=2` (loose)"),
            )
        } else {
            Finding::ok("rp_filter", subject, format!("is {value}"))
        }
    };
    [link.name.as_str()].into_iter().chain(tunnels).map(check).collect()
}

pub(super) fn decapsulation(facts: &RealserverFacts) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|_| facts.expect.forward.tunnels()) else {
        return Vec::new();
    };
    let name = &link.name;
    let program = link.xdp.map(|xdp| {
        let id = xdp.prog_id;
        (id, facts.host.programs.get(&id).map_or("unknown name", String::as_str))
    });
    match program {
        Some((id, PROGRAM)) => {
            let message = format!("Director's decapsulation program is attached (id {id})");
            return vec![Finding::ok("decapsulation", name, message)];
        }
        Some((id, other)) => {
            return vec![Finding::fail(
                "decapsulation",
                name,
                format!("has a foreign XDP program instead: {other} (id {id})"),
                format!("stop its owner (`bpftool prog show id {id}`), then `director realserver`"),
            )];
        }
        None => {}
    }
    let devices: Vec<&str> = tunnel_devices(&facts.host).map(|l| l.name.as_str()).collect();
    if devices.is_empty() {
        return vec![Finding::fail(
            "decapsulation",
            name,
            "nothing decapsulates tunnels: no program on it, and no tunnel device that is up",
            "`director realserver --vip VIP --from DIRECTOR` attaches the program",
        )];
    }
    let message = format!("the kernel's tunnel device {} decapsulates tunnels", devices.join(", "));
    vec![Finding::ok("decapsulation", name, message)]
}

pub(super) fn mtu(facts: &RealserverFacts) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|_| facts.expect.forward.tunnels()) else {
        return Vec::new();
    };
    // The directors' addresses determine the outer family.
    let v6 = facts.expect.from.iter().any(|from| from.address.is_ipv6());
    let overhead = u32::from(ForwardMode::Tunnel.overhead(v6));
    // Each family's replies take a route of their own: IP's and TCP's headers differ, too.
    let clamp = |command: &str, headers: u32| {
        let mss = link.mtu.saturating_sub(headers + overhead);
        format!("`{command} route change default via ROUTER advmss {mss}`")
    };
    let is_served = |v6: bool| facts.expect.vips.iter().any(|vip| vip.is_ipv6() == v6);
    let clamps = match (is_served(false), is_served(true)) {
        (true, true) => format!("{} and {}", clamp("ip", 40), clamp("ip -6", 60)),
        (false, true) => clamp("ip -6", 60),
        (_, false) => clamp("ip", 40),
    };
    let message = format!(
        "lets clients send packets of {} bytes, {} in the tunnel; if the MTU between director and \
         this host is smaller, clamp: {clamps}",
        link.mtu,
        link.mtu + overhead
    );
    vec![Finding::ok("mtu", &link.name, message)]
}

fn tunnel_devices(host: &HostFacts) -> impl Iterator<Item = &Link> {
    host.links
        .iter()
        .filter(|link| link.up && link.kind.as_deref().is_some_and(|k| TUNNEL_KINDS.contains(&k)))
}
