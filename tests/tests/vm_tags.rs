//! `mode: generic` where VLAN tags are kept outside of the frame, on stock kernels: such an interface
//! is refused. Not on this kernel, which may have no VLAN devices.

#[path = "vm/machine.rs"]
mod machine;

use std::{process::Command, time::Duration};

use director_tests::live::Live;
use director_userspace::setup::lab::DEFAULT_CONFIG;
use rstest::rstest;
use xtask::vm::KernelVersion;

/// Loading the programs takes long on an emulated machine.
const BOOT: Duration = Duration::from_secs(120);

#[rstest]
#[case::linux_6_1(KernelVersion::V6_1, "hidden_tags_are_refused::case_1_linux_6_1")]
#[case::linux_6_12(KernelVersion::V6_12, "hidden_tags_are_refused::case_2_linux_6_12")]
fn hidden_tags_are_refused(#[case] kernel: KernelVersion, #[case] test: &str) {
    machine::within(
        kernel,
        test,
        |vm| vm.modules(["8021q"]),
        || {
            let runtime = tokio::runtime::Runtime::new().expect("starts");
            runtime.block_on(refused_until_they_are_seen());
        },
    );
}

async fn refused_until_they_are_seen() {
    // Without servers: the machine has no web server.
    let live = Live::with("tags", DEFAULT_CONFIG).await;
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    mode: generic"));
    let mut ip = Command::new("ip");
    ip.args("link add link eth0 name eth0.100 type vlan id 100".split(' '));
    let added = live.node("director").spawn(ip).expect("ip").wait().expect("ends");
    assert!(added.success(), "a VLAN device");
    let words = ["in `mode: generic`, VLAN tags that eth0 takes off", "eth0.100", "rxvlan off"];
    for verb in ["attach", "run"] {
        live.director(&format!("{verb} -c director.yaml")).refused(1).reports(&words);
    }
    let netlink = live.netlink("director");
    netlink.set_features("eth0", "rx-vlan-hw-parse", false).expect("switched off");
    let daemon = live.spawn_run();
    daemon.wait_for("ready", BOOT);
    live.director("status").succeeded().prints(&["eth0 (generic, up)"]);
}
