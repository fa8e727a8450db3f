//! One figure, with everything that it depends on.

use serde::{Deserialize, Serialize};

/// The part of the benchmark that a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// One packet's cost, by `BPF_PROG_TEST_RUN`.
    Packet,
    /// The same as tables grow, and their memory.
    Scale,
    /// The cost of changes.
    Control,
    /// Forwarding in virtual machines, beside the kernel's own.
    Vm,
}

impl Part {
    /// All, in the order in which they are run.
    pub(crate) const ALL: [Self; 4] = [Self::Packet, Self::Scale, Self::Control, Self::Vm];
}

/// One figure: a JSON object. What does not apply is empty or 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Where it comes from.
    pub(crate) part: Part,
    /// `floor`, `conventional`, `director`, `ipvs`, ..., or the name given with `--pinned`.
    pub(crate) program: String,
    /// The forwarding mode (`tunnel`, `direct`, `nat`, `pass`), or the operation.
    pub(crate) mode: String,
    /// `v4` or `v6`; of a tunnel, both headers.
    pub(crate) family: String,
    /// `known`: tracked flows. `new`: every packet opens a new flow. `nobody`: unmatched packets.
    /// Otherwise defined by the part.
    pub(crate) workload: String,
    /// What carries the packets in a virtual machine: `veth` or `virtio-net`.
    #[serde(default)]
    pub(crate) wire: String,
    /// Different flows; 0 if every packet is a new one. In workload `table` of part `scale`, the
    /// capacity of the flow table.
    pub(crate) flows: u64,
    /// Bytes of frame.
    pub(crate) size: u32,
    /// CPUs used at the same time.
    pub(crate) cpus: u32,
    /// Services in the tables.
    pub(crate) services: u32,
    /// Backends of each.
    pub(crate) backends: u32,
    /// What the figures count: `ns/packet`, `instructions/packet`, `ms`, `bytes`, ...
    pub(crate) unit: String,
    /// Median of the repeats.
    pub(crate) median: f64,
    /// Minimum of the repeats.
    pub(crate) min: f64,
    /// Maximum of the repeats.
    pub(crate) max: f64,
    /// The median less that of the floor in the same run; none where there is no floor.
    pub(crate) net: Option<f64>,
    /// How often it was measured.
    pub(crate) repeats: u32,
    /// `uname -r` of the kernel that ran it.
    pub(crate) kernel: String,
    /// The CPU's model name.
    pub(crate) cpu: String,
    /// The kernel's mitigations of CPU vulnerabilities.
    pub(crate) mitigations: String,
}

/// Median, minimum and maximum of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The one in the middle; the mean of the two in the middle of an even number.
    pub(crate) median: f64,
    /// The minimum.
    pub(crate) min: f64,
    /// The maximum.
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of at least one sample.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { median, min: first, max: last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]).median, 2.5);
    }
}
