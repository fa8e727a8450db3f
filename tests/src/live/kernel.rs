//! BPF objects of an instance in the kernel.

use std::{collections::BTreeSet, fs, time::Duration};

use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{loaded_links, loaded_programs},
};
use director_userspace::kernel::{datapath::Instance, net::Netlink};

/// BPF objects by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfObjects {
    /// Programs on interfaces.
    pub programs: BTreeSet<u32>,
    /// Their maps, and pinned ones.
    pub maps: BTreeSet<u32>,
    /// Links of these programs.
    pub links: BTreeSet<u32>,
}

impl BpfObjects {
    /// All objects of an instance: the programs on the interfaces of a namespace, their maps and
    /// links, and pinned maps.
    ///
    /// # Panics
    /// If the kernel does not list them.
    pub async fn of(netlink: &Netlink, instance: &Instance) -> Self {
        let links = netlink.links().await.expect("listed");
        let programs: BTreeSet<u32> =
            links.iter().filter_map(|link| Some(link.xdp?.prog_id)).collect();
        let mut maps = BTreeSet::new();
        let infos = loaded_programs().filter_map(Result::ok);
        for program in infos.filter(|program| programs.contains(&program.id())) {
            maps.extend(program.map_ids().expect("listed").expect("listed"));
        }
        let pins = fs::read_dir(instance.pins().join("maps")).into_iter().flatten().flatten();
        maps.extend(pins.map(|pin| MapInfo::from_pin(pin.path()).expect("a map").id()));
        let links = loaded_links().filter_map(Result::ok);
        let links = links.filter(|link| programs.contains(&link.program_id()));
        let links = links.map(|link| link.id()).collect();
        Self { programs, maps, links }
    }

    /// Waits until none of these exists: the kernel frees them asynchronously.
    ///
    /// # Panics
    /// If one still exists after 5 s.
    pub fn wait_until_gone(&self) {
        let mut left = String::new();
        let gone = |left: &mut String| {
            let programs = loaded_programs().filter_map(Result::ok).map(|p| p.id());
            let programs: Vec<_> = programs.filter(|id| self.programs.contains(id)).collect();
            let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
            let maps: Vec<_> = maps.filter(|id| self.maps.contains(id)).collect();
            let links = loaded_links().filter_map(Result::ok).map(|link| link.id());
            let links: Vec<_> = links.filter(|id| self.links.contains(id)).collect();
            *left = format!("programs {programs:?}, maps {maps:?}, links {links:?}");
            programs.is_empty() && maps.is_empty() && links.is_empty()
        };
        let began = std::time::Instant::now();
        while !gone(&mut left) {
            assert!(began.elapsed() < Duration::from_secs(5), "still in the kernel: {left}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
