//! [`Scanner`]: walks the frames of one file with read-ahead, and finds its way again behind damage.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::codec::{Codec, Frame, Parsed};
use crate::disk::DiskFile;
use crate::options::Format;

/// How much is read at once: little at first, for those who want one entry.
const FIRST_BLOCK_BYTES: usize = 32 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;
/// The smallest unit that a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Walks frames from an offset up to a limit.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    codec: Codec,
    buffer: Vec<u8>,
    /// The body of the last frame, decrypted.
    body: Vec<u8>,
    /// Where in the buffer the next frame begins, and where what was read ends.
    start: usize,
    filled: usize,
    /// Where in the file `start` is.
    offset: u64,
    limit: u64,
}

/// What stands at the scanner's place.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A valid frame and its place in the file. The scanner stands behind it.
    Frame(Range<u64>, Frame<'a>),
    /// No valid frame. The scanner stays: [`Scanner::skip_gap`] goes on.
    Bad,
    /// The limit.
    End,
}

/// A stretch without any valid frame, as long as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    /// Behind its last byte that is not prefill; `offset` if there is none.
    pub(crate) dirty_end: u64,
    /// Where the next frame begins, or the limit.
    pub(crate) end: u64,
    /// It holds prefill that was never overwritten, though something behind it was.
    pub(crate) hole: bool,
}

impl Gap {
    /// Nothing but prefill.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty_end == self.offset
    }
}

impl Scanner {
    pub(crate) fn new(file: Arc<dyn DiskFile>, codec: Codec, offset: u64, limit: u64) -> Self {
        Self { file, codec, buffer: Vec::new(), body: Vec::new(), start: 0, filled: 0, offset, limit }
    }

    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// Lets it go on to a place that was written since. What was read ahead stays.
    pub(crate) fn extend(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(crate) fn next(&mut self) -> io::Result<Found<'_>> {
        loop {
            let wanted = self.codec.wanted(&self.buffer[self.start..self.filled]);
            if !self.fill(wanted)? {
                break;
            }
        }
        if self.start == self.filled {
            return Ok(Found::End);
        }
        match self.codec.parse(&self.buffer[self.start..self.filled]) {
            Parsed::Frame(frame, length) => {
                let Some(frame) = self.codec.decrypt(frame, self.offset, &mut self.body) else {
                    return Ok(Found::Bad);
                };
                let place = self.offset..self.offset + length as u64;
                self.start += length;
                self.offset = place.end;
                Ok(Found::Frame(place, frame))
            }
            Parsed::Partial(_) | Parsed::Bad(_) => Ok(Found::Bad),
        }
    }

    /// Goes on to the next valid frame or to the limit.
    pub(crate) fn skip_gap(&mut self) -> io::Result<Gap> {
        let mut watch = GapWatch::new(self.codec.format, self.offset);
        loop {
            if self.start == self.filled && !self.fill(1)? {
                break;
            }
            let bytes = &self.buffer[self.start..self.filled];
            let blank = leading(bytes, self.codec.format.prefill());
            let skip = match self.codec.format {
                Format::Json if blank > 0 => blank,
                // The length of a frame may begin with zeros, but cannot be zero.
                Format::Bincode if blank > 3 => blank - 3,
                _ => match self.codec.parse(bytes) {
                    Parsed::Frame(frame, length) => {
                        if self.codec.decrypt(frame, self.offset, &mut self.body).is_some() {
                            break;
                        }
                        self.codec.next_start(bytes, length)
                    }
                    Parsed::Partial(wanted) => {
                        if self.fill(wanted)? {
                            continue;
                        }
                        // It would end behind the limit.
                        let bytes = &self.buffer[self.start..self.filled];
                        let skip = if self.codec.format == Format::Json { bytes.len() } else { 1 };
                        self.codec.next_start(bytes, skip)
                    }
                    Parsed::Bad(skip) => self.codec.next_start(bytes, skip),
                },
            };
            watch.feed(&self.buffer[self.start..self.start + skip]);
            self.start += skip;
            self.offset += skip as u64;
        }
        Ok(watch.gap(self.offset))
    }

    /// Makes at least `wanted` bytes from `start` on available; `false` if nothing was left to read.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        let available = self.filled - self.start;
        let left = self.limit.saturating_sub(self.offset + available as u64);
        if available >= wanted || left == 0 {
            return Ok(false);
        }
        self.buffer.copy_within(self.start..self.filled, 0);
        (self.start, self.filled) = (0, available);
        // A damaged length may want gigabytes: grow by doubling, up to what the file has.
        let block = if self.buffer.is_empty() { FIRST_BLOCK_BYTES } else { BLOCK_BYTES };
        let target = (available + block).max(available * 2);
        let length = (available as u64 + left).min(target as u64) as usize;
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let count = self.file.read_at(&mut self.buffer[available..length], self.offset + available as u64)?;
        self.filled += count;
        if count == 0 {
            self.limit = self.offset + available as u64; // the file is shorter than it should be
        }
        Ok(count > 0)
    }
}

/// Whether bytes at the beginning of a file hold prefill that should have been overwritten.
pub(crate) fn has_hole(bytes: &[u8], format: Format) -> bool {
    let mut watch = GapWatch::new(format, 0);
    watch.feed(bytes);
    watch.gap(bytes.len() as u64).hole
}

/// How many bytes at the beginning have this value.
fn leading(bytes: &[u8], value: u8) -> usize {
    let whole = bytes.chunks_exact(64).take_while(|chunk| *chunk == [value; 64]).count() * 64;
    whole + bytes[whole..].iter().take_while(|byte| **byte == value).count()
}

/// Tells a hole from rot. Files are prefilled and synced before use, so a write that the power cut kept from the disk
/// leaves prefill: to the end of a sector, from the beginning of that sector or from where the first frame was to be
/// that is not there. Rot changes bytes that were written, and what is written never has so much prefill in a row.
struct GapWatch {
    prefill: u8,
    /// So much in a row is a hole also behind what the sector has of the write: it may have been on its way to the disk
    /// while it was filled.
    hole_min: u64,
    run: u64,
    gap: Gap,
    at: u64,
}

impl GapWatch {
    fn new(format: Format, offset: u64) -> Self {
        let hole_min = match format {
            // Two newlines in a row are never written; four are not made by a single rotten byte either.
            Format::Json => 4,
            // A frame may have five zeros in a row; a rotten one more, but hardly at the end of a sector.
            Format::Bincode => 8,
        };
        let gap = Gap { offset, dirty_end: offset, end: offset, hole: false };
        Self { prefill: format.prefill(), hole_min, run: 0, gap, at: offset }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let blank = leading(bytes, self.prefill);
            if blank > 0 {
                self.run += blank as u64;
                self.at += blank as u64;
                bytes = &bytes[blank..];
                continue;
            }
            self.close_run();
            let dirty = memchr::memchr(self.prefill, bytes).unwrap_or(bytes.len());
            self.at += dirty as u64;
            self.gap.dirty_end = self.at;
            bytes = &bytes[dirty..];
        }
    }

    fn close_run(&mut self) {
        let run_start = self.at - self.run;
        let sector_end = self.at / SECTOR_BYTES * SECTOR_BYTES;
        let sector_start = sector_end.saturating_sub(SECTOR_BYTES).max(self.gap.offset);
        let reaches_end = run_start < sector_end;
        self.gap.hole |= reaches_end && (run_start <= sector_start || self.run >= self.hole_min);
        self.run = 0;
    }

    fn gap(mut self, end: u64) -> Gap {
        self.close_run();
        self.gap.end = end;
        self.gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NewEntry, Sequence};

    #[test]
    fn leading_counts_to_the_first_other_byte() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let mut bytes = vec![7; length];
            assert_eq!(leading(&bytes, 7), length);
            bytes.extend([1, 7]);
            assert_eq!(leading(&bytes, 7), length);
        }
    }

    #[test]
    fn no_frame_looks_as_if_it_had_a_hole() {
        for format in [Format::Json, Format::Bincode] {
            let codec = Codec::new(format, 1);
            for counter in (0..40).map(|bit| 1 << bit) {
                for time_ms in [0, 1, 1 << 32, 1_763_911_111_111, 1 << 63] {
                    for epoch in [1, 256, 1 << 16, 1 << 22] {
                        let sequence = Sequence::new(epoch, counter).unwrap();
                        let body = "x".repeat(epoch as usize & 511);
                        let mut bytes = Vec::new();
                        for origin in [None, Some(sequence)] {
                            codec.entry(&mut bytes, sequence, &NewEntry { body: &body, time_ms, origin });
                        }
                        assert!(!has_hole(&bytes, format), "{format:?} {sequence} {time_ms}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_not_written_reaches_from_the_first_missing_frame_to_the_end_of_its_sector() {
        for format in [Format::Json, Format::Bincode] {
            let hole = |start: u64, blank: usize, more: &[u8]| {
                let mut watch = GapWatch::new(format, start);
                watch.feed(&vec![format.prefill(); blank]);
                watch.feed(more);
                watch.gap(start + blank as u64 + more.len() as u64).hole
            };
            assert!(hole(511, 1, b"rest") && hole(511, 1, b"") && hole(510, 2, b"rest"));
            assert!(!hole(510, 1, b"rest") && !hole(500, 2, b""), "rot");
            let end_of_a_line = [&[b'x'; 100][..], &[format.prefill(); 2]].concat();
            assert!(
                !hole(300, 0, &end_of_a_line) && !hole(410, 0, &end_of_a_line),
                "rot at the end of a line"
            );
        }
    }

    #[test]
    fn a_hole_is_told_from_rot() {
        for (format, prefill) in [(Format::Json, b'\n'), (Format::Bincode, 0)] {
            let mut bytes = vec![b'x'; 2048];
            bytes[1100..1124].fill(prefill);
            assert!(!has_hole(&bytes, format), "a sector is written from its beginning on");
            for start in [1000, 1001, 1530] {
                let mut bytes = vec![b'x'; 2048];
                bytes[start] = prefill;
                assert!(!has_hole(&bytes, format), "{start}");
                bytes[start..start + 24].fill(prefill);
                assert!(has_hole(&bytes, format), "{start}");
            }
        }
    }
}
