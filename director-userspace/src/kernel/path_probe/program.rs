//! The programs and their maps, in the kernel.

use std::{collections::HashMap, net::IpAddr, os::fd::AsFd as _};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap as BpfHashMap, MapData},
    programs::{ProgramFd, SchedClassifier},
};
use director_common::{
    address::Address,
    probe::{EGRESS, EXCHANGES, INGRESS, MARK_RANGE, PROBED_VIPS, PROBES, Probe, SENT, flag},
    service::{VIP_FILTER_WORDS, vip_bit},
};

use super::{PathProbe, PathProbeError, error::refused};
use crate::kernel::net::Side;

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/path_probe.o"));

/// Exchanges that are tracked: the number per probe, and bounds for all.
const EXCHANGES_PER_PROBE: usize = 16;
const EXCHANGES_AT_LEAST: usize = 4096;
const EXCHANGES_AT_MOST: usize = 1 << 18;

/// A [`Probe`] for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(Probe);

// SAFETY: repr(C) of integers and their arrays, without padding: its size is asserted.
unsafe impl Pod for Entry {}

/// Loaded programs, with the maps that userspace writes.
pub(super) struct Programs {
    /// Holds the rest of the object.
    _ebpf: Ebpf,
    fds: [ProgramFd; 2],
    ids: [u32; 2],
    probes: BpfHashMap<MapData, u32, Entry>,
    vips: Array<MapData, u64>,
    sent: Array<MapData, u64>,
    /// What is in `vips`.
    filter: Vec<u64>,
    exchanges: usize,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl Programs {
    /// Loads them for this range of marks, with room for the exchanges of `probes` probes and more.
    ///
    /// # Errors
    ///
    /// [`PathProbeError::Bpf`] with what the kernel refuses.
    pub(super) fn load(range: u16, probes: usize) -> Result<Self, PathProbeError> {
        let exchanges = exchanges(probes * 4);
        let mut ebpf = EbpfLoader::new()
            // The programs read no kernel structure; reading the kernel's types would take longest.
            .btf(None)
            .override_global(MARK_RANGE, &u32::from(range), true)
            .map_max_entries(EXCHANGES, exchanges as u32)
            .load(OBJECT)
            .map_err(|error| refused("create the maps of path probes", &error))?;
        // In the order of `Side::ALL`.
        let mut verified = Vec::new();
        for name in [INGRESS, EGRESS] {
            verified.push(verify(&mut ebpf, name)?);
        }
        let Ok([(ingress, ingress_id), (egress, egress_id)]) =
            <[(ProgramFd, u32); 2]>::try_from(verified)
        else {
            return Err(missing(EGRESS));
        };
        let mut map = |name| ebpf.take_map(name).ok_or_else(|| missing(name));
        let (probes, vips, sent) = (map(PROBES)?, map(PROBED_VIPS)?, map(SENT)?);
        let failed = |error| refused("open the maps of path probes", &error);
        Ok(Self {
            fds: [ingress, egress],
            ids: [ingress_id, egress_id],
            probes: probes.try_into().map_err(failed)?,
            vips: vips.try_into().map_err(failed)?,
            sent: sent.try_into().map_err(failed)?,
            filter: vec![0; VIP_FILTER_WORDS as usize],
            exchanges,
            _ebpf: ebpf,
        })
    }

    /// Whether there is room for the exchanges of `probes` probes.
    pub(super) fn suffice(&self, probes: usize) -> bool {
        exchanges(probes) <= self.exchanges
    }

    /// The program for a side, and its id.
    pub(super) fn of(&self, side: Side) -> (std::os::fd::BorrowedFd<'_>, u32) {
        let at = usize::from(side == Side::Egress);
        (self.fds[at].as_fd(), self.ids[at])
    }

    /// Brings the maps to these numbers: `added` are not in them yet, `removed` are.
    ///
    /// # Errors
    ///
    /// [`PathProbeError::Bpf`] if one cannot be written: their contents are then unknown.
    pub(super) fn write<'a>(
        &mut self,
        added: impl IntoIterator<Item = (u32, &'a PathProbe)>,
        removed: &[u32],
        all: &HashMap<PathProbe, u32>,
    ) -> Result<(), PathProbeError> {
        let failed = |error| refused("write the maps of path probes", &error);
        let filter = filter_of(all.keys().map(|probe| probe.vip));
        let words = |old: &[u64], both: bool| {
            let word = |(at, (old, new)): (usize, (&u64, &u64))| {
                let wanted = if both { old | new } else { *new };
                (wanted != *old).then_some((at as u32, wanted))
            };
            old.iter().zip(&filter).enumerate().filter_map(word).collect::<Vec<_>>()
        };
        // Replies are matched from before the first can arrive until after the last.
        for (at, word) in words(&self.filter, true) {
            self.vips.set(at, word, 0).map_err(failed)?;
            self.filter[at as usize] = word;
        }
        for (number, probe) in added {
            self.sent.set(number, 0, 0).map_err(failed)?;
            self.probes.insert(number, Entry(entry(probe)), 0).map_err(failed)?;
        }
        for number in removed {
            self.probes.remove(number).map_err(failed)?;
        }
        for (at, word) in words(&self.filter, false) {
            self.vips.set(at, word, 0).map_err(failed)?;
            self.filter[at as usize] = word;
        }
        Ok(())
    }

    /// Packets that were sent on a probe's path.
    pub(super) fn sent(&self, number: u32) -> Result<u64, PathProbeError> {
        self.sent.get(&number, 0).map_err(|error| refused("read the maps of path probes", &error))
    }
}

/// How many exchanges to track.
fn exchanges(probes: usize) -> usize {
    let wanted = (probes * EXCHANGES_PER_PROBE).next_power_of_two();
    wanted.clamp(EXCHANGES_AT_LEAST, EXCHANGES_AT_MOST)
}

/// The words in which the bits of these VIPs are set.
fn filter_of(vips: impl Iterator<Item = IpAddr>) -> Vec<u64> {
    let mut words = vec![0; VIP_FILTER_WORDS as usize];
    for vip in vips {
        let (word, bit) = vip_bit(vip.into(), vip.is_ipv6());
        words[word as usize] |= 1 << bit;
    }
    words
}

/// The map's value for a probe.
fn entry(probe: &PathProbe) -> Probe {
    let or_zero = |address: Option<IpAddr>| address.map_or_else(Address::default, Address::from);
    let mut mac = [0; 8];
    if let Some(fixed) = probe.mac {
        mac[..6].copy_from_slice(&fixed.0);
    }
    let flags = [
        (probe.vip.is_ipv6(), flag::VIP_V6),
        (probe.backend.is_ipv6(), flag::BACKEND_V6),
        (probe.forward.encapsulates(), flag::TUNNEL),
        (probe.from.is_some(), flag::FROM),
        (probe.mac.is_some(), flag::MAC),
    ];
    Probe {
        backend: probe.backend.into(),
        vip: probe.vip.into(),
        from: or_zero(probe.from),
        source: or_zero(probe.source),
        mac,
        flags: flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag),
        _pad: 0,
    }
}

/// Verifies a program.
fn verify(ebpf: &mut Ebpf, name: &'static str) -> Result<(ProgramFd, u32), PathProbeError> {
    let failed = |error: aya::programs::ProgramError| {
        refused("load the programs for path probes (CAP_BPF, CAP_NET_ADMIN)", &error)
    };
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let id = program.info().map_err(failed)?.id();
    let fd = program.fd().map_err(failed)?.try_clone();
    Ok((fd.map_err(|error| refused("hold the programs for path probes", &error))?, id))
}

fn missing(name: &str) -> PathProbeError {
    let error = std::io::Error::other("this director was built wrongly");
    refused(&format!("find {name} in the compiled programs"), &error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::model::{ForwardMode, MacAddr};

    #[test]
    fn an_entry_encodes_its_probe() {
        let probe = PathProbe {
            vip: "192.0.2.1".parse().expect("an address"),
            backend: "2001:db8::1".parse().expect("an address"),
            forward: ForwardMode::Tunnel,
            source: Some("2001:db8::2".parse().expect("an address")),
            from: Some("10.0.0.1".parse().expect("an address")),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        };
        let all = flag::BACKEND_V6 | flag::TUNNEL | flag::FROM | flag::MAC;
        let entry = entry(&probe);
        assert_eq!(entry.flags, all);
        assert_eq!(entry.mac, [2, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(entry.from.v4_bytes(), [10, 0, 0, 1]);
        assert_eq!(entry.source, Address::from(probe.source.expect("given")));
    }

    #[test]
    fn vips_share_words_and_keep_their_bits() {
        let vips: Vec<IpAddr> =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|v| v.parse().expect(v)).into();
        let filter = filter_of(vips.iter().copied());
        for vip in vips {
            let (word, bit) = vip_bit(vip.into(), vip.is_ipv6());
            assert_eq!(filter[word as usize] >> bit & 1, 1, "{vip}");
        }
        assert!(filter.iter().map(|word| word.count_ones()).sum::<u32>() <= 3);
    }

    #[test]
    fn exchanges_grow_in_steps_with_the_probes() {
        assert_eq!(exchanges(0), EXCHANGES_AT_LEAST);
        assert_eq!(exchanges(2000), 32_768);
        assert_eq!(exchanges(1 << 20), EXCHANGES_AT_MOST);
    }
}
