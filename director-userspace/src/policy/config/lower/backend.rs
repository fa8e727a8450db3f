//! The backends of a service.

use std::net::IpAddr;

use super::{
    mapping::{Keys, Mapping, items},
    scalar,
};
use crate::policy::{
    by_address::ByAddress,
    config::{
        error::{ConfigErrorKind as Kind, Position, WarningKind},
        model::{Availability, Backend, ForwardMode, MAX_BACKENDS},
        report::{Item, Path, Report},
    },
};

pub(super) const BACKEND: Keys = Keys {
    known: &["address", "weight", "mac"],
    unsupported: &[("port", "rewrites no ports: packets keep their destination port")],
};

pub(super) const SORRY: Keys =
    Keys { known: &["address", "mac"], unsupported: BACKEND.unsupported };

/// The valid backends of one list.
pub(super) struct Backends<'a> {
    list: &'a Item<'a>,
    read: Vec<Read>,
}

struct Read {
    backend: Backend,
    has_weight: bool,
    /// Index in the file's list.
    index: usize,
    address_at: Position,
}

impl<'a> Backends<'a> {
    /// Reads a list; checks each backend by itself and for duplicates.
    pub(super) fn read(list: &'a Item<'a>, report: &mut Report<'_>) -> Option<Self> {
        let entries =
            items(list, "write a list, one `- address: ...` per backend, or `[]`", report)?;
        if entries.len() > MAX_BACKENDS {
            let message = format!("{} backends are too many for a service", entries.len());
            let hint = format!("at most {MAX_BACKENDS}");
            report.error::<()>(Kind::TooManyBackends, list, message, hint);
        }
        let mut lines = ByAddress::default();
        let mut read = Vec::with_capacity(entries.len().min(MAX_BACKENDS));
        for (index, item) in entries.take(MAX_BACKENDS).enumerate() {
            read.extend(backend(&item, index, &mut lines, report));
        }
        Some(Self { list, read })
    }

    /// Refuses backends that are VIPs (`vips` has the lines of their services): packets to one
    /// would come back, or be balanced again.
    pub(super) fn check_loops(&self, vips: &ByAddress<u32>, report: &mut Report<'_>) {
        for read in &self.read {
            if let Some((message, hint)) = loops(read.backend.address, vips) {
                self.error(Kind::BackendIsVip, read, message, hint, report);
            }
        }
    }

    /// Refuses backends whose address family the forwarding mode cannot carry.
    pub(super) fn check_families(
        &self,
        vip: IpAddr,
        forward: ForwardMode,
        report: &mut Report<'_>,
    ) {
        for read in &self.read {
            if let Some((message, hint)) = family_mix(read.backend.address, vip, forward) {
                self.error(Kind::FamilyMix, read, message, hint, report);
            }
        }
    }

    /// Warns of weights that are probably unintended.
    pub(super) fn check_weights(&self, report: &mut Report<'_>) {
        let n_weights = self.read.iter().filter(|read| read.has_weight).count();
        if self.read.is_empty() {
            let hint = "when_empty decides about new flows";
            report.warning(WarningKind::NoBackends, self.list, "there are no backends", hint);
        } else if self.read.iter().all(|read| read.backend.weight == 0) {
            let hint = "no backend takes new flows; give one a weight above 0";
            report.warning(WarningKind::AllWeightsZero, self.list, "all weights are 0", hint);
        } else if n_weights != 0 && n_weights != self.read.len() {
            let message = "some backends have a weight and some don't";
            let hint = "those without have weight 1; write it if that is intended";
            report.warning(WarningKind::SomeWeights, self.list, message, hint);
        }
    }

    /// The backends, in file order.
    pub(super) fn into_vec(self) -> Vec<Backend> {
        self.read.into_iter().map(|read| read.backend).collect()
    }

    fn error(
        &self,
        kind: Kind,
        read: &Read,
        message: String,
        hint: impl Into<String>,
        report: &mut Report<'_>,
    ) {
        let item = Path::Index(&self.list.path, read.index);
        let path = Path::Key(&item, "address");
        report.error_at::<()>(kind, read.address_at, &path, message, hint);
    }
}

/// What is wrong with a backend's address and what to do, if it is a VIP.
fn loops(address: IpAddr, vips: &ByAddress<u32>) -> Option<(String, String)> {
    let line = vips.get(&address)?;
    let message = format!("{address} is a VIP itself: packets would loop");
    let hint = format!("write the real server's own address; the VIP's service is in line {line}");
    Some((message, hint))
}

/// The same, if it is of a family that the forwarding mode cannot carry.
fn family_mix(
    address: IpAddr,
    vip: IpAddr,
    forward: ForwardMode,
) -> Option<(String, &'static str)> {
    if forward.mixes_families() || address.is_ipv4() == vip.is_ipv4() {
        return None;
    }
    let message = format!("forward: direct cannot send packets for {vip} to {address}");
    Some((message, "write the backend's address of the VIP's family, or use forward: tunnel"))
}

/// The backend that gets new flows while no other can.
pub(super) struct Sorry<'a> {
    backend: Backend,
    address_item: Item<'a>,
}

impl<'a> Sorry<'a> {
    /// Reads it, and checks it by itself.
    pub(super) fn read(item: &'a Item<'a>, report: &mut Report<'_>) -> Option<Sorry<'a>> {
        let mapping = Mapping::open(item, "the sorry backend", &SORRY, report)?;
        let address_item = mapping.require("address", "write `address:` and an IP address", report);
        let address = address_item.and_then(|item| scalar::address(&item, None, report));
        let mac = mapping.optional("mac", report, scalar::mac);
        let backend = Backend {
            address: address?,
            weight: 1,
            mac: mac?,
            availability: Availability::Available,
        };
        Some(Self { backend, address_item: address_item? })
    }

    /// Checks it against the VIPs and backends.
    pub(super) fn check(
        &self,
        vips: &ByAddress<u32>,
        backends: Option<&Backends<'_>>,
        vip: Option<IpAddr>,
        forward: Option<ForwardMode>,
        report: &mut Report<'_>,
    ) {
        let (address, item) = (self.backend.address, &self.address_item);
        if let Some((message, hint)) = loops(address, vips) {
            report.error::<()>(Kind::BackendIsVip, item, message, hint);
        }
        if let (Some(vip), Some(forward)) = (vip, forward)
            && let Some((message, hint)) = family_mix(address, vip, forward)
        {
            report.error::<()>(Kind::FamilyMix, item, message, hint);
        }
        let mut others = backends.into_iter().flat_map(|backends| &backends.read);
        if let Some(same) = others.find(|read| read.backend.address == address) {
            let message = format!("{address} is among the backends");
            let line = same.address_at.line;
            let hint =
                format!("write another real server's address; the backend is in line {line}");
            report.error::<()>(Kind::DuplicateBackend, item, message, hint);
        }
    }

    /// The backend.
    pub(super) fn into_backend(self) -> Backend {
        self.backend
    }
}

/// One backend. `lines` has the earlier addresses of its list.
fn backend(
    item: &Item<'_>,
    index: usize,
    lines: &mut ByAddress<u32>,
    report: &mut Report<'_>,
) -> Option<Read> {
    let mapping = Mapping::open(item, "a backend", &BACKEND, report)?;
    let address_item = mapping.require("address", "write `address:` and an IP address", report);
    let address = address_item.and_then(|item| {
        let address = scalar::address(&item, None, report)?;
        if let Some(line) = lines.get(&address) {
            let message = format!("the backend {address} is here twice");
            let hint = format!("remove one, or give it more weight; the first is in line {line}");
            return report.error(Kind::DuplicateBackend, &item, message, hint);
        }
        lines.insert(address, item.node.at.line);
        Some(address)
    });
    let weight_item = mapping.get("weight");
    let weight = match &weight_item {
        Some(item) => scalar::weight(item, report),
        None => Some(1),
    };
    let mac = match mapping.get("mac") {
        Some(item) => scalar::mac(&item, report).map(Some),
        None => Some(None),
    };
    Some(Read {
        backend: Backend {
            address: address?,
            weight: weight?,
            mac: mac?,
            availability: Availability::Available,
        },
        has_weight: weight_item.is_some(),
        index,
        address_at: address_item?.node.at,
    })
}
