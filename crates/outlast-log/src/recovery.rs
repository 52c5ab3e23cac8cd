//! Recovery of one segment: what stands in it, where it ends, what of it is damaged.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::codec::{Codec, Frame};
use crate::compressed;
use crate::disk::{Disk, DiskFile};
use crate::epochs::now_ms;
use crate::header::{HEADER_BYTES, Header};
use crate::options::Compression;
use crate::scan::{Found, Gap, Scanner};
use crate::segment::{Layout, Ledger, Segment};
use crate::{Damage, Mark, Sequence, TornTail};

/// A segment and what was found in it.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) segment: Segment,
    pub(crate) ledger: Ledger,
    pub(crate) damage: Vec<Damage>,
    pub(crate) torn: Option<TornTail>,
}

/// Reads a whole segment. `next_previous` is what the next one says was the last sequence before it; `None` for the
/// last segment, the only one that may end torn.
///
/// Of the last segment everything from the first hole on is cut off, also frames behind it that are whole: the file
/// was prefilled, so a hole is a write that never reached the disk, and what was written behind it was never
/// acknowledged. So a power cut always leaves a prefix of the log. Bytes that are neither prefill nor a frame, with
/// valid frames behind them, were written once and are damaged: what is behind them stays.
pub(crate) fn scan_segment(
    header: Header,
    codec: &Codec,
    path: &Path,
    file: &Arc<dyn DiskFile>,
    next_previous: Option<Sequence>,
) -> io::Result<Scanned> {
    scan_watched(header, codec, path, file, next_previous, &mut |_, _| {})
}

/// The same for somebody who wants to see every valid frame, and where it stands, on the way.
pub(crate) fn scan_watched(
    header: Header,
    codec: &Codec,
    path: &Path,
    file: &Arc<dyn DiskFile>,
    next_previous: Option<Sequence>,
    watch: &mut dyn FnMut(&Range<u64>, Frame<'_>),
) -> io::Result<Scanned> {
    let size = file.size()?;
    // What is compressed was sealed: it cannot end torn.
    let sealed = (Compression::of(path) == Compression::Zstd).then_some(Sequence::START);
    let next_previous = next_previous.or(sealed);
    let mut scanner = Scanner::new(file.clone(), codec.clone(), HEADER_BYTES, size);
    let mut state = Recovery::new(Segment::new(header, codec.clone(), path.to_owned(), size), next_previous);
    loop {
        match scanner.next()? {
            Found::Frame(place, frame) => {
                watch(&place, frame);
                state.frame(&place, frame);
            }
            Found::End => break,
            Found::Bad => {
                let gap = scanner.skip_gap()?;
                state.gap(gap, gap.end == size);
            }
        }
    }
    Ok(state.finish())
}

impl Scanned {
    /// Of a sealed segment, whose sidecar knows where it ended: what is missing at the end is damage, also when it had
    /// no entries.
    pub(crate) fn must_reach(&mut self, end: u64) {
        let (segment, offset, after) = (self.segment.number(), self.segment.written(), self.segment.last());
        if offset < end && !self.damage.iter().any(|damage| damage.offset + damage.bytes >= offset) {
            let bytes = end - offset;
            self.damage.push(Damage { segment, offset, bytes, after, before: None, lost: None });
        }
    }
}

struct Recovery {
    segment: Segment,
    ledger: Ledger,
    damage: Vec<Damage>,
    /// Damage in `damage` whose next good entry has not been seen yet begins here.
    open: usize,
    next_previous: Option<Sequence>,
    /// The greatest sequence of this segment that a mark is about: that entry was there once.
    named: Sequence,
    /// The first byte of the torn tail, and how many bytes other than prefill it has.
    cut: Option<(u64, u64)>,
    end: u64,
}

impl Recovery {
    fn new(segment: Segment, next_previous: Option<Sequence>) -> Self {
        Self {
            segment,
            ledger: Ledger::default(),
            damage: Vec::new(),
            open: 0,
            next_previous,
            named: Sequence::START,
            cut: None,
            end: HEADER_BYTES,
        }
    }

    fn frame(&mut self, place: &Range<u64>, frame: Frame<'_>) {
        if let Some((_, dirty_end)) = &mut self.cut {
            *dirty_end = place.end;
            return;
        }
        self.end = place.end;
        match frame {
            Frame::Mark { kind, target, time_ms, body } => {
                let mark = Mark { kind, target, time_ms, body: body.into() };
                if place.start == HEADER_BYTES && self.segment.header.carries_cursor {
                    self.ledger.cursor = Some(mark); // counted in the former segment
                } else {
                    if target.epoch() == self.segment.header.epoch {
                        self.named = self.named.max(target);
                    }
                    self.ledger.add_mark(mark);
                }
            }
            Frame::Entry { sequence, origin, .. } => self.entry(place.start, sequence, origin),
        }
    }

    fn entry(&mut self, offset: u64, sequence: Sequence, origin: Option<Sequence>) {
        let last = self.segment.last();
        let expected = self.segment.entries() + self.segment.header.first.as_u64();
        if sequence.epoch() != self.segment.header.epoch || sequence.as_u64() < expected {
            // A whole frame in a place where it cannot be.
            self.damage.push(self.damage_at(offset, 0));
            return;
        }
        if sequence.as_u64() > expected && self.open == self.damage.len() {
            self.damage.push(self.damage_at(offset, 0));
        }
        for (index, damage) in self.damage[self.open..].iter_mut().enumerate() {
            damage.before = Some(sequence);
            // Several stretches with only marks between them share what is lost: the first one names it.
            damage.lost = if index == 0 { self.segment.lost_between(last, Some(sequence)) } else { None };
        }
        self.open = self.damage.len();
        self.segment.note(sequence.as_u64() - self.segment.header.first.as_u64(), offset);
        self.segment.set_last(sequence);
        self.ledger.add_entry(sequence, origin);
    }

    fn damage_at(&self, offset: u64, bytes: u64) -> Damage {
        let (segment, after) = (self.segment.number(), self.segment.last());
        Damage { segment, offset, bytes, after, before: None, lost: None }
    }

    fn gap(&mut self, gap: Gap, at_end: bool) {
        if let Some((_, dirty_end)) = &mut self.cut {
            *dirty_end = (*dirty_end).max(gap.dirty_end);
            return;
        }
        let is_last = self.next_previous.is_none();
        let torn = is_last && (at_end || gap.hole);
        if torn || gap.is_clean() && at_end {
            self.end = gap.offset;
            self.cut = Some((gap.offset, gap.dirty_end));
        } else {
            let end = if at_end { gap.dirty_end } else { gap.end };
            self.damage.push(self.damage_at(gap.offset, end - gap.offset));
            self.end = end;
        }
    }

    fn finish(mut self) -> Scanned {
        let seen = self.segment.last();
        let epoch = self.segment.header.epoch;
        let missing = self.next_previous.filter(|previous| *previous > seen && previous.epoch() == epoch);
        if let Some(previous) = missing {
            // The next segment knows of entries that should stand at the end of this one.
            if self.open == self.damage.len() {
                self.damage.push(self.damage_at(self.end, 0));
            }
            self.segment.set_last(previous);
        } else if self.next_previous.is_none() && self.open < self.damage.len() && self.named > seen {
            // Behind the damage there are only marks, but they are about what was in it.
            self.segment.set_last(self.named);
        }
        for (index, damage) in self.damage[self.open..].iter_mut().enumerate() {
            damage.lost = if index == 0 { self.segment.lost_between(seen, None) } else { None };
        }
        let torn = self.cut.filter(|(start, dirty_end)| dirty_end > start && self.next_previous.is_none());
        let torn = torn.map(|(offset, end)| TornTail {
            segment: self.segment.number(),
            offset,
            bytes: end - offset,
        });
        self.ledger.counts.entries = self.segment.entries(); // those that are lost were there
        self.segment.set_written(self.end);
        self.segment.seal(now_ms());
        Scanned { segment: self.segment, ledger: self.ledger, damage: self.damage, torn }
    }
}

/// Copies damaged bytes of the file with this path into `damaged/`, so that nothing that might still help is lost when
/// the file goes. Of a compressed segment these are its blocks, as they stand there.
pub(crate) fn keep_damaged(
    disk: &dyn Disk,
    layout: &Layout,
    path: &Path,
    file: &dyn DiskFile,
    damage: &Damage,
) -> io::Result<()> {
    let bytes = damage.offset..damage.offset + damage.bytes;
    let name = damaged_name(damage, path);
    match Compression::of(path) {
        Compression::None => copy_damaged(disk, layout, file, bytes, &name),
        Compression::Zstd => {
            let file = disk.open(path)?;
            copy_damaged(disk, layout, &*file, compressed::stored(&*file, bytes)?, &name)
        }
    }
}

/// The name of a copy in `damaged/`.
pub(crate) fn damaged_name(damage: &Damage, path: &Path) -> String {
    let extension = match Compression::of(path) {
        Compression::None => ".bin",
        Compression::Zstd => Compression::Zstd.suffix(),
    };
    format!("{:08}-{}{extension}", damage.segment, damage.offset)
}

fn copy_damaged(
    disk: &dyn Disk,
    layout: &Layout,
    file: &dyn DiskFile,
    bytes: Range<u64>,
    name: &str,
) -> io::Result<()> {
    let length = bytes.end - bytes.start;
    if length == 0 {
        return Ok(());
    }
    disk.create_directory(&layout.damaged)?;
    let copy = disk.create(&layout.damaged.join(name))?;
    let mut buffer = vec![0; length.min(1024 * 1024) as usize];
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(buffer.len() as u64) as usize;
        let count = file.read_at(&mut buffer[..wanted], bytes.start + done)?;
        if count == 0 {
            break;
        }
        copy.write_at(&buffer[..count], done)?;
        done += count as u64;
    }
    copy.sync()?;
    disk.sync_directory(&layout.damaged)
}
