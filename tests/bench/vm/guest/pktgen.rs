//! The kernel's packet generator, and the check that its packets came back.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    super::row::{Family, Workload},
    wire::{FORWARDER_MAC, GENERATOR, GENERATOR_MAC},
};

/// Flows of [`Workload::Known`].
pub(super) const KNOWN_FLOWS: u16 = 64;
/// The VIP, by family.
pub(super) const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// The service's port.
pub(super) const PORT: u16 = 80;
const FIRST_PORT: u16 = 1024;
/// Maximum packets of one run: the number of ports for new flows of IPv6.
pub(super) const MAX_PACKETS: u32 = 60_000;
const ETHERNET_LEN: u64 = 14;
/// Other frames that may arrive meanwhile: neighbour discovery and the like.
const STRAY_FRAMES: u64 = 8;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) family: Family,
    pub(super) workload: Workload,
    /// Which range of sources new flows are from; a run with the same number repeats the flows.
    pub(super) range: u8,
    pub(super) packets: u32,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// From the first packet to the last, in instructions per packet.
    pub(super) per_packet: f64,
    /// Frames that came back.
    pub(super) returned: u64,
    /// Their average length in bytes.
    pub(super) returned_len: f64,
}

/// Bytes of a frame, without its checksum: for IPv6 the minimum of pktgen.
pub(super) fn frame_len(family: Family) -> u32 {
    match family {
        Family::V4 => 64,
        Family::V6 => 78,
    }
}

/// Sends, and waits until all packets have been processed.
pub(super) fn run(load: &Load) -> Result<Outcome> {
    write("kpktgend_0", "rem_device_all")?;
    write("kpktgend_0", &format!("add_device {GENERATOR}"))?;
    for command in settings(load) {
        write(GENERATOR, &command)?;
    }
    let (before_packets, before_bytes) = received()?;
    write("pgctrl", "start")?;
    let text = read(GENERATOR)?;
    let Some((elapsed_us, sent)) = result(&text) else {
        bail!("pktgen did not send: {text}");
    };
    if sent != u64::from(load.packets) {
        bail!("pktgen sent {sent} of {} packets: {text}", load.packets);
    }
    // The last ones may still be in flight.
    thread::sleep(Duration::from_millis(20));
    let (packets, bytes) = received()?;
    let (returned, bytes) = (packets - before_packets, bytes - before_bytes);
    Ok(Outcome {
        per_packet: elapsed_us as f64 * 1_000.0 / sent as f64,
        returned,
        returned_len: bytes as f64 / returned.max(1) as f64,
    })
}

impl Outcome {
    /// Fails unless as many frames came back as were sent, with the expected length.
    pub(super) fn expect(&self, n_frames: u64, len: u64) -> Result<()> {
        if !(n_frames..=n_frames + STRAY_FRAMES).contains(&self.returned) {
            bail!("{} frames came back, not {n_frames}", self.returned);
        }
        // Stray frames move the average a little. Frames that the kernel sends over veth are
        // counted without their Ethernet header.
        let is = |len: u64| (self.returned_len - len as f64).abs() < 1.0;
        if n_frames > 0 && !is(len) && !is(len - ETHERNET_LEN) {
            bail!("frames of {} bytes came back, not of {len}", self.returned_len);
        }
        Ok(())
    }
}

fn settings(load: &Load) -> Vec<String> {
    let Load { family, workload, range, packets } = *load;
    let mut settings = vec![
        format!("count {packets}"),
        "clone_skb 0".to_owned(),
        "delay 0".to_owned(),
        // A clock reading per packet would be part of every figure.
        "flag NO_TIMESTAMP".to_owned(),
        format!("pkt_size {}", frame_len(family)),
        format!("dst_mac {FORWARDER_MAC}"),
        format!("src_mac {GENERATOR_MAC}"),
        format!("udp_dst_min {PORT}"),
        format!("udp_dst_max {PORT}"),
    ];
    let known_ports = (FIRST_PORT, FIRST_PORT + KNOWN_FLOWS - 1);
    let (first_port, last_port) = match (family, workload) {
        (_, Workload::Known) => known_ports,
        (Family::V4, Workload::New) => (FIRST_PORT, FIRST_PORT),
        (Family::V6, Workload::New) => (FIRST_PORT, u16::MAX),
    };
    settings.push(format!("udp_src_min {first_port}"));
    settings.push(format!("udp_src_max {last_port}"));
    match (family, workload) {
        (Family::V4, Workload::Known) => {
            settings.push("src_min 10.1.0.1".to_owned());
            settings.push("src_max 10.1.0.1".to_owned());
        }
        (Family::V4, Workload::New) => {
            settings.push(format!("src_min 11.{range}.0.0"));
            settings.push(format!("src_max 11.{range}.255.255"));
        }
        (Family::V6, Workload::Known) => settings.push("src6 2001:db8:c::1".to_owned()),
        (Family::V6, Workload::New) => settings.push(format!("src6 2001:db8:d::{range:x}")),
    }
    settings.push(match family {
        Family::V4 => format!("dst {}", VIPS[0]),
        Family::V6 => format!("dst6 {}", VIPS[1]),
    });
    settings
}

/// What the generator's device received, in packets and bytes.
fn received() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/net/dev").context("cannot read /proc/net/dev")?;
    let counters = text.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == GENERATOR).then_some(counters)
    });
    let mut counters = counters.unwrap_or_default().split_ascii_whitespace();
    let mut next = || counters.next()?.parse::<u64>().ok();
    match (next(), next()) {
        (Some(bytes), Some(packets)) => Ok((packets, bytes)),
        _ => bail!("no counters of {GENERATOR} in /proc/net/dev"),
    }
}

/// Microseconds and packets, from `Result: OK: 1234(c1200+d34) usec, 1000 (64byte,0frags)`.
fn result(text: &str) -> Option<(u64, u64)> {
    let (_, result) = text.split_once("Result: OK: ")?;
    let (elapsed, rest) = result.split_once('(')?;
    let (_, rest) = rest.split_once("usec, ")?;
    let (packets, _) = rest.split_once(' ')?;
    Some((elapsed.parse().ok()?, packets.parse().ok()?))
}

fn write(file: &str, command: &str) -> Result<()> {
    // pktgen removes the last character of the last word as the end of the line.
    fs::write(format!("/proc/net/pktgen/{file}"), format!("{command}\n"))
        .with_context(|| format!("pktgen refuses `{command}`"))
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/net/pktgen/{file}")).context("cannot read pktgen's result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_parsed() {
        let text = "Current:\n     pkts-sofar: 20000  errors: 0\n\
                    Result: OK: 80123(c80001+d122) usec, 20000 (64byte,0frags)\n  249616pps";
        assert_eq!(result(text), Some((80_123, 20_000)));
        assert_eq!(result("Result: Idle"), None);
    }

    #[test]
    fn lost_frames_and_wrong_lengths_have_no_figure() {
        let outcome = |returned, returned_len| Outcome { per_packet: 1.0, returned, returned_len };
        assert!(outcome(1_000, 84.0).expect(1_000, 84).is_ok());
        // A stray frame, and the kernel's count over veth.
        assert!(outcome(1_001, 84.01).expect(1_000, 84).is_ok());
        assert!(outcome(1_000, 70.0).expect(1_000, 84).is_ok());
        assert!(outcome(999, 84.0).expect(1_000, 84).is_err());
        assert!(outcome(2_000, 84.0).expect(1_000, 84).is_err());
        assert!(outcome(1_000, 64.0).expect(1_000, 84).is_err());
        assert!(outcome(1_000, 64.0).expect(0, 64).is_err());
    }

    #[test]
    fn ranges_of_new_flows_are_disjoint() {
        let of = |range| {
            let load =
                Load { family: Family::V4, workload: Workload::New, range, packets: MAX_PACKETS };
            settings(&load).into_iter().find(|line| line.starts_with("src_min")).unwrap()
        };
        assert_ne!(of(1), of(2));
        const { assert!(MAX_PACKETS <= (u16::MAX - FIRST_PORT) as u32) };
    }
}
