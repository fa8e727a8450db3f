//! Known flows, read from the shared memory that packets write: no system call for any of them, and
//! no more memory than one set.

use aya::maps::MapData;
use director_common::{
    abi::map,
    client::ClientSet,
    flow::{Family, HashKey},
    flow_table::{FlowEntry, FlowState, SET_WAYS},
    tunables::{TICK_SHIFT, TICKS_MASK, Ticks, Tunables},
};
use std::net::{IpAddr, SocketAddr};

use super::{Datapath, DatapathError, Instance, clock_ns, load, mmap::MappedArray, tables::Fd};

/// A known flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// Slot of its service.
    pub service: u32,
    /// Slot of its backend.
    pub backend: u32,
    /// How far it has come.
    pub state: FlowState,
    /// Milliseconds since it was seen, to about a second.
    pub idle_ms: u64,
    /// Milliseconds until it is forgotten if nothing comes.
    pub left_ms: u64,
    /// Its client and the port that it talks to, where clients are written down.
    pub client: Option<(SocketAddr, u16)>,
}

/// The flow table of one instance, to be read through.
pub struct Conns<'a> {
    datapath: &'a Datapath,
    clients: Option<MappedArray<ClientSet>>,
    hash_key: HashKey,
    salt: u64,
    bits: u32,
    now: Ticks,
    /// Timeouts: TCP, TCP before and after that, UDP.
    tunables: Tunables,
}

impl<'a> Conns<'a> {
    /// Opens what is known of flows now.
    ///
    /// # Errors
    ///
    /// If the map of clients cannot be opened.
    pub fn open(datapath: &'a Datapath) -> Result<Self, DatapathError> {
        let clients = if datapath.clients { clients(datapath)? } else { None };
        let (tunables, meta) = (datapath.tables.tunables.get(0), datapath.tables.meta());
        Ok(Self {
            datapath,
            clients,
            hash_key: meta.hash_key,
            salt: meta.table_salt,
            bits: meta.table_bits,
            now: Ticks::from_ns(clock_ns()),
            tunables,
        })
    }

    /// Whether flows' clients are written down.
    pub fn have_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Every flow that is known and not too long idle. Packets may be changing what is read: a flow
    /// that is written meanwhile may be missing, and none is there with another's backend or client.
    pub fn iter(&self) -> impl Iterator<Item = Conn> + '_ {
        let flows = &self.datapath.tables.flows;
        (0..flows.len()).flat_map(move |set| {
            let entries = flows.get(set).entries;
            let any = entries.iter().any(|entry| !entry.is_empty());
            let clients = self.clients.as_ref().filter(|_| any).map(|clients| clients.get(set));
            (0..SET_WAYS).filter_map(move |place| {
                let entry = entries[place];
                // Halves of two writes make a hash that hardly ever leads here.
                let leads_here = entry.hash().table_set(self.salt, self.bits) == set;
                let conn = self.conn(&entry, clients.as_ref(), place)?;
                leads_here.then_some(conn)
            })
        })
    }

    fn conn(&self, entry: &FlowEntry, clients: Option<&ClientSet>, place: usize) -> Option<Conn> {
        let reference = entry.backend();
        let backends = &self.datapath.tables.backends;
        if entry.is_empty() || reference.slot() >= backends.len() {
            return None;
        }
        let backend = backends.get(reference.slot());
        if !backend.word.is(reference) {
            return None;
        }
        let service = self.datapath.tables.services.get(u32::from(backend.word.service()));
        let last_seen = entry.last_seen();
        let age = last_seen.age(self.now);
        let timeout = self.tunables.timeout(service.key.protocol, last_seen.state()).0;
        if age.0 > timeout.min(TICKS_MASK) {
            return None;
        }
        let vip = service.key.address;
        let client = clients
            .map(|clients| clients.clients[place])
            .filter(|client| client.is_of(entry.hash(), vip, &self.hash_key))
            .map(|client| {
                let family =
                    if client.family == Family::V6 as u8 { Family::V6 } else { Family::V4 };
                let address: IpAddr = client.address.to_ip(family);
                let port = u16::from_be_bytes(client.port);
                (SocketAddr::new(address, port), u16::from_be_bytes(client.vip_port))
            });
        let ms = |ticks: u32| (u64::from(ticks) << TICK_SHIFT) / 1_000_000;
        Some(Conn {
            service: u32::from(backend.word.service()),
            backend: reference.slot(),
            state: last_seen.state(),
            idle_ms: ms(age.0),
            left_ms: ms(timeout - age.0),
            client,
        })
    }
}

/// Whether the pinned maps have room for clients.
pub(super) fn are_recorded(instance: &Instance) -> Result<bool, DatapathError> {
    if !instance.map_pin(map::FLOW_KEYS).exists() {
        return Ok(false);
    }
    Ok(entries(&load::pinned(instance, map::FLOW_KEYS)?)? > 1)
}

fn clients(datapath: &Datapath) -> Result<Option<MappedArray<ClientSet>>, DatapathError> {
    let name = map::FLOW_KEYS;
    let data = load::pinned(&datapath.instance, name)?;
    let sets = entries(&data)?;
    // Just being made anew, perhaps.
    if sets != datapath.tables.flows.len() {
        return Ok(None);
    }
    let mapped = MappedArray::new(Fd(&data), sets);
    mapped.map(Some).map_err(|error| DatapathError::Mmap { name, error })
}

fn entries(data: &MapData) -> Result<u32, DatapathError> {
    let failed = |error| DatapathError::Map { name: map::FLOW_KEYS, error };
    Ok(data.info().map_err(failed)?.max_entries())
}
