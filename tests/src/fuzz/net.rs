//! Bytes of the kernel, the network and capture tools.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use director_userspace::{
    inspect::{
        simulate::{Capture, MAX_PACKET, Writer},
        trace::{Event, Names},
    },
    kernel::net::{Change, fuzz},
};

use super::Outcome;

/// A capture, pcap or pcapng: packets are no longer than they may be, and those read are read again
/// from what the writer makes of them.
pub(super) fn capture(input: &[u8]) -> Outcome {
    let mut capture = match Capture::new(input) {
        Ok(capture) => capture,
        Err(error) => {
            let _ = error.to_string();
            return 0;
        }
    };
    let (mut packets, mut bytes) = (Vec::new(), 0);
    let ended = loop {
        match capture.next_packet() {
            Ok(Some(packet)) => {
                bytes += packet.bytes.len();
                assert!(bytes <= input.len(), "more bytes than there are");
                packets.push(packet);
            }
            Ok(None) => break true,
            Err(error) => {
                let _ = error.to_string();
                break false;
            }
        }
    };
    let mut written = Vec::new();
    let mut writer = Writer::new(&mut written, true).expect("memory");
    packets.retain(|packet| packet.bytes.len() <= MAX_PACKET as usize);
    for packet in &packets {
        writer.write(packet.timestamp_ns, &packet.bytes, 0).expect("memory");
    }
    writer.finish().expect("memory");
    let mut again = Capture::new(&*written).expect("what is written is a capture");
    for packet in &packets {
        let read = again.next_packet().expect("whole").expect("as many");
        assert_eq!(read.bytes, packet.bytes);
    }
    assert!(again.next_packet().expect("whole").is_none());
    1 + usize::from(ended) + 2 * packets.len().min(8)
}

/// A datagram of netlink, an answer of generic netlink, a frame of ARP or neighbour discovery, a
/// record of the trace's ring: by the first byte.
pub(super) fn netlink(input: &[u8]) -> Outcome {
    let Some((choice, bytes)) = input.split_first() else { return 0 };
    match choice % 4 {
        0 => {
            let changes = fuzz::changes(bytes);
            // Every message takes its header's length.
            assert!(changes.len() <= 1 + bytes.len() / 16, "{changes:?}");
            let is_resync = |change: &Change| *change == Change::Resync;
            1 + usize::from(changes.iter().any(is_resync)) + 2 * changes.len().min(4)
        }
        1 => match fuzz::attribute(bytes.to_vec(), 3) {
            Ok(value) => 16 + usize::from(value.is_some()),
            Err(error) => {
                let _ = error.to_string();
                18
            }
        },
        2 => {
            let v4: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
            let v6: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
            let [v4, v6] = [v4, v6].map(|address| fuzz::claimed_mac(bytes, address));
            20 + usize::from(v4.is_some()) + 2 * usize::from(v6.is_some())
        }
        _ => match Event::read(bytes, &Names::default(), 0) {
            Some(event) => {
                let _ = serde_json::to_string(&event).expect("an event is JSON");
                24 + usize::from(event.left())
            }
            None => 26,
        },
    }
}
