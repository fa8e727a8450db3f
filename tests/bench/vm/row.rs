//! Measurements in a machine, and the line that reports them to the host.

use serde::{Deserialize, Serialize};

/// Begins a line of the console that is a [`Report`].
const MARK: &str = "@@bench ";

/// Backends of the service.
pub(crate) const N_BACKENDS: usize = 3;

/// The program that forwards the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarder {
    /// An XDP program that drops them: the cost of generating and receiving.
    Drop,
    /// An XDP program that sends them back unchanged.
    Tx,
    /// The kernel's load balancer.
    Ipvs(Mode),
    /// A DNAT rule with a map of backends.
    Nftables,
    /// This project's load balancer.
    Director(Mode),
}

/// The forwarding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With other MAC addresses.
    Direct,
    /// In another IP header.
    Tunnel,
    /// With another destination address.
    Nat,
}

/// IPv4 or IPv6; of a tunnel, both headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The flows of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// 64 tracked flows in turn: 64 source ports of one address.
    Known,
    /// Every packet opens a new flow: IPv4 source addresses, or IPv6 source ports, are counted up
    /// from the start of a range that no other run has used. Counted, not random: that costs less
    /// and no flow is repeated.
    New,
}

/// What carries packets from the generator to the forwarder and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wire {
    /// A veth pair: frames arrive as socket buffers, and are converted for XDP.
    Veth,
    /// Two virtio-net devices on one QEMU hub.
    VirtioNet,
}

impl Forwarder {
    /// `program` and `mode` of a measurement.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Drop => ("floor-drop", "drop"),
            Self::Tx => ("floor", "tx"),
            Self::Ipvs(mode) => ("ipvs", mode.name()),
            Self::Nftables => ("nftables", Mode::Nat.name()),
            Self::Director(mode) => ("director", mode.name()),
        }
    }

    /// How it changes packets, if it does.
    pub(crate) fn mode(self) -> Option<Mode> {
        match self {
            Self::Ipvs(mode) | Self::Director(mode) => Some(mode),
            Self::Nftables => Some(Mode::Nat),
            Self::Drop | Self::Tx => None,
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
            Self::Nat => "nat",
        }
    }
}

impl Family {
    /// The name in measurements.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// Bytes of the header that a tunnel adds.
    pub(crate) fn header_len(self) -> u64 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

impl Workload {
    /// Both, in the order in which they are run.
    pub(crate) const ALL: [Self; 2] = [Self::Known, Self::New];

    /// The name in measurements.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "new",
        }
    }
}

impl Wire {
    /// The name in measurements.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::VirtioNet => "virtio-net",
        }
    }
}

/// A message of a machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// The next step.
    Progress(String),
    /// What could not be measured, and why.
    Cannot(String),
    /// A measured row.
    Row(Row),
}

/// One figure, in instructions per packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// See [`Forwarder::names`].
    pub(crate) program: String,
    /// See [`Forwarder::names`].
    pub(crate) mode: String,
    /// See [`Family`].
    pub(crate) family: String,
    /// See [`Workload`].
    pub(crate) workload: String,
    /// See [`Wire`].
    pub(crate) wire: Wire,
    /// Different flows of one run; 0 if every packet is a new one.
    pub(crate) flows: u64,
    /// Bytes of the frames that are sent.
    pub(crate) size: u32,
    /// One sample of each run.
    pub(crate) samples: Vec<f64>,
    /// `uname -r`.
    pub(crate) kernel: String,
}

impl Report {
    /// Prints it for the host.
    pub(crate) fn print(&self) {
        println!("{}", self.line());
    }

    fn line(&self) -> String {
        // Strings and numbers always have a JSON form.
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a line of the console; none if it is the kernel's or a program's.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (_, json) = line.split_once(MARK)?;
        serde_json::from_str(json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let row = Row {
            program: "ipvs".to_owned(),
            mode: "nat".to_owned(),
            family: "v4".to_owned(),
            workload: "new".to_owned(),
            wire: Wire::VirtioNet,
            flows: 0,
            size: 64,
            samples: vec![1.5, 2.0],
            kernel: "6.1.0".to_owned(),
        };
        let line = Report::Row(row.clone()).line();
        // The kernel may have started a line before.
        let read = Report::read(&format!("[    1.0] {line}"));
        assert!(matches!(read, Some(Report::Row(read)) if read == row));
        assert!(Report::read("insmod: something").is_none());
    }
}
