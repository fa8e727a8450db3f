//! Reads captures: pcap and pcapng of Ethernet frames, packet by packet.

use std::io::{self, ErrorKind, Read};

use super::pcapng::{self, Section};

/// Longest accepted packet, bytes: the snap length of capture tools.
pub const MAX_PACKET: u32 = 262_144;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

const PCAP_HEADER: usize = 24;
const PCAP_RECORD: usize = 16;
const MICROSECONDS: [u8; 4] = [0xa1, 0xb2, 0xc3, 0xd4];
const NANOSECONDS: [u8; 4] = [0xa1, 0xb2, 0x3c, 0x4d];

/// An unusable capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// An empty file.
    #[error(
        "the file is empty, without even a capture's header: was the capture stopped before it \
         wrote anything?"
    )]
    Empty,
    /// Neither pcap nor pcapng.
    #[error(
        "this is not a capture: it starts with {}, and pcap starts with a1 b2 c3 d4 (or that \
         reversed), pcapng with 0a 0d 0d 0a",
        hex(.0)
    )]
    NotACapture(Vec<u8>),
    /// It ends within a header or a packet.
    #[error(
        "the capture is truncated in {within}: it ends after {complete} complete packets, which \
         have been processed"
    )]
    Truncated {
        /// Packets that were whole.
        complete: u64,
        /// The place of the end, in words.
        within: String,
    },
    /// Frames of something else than Ethernet.
    #[error(
        "the capture has frames of link type {0}, and Director handles Ethernet (link type 1): \
         capture on an Ethernet interface, not on `any` or a tunnel"
    )]
    LinkType(u32),
    /// A field that no capture tool writes.
    #[error("the capture is damaged after {complete} complete packets: {what}")]
    Damaged {
        /// Packets that were whole.
        complete: u64,
        /// What is wrong.
        what: String,
    },
    /// It cannot be read.
    #[error("reading failed after {complete} complete packets: {error}")]
    Read {
        /// Packets that were whole.
        complete: u64,
        /// The system's error.
        error: io::Error,
    },
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was captured: nanoseconds since 1970, or since another epoch of the capture.
    pub timestamp_ns: u64,
    /// Length on the wire, bytes.
    pub original_length: u32,
    /// The captured bytes.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Whether the capture tool cut it off.
    pub fn is_cut(&self) -> bool {
        (self.bytes.len() as u64) < u64::from(self.original_length)
    }
}

/// The byte order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// Two bytes at `at`; the caller checks the bounds.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let value = [bytes[at], bytes[at + 1]];
        match self {
            Self::Big => u16::from_be_bytes(value),
            Self::Little => u16::from_le_bytes(value),
        }
    }

    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let value = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            Self::Big => u32::from_be_bytes(value),
            Self::Little => u32::from_le_bytes(value),
        }
    }
}

enum Format {
    Pcap { order: Order, nanoseconds: bool },
    PcapNg(Section),
}

/// A capture, read as a stream.
pub struct Capture<R> {
    input: Input<R>,
    format: Format,
}

impl<R: Read> Capture<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// If it is not a capture of Ethernet frames.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut input = Input { reader: input, complete: 0 };
        let mut magic = [0; 4];
        match input.fill(&mut magic)? {
            0 => return Err(CaptureError::Empty),
            4 => {}
            some => return Err(CaptureError::NotACapture(magic[..some].to_vec())),
        }
        let reversed = [magic[3], magic[2], magic[1], magic[0]];
        let (order, nanoseconds) = match (magic, reversed) {
            (pcapng::MAGIC, _) => {
                let section = Section::first(&mut input)?;
                return Ok(Self { input, format: Format::PcapNg(section) });
            }
            (MICROSECONDS, _) => (Order::Big, false),
            (NANOSECONDS, _) => (Order::Big, true),
            (_, MICROSECONDS) => (Order::Little, false),
            (_, NANOSECONDS) => (Order::Little, true),
            _ => return Err(CaptureError::NotACapture(magic.to_vec())),
        };
        let mut rest = [0; PCAP_HEADER - 4];
        input.whole(&mut rest, || "its header".into())?;
        // The upper bits say whether frames end in a checksum (RFC draft, "FCS len").
        ethernet(order.u32(&rest, 16) & 0xffff)?;
        Ok(Self { input, format: Format::Pcap { order, nanoseconds } })
    }

    /// Whether timestamps are finer than microseconds.
    pub fn nanoseconds(&self) -> bool {
        match &self.format {
            Format::Pcap { nanoseconds, .. } => *nanoseconds,
            Format::PcapNg(section) => section.nanoseconds(),
        }
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the capture ends within a packet, is damaged, or cannot be read.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, CaptureError> {
        let packet = match &mut self.format {
            Format::Pcap { order, nanoseconds } => record(&mut self.input, *order, *nanoseconds)?,
            Format::PcapNg(section) => section.next_packet(&mut self.input)?,
        };
        self.input.complete += u64::from(packet.is_some());
        Ok(packet)
    }
}

/// Refuses link types other than Ethernet.
pub(super) fn ethernet(link_type: u32) -> Result<(), CaptureError> {
    if link_type == ETHERNET { Ok(()) } else { Err(CaptureError::LinkType(link_type)) }
}

fn record<R: Read>(
    input: &mut Input<R>,
    order: Order,
    nanoseconds: bool,
) -> Result<Option<Packet>, CaptureError> {
    let number = input.complete + 1;
    let mut header = [0; PCAP_RECORD];
    if !input.whole_or_end(&mut header, || format!("the header of packet {number}"))? {
        return Ok(None);
    }
    let fraction = order.u32(&header, 4);
    let fraction_ns = u64::from(fraction) * if nanoseconds { 1 } else { 1000 };
    let bytes = input.packet(order.u32(&header, 8))?;
    Ok(Some(Packet {
        timestamp_ns: u64::from(order.u32(&header, 0)) * 1_000_000_000 + fraction_ns,
        original_length: order.u32(&header, 12),
        bytes,
    }))
}

/// The file, and the number of packets read.
pub(super) struct Input<R> {
    reader: R,
    /// Packets that were whole.
    pub(super) complete: u64,
}

impl<R: Read> Input<R> {
    /// Reads until `bytes` is full or the file ends. Returns the number of bytes.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, CaptureError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(some) => filled += some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Read { complete: self.complete, error }),
            }
        }
        Ok(filled)
    }

    /// Fills `bytes`. Returns false if the file ends before them.
    pub(super) fn whole_or_end(
        &mut self,
        bytes: &mut [u8],
        within: impl FnOnce() -> String,
    ) -> Result<bool, CaptureError> {
        match self.fill(bytes)? {
            0 => Ok(false),
            some if some == bytes.len() => Ok(true),
            _ => Err(CaptureError::Truncated { complete: self.complete, within: within() }),
        }
    }

    /// Fills `bytes`.
    pub(super) fn whole(
        &mut self,
        bytes: &mut [u8],
        within: impl FnOnce() -> String,
    ) -> Result<(), CaptureError> {
        if self.fill(bytes)? == bytes.len() {
            return Ok(());
        }
        Err(CaptureError::Truncated { complete: self.complete, within: within() })
    }

    /// The `length` bytes of the next packet.
    fn packet(&mut self, length: u32) -> Result<Vec<u8>, CaptureError> {
        let number = self.complete + 1;
        if length > MAX_PACKET {
            return Err(self.damaged(format!("packet {number} claims {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.whole(&mut bytes, || format!("packet {number}"))?;
        Ok(bytes)
    }

    pub(super) fn damaged(&self, what: String) -> CaptureError {
        CaptureError::Damaged { complete: self.complete, what }
    }
}
