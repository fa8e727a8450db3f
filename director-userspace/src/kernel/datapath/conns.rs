//! Reads tracked flows from the memory shared with the programs: no system call per flow, and no
//! more memory than one set.

use aya::maps::MapData;
use director_common::{
    abi::map,
    client::ClientSet,
    flow::{Family, HashKey},
    flow_table::{FlowEntry, FlowState, SET_WAYS},
    tunables::{TICK_SHIFT, Ticks, Tunables},
};
use std::net::{IpAddr, SocketAddr};

use super::{Datapath, DatapathError, Instance, clock_ns, load, mmap::MappedArray, tables::Fd};

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// Slot of its service.
    pub service: u32,
    /// Slot of its backend.
    pub backend: u32,
    /// Its state.
    pub state: FlowState,
    /// Milliseconds since it was last seen, to about a second.
    pub idle_ms: u64,
    /// Milliseconds until it expires if no packet is received.
    pub left_ms: u64,
    /// Its client and the VIP port, if clients are tracked.
    pub client: Option<(SocketAddr, u16)>,
}

/// The flow table of one instance, to iterate over.
pub struct Conns<'a> {
    datapath: &'a Datapath,
    clients: Option<MappedArray<ClientSet>>,
    hash_key: HashKey,
    salt: u64,
    bits: u32,
    now: Ticks,
    /// Timeouts: established TCP, TCP opening or closing, UDP.
    tunables: Tunables,
}

impl<'a> Conns<'a> {
    /// Opens the flow table and the map of clients.
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

    /// Whether clients are tracked.
    pub fn have_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Every tracked flow that has not expired. Packets may change the table meanwhile: a flow
    /// being written may be missing, and none is returned with another flow's backend or client.
    pub fn iter(&self) -> impl Iterator<Item = Conn> + '_ {
        let flows = &self.datapath.tables.flows;
        (0..flows.len()).flat_map(move |set| {
            let entries = flows.get(set).entries;
            let any = entries.iter().any(|entry| !entry.is_empty());
            let clients = self.clients.as_ref().filter(|_| any).map(|clients| clients.get(set));
            (0..SET_WAYS).filter_map(move |place| {
                let entry = entries[place];
                // A torn read makes a hash that hardly ever belongs to this set.
                let belongs_here = entry.hash().table_set(self.salt, self.bits) == set;
                let conn = self.conn(&entry, clients.as_ref(), place)?;
                belongs_here.then_some(conn)
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
        let service = u32::from(backend.word.service());
        if service >= self.datapath.tables.services.len() {
            return None;
        }
        let service = self.datapath.tables.services.get(service);
        let last_seen = entry.last_seen();
        let age = last_seen.age(self.now);
        let protocol = service.key.protocol;
        if self.tunables.has_timed_out(protocol, last_seen, self.now) {
            return None;
        }
        let timeout = self.tunables.timeout(protocol, last_seen.state());
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
            left_ms: ms(timeout.0.saturating_sub(age.0)),
            client,
        })
    }
}

/// Whether the pinned maps track clients.
pub(super) fn are_tracked(instance: &Instance) -> Result<bool, DatapathError> {
    if !instance.map_pin(map::FLOW_KEYS).exists() {
        return Ok(false);
    }
    Ok(entries(&load::pinned(instance, map::FLOW_KEYS)?)? > 1)
}

fn clients(datapath: &Datapath) -> Result<Option<MappedArray<ClientSet>>, DatapathError> {
    let name = map::FLOW_KEYS;
    let data = load::pinned(&datapath.instance, name)?;
    let sets = entries(&data)?;
    // It may be in the middle of being replaced.
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
