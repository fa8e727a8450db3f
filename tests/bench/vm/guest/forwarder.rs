//! The forwarders, set up in their namespace.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    super::row::{Family, Forwarder, Mode, N_BACKENDS},
    pktgen::{PORT, VIPS},
    wire::{FORWARDER, GENERATOR_MAC, Line, succeed},
    xdp,
};

/// The backends of every service.
const BACKENDS: [[&str; N_BACKENDS]; 2] = [
    ["10.0.0.11", "10.0.0.12", "10.0.0.13"],
    ["2001:db8:1::11", "2001:db8:1::12", "2001:db8:1::13"],
];
/// The routers towards the clients.
const ROUTERS: [&str; 2] = ["10.0.0.254", "2001:db8:1::fe"];
const CONFIG: &str = "/run/director.yaml";
const LOG: &str = "/run/director.log";
/// Time limit for the daemon to attach its programs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A forwarder that runs in its namespace until ended or dropped.
pub(super) enum Running {
    /// An XDP program of the benchmark.
    Program(#[expect(dead_code, reason = "held")] xdp::Attached),
    /// The kernel, whose state ends with the namespace.
    Kernel,
    /// Director's daemon.
    Daemon(Child),
}

/// Sets a forwarder up on a new line.
pub(super) fn start(forwarder: Forwarder, family: Family, line: &Line) -> Result<Running> {
    let common = common(family);
    let (script, running) = match forwarder {
        Forwarder::Drop => (common, attach(line, xdp::DROP)?),
        Forwarder::Tx => (common, attach(line, xdp::TX)?),
        Forwarder::Ipvs(mode) => (common + &ipvs(mode, family), Running::Kernel),
        Forwarder::Nftables => (common + &nftables(family), Running::Kernel),
        Forwarder::Director(mode) => {
            shell(line, &common)?;
            return director(mode, family, line);
        }
    };
    shell(line, &script)?;
    Ok(running)
}

impl Running {
    /// Ends it.
    pub(super) fn end(self, line: &Line) -> Result<()> {
        if let Self::Daemon(mut child) = self {
            child.kill().context("cannot end Director's daemon")?;
            child.wait().context("cannot wait for Director's daemon")?;
            succeed(line.forwarder.command("/host/director")?.arg("detach"))?;
        }
        Ok(())
    }
}

fn attach(line: &Line, action: u32) -> Result<Running> {
    Ok(Running::Program(line.forwarder.run(|| xdp::attach(FORWARDER, action))?))
}

fn shell(line: &Line, script: &str) -> Result<()> {
    succeed(line.forwarder.command("/bin/sh")?.args(["-e", "-c", script]))
}

/// Addresses, routes and neighbours: everything is behind the generator. Nothing is resolved while
/// packets are counted, and nothing is checked that a router need not check.
fn common(family: Family) -> String {
    let disable_ipv6 = u8::from(family == Family::V4);
    let mut script = format!(
        "cd /proc/sys/net
         echo {disable_ipv6} > ipv6/conf/all/disable_ipv6
         echo 0 > ipv6/conf/{FORWARDER}/accept_ra
         echo 0 > ipv6/conf/{FORWARDER}/accept_dad
         echo 0 > ipv6/conf/{FORWARDER}/router_solicitations
         echo 1 > ipv4/ip_forward
         echo 1 > ipv6/conf/all/forwarding
         for conf in all {FORWARDER}; do
             echo 0 > ipv4/conf/$conf/rp_filter
             echo 0 > ipv4/conf/$conf/send_redirects
         done
         /host/ip link set lo up
         /host/ip link set {FORWARDER} up
         "
    );
    let (flag, own, at) = match family {
        Family::V4 => ("-4", "10.0.0.1/24", 0),
        Family::V6 => ("-6", "2001:db8:1::1/64 nodad", 1),
    };
    script += &format!("/host/ip {flag} address add {own} dev {FORWARDER}\n");
    for neighbour in BACKENDS[at].iter().chain([&ROUTERS[at]]) {
        script += &format!(
            "/host/ip {flag} neigh add {neighbour} lladdr {GENERATOR_MAC} nud permanent \
             dev {FORWARDER}\n"
        );
    }
    script += &format!("/host/ip {flag} route add default via {}\n", ROUTERS[at]);
    script
}

/// IPVS with its Maglev scheduler, over addresses and ports as Director.
fn ipvs(mode: Mode, family: Family) -> String {
    let (at, flag) = match family {
        Family::V4 => (0, "-4"),
        Family::V6 => (1, "-6"),
    };
    let (vip, brackets) = (VIPS[at], |address| match family {
        Family::V4 => format!("{address}:{PORT}"),
        Family::V6 => format!("[{address}]:{PORT}"),
    });
    let mode = match mode {
        Mode::Direct => "-g",
        Mode::Tunnel => "-i",
        Mode::Nat => "-m",
    };
    let service = brackets(vip);
    let prefix = if family == Family::V4 { 32 } else { 128 };
    let mut script = format!(
        "/host/ip {flag} address add {vip}/{prefix} dev lo\n\
         /host/ipvsadm -A -u {service} -s mh -b mh-port\n"
    );
    for backend in BACKENDS[at] {
        script += &format!("/host/ipvsadm -a -u {service} -r {} {mode}\n", brackets(backend));
    }
    script
}

/// A hash of source address and port selects the backend, which connection tracking records.
fn nftables(family: Family) -> String {
    let (at, ip) = match family {
        Family::V4 => (0, "ip"),
        Family::V6 => (1, "ip6"),
    };
    let backends = BACKENDS[at];
    let map: Vec<String> =
        backends.iter().enumerate().map(|(slot, backend)| format!("{slot} : {backend}")).collect();
    let (map, n_backends, vip) = (map.join(", "), backends.len(), VIPS[at]);
    format!(
        "/host/nft 'table {ip} balancer {{ chain prerouting {{
             type nat hook prerouting priority dstnat;
             {ip} daddr {vip} udp dport {PORT} dnat to \
                 jhash {ip} saddr . udp sport mod {n_backends} map {{ {map} }}
         }}; }}'\n"
    )
}

fn director(mode: Mode, family: Family, line: &Line) -> Result<Running> {
    let forward = match mode {
        Mode::Direct => "direct",
        Mode::Tunnel => "tunnel",
        Mode::Nat => "nat",
    };
    let at = usize::from(family == Family::V6);
    let backends = BACKENDS[at].map(|address| format!("{{address: \"{address}\"}}")).join(", ");
    let config = format!(
        "interfaces: [{{name: {FORWARDER}}}]\n\
         services:\n  - {{name: web, address: \"{}\", protocol: udp, port: {PORT}, \
         forward: {forward}, backends: [{backends}]}}\n",
        VIPS[at]
    );
    fs::write(CONFIG, config).with_context(|| format!("cannot write {CONFIG}"))?;
    let log = File::create(LOG).with_context(|| format!("cannot create {LOG}"))?;
    let mut command = line.forwarder.command("/host/director")?;
    command.args(["run", "-c", CONFIG]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("cannot run director")?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let output = fs::read_to_string(LOG).unwrap_or_default();
        if output.contains("running with") {
            return Ok(Running::Daemon(child));
        }
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("director does not run:\n{output}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
