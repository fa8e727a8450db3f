//! Names of slots, read from the maps.

use std::{collections::BTreeMap, net::IpAddr};

use crate::kernel::datapath::{Datapath, LinkPin, attached, observe};

/// Services, backends and interfaces by slot.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Names of services.
    pub services: BTreeMap<u32, String>,
    /// Addresses of backends.
    pub backends: BTreeMap<u32, IpAddr>,
    /// Names of interfaces.
    pub interfaces: BTreeMap<u32, String>,
}

impl Names {
    /// Reads them from the maps.
    pub fn read(datapath: &Datapath) -> Self {
        let observed = observe(&datapath.tables);
        let pins: Vec<LinkPin> = attached(&datapath.instance).unwrap_or_default();
        let interfaces = pins.into_iter().filter_map(|pin| {
            datapath.interface_slot(pin.ifindex).map(|slot| (slot, pin.interface))
        });
        Self {
            services: observed.services.into_iter().map(|(slot, s)| (slot, s.name)).collect(),
            backends: observed.backends.into_iter().map(|(slot, b)| (slot, b.address)).collect(),
            interfaces: interfaces.collect(),
        }
    }

    /// The slots of the services of this name: one for each protocol.
    pub fn services_called(&self, name: &str) -> Vec<u32> {
        self.services.iter().filter(|(_, n)| *n == name).map(|(slot, _)| *slot).collect()
    }
}
