//! `maglev`: `director_common::maglev` with its working memory.

use director_common::{
    backend::BackendRef,
    maglev::{self, Candidate, FREE, Peers, Scratch, Walk},
    service::RING_SLOTS,
};

use super::{Description, Lvs, Member, Placement, TableBuilder};

pub(super) const MAGLEV: Description = Description {
    name: "maglev",
    aliases: &[],
    help: "consistent hashing of addresses, ports and protocol, with exact weights",
    nearest_lvs: Lvs { name: "mh", flags: "mh-port" },
    placement: Placement::Table(|| Box::new(Builder::default())),
};

struct Builder {
    places: Vec<u16>,
    due: Vec<u16>,
    starts: Vec<u32>,
    free: Vec<u32>,
    walks: Vec<Walk>,
    peers: Vec<Peers>,
    order: Vec<u16>,
    candidates: Vec<Candidate>,
}

impl Default for Builder {
    fn default() -> Self {
        let slots = RING_SLOTS as usize;
        Self {
            places: vec![0; slots],
            due: vec![0; slots],
            starts: vec![0; slots + 1],
            free: vec![0; FREE],
            walks: Vec::new(),
            peers: Vec::new(),
            order: Vec::new(),
            candidates: Vec::new(),
        }
    }
}

impl TableBuilder for Builder {
    fn build(&mut self, members: &[Member], table: &mut [BackendRef]) {
        let candidate = |m: &Member| Candidate::new(m.address.into(), m.weight, m.reference);
        self.candidates.clear();
        self.candidates.extend(members.iter().map(candidate));
        let n = self.candidates.len().max(self.walks.len());
        self.walks.resize(n, Walk::default());
        self.peers.resize(n, Peers::default());
        self.order.resize(2 * n, 0);
        let mut scratch = Scratch {
            places: &mut self.places,
            due: &mut self.due,
            starts: &mut self.starts,
            free: &mut self.free,
            walks: &mut self.walks,
            peers: &mut self.peers,
            order: &mut self.order,
        };
        maglev::build(&mut self.candidates, &mut scratch, table);
    }
}
