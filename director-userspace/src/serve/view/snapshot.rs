//! A snapshot of everything that is shown.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use director_common::{backend::BackendRef, tunables::HEARTBEAT_STALE_NS, verdict::Verdict};

use super::{
    service::{BackendView, ServiceView, per_second, services},
    status::{ServiceStatus, Status},
};
use crate::kernel::datapath::{self, Datapath, DatapathError, Instance};

/// The state of a director at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: Instant,
    /// The same, milliseconds since 1970.
    pub at_ms: u64,
    /// The instance of this host.
    pub instance: String,
    /// Age of the daemon's heartbeat, milliseconds; `None` if it was never written, or cleared.
    pub heartbeat_age_ms: Option<u64>,
    /// Interfaces that the program is attached to.
    pub interfaces: Vec<InterfaceView>,
    /// Packets by verdict; every verdict is present.
    pub verdicts: Vec<VerdictView>,
    /// Flows that the flow table is sized for.
    pub flow_capacity: u64,
    /// Established flows in it.
    pub established: u64,
    /// The share of it that was read to count them, 1 for all of it.
    pub counted: f64,
    /// Services, by name.
    pub services: Vec<ServiceView>,
    /// The daemon's status; `None` without one.
    pub status: Option<Arc<Status>>,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceView {
    /// Its name when the program was attached.
    pub name: String,
    /// Its index then.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: &'static str,
}

/// How many packets had a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerdictView {
    /// The verdict, with its reason.
    pub verdict: Verdict,
    /// Packets, since the maps were created.
    pub packets: u64,
    /// The same per second; `None` after a single reading.
    pub rate: Option<f64>,
}

impl Snapshot {
    /// Whether a daemon keeps next hops fresh.
    pub fn has_daemon(&self) -> bool {
        self.heartbeat_age_ms.is_some_and(|age| age < HEARTBEAT_STALE_NS / 1_000_000)
    }

    /// Packets whose verdict matches `of`.
    pub fn packets(&self, of: fn(Verdict) -> bool) -> u64 {
        self.verdicts.iter().filter(|view| of(view.verdict)).map(|view| view.packets).sum()
    }

    /// The same per second.
    pub fn packet_rate(&self, of: fn(Verdict) -> bool) -> Option<f64> {
        self.verdicts.iter().filter(|view| of(view.verdict)).map(|view| view.rate).sum()
    }

    /// Adds the daemon's status.
    #[must_use]
    pub fn with(mut self, status: Option<Arc<Status>>) -> Self {
        if let Some(status) = &status {
            let of: HashMap<&str, &ServiceStatus> =
                status.services.iter().map(|service| (&*service.frontend, service)).collect();
            for service in &mut self.services {
                if let Some(status) = of.get(&*service.frontend) {
                    service.add(status);
                }
            }
        }
        self.status = status;
        self
    }

    /// Computes the rates since an earlier snapshot.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        let elapsed = self.taken.saturating_duration_since(earlier.taken);
        let before: HashMap<u32, u64> =
            earlier.verdicts.iter().map(|view| (view.verdict.code(), view.packets)).collect();
        for view in &mut self.verdicts {
            let before = before.get(&view.verdict.code()).copied().unwrap_or_default();
            view.rate = Some(per_second(view.packets, before, elapsed));
        }
        let before: HashMap<&str, &ServiceView> =
            earlier.services.iter().map(|service| (&*service.frontend, service)).collect();
        for service in &mut self.services {
            // The counters of a new service began at zero.
            let before = before.get(&*service.frontend);
            let (traffic, dropped) =
                before.map_or_else(Default::default, |service| (service.traffic, service.dropped));
            service.rate = Some(service.traffic.rate_since(traffic, elapsed));
            service.dropped_rate = Some(per_second(service.dropped, dropped, elapsed));
            let before: HashMap<BackendRef, &BackendView> = before
                .iter()
                .flat_map(|service| &service.backends)
                .map(|backend| (backend.reference, backend))
                .collect();
            for backend in &mut service.backends {
                let traffic = before.get(&backend.reference).map(|backend| backend.traffic);
                let traffic = traffic.unwrap_or_default();
                backend.rate = Some(backend.traffic.rate_since(traffic, elapsed));
            }
        }
        self
    }
}

/// Reads an instance's maps, repeatedly.
pub struct Reader {
    instance: Instance,
    open: Option<(Datapath, Pins)>,
}

/// The pins' inodes, by which replaced maps are detected.
type Pins = Vec<(String, u64)>;

impl Reader {
    /// A reader of this instance; nothing is opened yet.
    pub fn new(instance: &Instance) -> Self {
        Self { instance: instance.clone(), open: None }
    }

    /// Opens the currently pinned maps, unless they are open already.
    ///
    /// # Errors
    ///
    /// If nothing is attached, or the maps cannot be opened.
    pub fn datapath(&mut self) -> Result<&Datapath, DatapathError> {
        let pins = self.pins();
        // They are replaced when they grow, and by a detach and a new start.
        if let Some((_, opened)) = &self.open
            && *opened != pins
        {
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some((Datapath::open(&self.instance)?, pins));
        }
        let open = self.open.as_ref();
        open.map(|(datapath, _)| datapath)
            .ok_or_else(|| DatapathError::NotAttached(self.instance.name().into()))
    }

    /// Reads everything. Takes negligible time for a small configuration, and some milliseconds for
    /// thousands of backends: not for a thread that must not block.
    ///
    /// # Errors
    ///
    /// If nothing is attached, or the maps cannot be read.
    pub fn read(&mut self) -> Result<Snapshot, DatapathError> {
        let instance = self.instance.clone();
        let datapath = self.datapath()?;
        let observed = datapath::observe(&datapath.tables);
        let counters = datapath::counters(&datapath.tables, &observed)?;
        let census = datapath::census(&datapath.tables);
        let services = services(&observed, &counters, &census);
        let interfaces = datapath::attached(&instance)?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let verdicts = counters.verdicts.iter();
        Ok(Snapshot {
            taken: Instant::now(),
            at_ms: at.map_or(0, |at| at.as_millis() as u64),
            instance: instance.name().into(),
            heartbeat_age_ms: datapath.heartbeat_age_ns().map(|age| age / 1_000_000),
            interfaces: interfaces
                .into_iter()
                .map(|pin| InterfaceView {
                    name: pin.interface,
                    index: pin.ifindex,
                    mode: pin.mode.as_str(),
                })
                .collect(),
            verdicts: verdicts
                .map(|(verdict, packets)| VerdictView {
                    verdict: *verdict,
                    packets: *packets,
                    rate: None,
                })
                .collect(),
            flow_capacity: datapath.tables.flow_capacity(),
            established: services.iter().map(|service| service.established).sum(),
            counted: census.share(),
            services,
            status: None,
        })
    }

    fn pins(&self) -> Pins {
        let mut pins = Vec::new();
        for directory in ["maps", "larger"] {
            // A missing directory is reported when the maps are opened.
            let Ok(entries) = fs::read_dir(self.instance.pins().join(directory)) else { continue };
            pins.extend(entries.filter_map(Result::ok).filter_map(|entry| {
                let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
                Some((name, entry.metadata().ok()?.ino()))
            }));
        }
        pins.sort();
        pins
    }
}
