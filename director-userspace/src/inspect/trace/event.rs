//! A traced packet: the program's record in readable form.

use std::net::{IpAddr, SocketAddr};

use director_common::{
    address::Address,
    backend::BackendRef,
    decision::{Connection, Decision},
    flow::{Family, FlowKey},
    trace::{MAX_SNAP, TraceRecord, TracedContent},
    verdict::{PassReason, Verdict},
    wire::{
        icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6},
        tcp::PROTOCOL_TCP,
        udp::PROTOCOL_UDP,
    },
};
use serde::Serialize;

use super::names::Names;

/// One traced packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, RFC 3339.
    pub time: String,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: &'static str,
    /// The reason's label, where there is one.
    pub reason: Option<&'static str>,
    /// `tcp`, `udp`, or the IP protocol's number; null if it was not parsed.
    pub protocol: Option<String>,
    /// The sender's address and port, if they were parsed.
    pub client: Option<String>,
    /// The destination's address and port.
    pub vip: Option<String>,
    /// TCP flags: `SA` for SYN and ACK.
    pub flags: Option<String>,
    /// `packet`, `icmp-error` (client and VIP are those of the flow that it quotes) or `fragment`.
    pub content: &'static str,
    /// Name of the service.
    pub service: Option<String>,
    /// Address of the backend.
    pub backend: Option<IpAddr>,
    /// `new`, `known` or `none`.
    pub connection: &'static str,
    /// Name of the ingress interface.
    pub interface: Option<String>,
    /// Bytes of the received frame.
    pub bytes: u32,
    /// Bytes of the sent frame; null if none was sent.
    pub bytes_out: Option<u32>,
    /// Nanoseconds since 1970.
    #[serde(skip)]
    pub unix_ns: u64,
    /// The received frame, or its start.
    #[serde(skip)]
    pub before: Vec<u8>,
    /// The sent frame, or its start.
    #[serde(skip)]
    pub after: Vec<u8>,
}

/// A reader of the fields of a record.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
}

/// The record at the start of `bytes`, field by field in the program's layout.
fn parse_record(bytes: &[u8]) -> Option<TraceRecord> {
    let mut fields = Fields(bytes);
    let time_ns = fields.u64()?;
    let source = Address { first: fields.u64()?, second: fields.u64()? };
    let destination = Address { first: fields.u64()?, second: fields.u64()? };
    let [source_port, destination_port] = [fields.take()?, fields.take()?];
    let [protocol, family] = fields.take()?;
    let flow = FlowKey {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        family,
        _pad: fields.take()?,
    };
    let decision = Decision {
        verdict: fields.u32()?,
        backend: BackendRef(fields.u32()?),
        service: fields.u32()?,
        connection: fields.u32()?,
    };
    Some(TraceRecord {
        time_ns,
        flow,
        decision,
        interface: fields.u32()?,
        content: fields.u32()?,
        before_length: fields.u32()?,
        before_copied: fields.u32()?,
        after_length: fields.u32()?,
        after_copied: fields.u32()?,
        tcp_flags: fields.u32()?,
        _pad: fields.u32()?,
    })
}

impl Event {
    /// Parses a record of the ring. `unix_ns` is the offset of CLOCK_REALTIME to CLOCK_MONOTONIC.
    /// `None` if it is not a valid record.
    pub fn read(bytes: &[u8], names: &Names, unix_ns: u64) -> Option<Self> {
        let record = parse_record(bytes)?;
        let frames = bytes.get(size_of::<TraceRecord>()..)?;
        let before = frames.get(..record.before_copied.min(MAX_SNAP) as usize)?;
        let after =
            frames.get(before.len()..)?.get(..record.after_copied.min(MAX_SNAP) as usize)?;
        let verdict = Verdict::from_code(record.decision.verdict)?;
        let unix_ns = unix_ns.wrapping_add(record.time_ns);
        let content = TracedContent::from_u32(record.content);
        let flow = record.flow;
        let family = match flow.family {
            4 => Some(Family::V4),
            6 => Some(Family::V6),
            _ => None,
        };
        // A packet that was passed before its addresses were parsed has none.
        let is_read = flow.source != Address::default() || flow.destination != Address::default();
        let family = family.filter(|_| is_read && content != TracedContent::Nothing);
        let has_ports = matches!(flow.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
            && content != TracedContent::Fragment
            && !matches!(
                verdict,
                Verdict::Pass(
                    PassReason::Truncated | PassReason::Malformed | PassReason::TooManyHeaders
                )
            );
        let end = |family: Family, address: Address, port: [u8; 2]| {
            let address = address.to_ip(family);
            if has_ports {
                SocketAddr::new(address, u16::from_be_bytes(port)).to_string()
            } else {
                address.to_string()
            }
        };
        let leaves = matches!(verdict, Verdict::Tx | Verdict::Redirect | Verdict::Reply(_));
        let flags = flow.protocol == PROTOCOL_TCP && content == TracedContent::Whole && has_ports;
        Some(Self {
            time: rfc3339(unix_ns),
            verdict: verdict.label(),
            reason: verdict.reason(),
            protocol: family.map(|_| protocol(flow.protocol)),
            client: family.map(|family| end(family, flow.source, flow.source_port)),
            vip: family.map(|family| end(family, flow.destination, flow.destination_port)),
            flags: flags.then(|| flags_text(record.tcp_flags)),
            content: match content {
                TracedContent::IcmpError => "icmp-error",
                TracedContent::Fragment => "fragment",
                TracedContent::Whole | TracedContent::Nothing => "packet",
            },
            service: record
                .decision
                .service
                .checked_sub(1)
                .map(|slot| names.services.get(&slot).cloned().unwrap_or(format!("#{slot}"))),
            backend: names.backends.get(&record.decision.backend.slot()).copied(),
            connection: Connection::from_u32(record.decision.connection).label(),
            interface: names.interfaces.get(&record.interface).cloned(),
            bytes: record.before_length,
            bytes_out: leaves.then_some(record.after_length),
            unix_ns,
            before: before.to_vec(),
            after: after.to_vec(),
        })
    }

    /// Whether a frame was sent.
    pub fn left(&self) -> bool {
        self.bytes_out.is_some()
    }

    /// The verdict with its reason: `drop no-route`.
    pub fn outcome(&self) -> String {
        match self.reason {
            Some(reason) => format!("{} {reason}", self.verdict),
            None => self.verdict.into(),
        }
    }
}

fn protocol(number: u8) -> String {
    match number {
        PROTOCOL_TCP => "tcp".into(),
        PROTOCOL_UDP => "udp".into(),
        PROTOCOL_ICMP => "icmp".into(),
        PROTOCOL_ICMPV6 => "icmpv6".into(),
        other => other.to_string(),
    }
}

/// Letters of the control bits, as packet sniffers print them.
fn flags_text(flags: u32) -> String {
    const LETTERS: [(u32, char); 8] =
        [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (32, 'U'), (16, 'A'), (64, 'E'), (128, 'C')];
    LETTERS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

/// A time in UTC, to the microsecond (days to dates after Howard Hinnant's `civil_from_days`).
fn rfc3339(unix_ns: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000 / 1000);
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        in_day / 3600,
        in_day / 60 % 60,
        in_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 1500), format!("{date}.000001Z"));
        }
    }

    #[test]
    fn records_are_parsed_by_their_layout() {
        let flow = FlowKey {
            source: Address::v4([198, 51, 100, 7]),
            destination: Address::v4([192, 0, 2, 10]),
            source_port: [0x9c, 0x40],
            destination_port: [1, 187],
            protocol: 6,
            family: 4,
            _pad: [0; 2],
        };
        let record = TraceRecord {
            time_ns: 5,
            flow,
            decision: Decision {
                verdict: 0,
                backend: BackendRef::new(3, 9),
                service: 2,
                connection: 1,
            },
            interface: 1,
            content: TracedContent::Whole as u32,
            before_length: 60,
            before_copied: 2,
            after_length: 80,
            after_copied: 3,
            tcp_flags: 0x12,
            _pad: 0,
        };
        // SAFETY: 96 bytes without padding, as director-common asserts.
        let mut bytes = unsafe { std::mem::transmute::<TraceRecord, [u8; 96]>(record) }.to_vec();
        assert_eq!(parse_record(&bytes), Some(record));
        bytes.extend([1, 2, 3, 4, 5]);
        let mut names = Names::default();
        names.services.insert(1, "web".into());
        names.backends.insert(3, [10, 0, 0, 11].into());
        let event = Event::read(&bytes, &names, 1_000_000_000).expect("a record");
        assert_eq!(event.client.as_deref(), Some("198.51.100.7:40000"));
        assert_eq!(event.vip.as_deref(), Some("192.0.2.10:443"));
        assert_eq!(
            (event.verdict, event.connection, event.flags.as_deref()),
            ("tx", "new", Some("SA"))
        );
        assert_eq!(
            (event.service.as_deref(), event.backend),
            (Some("web"), Some([10, 0, 0, 11].into()))
        );
        assert_eq!((event.before, event.after), (vec![1, 2], vec![3, 4, 5]));
        assert_eq!((event.bytes, event.bytes_out), (60, Some(80)));
        for length in 0..bytes.len() {
            assert_eq!(Event::read(&bytes[..length], &names, 0), None, "{length} bytes");
        }
    }
}
