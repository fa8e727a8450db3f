//! The decapsulation program: loaded with its maps filled, attached, pinned, exchanged, detached.
//!
//! Every configuration gets maps of its own, filled before the program sees a packet, and an
//! exchange replaces program and maps through the link atomically. Only the counters stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, LpmTrie, Map, MapData, MapInfo, PerCpuArray, lpm_trie::Key},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::{XdpLink, XdpMode},
    },
};
use director_common::realserver::{
    COUNTERS, DecapCounter, FROM_V4, FROM_V6, PROGRAM, VIPS_V4, VIPS_V6,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{Mode, Prefix, RealServerError};

/// The compiled programs.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/realserver.o"));
const BPFFS: &str = "/sys/fs/bpf";
const LINK: &str = "link";
const MAPS: [&str; 5] = [FROM_V4, FROM_V6, VIPS_V4, VIPS_V6, COUNTERS];

/// Packets by outcome, summed over the CPUs, in [`DecapCounter`] order.
pub type Counts = BTreeMap<&'static str, u64>;

/// Loads the decapsulation program into the kernel, attached to nothing.
///
/// # Errors
/// [`RealServerError::Bpf`] if the kernel refuses a map, the program, or too many prefixes.
pub fn load(from: &BTreeSet<Prefix>, vips: &BTreeSet<IpAddr>) -> Result<Ebpf, RealServerError> {
    load_with(&mut EbpfLoader::new(), from, vips)
}

/// The name of the program that passes every packet.
pub const PASS: &str = "pass";

/// Loads the program that passes every packet into the kernel, attached to nothing.
///
/// # Errors
/// [`RealServerError::Bpf`] if the kernel refuses it.
pub fn load_pass() -> Result<Ebpf, RealServerError> {
    let mut ebpf = Ebpf::load(OBJECT).map_err(|e| failed("create the maps", chain(&e)))?;
    program_of(&mut ebpf, PASS)?
        .load()
        .map_err(|e| failed("load the passing XDP program", chain(&e)))?;
    Ok(ebpf)
}

/// The counters of a loaded program.
///
/// # Errors
/// [`RealServerError::Bpf`] if they can't be read.
pub fn counts(ebpf: &Ebpf) -> Result<Counts, RealServerError> {
    let map = ebpf.map(COUNTERS).ok_or_else(|| missing(COUNTERS))?;
    sum(&PerCpuArray::try_from(map).map_err(|e| failed("read the counters", e))?)
}

/// The pins by which the kernel keeps the program while no process of ours runs.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The id of the program that our link holds, if there is a link.
    pub(super) fn program_id(&self) -> Result<Option<u32>, RealServerError> {
        if !self.path(LINK).exists() {
            return Ok(None);
        }
        let link = FdLink::from(self.open_link()?);
        let info = link.info().map_err(|e| failed("examine our XDP link", e))?;
        Ok(Some(info.program_id()))
    }

    /// Loads, attaches and pins. The calling thread must be in the interface's namespace.
    pub(super) fn attach(
        &self,
        link_index: u32,
        mode: Mode,
        from: &BTreeSet<Prefix>,
        vips: &BTreeSet<IpAddr>,
    ) -> Result<(), RealServerError> {
        mount_bpffs()?;
        self.remove()?;
        fs::create_dir_all(&self.directory)
            .map_err(|e| failed(format!("create {}", self.directory.display()), e))?;
        let attached = || {
            let mut ebpf = self.load_pinned(from, vips)?;
            let program = program_of(&mut ebpf, PROGRAM)?;
            let flags = match mode {
                Mode::Native => XdpMode::Driver,
                Mode::Generic => XdpMode::Skb,
            };
            let hint = match mode {
                Mode::Native => " (--mode generic works with every driver, slower)",
                Mode::Generic => "",
            };
            let doing = format!("attach the XDP program in {mode} mode{hint}");
            let id = program
                .attach_to_if_index(link_index, flags)
                .map_err(|e| failed(doing.as_str(), e))?;
            let link = program.take_link(id).map_err(|e| failed(doing.as_str(), e))?;
            let link = FdLink::try_from(link)
                .map_err(|_| failed(doing.as_str(), "this needs BPF links, Linux 5.9"))?;
            link.pin(self.path(LINK)).map_err(|e| failed("pin the XDP link", e))?;
            Ok(())
        };
        attached().inspect_err(|_: &RealServerError| {
            // Nothing of it is in use, and the error before is the one to report.
            let _ = self.remove();
        })
    }

    /// Replaces the configuration.
    pub(super) fn replace(
        &self,
        from: &BTreeSet<Prefix>,
        vips: &BTreeSet<IpAddr>,
    ) -> Result<(), RealServerError> {
        let link = XdpLink::try_from(FdLink::from(self.open_link()?))
            .map_err(|e| failed("use the pinned XDP link", e))?;
        let mut ebpf = self.load_pinned(from, vips)?;
        program_of(&mut ebpf, PROGRAM)?
            .attach_to_link(link)
            .map_err(|e| failed("exchange the XDP program", e))?;
        // The link outlives `ebpf`: it is pinned.
        Ok(())
    }

    /// Removes the pins, and with the link's pin the program from its interface. The kernel may
    /// finish that a moment later.
    pub(super) fn remove(&self) -> Result<(), RealServerError> {
        for name in [LINK].iter().chain(&MAPS) {
            remove_pin(&self.path(name))?;
        }
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("remove {}", self.directory.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// The pinned counters; none if nothing is attached.
    pub(super) fn counts(&self) -> Result<Option<Counts>, RealServerError> {
        let path = self.path(COUNTERS);
        if !path.exists() {
            return Ok(None);
        }
        let data = MapData::from_pin(path).map_err(|e| failed("open the counters", e))?;
        let counters = PerCpuArray::try_from(Map::PerCpuArray(data))
            .map_err(|e| failed("read the counters", e))?;
        sum(&counters).map(Some)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn open_link(&self) -> Result<PinnedLink, RealServerError> {
        PinnedLink::from_pin(self.path(LINK))
            .map_err(|e| failed(format!("open {}", self.path(LINK).display()), e))
    }

    /// Loads with all maps pinned. Of those that are pinned already, the counters are taken over if
    /// they have this version's layout; the program in use keeps its own references to the rest.
    fn load_pinned(
        &self,
        from: &BTreeSet<Prefix>,
        vips: &BTreeSet<IpAddr>,
    ) -> Result<Ebpf, RealServerError> {
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            if name != COUNTERS || !fits(&self.path(COUNTERS)) {
                remove_pin(&self.path(name))?;
            }
            loader.map_pin_path(name, self.path(name));
        }
        load_with(&mut loader, from, vips)
    }
}

/// The name of a program in the kernel, for people.
pub(super) fn program_name(id: u32) -> String {
    loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "?".to_owned())
}

fn load_with(
    loader: &mut EbpfLoader<'_>,
    from: &BTreeSet<Prefix>,
    vips: &BTreeSet<IpAddr>,
) -> Result<Ebpf, RealServerError> {
    let mut ebpf =
        loader.load(OBJECT).map_err(|e| failed("create the maps of the XDP program", chain(&e)))?;
    for prefix in from {
        let len = u32::from(prefix.len);
        match prefix.address {
            IpAddr::V4(v4) => insert_prefix(&mut ebpf, FROM_V4, Key::new(len, v4.octets())),
            IpAddr::V6(v6) => insert_prefix(&mut ebpf, FROM_V6, Key::new(len, v6.octets())),
        }
        .map_err(|e| failed(format!("accept tunnels from {prefix}"), e))?;
    }
    for vip in vips {
        match vip {
            IpAddr::V4(v4) => insert_vip(&mut ebpf, VIPS_V4, v4.octets()),
            IpAddr::V6(v6) => insert_vip(&mut ebpf, VIPS_V6, v6.octets()),
        }
        .map_err(|e| failed(format!("accept tunnels to {vip}"), e))?;
    }
    let program = program_of(&mut ebpf, PROGRAM)?;
    program.load().map_err(|e| {
        failed("load the XDP program (CAP_BPF and Linux 5.15 are needed)", brief(&chain(&e)))
    })?;
    Ok(ebpf)
}

fn insert_prefix<K: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &str,
    key: Key<K>,
) -> Result<(), RealServerError> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    LpmTrie::try_from(map)
        .and_then(|mut map| map.insert(&key, 1u8, 0))
        .map_err(|e| failed(format!("write map {name}"), chain(&e)))
}

fn insert_vip<K: aya::Pod>(ebpf: &mut Ebpf, name: &str, key: K) -> Result<(), RealServerError> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    HashMap::try_from(map)
        .and_then(|mut map| map.insert(key, 1u8, 0))
        .map_err(|e| failed(format!("write map {name}"), chain(&e)))
}

fn program_of<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, RealServerError> {
    ebpf.program_mut(name)
        .ok_or_else(|| missing(name))?
        .try_into()
        .map_err(|e| failed("find the XDP program in the object", e))
}

fn sum<T: std::borrow::Borrow<MapData>>(
    counters: &PerCpuArray<T, u64>,
) -> Result<Counts, RealServerError> {
    DecapCounter::ALL
        .into_iter()
        .map(|counter| {
            let per_cpu = counters
                .get(&(counter as u32), 0)
                .map_err(|e| failed("read the counters", chain(&e)))?;
            Ok((counter.label(), per_cpu.iter().sum()))
        })
        .collect()
}

/// Whether the pinned counters have this version's layout.
fn fits(path: &Path) -> bool {
    MapInfo::from_pin(path).is_ok_and(|info| {
        info.key_size() == 4
            && info.value_size() == 8
            && info.max_entries() as usize == DecapCounter::ALL.len()
    })
}

fn remove_pin(path: &Path) -> Result<(), RealServerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Mounts the file system for pins if it is not mounted.
fn mount_bpffs() -> Result<(), RealServerError> {
    let mounted = || statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if mounted() {
        return Ok(());
    }
    let done = mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=700"));
    match done {
        Err(error) if !mounted() => {
            Err(failed(format!("mount the BPF file system (`mount -t bpf bpf {BPFFS}`)"), error))
        }
        _ => Ok(()),
    }
}

fn failed(doing: impl Into<String>, reason: impl fmt::Display) -> RealServerError {
    RealServerError::Bpf { doing: doing.into(), reason: reason.to_string() }
}

fn missing(name: &str) -> RealServerError {
    failed(format!("find {name} in the compiled program"), "this director was built wrongly")
}

/// The verifier's log has thousands of lines; the last ones are the error.
fn brief(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.len() {
        0..=8 => lines.join("\n"),
        n => format!("{}\n...\n{}", lines[0], lines[n - 6..].join("\n")),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let deeper = error.to_string();
        if !text.contains(&deeper) {
            text = format!("{text}: {deeper}");
        }
        next = error.source();
    }
    text
}
