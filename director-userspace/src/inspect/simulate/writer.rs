//! Writes captures: pcap of Ethernet frames.

use std::io::{self, Write};

use super::capture::MAX_PACKET;

/// Writes a pcap file.
pub struct Writer<W> {
    to: W,
    nanoseconds: bool,
}

impl<W: Write> Writer<W> {
    /// Writes the header. Timestamps are in nanoseconds if `nanoseconds` is set, else in
    /// microseconds, which older tools require.
    ///
    /// # Errors
    ///
    /// If `to` cannot be written.
    pub fn new(mut to: W, nanoseconds: bool) -> io::Result<Self> {
        let magic: u32 = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        to.write_all(&magic.to_le_bytes())?;
        // Version 2.4, no time zone, no accuracy.
        to.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        to.write_all(&MAX_PACKET.to_le_bytes())?;
        to.write_all(&1u32.to_le_bytes())?;
        Ok(Self { to, nanoseconds })
    }

    /// Adds a frame. `cut_off` bytes of it were missing from the capture it came from.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&mut self, timestamp_ns: u64, frame: &[u8], cut_off: u32) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let fraction = (timestamp_ns % 1_000_000_000) as u32;
        let words = [
            // pcap has 32 bits of seconds.
            (timestamp_ns / 1_000_000_000) as u32,
            if self.nanoseconds { fraction } else { fraction / 1000 },
            length,
            length.saturating_add(cut_off),
        ];
        for word in words {
            self.to.write_all(&word.to_le_bytes())?;
        }
        self.to.write_all(frame)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}
