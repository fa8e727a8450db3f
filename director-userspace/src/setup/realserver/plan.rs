//! The steps from the current state of the host to the settings. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Decap, Refusal, Settings, Step,
    observe::{Interface, Observed},
    state::State,
    step::LOOPBACK,
};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// `rp_filter`: a reply must leave by the interface that the packet came in by.
const STRICT: u32 = 1;
/// `rp_filter`: there must be a route back by some interface.
const LOOSE: u32 = 2;

/// The sysctls that a plan reads, below /proc/sys.
pub(super) fn sysctls_read(settings: &Settings, observed: &Observed) -> Vec<String> {
    let mut keys = vec![ipv6_off(LOOPBACK)];
    let interface = choose_interface(settings, observed).ok();
    for name in ["all"].into_iter().chain(interface.map(|i| i.name.as_str())) {
        keys.extend(["arp_ignore", "arp_announce", "rp_filter"].map(|what| ipv4(name, what)));
    }
    keys
}

/// The steps that bring the host to the settings; none if it is there already.
pub(super) fn plan_up(
    settings: &Settings,
    observed: &Observed,
    state: &State,
) -> Result<Vec<Step>, Vec<Refusal>> {
    let mut refusals = missing_capabilities(observed, settings.forward.tunnels());
    refusals.extend(settings.refusals());
    refusals.extend(misplaced_vips(settings, observed));
    let interface = match choose_interface(settings, observed) {
        Ok(interface) => interface,
        Err(refusal) => {
            refusals.push(refusal);
            return Err(refusals);
        }
    };
    let foreign = interface.xdp.as_ref().filter(|xdp| Some(xdp.id) != observed.our_program);
    if let (true, Some(xdp)) = (settings.forward.tunnels(), foreign) {
        refusals.push(Refusal::ForeignXdp {
            interface: interface.name.clone(),
            program: xdp.name.clone(),
            id: xdp.id,
        });
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(steps_up(settings, observed, state, interface))
}

/// The steps that revert all changes. A setting that another program has changed since stays as it
/// is.
pub(super) fn plan_down(observed: &Observed, state: &State) -> Result<Vec<Step>, Vec<Refusal>> {
    let refusals = missing_capabilities(observed, state.decap.is_some());
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let addresses = state.addresses.iter().map(|&vip| Step::RemoveAddress { vip });
    let decap = state.decap.clone().map(Step::DetachDecap);
    let sysctls = state.sysctls.iter().rev().filter_map(|changed| {
        let current = observed.sysctls.get(&changed.key)?;
        (*current == changed.ours).then(|| Step::SetSysctl {
            key: changed.key.clone(),
            from: changed.ours.clone(),
            to: changed.original.clone(),
        })
    });
    Ok(addresses.chain(decap).chain(sysctls).collect())
}

/// First what must be removed, then the ARP settings before the addresses that must not be
/// announced, then the addresses, and last the settings that are no longer needed.
fn steps_up(
    settings: &Settings,
    observed: &Observed,
    state: &State,
    interface: &Interface,
) -> Vec<Step> {
    let mut steps: Vec<Step> = state
        .addresses
        .difference(&settings.vips)
        .map(|&vip| Step::RemoveAddress { vip })
        .collect();

    let wanted = settings.forward.tunnels().then(|| Decap {
        interface: interface.name.clone(),
        mode: settings.mode,
        from: settings.from.clone(),
        vips: settings.vips.clone(),
    });
    let attached = state.decap.as_ref().filter(|decap| is_attached(decap, observed));
    let (mut detach, mut attach) = (None, None);
    match (attached, wanted) {
        (Some(from), Some(to)) if *from == to => {}
        (Some(from), Some(to)) if from.interface == to.interface && from.mode == to.mode => {
            attach = Some(Step::ReplaceDecap { from: from.clone(), to });
        }
        (_, wanted) => {
            // On record but not attached: its interface is gone, and left pins behind.
            detach = state.decap.clone().map(Step::DetachDecap);
            attach = wanted.map(Step::AttachDecap);
        }
    }
    steps.extend(detach);

    let sysctls = sysctls_wanted(settings, observed, &interface.name);
    for (key, to) in &sysctls {
        let from = &observed.sysctls[key];
        if from != to {
            steps.push(Step::SetSysctl { key: key.clone(), from: from.clone(), to: to.clone() });
        }
    }
    steps.extend(attach);
    let missing = settings.vips.iter().filter(|&&vip| !on_loopback(vip, observed));
    steps.extend(missing.map(|&vip| Step::AddAddress { vip }));

    for changed in state.sysctls.iter().rev() {
        let current = observed.sysctls.get(&changed.key);
        if !sysctls.contains_key(&changed.key) && current == Some(&changed.ours) {
            steps.push(Step::SetSysctl {
                key: changed.key.clone(),
                from: changed.ours.clone(),
                to: changed.original.clone(),
            });
        }
    }
    steps
}

/// The values that the settings require, by key. A value that suffices stays as it is; a setting
/// that this kernel does not have is left out.
fn sysctls_wanted(
    settings: &Settings,
    observed: &Observed,
    interface: &str,
) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    if !settings.vips.iter().any(IpAddr::is_ipv4) {
        return wanted; // IPv6 does not answer for addresses of another interface.
    }
    let value = |key: &str| observed.sysctls.get(key).and_then(|v| v.parse::<u32>().ok());
    // The kernel takes the greater of `all` and the interface's; both are set, so that lowering one
    // later does no harm.
    for name in ["all", interface] {
        for (what, least) in [("arp_ignore", 1), ("arp_announce", 2)] {
            let key = ipv4(name, what);
            if let Some(value) = value(&key) {
                wanted.insert(key, value.max(least).to_string());
            }
        }
    }
    // Of rp_filter it takes the greater too, and loose is greater than strict: raising the
    // interface's own lets tunnelled packets in without weakening the host's other interfaces.
    let (all, own) = (ipv4("all", "rp_filter"), ipv4(interface, "rp_filter"));
    if let (true, Some(all), Some(value)) = (settings.forward.tunnels(), value(&all), value(&own)) {
        let needed = if all.max(value) == STRICT { LOOSE } else { value };
        wanted.insert(own, needed.to_string());
    }
    wanted
}

fn choose_interface<'a>(
    settings: &Settings,
    observed: &'a Observed,
) -> Result<&'a Interface, Refusal> {
    if let Some(name) = &settings.interface {
        let found = observed.interface(name).ok_or_else(|| Refusal::NoSuchInterface {
            name: name.clone(),
            existing: observed.ethernet_names(),
        })?;
        return if found.ethernet {
            Ok(found)
        } else {
            Err(Refusal::NotEthernet { name: name.clone() })
        };
    }
    let up: Vec<_> = observed.interfaces.iter().filter(|i| i.ethernet && i.running).collect();
    match up[..] {
        [only] => Ok(only),
        _ => up
            .iter()
            .find(|interface| Some(&interface.name) == observed.toward_director.as_ref())
            .copied()
            .ok_or_else(|| Refusal::WhichInterface {
                candidates: up.iter().map(|interface| interface.name.clone()).collect(),
            }),
    }
}

fn missing_capabilities(observed: &Observed, bpf: bool) -> Vec<Refusal> {
    let has = |capability: u32| observed.capabilities >> capability & 1 == 1;
    let mut refusals = Vec::new();
    if !has(CAP_NET_ADMIN) {
        let what_for = "changing addresses and network settings";
        refusals.push(Refusal::MissingCapability { name: "CAP_NET_ADMIN", what_for });
    }
    if bpf && !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        let what_for = "loading the XDP program";
        refusals.push(Refusal::MissingCapability { name: "CAP_BPF", what_for });
    }
    refusals
}

/// VIPs that are on another interface, or that the host cannot have.
fn misplaced_vips(settings: &Settings, observed: &Observed) -> Vec<Refusal> {
    let elsewhere = observed.addresses.iter().filter_map(|address| {
        let interface = observed.name_of(address.link_index)?;
        (settings.vips.contains(&address.address) && interface != LOOPBACK).then(|| {
            Refusal::VipOnInterface {
                vip: address.address,
                interface: interface.to_owned(),
                prefix_len: address.prefix_len,
            }
        })
    });
    let no_ipv6 = observed.sysctls.get(&ipv6_off(LOOPBACK)).is_some_and(|off| off != "0");
    let v6 = settings.vips.iter().filter(|vip| no_ipv6 && vip.is_ipv6());
    elsewhere.chain(v6.map(|&vip| Refusal::Ipv6Disabled { vip })).collect()
}

/// Whether the program on record is attached.
pub(super) fn is_attached(decap: &Decap, observed: &Observed) -> bool {
    let interface = observed.interface(&decap.interface);
    let program = interface.and_then(|interface| interface.xdp.as_ref()).map(|xdp| xdp.id);
    program.is_some() && program == observed.our_program
}

pub(super) fn on_loopback(vip: IpAddr, observed: &Observed) -> bool {
    observed.addresses.iter().any(|address| {
        address.address == vip && observed.name_of(address.link_index) == Some(LOOPBACK)
    })
}

fn ipv4(interface: &str, what: &str) -> String {
    format!("net/ipv4/conf/{interface}/{what}")
}

fn ipv6_off(interface: &str) -> String {
    format!("net/ipv6/conf/{interface}/disable_ipv6")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
