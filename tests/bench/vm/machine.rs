//! One machine: its contents, and its reports.

use std::{sync::mpsc, thread, time::Duration};

use anyhow::{Context as _, Result};
use xtask::vm::{KernelVersion, Packages, Vm};

use super::{
    Programs,
    guest::wire::{FORWARDER_MAC, GENERATOR_MAC},
    row::{Report, Row, Wire},
};
use crate::session::Session;

/// A figure takes seconds, a machine minutes; a busy host several times as long.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Packets of each run. Repeats differ by tenths of a percent.
const PACKETS: u32 = 10_000;

/// The wires, the more significant one first.
const WIRES: [Wire; 2] = [Wire::VirtioNet, Wire::Veth];

/// Options of the virtio-net devices.
///
/// - `ioeventfd=off,tx=timer`: the forwarder's and the generator's frames are passed on 150,000
///   instructions after the first of a batch, by the thread that runs the guest: at the same
///   instruction in every run. By default they would be at an arbitrary time of the host, which
///   changes figures by a tenth and more.
/// - `mrg_rxbuf=off`: a receive buffer holds a packet, as in a NIC's ring. Merged buffers cost XDP a
///   page per packet: with them bare XDP_TX costs some 200 instructions more.
/// - The rest: XDP refuses devices with packet merging or checksum offload.
const DEVICE: &str = "ioeventfd=off,tx=timer,x-txtimer=150000,mrg_rxbuf=off,csum=off,\
                      guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                      host_tso4=off,host_tso6=off,host_ufo=off";

/// Boots, measures, and returns what was measured. What could not be is recorded in `session`.
pub(super) fn run(
    session: &mut Session,
    version: KernelVersion,
    programs: &Programs,
    peers: Option<&Packages>,
) -> Result<Vec<Row>> {
    let (sender, lines) = mpsc::channel();
    let vm = vm(session, version, programs, peers)?.listen(sender);
    session.progress(&format!("Linux {version} boots"));
    let machine = thread::spawn(move || vm.run());
    let mut rows = Vec::new();
    for line in lines {
        match Report::read(&line) {
            Some(Report::Progress(what)) => session.progress(&format!("Linux {version}: {what}")),
            // The host lacks nothing, so something is wrong.
            Some(Report::Cannot(what)) => session.check(&format!("Linux {version}: {what}"), false),
            Some(Report::Row(row)) => rows.push(row),
            None => {}
        }
    }
    let output = machine.join().map_err(|_| anyhow::anyhow!("the machine's thread panicked"))?;
    match output {
        Ok(output) => {
            if output.status != 0 {
                session.check(
                    &format!("Linux {version}: the benchmark program works: {}", output.text),
                    false,
                );
            }
            Ok(rows)
        }
        // Partial results are kept.
        Err(error) if !rows.is_empty() => {
            session.skip(format!("the rest of Linux {version}: {error:#}"));
            Ok(rows)
        }
        Err(error) => Err(error),
    }
}

fn vm(
    session: &Session,
    version: KernelVersion,
    programs: &Programs,
    peers: Option<&Packages>,
) -> Result<Vm> {
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].into_iter();
    let mut ip = ip.filter(|path| std::fs::exists(path).unwrap_or(false));
    let ip = ip.next().context("there is no `ip` on this host: install iproute2")?;
    let mut vm = Vm::new(version)
        .count_instructions()
        .modules(["pktgen", "veth", "af_packet", "virtio_pci", "virtio_net"])
        .file(programs.bench(), "/host/director-bench")
        .file(programs.director(), "/host/director")
        .file(ip, "/host/ip")
        .timeout(TIMEOUT);
    for (number, mac) in [GENERATOR_MAC, FORWARDER_MAC].into_iter().enumerate() {
        vm = vm.qemu([
            "-netdev".to_owned(),
            format!("hubport,hubid=1,id=n{number}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=n{number},mac={mac},romfile=,{DEVICE}"),
        ]);
    }
    if let Some(peers) = peers {
        // As many hash buckets as an administrator sets for many flows.
        vm = vm
            .modules(["ip_vs conn_tab_bits=20", "ip_vs_mh"])
            .modules(["nf_tables", "nft_chain_nat", "nft_nat", "nft_hash"])
            .module("nf_conntrack hashsize=262144")
            .program(peers, "ipvsadm", "/host/ipvsadm")?
            .program(peers, "nft", "/host/nft")?;
    }
    let runs = session.repeats.min(if session.quick { 2 } else { 3 });
    let mut command = format!("/host/director-bench inside-vm --runs {runs} --packets {PACKETS}");
    if session.quick {
        command.push_str(" --v4-only");
    }
    if peers.is_none() {
        command.push_str(" --without-peers");
    } else {
        // Flows of all runs, which stay tracked for minutes.
        command = format!("echo 4000000 > /proc/sys/net/netfilter/nf_conntrack_max\n{command}");
    }
    for wire in WIRES {
        command.push_str(&format!(" --wire {}", wire.name()));
    }
    Ok(vm.script(command + " 2>&1"))
}
