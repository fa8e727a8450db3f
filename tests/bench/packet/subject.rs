//! The programs that are measured, their tables filled for the frame.

use std::{cell::RefCell, fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{ProgramFd, ProgramInfo},
};
use director_common::{interface::Interface, wire::ethernet::mac_to_u64};
use director_userspace::{
    inspect::simulate::offline,
    kernel::datapath::Standalone,
    policy::{
        config::{self, Config},
        plan::Desired,
    },
};

use super::{
    frame::{Frame, OWN_MAC},
    harness,
};

/// `BPF_PROG_TEST_RUN` reports the loopback interface as ingress.
const INGRESS: u32 = 1;
const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RING_SLOTS: u32 = 65_537;
/// Any frame of the benchmark fits.
const MTU: u32 = 9000;

/// The forwarding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Tunnel,
    Direct,
}

impl Mode {
    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
        }
    }
}

/// The contents of the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) frame: Frame,
    pub(crate) mode: Mode,
    /// Services, at consecutive VIPs.
    pub(crate) services: u32,
    /// Backends of each.
    pub(crate) backends: u32,
    /// Capacity of the flow table.
    pub(crate) flow_capacity: u64,
}

/// A program, and what keeps it and its maps alive.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) program: ProgramFd,
    keep: Keep,
}

#[expect(dead_code, reason = "held, not read")]
enum Keep {
    Object(Box<Ebpf>),
    Director(Box<Standalone>),
    Traced(Box<(Standalone, RefCell<RingBuf<MapData>>)>),
    Nothing,
}

impl Subject {
    /// Reads its trace events, as a tracing process does: a full ring would cost less.
    pub(crate) fn read(&self) {
        if let Keep::Traced(traced) = &self.keep {
            let mut ring = traced.1.borrow_mut();
            while ring.next().is_some() {}
        }
    }
}

fn plain(name: &str) -> Result<Subject> {
    let mut ebpf = Ebpf::load(&harness::object()?)?;
    let program = harness::load(&mut ebpf, name)?;
    Ok(Subject { name: name.to_owned(), program, keep: Keep::Object(Box::new(ebpf)) })
}

/// A program that sends every frame back.
///
/// # Errors
///
/// If the kernel refuses it.
pub(crate) fn floor() -> Result<Subject> {
    plain("floor")
}

/// The floor with a known additional cost.
///
/// # Errors
///
/// If the kernel refuses it.
pub(crate) fn slowed() -> Result<Subject> {
    plain("slowed")
}

/// Address number `at` of those from `first` on.
pub(crate) fn address(first: IpAddr, at: u32) -> IpAddr {
    match first {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + at).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + u128::from(at)).into()),
    }
}

fn first_backend(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { IpAddr::from([10, 201, 0, 1]) } else { "fd00:201::1".parse().unwrap_or(vip) }
}

/// Director, as it is attached: same program, same constants.
///
/// # Errors
///
/// If the configuration is refused, or the kernel refuses the program.
pub(crate) fn director(setup: &Setup) -> Result<Subject> {
    finish_director("director", standalone(setup)?)
}

/// The same while one packet in `every` is traced.
///
/// # Errors
///
/// As [`director`].
pub(crate) fn traced(setup: &Setup, every: u64) -> Result<Subject> {
    let (config, desired) = desired(setup)?;
    let (mut standalone, ring) = Standalone::traced(&config, &desired, interface(), every)?;
    let ring = RefCell::new(ring);
    let program = standalone.program()?;
    let keep = Keep::Traced(Box::new((standalone, ring)));
    Ok(Subject { name: "traced".to_owned(), program, keep })
}

/// Another build of Director: an object file.
///
/// # Errors
///
/// If it is no object file, or the kernel refuses the program.
pub(crate) fn built(name: &str, path: &Path, setup: &Setup) -> Result<Subject> {
    let failed = || format!("--object {name}={}", path.display());
    let object = fs::read(path).with_context(failed)?;
    let (config, desired) = desired(setup)?;
    let standalone =
        Standalone::of_object(&object, &config, &desired, interface()).with_context(failed)?;
    finish_director(name, standalone)
}

/// Director's maps and program, for inspection.
///
/// # Errors
///
/// If the configuration is refused, or the kernel refuses the program.
pub(crate) fn standalone(setup: &Setup) -> Result<Standalone> {
    let (config, desired) = desired(setup)?;
    Ok(Standalone::new(&config, &desired, interface())?)
}

fn interface() -> Interface {
    let macs = [mac_to_u64(OWN_MAC), 0, 0, 0, 0, 0, 0];
    Interface { macs, ifindex: INGRESS, _pad: 0 }
}

/// One service is parsed, and the others are copies of it: files have fewer than maps can hold.
pub(crate) fn configuration(setup: &Setup) -> Result<Config> {
    let yaml = yaml(setup);
    let loaded =
        config::parse("bench.yaml", &yaml).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let mut config = loaded.config;
    let first = config.services.pop().context("no service")?;
    for at in 0..setup.services {
        let mut service = first.clone();
        service.name = format!("s{at}").parse().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        service.frontend.address = address(setup.frame.vip, at);
        config.services.push(service);
    }
    Ok(config)
}

/// The desired contents of Director's maps.
///
/// # Errors
///
/// If the configuration is refused.
pub(crate) fn desired(setup: &Setup) -> Result<(Config, Desired)> {
    let config = configuration(setup)?;
    let desired = Desired::new(&config, &offline(&config).paths);
    Ok((config, desired))
}

fn finish_director(name: &str, mut standalone: Standalone) -> Result<Subject> {
    let program = standalone.program()?;
    let keep = Keep::Director(Box::new(standalone));
    Ok(Subject { name: name.to_owned(), program, keep })
}

/// The first service.
fn yaml(setup: &Setup) -> String {
    use std::fmt::Write as _;
    let Setup { frame, mode, backends, flow_capacity, .. } = setup;
    let mut yaml = format!(
        "flows: {{size: {flow_capacity}}}\nservices:\n  - {{name: s0, address: \"{}\", \
         protocol: {}, port: {}, forward: {}, backends: [",
        frame.vip,
        frame.protocol.name(),
        frame.port,
        mode.name(),
    );
    for backend in 0..*backends {
        let address = address(first_backend(frame.vip), backend);
        let _ = write!(yaml, "{{address: \"{address}\"}}, ");
    }
    yaml.push_str("]}\n");
    yaml
}

/// The reference: `director-ebpf/src/bench/conventional.rs`.
///
/// # Errors
///
/// If the kernel refuses it, or its maps do not fit.
pub(crate) fn conventional(setup: &Setup) -> Result<Subject> {
    let Setup { frame, mode, services, backends, flow_capacity } = *setup;
    let capacity = u32::try_from(flow_capacity).context("too many flows")?;
    let mut ebpf = EbpfLoader::new()
        .override_global("IS_DIRECT", &u32::from(mode == Mode::Direct), true)
        .map_max_entries("CONNECTIONS", capacity)
        .map_max_entries("VIPS", (2 * services).max(512))
        .map_max_entries("SLOTS", RING_SLOTS * services)
        .map_max_entries("REALS", backends.max(4096))
        .map_max_entries("REAL_COUNTERS", backends.max(4096))
        .load(&harness::object()?)?;
    let program = harness::load(&mut ebpf, "conventional")?;
    let mut own_mac: Array<_, u64> = map(&mut ebpf, "OWN_MAC")?;
    own_mac.set(0, mac_to_u64(OWN_MAC), 0)?;
    let protocol: u32 = if frame.protocol.name() == "tcp" { 6 } else { 17 };
    let mut vips: HashMap<_, [u32; 6], u32> = map(&mut ebpf, "VIPS")?;
    for service in 0..services {
        let [a, b, c, d] = words(address(frame.vip, service));
        let port = u32::from(frame.port.swap_bytes());
        vips.insert([a, b, c, d, port, protocol], service, 0)?;
    }
    let mut reals: Array<_, [u32; 14]> = map(&mut ebpf, "REALS")?;
    for backend in 0..backends {
        let mut entry = [0; 14];
        entry[..4].copy_from_slice(&words(address(first_backend(frame.vip), backend)));
        entry[4..8].copy_from_slice(&words(address(first_backend(frame.vip), 0xff00)));
        entry[8] = mac_to_u64(NEXT_HOP_MAC) as u32;
        entry[9] = (mac_to_u64(NEXT_HOP_MAC) >> 32) as u32;
        entry[10] = u32::from(frame.vip.is_ipv6());
        entry[12] = MTU;
        reals.set(backend, entry, 0)?;
    }
    let mut slots: Array<_, u32> = map(&mut ebpf, "SLOTS")?;
    for slot in 0..RING_SLOTS * services {
        // Backends in turn: the balance of a ring does not affect the cost of a packet.
        slots.set(slot, slot % backends, 0)?;
    }
    let keep = Keep::Object(Box::new(ebpf));
    Ok(Subject { name: "conventional".to_owned(), program, keep })
}

fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T> {
    Ok(ebpf.take_map(name).with_context(|| format!("no map {name}"))?.try_into()?)
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            let at =
                |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            [at(0), at(4), at(8), at(12)]
        }
    }
}

/// A pinned program of another project, which must fill its tables.
///
/// # Errors
///
/// If the path does not exist, or is not an XDP program.
pub(crate) fn pinned(name: &str, path: &Path) -> Result<Subject> {
    let found = || format!("--pinned {name}={}", path.display());
    if !path.exists() {
        bail!("{}: there is no such file (programs are pinned under /sys/fs/bpf)", found());
    }
    let not_one = || format!("{}: not a pinned XDP program", found());
    let info = ProgramInfo::from_pin(path).with_context(not_one)?;
    // BPF_PROG_TYPE_XDP, since kernel 4.8.
    if info.program_type() as u32 != 6 {
        bail!("{}: a program, but not an XDP one", found());
    }
    let program = info.fd().with_context(not_one)?;
    Ok(Subject { name: name.to_owned(), program, keep: Keep::Nothing })
}
