use super::*;
use crate::policy::plan::PathKey;

const FRAME: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 1, 2, 3];

/// A pcap file of one record, in the given byte order.
fn pcap(magic: [u8; 4], big: bool, fraction: u32) -> Vec<u8> {
    let u16 = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
    let u32 = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut file = magic.to_vec();
    file.extend([u16(2), u16(4)].concat());
    file.extend([0, 0, 65_535, 1].map(u32).concat());
    let length = FRAME.len() as u32;
    file.extend([7, fraction, length, length + 3].map(u32).concat());
    file.extend(FRAME);
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len().next_multiple_of(4) + 12) as u32;
    let mut block = [kind.to_le_bytes(), length.to_le_bytes()].concat();
    block.extend(body);
    block.resize(length as usize - 4, 0);
    block.extend(length.to_le_bytes());
    block
}

/// A section with one interface that has these options.
fn section(link_type: u16, options: &[u8]) -> Vec<u8> {
    let mut file = block(
        0x0a0d_0d0a,
        &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
    );
    let mut interface = [link_type.to_le_bytes(), [0; 2], [0; 2], [0; 2]].concat();
    interface.extend(options);
    file.extend(block(1, &interface));
    file
}

fn enhanced(ticks: u64) -> Vec<u8> {
    let length = FRAME.len() as u32;
    let words = [0, (ticks >> 32) as u32, ticks as u32, length, length];
    let mut body = words.map(u32::to_le_bytes).concat();
    body.extend(FRAME);
    block(6, &body)
}

fn read_all(file: &[u8]) -> Result<Vec<Packet>, CaptureError> {
    let mut capture = Capture::new(file)?;
    let mut packets = Vec::new();
    while let Some(packet) = capture.next_packet()? {
        packets.push(packet);
    }
    Ok(packets)
}

#[test]
fn pcap_in_both_orders_and_units() {
    for (magic, big, timestamp_ns) in [
        ([0xa1, 0xb2, 0xc3, 0xd4], true, 7_000_500_000),
        ([0xd4, 0xc3, 0xb2, 0xa1], false, 7_000_500_000),
        ([0xa1, 0xb2, 0x3c, 0x4d], true, 7_000_000_500),
        ([0x4d, 0x3c, 0xb2, 0xa1], false, 7_000_000_500),
    ] {
        let packets = read_all(&pcap(magic, big, 500)).expect("a capture");
        assert_eq!(packets.len(), 1, "{magic:02x?}");
        assert_eq!(packets[0].bytes, FRAME);
        assert_eq!(packets[0].timestamp_ns, timestamp_ns);
        assert!(packets[0].is_cut());
    }
}

#[test]
fn pcapng_counts_time_in_the_interface_s_unit() {
    let microseconds = [section(1, &[]), enhanced(2_000_001)].concat();
    assert_eq!(read_all(&microseconds).expect("a capture")[0].timestamp_ns, 2_000_001_000);
    let nanoseconds =
        [section(1, &[9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]), enhanced(5 << 32)].concat();
    assert_eq!(read_all(&nanoseconds).expect("a capture")[0].timestamp_ns, 5 << 32);
    assert!(Capture::new(nanoseconds.as_slice()).expect("a capture").nanoseconds());
    let halves = [section(1, &[9, 0, 1, 0, 0x81, 0, 0, 0]), enhanced(3)].concat();
    assert_eq!(read_all(&halves).expect("a capture")[0].timestamp_ns, 1_500_000_000);
    let offset = [section(1, &[14, 0, 8, 0, 10, 0, 0, 0, 0, 0, 0, 0]), enhanced(0)].concat();
    assert_eq!(read_all(&offset).expect("a capture")[0].timestamp_ns, 10_000_000_000);
}

#[test]
fn pcapng_packets_of_every_kind() {
    let length = FRAME.len() as u32;
    let mut simple = length.to_le_bytes().to_vec();
    simple.extend(FRAME);
    let mut obsolete = [0, 0, 9, length, length].map(u32::to_le_bytes).concat();
    obsolete.extend(FRAME);
    let statistics = block(5, &[0; 12]);
    let file = [
        section(1, &[]),
        block(2, &obsolete),
        statistics,
        block(3, &simple),
        section(1, &[]),
        enhanced(1),
    ]
    .concat();
    let packets = read_all(&file).expect("a capture");
    let times: Vec<u64> = packets.iter().map(|packet| packet.timestamp_ns).collect();
    assert_eq!(times, [9000, 9000, 1000], "a simple packet has the time of the previous one");
    assert!(packets.iter().all(|packet| packet.bytes == FRAME && !packet.is_cut()));
}

#[test]
fn files_that_are_not_captures_are_refused() {
    assert!(matches!(read_all(&[]), Err(CaptureError::Empty)));
    assert!(matches!(read_all(b"PK"), Err(CaptureError::NotACapture(_))));
    let error = read_all(b"\x7fELF and so on").expect_err("no capture");
    assert!(error.to_string().contains("7f 45 4c 46"), "{error}");
    let mut cooked = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 0);
    cooked[20] = 113;
    assert!(matches!(read_all(&cooked), Err(CaptureError::LinkType(113))));
    assert!(matches!(read_all(&section(113, &[])), Err(CaptureError::LinkType(113))));
}

/// Wherever a capture ends, complete packets are returned, and a truncation is an error.
#[test]
fn every_truncation_is_detected() {
    let pcap = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 0);
    let two = [&pcap[..], &pcap[24..]].concat();
    let whole = [24, pcap.len(), two.len()];
    let ng = [section(1, &[]), enhanced(1), enhanced(2)].concat();
    let ends = [28, section(1, &[]).len(), ng.len() - enhanced(2).len(), ng.len()];
    for (file, whole) in [(&two, &whole[..]), (&ng, &ends[..])] {
        for end in 4..=file.len() {
            let result = read_all(&file[..end]);
            if whole.contains(&end) {
                result.unwrap_or_else(|error| panic!("{end}: {error}"));
            } else {
                let error = result.expect_err("cut in the middle");
                assert!(matches!(error, CaptureError::Truncated { .. }), "{end}: {error}");
            }
        }
    }
}

#[test]
fn damaged_lengths_do_not_cause_allocations() {
    let mut huge = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 0);
    huge[32..36].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    assert!(matches!(read_all(&huge), Err(CaptureError::Damaged { complete: 0, .. })));
    let mut ng = section(1, &[]);
    ng.extend([6u32, 0xffff_fff0].map(u32::to_le_bytes).concat());
    assert!(matches!(read_all(&ng), Err(CaptureError::Damaged { .. })));
    let mut mismatched = [section(1, &[]), enhanced(1)].concat();
    let last = mismatched.len() - 4;
    mismatched[last] += 4;
    assert!(matches!(read_all(&mismatched), Err(CaptureError::Damaged { .. })));
    let unknown =
        [section(1, &[]), block(6, &[[1, 0, 0, 0].as_slice(), &[0; 16]].concat())].concat();
    let error = read_all(&unknown).expect_err("interface 1 does not exist");
    assert!(error.to_string().contains("interface 1"), "{error}");
}

#[test]
fn what_is_written_reads_back() {
    for nanoseconds in [false, true] {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, nanoseconds).expect("memory");
        writer.write(1_700_000_000_123_456_789, FRAME, 0).expect("memory");
        writer.write(1_700_000_001_000_000_000, &FRAME[..14], 5).expect("memory");
        writer.finish().expect("memory");
        let packets = read_all(&file).expect("a capture");
        let first = if nanoseconds { 1_700_000_000_123_456_789 } else { 1_700_000_000_123_456_000 };
        assert_eq!(packets[0].timestamp_ns, first);
        assert_eq!((&packets[0].bytes[..], packets[0].is_cut()), (FRAME, false));
        assert_eq!((packets[1].bytes.len(), packets[1].original_length), (14, 19));
    }
}

/// Unknown addresses get placeholders and a note each; known ones do not.
#[test]
fn paths_without_a_network() {
    let yaml = |source: &str, mac: &str| {
        format!(
            "tunnel: {{source: {source}}}\nservices:\n  - {{name: web, address: 192.0.2.10, \
             protocol: tcp, port: 80, forward: tunnel, backends: [{{address: 10.0.0.1{mac}}}, \
             {{address: \"2001:db8::1\"{mac}}}]}}\n"
        )
    };
    let of =
        |yaml: &str| offline(&crate::policy::config::parse("x.yaml", yaml).expect("valid").config);

    let assumed = of(&yaml("auto", ""));
    let path = |offline: &Offline, address: &str| {
        let is_it = |key: &&PathKey| key.address.to_string() == address;
        let key = offline.paths.keys().find(is_it).expect(address);
        offline.paths[key]
    };
    let (v4, v6) = ("10.0.0.1", "2001:db8::1");
    assert_eq!(path(&assumed, v4).next_hop.mac(), PLACEHOLDER_MAC);
    assert_eq!(path(&assumed, v4).source, Some(PLACEHOLDER_V4.into()));
    assert_eq!(path(&assumed, v6).source, Some(PLACEHOLDER_V6.into()));
    assert_eq!(assumed.notes.len(), 2, "{:?}", assumed.notes);
    assert!(assumed.notes[0].contains("10.0.0.1, 2001:db8::1"), "{:?}", assumed.notes);

    let given = of(&yaml("[10.9.9.9, \"2001:db8::9\"]", ", mac: \"02:00:00:00:0a:01\""));
    assert_eq!(path(&given, v4).source, "10.9.9.9".parse().ok());
    assert_eq!(path(&given, v6).source, "2001:db8::9".parse().ok());
    assert!(given.notes.is_empty(), "{:?}", given.notes);
}
