//! Captures for the tests of the command line, written and read without the program's code.

/// A pcap file of these frames, a millisecond apart, in this byte order: what `tcpdump -w` writes.
pub fn write(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(262_144u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for (at, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        let record = [1_700_000_000, at as u32 * 1000, length, length];
        file.extend(record.map(u32::to_le_bytes).concat());
        file.extend(frame);
    }
    file
}

/// The frames of such a file, each with its microseconds.
///
/// # Panics
///
/// If the file is truncated.
pub fn read(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1], "microseconds, little-endian");
    assert_eq!(file[20..24], [1, 0, 0, 0], "Ethernet");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let length = word(at + 8) as usize;
        frames.push((word(at + 4), file[at + 16..at + 16 + length].to_vec()));
        at += 16 + length;
    }
    frames
}
