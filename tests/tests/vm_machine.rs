//! The virtual machines that other tests rely on: they boot a stock kernel, load its tunnel
//! drivers, run programs of the host, and report their exit status.

use std::{sync::mpsc, time::Duration};

use xtask::vm::{KernelVersion, Packages, Vm};

#[test]
fn a_machine_loads_the_tunnel_drivers_and_runs_a_program_of_the_host() {
    let output = Vm::new(KernelVersion::V6_1)
        .modules(["ipip", "ip6_tunnel", "sit"])
        .file("/usr/sbin/ip", "/host/ip")
        .script("uname -r; /host/ip -oneline link show type ipip; exit 7")
        .run()
        .unwrap();
    assert_eq!(output.status, 7, "{}", output.text);
    assert!(output.text.starts_with("6.1."), "{}", output.text);
    assert!(output.text.contains("tunl0@NONE: <NOARP> mtu 1480"), "{}", output.text);
}

#[test]
fn a_machine_that_hangs_is_killed_and_its_console_shown() {
    let vm = Vm::new(KernelVersion::V6_1).timeout(Duration::from_secs(15));
    let error = vm.script("echo before; sleep 1000").run().unwrap_err().to_string();
    assert!(error.contains("still running after 15s") && error.contains("before"), "{error}");
}

#[test]
fn a_missing_module_or_file_is_reported() {
    let vm = Vm::new(KernelVersion::V6_1);
    let error = vm.clone().module("no_such_thing").run().unwrap_err().to_string();
    assert!(error.contains("has no module no_such_thing"), "{error}");
    let error = vm.file("/no/such/file", "/x").run().unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn a_module_gets_its_parameters_and_a_fetched_program_its_libraries() {
    let packages = Packages::fetch("peers", &["ipvsadm", "nftables"]).unwrap();
    let (sender, lines) = mpsc::channel();
    let output = Vm::new(KernelVersion::V6_1)
        .modules(["ip_vs conn_tab_bits=10", "ip_vs_mh"])
        .program(&packages, "ipvsadm", "/host/ipvsadm")
        .unwrap()
        .listen(sender)
        .script(
            "cat /sys/module/ip_vs/parameters/conn_tab_bits
             /host/ipvsadm -A -u 192.0.2.10:80 -s mh && /host/ipvsadm -Ln",
        )
        .run()
        .unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.starts_with("10\n"), "{}", output.text);
    assert!(output.text.contains("UDP  192.0.2.10:80 mh"), "{}", output.text);
    assert!(lines.iter().any(|line| line == "10"), "the lines arrive too");
    let error = Vm::new(KernelVersion::V6_1).program(&packages, "no-such", "/x").unwrap_err();
    assert!(error.to_string().contains("no program no-such"), "{error}");
}

#[test]
fn the_newest_kernel_boots() {
    let output = Vm::new(KernelVersion::Newest).script("uname -r").run().unwrap();
    let mut numbers = output.text.split('.').map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    assert!(version > (Some(6), Some(12)), "{}", output.text);
}
