//! Frames and their verdicts as pcapng (draft-ietf-opsawg-pcapng): one interface for received
//! frames, one for sent frames, each frame with a comment.

use std::io::{self, Write};

use super::event::Event;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
/// `shb_userappl`.
const APPLICATION: u16 = 4;
/// `if_name`, `if_description` and `if_tsresol`.
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
/// `epb_flags`.
const FLAGS: u16 = 2;
/// `isb_osdrop`.
const OS_DROP: u16 = 7;
/// Nanoseconds.
const NANOSECONDS: u8 = 9;

/// The direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// A pcapng writer.
pub struct Pcapng<W: Write> {
    to: W,
    snap: u32,
}

/// The body of a block under construction.
struct Block(Vec<u8>);

impl Block {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        // Values longer than the maximum are cut; ours are short.
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.u16(code).u16(value.len() as u16).bytes(value)
    }

    fn end_of_options(self) -> Self {
        self.u16(END).u16(0)
    }
}

impl<W: Write> Pcapng<W> {
    /// Starts a file of frames of at most `snap` bytes; 0: unlimited. The interfaces are named
    /// `before` and `after`.
    ///
    /// # Errors
    ///
    /// If the writer fails.
    pub fn new(to: W, snap: u32) -> io::Result<Self> {
        let mut file = Self { to, snap };
        let version = concat!("director ", env!("CARGO_PKG_VERSION"));
        // The section has an unknown length, because it is streamed.
        let section = Block::new()
            .u32(BYTE_ORDER)
            .u16(1)
            .u16(0)
            .u32(u32::MAX)
            .u32(u32::MAX)
            .option(APPLICATION, version.as_bytes())
            .end_of_options();
        file.write(SECTION, &section)?;
        for (name, description) in
            [("before", "frames as received"), ("after", "frames as sent by Director")]
        {
            let interface = Block::new()
                .u16(ETHERNET)
                .u16(0)
                .u32(file.snap)
                .option(NAME, name.as_bytes())
                .option(DESCRIPTION, description.as_bytes())
                .option(RESOLUTION, &[NANOSECONDS])
                .end_of_options();
            file.write(INTERFACE, &interface)?;
        }
        Ok(file)
    }

    fn write(&mut self, kind: u32, block: &Block) -> io::Result<()> {
        let length = (block.0.len() + 12) as u32;
        self.to.write_all(&kind.to_ne_bytes())?;
        self.to.write_all(&length.to_ne_bytes())?;
        self.to.write_all(&block.0)?;
        self.to.write_all(&length.to_ne_bytes())
    }

    /// Writes the frame as received, and as sent if it was. Returns the number of written frames.
    ///
    /// # Errors
    ///
    /// If the writer fails.
    pub fn event(&mut self, event: &Event) -> io::Result<u64> {
        let comment = comment(event);
        self.frame(Direction::In, event, event.bytes, &event.before, &comment)?;
        let Some(length) = event.bytes_out else { return Ok(1) };
        self.frame(Direction::Out, event, length, &event.after, &comment)?;
        Ok(2)
    }

    fn frame(
        &mut self,
        direction: Direction,
        event: &Event,
        length: u32,
        bytes: &[u8],
        comment: &str,
    ) -> io::Result<()> {
        // A sent frame is later than the received one.
        let (interface, flags, later) = match direction {
            Direction::In => (0, 1u32, 0),
            Direction::Out => (1, 2, 1),
        };
        let time = event.unix_ns + later;
        let packet = Block::new()
            .u32(interface)
            .u32((time >> 32) as u32)
            .u32(time as u32)
            .u32(bytes.len() as u32)
            .u32(length)
            .bytes(bytes)
            .option(COMMENT, comment.as_bytes())
            .option(FLAGS, &flags.to_ne_bytes())
            .end_of_options();
        self.write(PACKET, &packet)
    }

    /// Ends the file with the number of lost records, and returns the writer.
    ///
    /// # Errors
    ///
    /// If the writer fails.
    pub fn finish(mut self, unix_ns: u64, lost: u64) -> io::Result<W> {
        let statistics = Block::new()
            .u32(0)
            .u32((unix_ns >> 32) as u32)
            .u32(unix_ns as u32)
            .option(OS_DROP, &lost.to_ne_bytes())
            .end_of_options();
        self.write(STATISTICS, &statistics)?;
        self.to.flush()?;
        Ok(self.to)
    }

    /// Flushes the written frames, so that other programs can read them.
    ///
    /// # Errors
    ///
    /// If the writer fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The verdict on a packet, in one line.
fn comment(event: &Event) -> String {
    let mut parts = vec![format!("verdict={}", event.verdict)];
    let more = [
        ("reason", event.reason.map(str::to_owned)),
        ("service", event.service.clone()),
        ("backend", event.backend.map(|backend| backend.to_string())),
        ("connection", Some(event.connection.to_owned())),
        ("interface", event.interface.clone()),
    ];
    for (key, value) in more {
        parts.extend(value.map(|value| format!("{key}={value}")));
    }
    parts.join(" ")
}
