//! Reads pcapng: the blocks of sections, interfaces and packets.
//!
//! An own parser because of timestamps: each interface has its own unit, and the evaluated crates
//! assume nanoseconds.

use std::io::Read;

use super::capture::{CaptureError, Input, MAX_PACKET, Order, Packet, ethernet};

/// Block type of a section header; a palindrome, equal in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// `if_tsresol`.
const OPTION_RESOLUTION: u16 = 9;
/// `if_tsoffset`.
const OPTION_OFFSET: u16 = 14;
/// Type and length before the body, length again after it.
const FRAME: u32 = 12;
/// Longest block: a packet and generous options.
const MAX_BLOCK: u32 = MAX_PACKET + (1 << 20);

/// An interface's clock and snap length.
#[derive(Clone, Copy, Debug)]
struct Interface {
    ticks_a_second: u64,
    offset_s: u64,
    /// 0: no limit.
    snap_length: u32,
}

impl Interface {
    fn nanoseconds(self, ticks: u64) -> u64 {
        let per_second = u128::from(self.ticks_a_second);
        let ns = u128::from(ticks) * 1_000_000_000 / per_second;
        u64::try_from(ns)
            .unwrap_or(u64::MAX)
            .saturating_add(self.offset_s.saturating_mul(1_000_000_000))
    }
}

/// A section: its byte order, and the interfaces seen so far.
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// The timestamp of the last packet, for packets without one.
    last_ns: u64,
    pending: Option<Packet>,
}

struct Block {
    kind: u32,
    body: Vec<u8>,
}

impl Section {
    /// Reads the first section, after its block type, and the blocks up to the first packet, so
    /// that an unsupported link type is refused at once.
    pub(super) fn first<R: Read>(input: &mut Input<R>) -> Result<Self, CaptureError> {
        let mut section =
            Self { order: Order::Big, interfaces: Vec::new(), last_ns: 0, pending: None };
        section.start(input)?;
        section.pending = section.read(input)?;
        Ok(section)
    }

    pub(super) fn nanoseconds(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.ticks_a_second > 1_000_000)
    }

    pub(super) fn next_packet<R: Read>(
        &mut self,
        input: &mut Input<R>,
    ) -> Result<Option<Packet>, CaptureError> {
        match self.pending.take() {
            Some(packet) => Ok(Some(packet)),
            None => self.read(input),
        }
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>) -> Result<Option<Packet>, CaptureError> {
        loop {
            let Some(block) = self.block(input)? else { return Ok(None) };
            let packet = match block.kind {
                SECTION => continue,
                INTERFACE => {
                    let interface = self.interface(input, &block.body)?;
                    self.interfaces.push(interface);
                    continue;
                }
                ENHANCED_PACKET => self.packet(input, &block.body, true)?,
                OBSOLETE_PACKET => self.packet(input, &block.body, false)?,
                SIMPLE_PACKET => self.simple_packet(input, &block.body)?,
                // Names, statistics, secrets: not needed for packets.
                _ => continue,
            };
            self.last_ns = packet.timestamp_ns;
            return Ok(Some(packet));
        }
    }

    /// The next block; a section header takes effect here, since it changes the byte order.
    fn block<R: Read>(&mut self, input: &mut Input<R>) -> Result<Option<Block>, CaptureError> {
        let within = || "the head of a block".to_owned();
        let mut kind = [0; 4];
        if !input.whole_or_end(&mut kind, within)? {
            return Ok(None);
        }
        if kind == MAGIC {
            self.start(input)?;
            return Ok(Some(Block { kind: SECTION, body: Vec::new() }));
        }
        let mut length = [0; 4];
        input.whole(&mut length, within)?;
        let length = self.order.u32(&length, 0);
        let body = self.body(input, length, FRAME)?;
        Ok(Some(Block { kind: self.order.u32(&kind, 0), body }))
    }

    /// Reads a section's header, after its block type.
    fn start<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), CaptureError> {
        let mut head = [0; 8];
        input.whole(&mut head, || "a section header".into())?;
        self.order = match head[4..] {
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            _ => return Err(input.damaged("a section header without its magic number".into())),
        };
        self.interfaces.clear();
        self.body(input, self.order.u32(&head, 0), FRAME + 4)?;
        Ok(())
    }

    /// Reads the rest of a block of `length` bytes, of which `taken` are already read or trail.
    fn body<R: Read>(
        &self,
        input: &mut Input<R>,
        length: u32,
        taken: u32,
    ) -> Result<Vec<u8>, CaptureError> {
        if length < taken || !length.is_multiple_of(4) || length > MAX_BLOCK {
            return Err(input.damaged(format!("a block of {length} bytes")));
        }
        let within =
            format!("a block of {length} bytes, where packet {} was expected", input.complete + 1);
        let mut body = vec![0; (length - taken) as usize];
        input.whole(&mut body, || within.clone())?;
        let mut again = [0; 4];
        input.whole(&mut again, || within)?;
        let again = self.order.u32(&again, 0);
        if again != length {
            return Err(input.damaged(format!(
                "a block has {length} bytes by its start and {again} by its end"
            )));
        }
        Ok(body)
    }

    fn interface<R>(&self, input: &Input<R>, body: &[u8]) -> Result<Interface, CaptureError>
    where
        R: Read,
    {
        let order = self.order;
        if body.len() < 8 {
            return Err(input.damaged("an interface without a link type".into()));
        }
        ethernet(u32::from(order.u16(body, 0)))?;
        let mut interface =
            Interface { ticks_a_second: 1_000_000, offset_s: 0, snap_length: order.u32(body, 4) };
        let mut at = 8;
        while at + 4 <= body.len() {
            let (code, length) = (order.u16(body, at), usize::from(order.u16(body, at + 2)));
            let Some(value) = body.get(at + 4..at + 4 + length) else { break };
            match (code, value) {
                (0, _) => break,
                (OPTION_RESOLUTION, [resolution]) => {
                    interface.ticks_a_second = ticks_a_second(*resolution).ok_or_else(|| {
                        input.damaged(format!("a timestamp resolution of {resolution:#04x}"))
                    })?;
                }
                (OPTION_OFFSET, value) if value.len() == 8 => {
                    let (a, b) = (order.u32(value, 0), order.u32(value, 4));
                    let (high, low) = if order == Order::Big { (a, b) } else { (b, a) };
                    interface.offset_s = u64::from(high) << 32 | u64::from(low);
                }
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        Ok(interface)
    }

    /// An enhanced packet block, or its obsolete predecessor: they differ in the first word.
    fn packet<R: Read>(
        &self,
        input: &Input<R>,
        body: &[u8],
        enhanced: bool,
    ) -> Result<Packet, CaptureError> {
        let order = self.order;
        let number = input.complete + 1;
        let damaged = |what: &str| input.damaged(format!("packet {number} {what}"));
        if body.len() < 20 {
            return Err(damaged("is shorter than its head"));
        }
        let interface =
            if enhanced { order.u32(body, 0) } else { u32::from(order.u16(body, 0)) } as usize;
        let interface = self.interfaces.get(interface).ok_or_else(|| {
            damaged(&format!("refers to interface {interface}, which is not described"))
        })?;
        let ticks = u64::from(order.u32(body, 4)) << 32 | u64::from(order.u32(body, 8));
        let length = order.u32(body, 12) as usize;
        let bytes = body.get(20..20 + length).ok_or_else(|| damaged("is longer than its block"))?;
        Ok(Packet {
            timestamp_ns: interface.nanoseconds(ticks),
            original_length: order.u32(body, 16),
            bytes: bytes.to_vec(),
        })
    }

    fn simple_packet<R: Read>(
        &self,
        input: &Input<R>,
        body: &[u8],
    ) -> Result<Packet, CaptureError> {
        let number = input.complete + 1;
        let (Some(interface), true) = (self.interfaces.first(), body.len() >= 4) else {
            return Err(input.damaged(format!("packet {number} has no interface or no length")));
        };
        let original_length = self.order.u32(body, 0);
        let limit = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
        let length = original_length.min(limit) as usize;
        let bytes = body
            .get(4..4 + length)
            .ok_or_else(|| input.damaged(format!("packet {number} is longer than its block")))?;
        Ok(Packet { timestamp_ns: self.last_ns, original_length, bytes: bytes.to_vec() })
    }
}

/// Decodes `if_tsresol`: a negative power of ten, or of two if the highest bit is set.
fn ticks_a_second(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 1u64.checked_shl(exponent) }
}
