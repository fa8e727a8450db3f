use std::collections::BTreeSet;

use super::{super::observe::XdpProgram, *};
use crate::{
    kernel::net::{Address, AddressScope},
    setup::realserver::{Forward, Mode},
};

/// A fresh host: eth0 up with a strict rp_filter, nothing else changed.
fn host() -> Observed {
    let interface = |index, name: &str, ethernet| Interface {
        index,
        name: name.into(),
        ethernet,
        running: true,
        xdp: None,
    };
    let sysctls = [
        ("net/ipv4/conf/all/arp_announce", "0"),
        ("net/ipv4/conf/all/arp_ignore", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/eth0/arp_announce", "0"),
        ("net/ipv4/conf/eth0/arp_ignore", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv6/conf/lo/disable_ipv6", "0"),
    ];
    Observed {
        interfaces: vec![interface(1, "lo", false), interface(2, "eth0", true)],
        sysctls: sysctls.map(|(key, value)| (key.into(), value.into())).into(),
        capabilities: u64::MAX,
        ..Observed::default()
    }
}

fn settings() -> Settings {
    Settings {
        vips: addresses(&["192.0.2.1", "2001:db8::1"]),
        from: ["10.0.0.0/24".parse().expect("a prefix")].into(),
        interface: None,
        mode: Mode::Native,
        forward: Forward::Tunnel,
    }
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().expect(text)).collect()
}

fn on(link_index: u32, address: &str) -> Address {
    Address {
        link_index,
        address: address.parse().expect(address),
        prefix_len: 24,
        scope: AddressScope::Global,
        tentative: false,
        secondary: false,
    }
}

/// Applies a plan to `observed`.
fn apply(steps: &[Step], observed: &mut Observed, state: &mut State) {
    for step in steps {
        state.before(step);
        match step {
            Step::SetSysctl { key, from, to } => {
                let old = observed.sysctls.insert(key.clone(), to.clone());
                assert_eq!(old.as_ref(), Some(from), "{step}");
            }
            Step::AddAddress { vip } => observed.addresses.push(on(1, &vip.to_string())),
            Step::RemoveAddress { vip } => observed.addresses.retain(|a| a.address != *vip),
            Step::AttachDecap(decap) => set_program(observed, &decap.interface, Some(7)),
            Step::ReplaceDecap { .. } => {}
            Step::DetachDecap(decap) => set_program(observed, &decap.interface, None),
        }
        state.after(step);
    }
}

fn set_program(observed: &mut Observed, interface: &str, id: Option<u32>) {
    observed.our_program = id;
    for found in observed.interfaces.iter_mut().filter(|i| i.name == interface) {
        found.xdp = id.map(|id| XdpProgram { id, name: "realserver".into() });
    }
}

#[track_caller]
fn printed(steps: &[Step], want: &str) {
    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(lines.join("\n"), want.trim());
}

#[test]
fn a_fresh_host_is_set_up_for_tunnels() {
    let steps = plan_up(&settings(), &host(), &State::new("")).expect("no obstacle");
    printed(
        &steps,
        "
sysctl -w net.ipv4.conf.all.arp_announce=2  # was 0
sysctl -w net.ipv4.conf.all.arp_ignore=1  # was 0
sysctl -w net.ipv4.conf.eth0.arp_announce=2  # was 0
sysctl -w net.ipv4.conf.eth0.arp_ignore=1  # was 0
sysctl -w net.ipv4.conf.eth0.rp_filter=2  # was 1
# attach XDP decapsulation to eth0 (native): from 10.0.0.0/24, to 192.0.2.1 2001:db8::1
ip address add 192.0.2.1/32 dev lo
ip address add 2001:db8::1/128 dev lo nodad",
    );
}

#[test]
fn direct_routing_needs_no_program_and_keeps_rp_filter() {
    let direct = Settings { forward: Forward::Direct, from: BTreeSet::new(), ..settings() };
    let steps = plan_up(&direct, &host(), &State::new("")).expect("no obstacle");
    printed(
        &steps,
        "
sysctl -w net.ipv4.conf.all.arp_announce=2  # was 0
sysctl -w net.ipv4.conf.all.arp_ignore=1  # was 0
sysctl -w net.ipv4.conf.eth0.arp_announce=2  # was 0
sysctl -w net.ipv4.conf.eth0.arp_ignore=1  # was 0
ip address add 192.0.2.1/32 dev lo
ip address add 2001:db8::1/128 dev lo nodad",
    );
}

#[test]
fn ipv6_alone_needs_no_sysctl() {
    let v6 = Settings { vips: addresses(&["2001:db8::1"]), ..settings() };
    let steps = plan_up(&v6, &host(), &State::new("")).expect("no obstacle");
    printed(
        &steps,
        "
# attach XDP decapsulation to eth0 (native): from 10.0.0.0/24, to 2001:db8::1
ip address add 2001:db8::1/128 dev lo nodad",
    );
}

#[test]
fn the_second_run_has_nothing_to_do() {
    let (mut observed, mut state) = (host(), State::new(""));
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    assert_eq!(plan_up(&settings(), &observed, &state), Ok(vec![]));
}

#[test]
fn down_leaves_the_host_as_it_was_found() {
    let (mut observed, mut state) = (host(), State::new(""));
    let (sysctls, found) = (observed.sysctls.clone(), observed.addresses.clone());
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    let steps = plan_down(&observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    assert!(state.is_empty(), "{state:?}");
    assert_eq!(observed.sysctls, sysctls);
    assert_eq!(observed.addresses, found);
    assert_eq!(observed.our_program, None);
}

#[test]
fn what_was_there_before_is_not_removed() {
    let mut observed = host();
    observed.addresses.push(on(1, "192.0.2.1"));
    observed.sysctls.insert("net/ipv4/conf/all/arp_ignore".into(), "2".into());
    let mut state = State::new("");
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    assert!(!state.addresses.contains(&"192.0.2.1".parse().expect("an address")));
    assert_eq!(observed.sysctls["net/ipv4/conf/all/arp_ignore"], "2");
    let steps = plan_down(&observed, &state).expect("no obstacle");
    assert!(!steps.iter().any(|step| step.to_string().contains("192.0.2.1")), "{steps:?}");
}

#[test]
fn other_arguments_change_only_what_differs() {
    let (mut observed, mut state) = (host(), State::new(""));
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    let other = Settings { vips: addresses(&["192.0.2.1", "192.0.2.2"]), ..settings() };
    let steps = plan_up(&other, &observed, &state).expect("no obstacle");
    printed(
        &steps,
        "
ip address delete 2001:db8::1/128 dev lo
# change XDP decapsulation on eth0 (native): from 10.0.0.0/24, to 192.0.2.1 192.0.2.2
ip address add 192.0.2.2/32 dev lo",
    );
    apply(&steps, &mut observed, &mut state);
    let direct = Settings { forward: Forward::Direct, ..other };
    let steps = plan_up(&direct, &observed, &state).expect("no obstacle");
    printed(
        &steps,
        "
# detach XDP decapsulation from eth0
sysctl -w net.ipv4.conf.eth0.rp_filter=1  # was 2",
    );
}

#[test]
fn another_mode_detaches_and_attaches() {
    let (mut observed, mut state) = (host(), State::new(""));
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    let generic = Settings { mode: Mode::Generic, ..settings() };
    let steps = plan_up(&generic, &observed, &state).expect("no obstacle");
    printed(
        &steps,
        "
# detach XDP decapsulation from eth0
# attach XDP decapsulation to eth0 (generic): from 10.0.0.0/24, to 192.0.2.1 2001:db8::1",
    );
}

#[test]
fn a_crash_anywhere_is_repaired_by_the_next_run() {
    let all = plan_up(&settings(), &host(), &State::new("")).expect("no obstacle");
    for crash_at in 0..all.len() {
        let (mut observed, mut state) = (host(), State::new(""));
        apply(&all[..crash_at], &mut observed, &mut state);
        state.before(&all[crash_at]);
        let mut resumed = observed.clone();
        let mut resumed_state = state.clone();
        let steps = plan_up(&settings(), &resumed, &resumed_state).expect("can go on");
        apply(&steps, &mut resumed, &mut resumed_state);
        assert_eq!(plan_up(&settings(), &resumed, &resumed_state), Ok(vec![]), "at {crash_at}");
        let steps = plan_down(&resumed, &resumed_state).expect("can go back");
        apply(&steps, &mut resumed, &mut resumed_state);
        assert_eq!(resumed.sysctls, host().sysctls, "at {crash_at}");
        assert!(resumed.addresses.is_empty(), "at {crash_at}");
    }
}

#[test]
fn a_program_lost_with_its_interface_is_attached_anew() {
    let (mut observed, mut state) = (host(), State::new(""));
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    observed.interfaces[1].xdp = None;
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    printed(
        &steps,
        "
# detach XDP decapsulation from eth0
# attach XDP decapsulation to eth0 (native): from 10.0.0.0/24, to 192.0.2.1 2001:db8::1",
    );
}

#[test]
fn a_setting_changed_by_another_program_stays() {
    let (mut observed, mut state) = (host(), State::new(""));
    let steps = plan_up(&settings(), &observed, &state).expect("no obstacle");
    apply(&steps, &mut observed, &mut state);
    observed.sysctls.insert("net/ipv4/conf/all/arp_ignore".into(), "8".into());
    let steps = plan_down(&observed, &state).expect("no obstacle");
    assert!(!steps.iter().any(|s| s.to_string().contains("all.arp_ignore")), "{steps:?}");
}

#[track_caller]
fn refused(settings: &Settings, observed: &Observed, want: &[&str]) {
    let refusals = plan_up(settings, observed, &State::new("")).expect_err("refused");
    let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), want.len(), "{texts:#?}");
    for (text, part) in texts.iter().zip(want) {
        assert!(text.contains(part), "{text:?} does not contain {part:?}");
    }
}

#[test]
fn every_obstacle_is_reported() {
    let mut unprivileged = host();
    unprivileged.capabilities = 0;
    refused(&settings(), &unprivileged, &["CAP_NET_ADMIN", "CAP_BPF"]);

    let named = Settings { interface: Some("eth7".into()), ..settings() };
    refused(&named, &host(), &["no interface eth7 here; there are: eth0"]);
    let named = Settings { interface: Some("lo".into()), ..settings() };
    refused(&named, &host(), &["lo is no Ethernet interface"]);

    let mut two = host();
    two.interfaces.push(Interface { index: 3, name: "eth1".into(), ..two.interfaces[1].clone() });
    refused(&settings(), &two, &["(eth0, eth1)"]);
    two.toward_director = Some("eth1".into());
    assert!(plan_up(&settings(), &two, &State::new("")).is_ok());

    let mut foreign = host();
    foreign.interfaces[1].xdp = Some(XdpProgram { id: 42, name: "cil_xdp_entry".into() });
    refused(&settings(), &foreign, &["cil_xdp_entry (id 42)"]);
    let direct = Settings { forward: Forward::Direct, ..settings() };
    assert!(plan_up(&direct, &foreign, &State::new("")).is_ok(), "no obstacle to direct");

    let mut misplaced = host();
    misplaced.addresses.push(on(2, "192.0.2.1"));
    refused(&settings(), &misplaced, &["192.0.2.1/24 dev eth0"]);

    let mut no_ipv6 = host();
    no_ipv6.sysctls.insert("net/ipv6/conf/lo/disable_ipv6".into(), "1".into());
    refused(&settings(), &no_ipv6, &["IPv6 is disabled on lo"]);
}

#[test]
fn every_step_has_an_inverse() {
    let steps = plan_up(&settings(), &host(), &State::new("")).expect("no obstacle");
    for step in steps {
        assert_ne!(step.inverse(), step);
        assert_eq!(step.inverse().inverse(), step);
    }
}
