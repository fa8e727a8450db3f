//! The real program run over frames: maps of its own, nothing pinned, no interface.

use aya::Ebpf;
use director_common::{
    abi::map,
    decision::{Connection, Decision},
    interface::Interface,
    tunables::Tunables,
    verdict::{PassReason, Verdict},
    wire::ethernet::mac_to_u64,
};

use super::{
    DatapathError, Standalone, Tables, load,
    mmap::MappedArray,
    standalone::Programs,
    test_run::{MIN_FRAME, test_run},
};
use crate::policy::{
    config::model::Config,
    plan::{Desired, diff},
};

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its verdict.
    pub verdict: Verdict,
    /// Slot of its service.
    pub service: Option<u32>,
    /// Slot of the backend it was sent to.
    pub backend: Option<u32>,
    /// Whether its flow was tracked.
    pub connection: Connection,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// The program, and maps that only it uses.
pub struct Simulation {
    ebpf: Ebpf,
    /// The maps.
    pub tables: Tables,
    decision: MappedArray<[u64; 2]>,
    frames: u64,
    /// Bytes of metadata in front of frames, which reduce their headroom.
    metadata: u32,
    #[cfg(feature = "verbose")]
    log: Option<super::verbose::Lines>,
}

// SAFETY: sixteen bytes, as Decision is; read as words and taken apart by `decision`.
unsafe impl super::mmap::Shared for [u64; 2] {}
const _: () = assert!(size_of::<Decision>() == 16);

impl Simulation {
    /// Loads the program and fills its maps from `desired`. Frames come from interface slot 1.
    ///
    /// # Errors
    ///
    /// What the kernel refuses: needs the privilege to load BPF programs.
    pub fn new(config: &Config, desired: &Desired) -> Result<Self, DatapathError> {
        let Standalone { mut ebpf, tables } =
            Standalone::load(Programs::own(), config, desired, None)?;
        let decision = load::take_map(&mut ebpf, map::DECISION)?;
        let decision = MappedArray::new(super::tables::Fd(&decision), 1)
            .map_err(|error| DatapathError::Mmap { name: map::DECISION, error })?;
        for slot in 1..=15 {
            let mac = mac_to_u64([2, 0, 0, 0, 0, slot as u8]);
            let macs = [mac, 0, 0, 0, 0, 0, 0];
            tables.interfaces.set(slot, Interface { macs, ifindex: slot, _pad: 0 });
        }
        Ok(Self {
            #[cfg(feature = "verbose")]
            log: super::verbose::Lines::of(&mut ebpf),
            ebpf,
            tables,
            decision,
            frames: 0,
            metadata: 0,
        })
    }

    /// What the program has logged since the last call: nothing without the feature `verbose`.
    pub fn log(&mut self) -> Vec<String> {
        #[cfg(feature = "verbose")]
        return self.log.as_mut().map(super::verbose::Lines::take).unwrap_or_default();
        #[cfg(not(feature = "verbose"))]
        Vec::new()
    }

    /// Brings the maps to `desired`, as a running director would.
    ///
    /// # Errors
    ///
    /// If a map is full or cannot be written.
    pub fn reconcile(&mut self, desired: &Desired, now_ns: u64) -> Result<(), DatapathError> {
        let plan = diff(&super::observe(&self.tables), desired, now_ns)?;
        super::apply(&mut self.tables, &plan.ops)
    }

    /// Takes this many bytes, a multiple of four, of the 216 in front of a frame, as a driver with
    /// less headroom does. Linux before 6.8 accepts at most 32.
    pub fn take_headroom(&mut self, bytes: u8) {
        self.metadata = u32::from(bytes);
    }

    /// Runs the program over one frame, at `now_ns` of the simulated clock.
    ///
    /// # Errors
    ///
    /// [`DatapathError::FrameTooLong`], and what the kernel refuses.
    pub fn run(&mut self, frame: &[u8], now_ns: u64) -> Result<Outcome, DatapathError> {
        self.frames += 1;
        if frame.len() < MIN_FRAME {
            // No driver passes up less than an Ethernet header; the program returns the same.
            return Ok(Outcome {
                verdict: Verdict::Pass(PassReason::Truncated),
                service: None,
                backend: None,
                connection: Connection::None,
                frame: frame.to_vec(),
            });
        }
        let at = std::mem::offset_of!(Tunables, simulated_ns);
        self.tables.tunables.publish(0, at, now_ns);
        let (_, left) = test_run(&mut self.ebpf, frame, self.metadata as usize, self.frames)?;
        Ok(Outcome::of(self.decision.get(0), left))
    }
}

impl Outcome {
    /// The decision that the program recorded, and the frame as it left it.
    pub(super) fn of(words: [u64; 2], frame: Vec<u8>) -> Self {
        let decision = decision(words);
        let verdict =
            Verdict::from_code(decision.verdict).unwrap_or(Verdict::Pass(PassReason::Malformed));
        Self {
            verdict,
            service: decision.service.checked_sub(1),
            backend: Some(decision.backend.slot()).filter(|slot| *slot != 0),
            connection: Connection::from_u32(decision.connection),
            frame,
        }
    }
}

/// Splits the words of a [`Decision`].
fn decision(words: [u64; 2]) -> Decision {
    let [a, b] = words;
    Decision {
        verdict: a as u32,
        backend: director_common::backend::BackendRef((a >> 32) as u32),
        service: b as u32,
        connection: (b >> 32) as u32,
    }
}
