//! Opens an instance's maps, or creates them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use director_common::{
    abi::{ABI_VERSION, Meta, OLDEST_ADOPTED, ProgramMode, map},
    flow::HashKey,
    tunables::{TICK_SHIFT, Ticks, Tunables},
};
use nix::time::{ClockId, clock_gettime};

use super::{
    DatapathError, Instance, Sizes, Tables, grow,
    load::{self, Constants},
    mmap::MappedArray,
    mount_bpffs,
    tables::Fd,
};
use crate::policy::config::model::{Config, Flows};

/// CLOCK_MONOTONIC, nanoseconds: the clock of the program and of drain deadlines.
pub fn clock_ns() -> u64 {
    // The clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// An instance's maps, opened.
pub struct Datapath {
    /// Which instance.
    pub instance: Instance,
    /// Its maps.
    pub tables: Tables,
    /// Whether an earlier process created them.
    pub adopted: bool,
    /// Whether clients are tracked.
    pub(super) clients: bool,
}

impl Datapath {
    /// Opens the pinned maps; creates none.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NotAttached`] if there are none, [`DatapathError::Abi`] if another version
    /// created them.
    pub fn open(instance: &Instance) -> Result<Self, DatapathError> {
        match pinned_version(instance)? {
            None | Some(0) => return Err(DatapathError::NotAttached(instance.name().into())),
            Some(OLDEST_ADOPTED..=ABI_VERSION) => {}
            Some(found) => {
                let path = instance.pins();
                return Err(DatapathError::Abi { path, found, expected: ABI_VERSION });
            }
        }
        let tables =
            grow::consistently(instance, || Tables::open(|name| load::pinned(instance, name)))?;
        let clients = super::conns::are_tracked(instance)?;
        Ok(Self { instance: instance.clone(), tables, adopted: true, clients })
    }

    /// Opens the pinned maps, or creates and pins them in the sizes that `config` needs.
    ///
    /// # Errors
    ///
    /// As [`Datapath::open`], and any error of creating maps.
    pub fn open_or_create(instance: &Instance, config: &Config) -> Result<Self, DatapathError> {
        mount_bpffs()?;
        let hash_key = HashKey::expand(config.hash_key.0);
        let complete = !matches!(pinned_version(instance)?, None | Some(0));
        if !complete {
            if instance.pins().exists() {
                // A process died while creating them; no program uses them.
                super::link_pins::remove_pins(instance)?;
            }
            Self::create(instance, config, hash_key)?;
        }
        grow::discard_unfinished(instance)?;
        let mut opened = Self::open(instance)?;
        opened.adopted = complete;
        opened.tables.keep_written();
        // The table's size is in two places, of which one cannot be written.
        let (meta, bits) = (opened.tables.meta(), opened.tables.flows.len().ilog2());
        if meta.table_bits != bits {
            opened.tables.meta.set(0, Meta { table_bits: bits, ..meta });
        }
        Ok(opened)
    }

    /// Makes adopted maps' filter of VIPs exact, and marks them as this version's: an older director then refuses them, since it would
    /// misread what this one writes.
    ///
    /// # Errors
    ///
    /// If a pin cannot be renamed; the next call tries again.
    pub fn adopt(&self) -> Result<(), DatapathError> {
        let meta = self.tables.meta();
        if meta.abi_version != ABI_VERSION {
            self.tables.meta.set(0, Meta { abi_version: ABI_VERSION, ..meta });
        }
        super::filter::rebuild(&self.tables);
        self.instance.rename_pins()
    }

    /// Writes the hash key, which takes effect once the programs are attached again. Returns the
    /// previous key if it differs.
    pub fn set_hash_key(&self, config: &Config) -> Option<HashKey> {
        let hash_key = HashKey::expand(config.hash_key.0);
        let meta = self.tables.meta();
        if meta.hash_key == hash_key {
            return None;
        }
        self.tables.meta.set(0, Meta { hash_key, ..meta });
        Some(meta.hash_key)
    }

    /// Undoes [`Datapath::set_hash_key`], given what it returned.
    pub fn restore_hash_key(&self, hash_key: Option<HashKey>) {
        if let Some(hash_key) = hash_key {
            self.tables.meta.set(0, Meta { hash_key, ..self.tables.meta() });
        }
    }

    /// Makes programs that are attached from now on track clients, or not. If this is a change, the
    /// attached programs must be replaced; undone before that, the former map must be pinned again.
    ///
    /// # Errors
    ///
    /// If the map's pin cannot be removed.
    pub fn set_clients(&mut self, clients: bool) -> Result<(), DatapathError> {
        if self.clients == clients {
            return Ok(());
        }
        // Created in its other size when the first program is loaded; the old map is freed with its
        // last user.
        let path = self.instance.map_pin(map::FLOW_KEYS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DatapathError::File { path, error });
            }
            _ => {}
        }
        self.clients = clients;
        Ok(())
    }

    /// Where the map of clients is pinned.
    pub fn clients_pin(&self) -> PathBuf {
        self.instance.map_pin(map::FLOW_KEYS)
    }

    /// Whether programs that are attached from now on track clients.
    pub fn clients(&self) -> bool {
        self.clients
    }

    /// Writes the flow timeouts.
    pub fn set_timeouts(&self, config: &Config) {
        set_timeouts(&self.tables, &config.flows);
    }

    /// Flow timeouts in seconds: established TCP, TCP opening or closing, UDP.
    pub fn timeouts_s(&self) -> [u64; 3] {
        let tunables = self.tables.tunables.get(0);
        [tunables.tcp_ticks, tunables.tcp_closing_ticks, tunables.udp_ticks]
            .map(|ticks| (u64::from(ticks) << TICK_SHIFT) / 1_000_000_000)
    }

    fn create(
        instance: &Instance,
        config: &Config,
        hash_key: HashKey,
    ) -> Result<(), DatapathError> {
        let maps = instance.pins().join("maps");
        make_directory(&maps)?;
        make_directory(&instance.link_pins())?;
        let sizes = Sizes::for_config(config);
        let constants = Constants {
            hash_key,
            table_salt: random_odd()?,
            table_bits: sizes.table_bits,
            interface_slot: 0,
            own_mac: 0,
            mode: ProgramMode::Forward,
            clients: config.flows.clients,
        };
        load::load(sizes, &constants, Some(&|name| instance.map_pin(name)))?;
        let tables = Tables::open(|name| load::pinned(instance, name))?;
        tables.meta.set(
            0,
            Meta {
                abi_version: ABI_VERSION,
                table_bits: sizes.table_bits,
                table_salt: constants.table_salt,
                hash_key,
            },
        );
        Ok(())
    }

    /// The heartbeat's age in nanoseconds; `None` if it was never written, or was cleared.
    pub fn heartbeat_age_ns(&self) -> Option<u64> {
        match self.tables.tunables.get(0).heartbeat_ns {
            0 => None,
            written => Some(clock_ns().saturating_sub(written)),
        }
    }
}

/// The version of the pinned maps; 0 if their creator ended before writing it, which it does last.
/// Reads only the first field of META, which every version has.
fn pinned_version(instance: &Instance) -> Result<Option<u32>, DatapathError> {
    if !instance.map_pin(map::META).exists() {
        return Ok(None);
    }
    let data = load::pinned(instance, map::META)?;
    let first = MappedArray::<u64>::new(Fd(&data), 1)
        .map_err(|error| DatapathError::Mmap { name: map::META, error })?;
    Ok(Some(first.get(0) as u32))
}

/// Writes the flow timeouts, two at a time: each pair is a word.
pub(super) fn set_timeouts(tables: &Tables, flows: &Flows) {
    let tunables = Tunables {
        tcp_ticks: Ticks::from_duration(flows.tcp).0,
        tcp_closing_ticks: Ticks::from_duration(flows.tcp_closing).0,
        udp_ticks: Ticks::from_duration(flows.udp).0,
        ..Tunables::default()
    };
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let tcp = pair(tunables.tcp_ticks, tunables.tcp_closing_ticks);
    tables.tunables.publish(0, std::mem::offset_of!(Tunables, tcp_ticks), tcp);
    let udp = pair(tunables.udp_ticks, 0);
    tables.tunables.publish(0, std::mem::offset_of!(Tunables, udp_ticks), udp);
}

pub(super) fn make_directory(path: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(path)
        .map_err(|error| DatapathError::File { path: path.to_path_buf(), error })
}

/// A secret odd number.
pub(super) fn random_odd() -> Result<u64, DatapathError> {
    let mut bytes = [0; 8];
    // SAFETY: eight writable bytes.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read != bytes.len() as isize {
        return Err(DatapathError::File {
            path: "/dev/urandom".into(),
            error: io::Error::last_os_error(),
        });
    }
    Ok(u64::from_ne_bytes(bytes) | 1)
}
