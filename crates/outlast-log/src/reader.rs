//! [`Reader`]: entries in order, with read-ahead, up to what the committer has written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::codec::Frame;
use crate::recovery::keep_damaged;
use crate::scan::{Found, Gap, Scanner};
use crate::segment::Segment;
use crate::shared::Shared;
use crate::{Damage, Entry, ReadError, Sequence};

/// What a reader comes across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadItem {
    /// The next entry.
    Entry(Entry),
    /// A damaged stretch. The entry behind it comes next.
    Damaged(Damage),
}

/// Reads entries in order; marks are skipped. Sees what was written so far, synced or not: `None` means "nothing more
/// yet". Every checksum is tested, and that sequences grow.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// The last sequence that was returned or skipped.
    after: Sequence,
    place: Option<Place>,
    /// The entry behind a damage that was returned before it.
    ahead: Option<Entry>,
    /// A segment is missing before the present one: to be returned next.
    missing: Option<Damage>,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    scanner: Scanner,
    /// The last good entry before the scanner's place.
    seen: Sequence,
    /// A stretch without valid frames whose end is not known yet.
    gap: Option<Gap>,
}

/// What a step through the present segment came to.
enum Step {
    Entry(Entry),
    Damaged(Damage, Option<Entry>),
    /// Everything that was written has been read.
    Waiting,
    /// The segment is sealed and read.
    Finished(Option<Damage>),
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, after: Sequence) -> Self {
        Self { shared, after, place: None, ahead: None, missing: None }
    }

    /// The last sequence that was returned (or lost in a damage that was).
    pub fn after(&self) -> Sequence {
        self.after
    }

    /// The next entry or damage; `None` if nothing more is written yet.
    ///
    /// # Errors
    /// [`ReadError::Reclaimed`] when entries that come next have left the log; [`ReadError::Io`] when the disk says no.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may come")]
    pub fn next(&mut self) -> Result<Option<ReadItem>, ReadError> {
        if let Some(damage) = self.missing.take() {
            return Ok(Some(self.damaged(damage)));
        }
        if let Some(entry) = self.ahead.take() {
            self.after = entry.sequence;
            return Ok(Some(ReadItem::Entry(entry)));
        }
        loop {
            if self.place.is_none() {
                if !self.enter(None)? {
                    return Ok(None);
                }
                if let Some(damage) = self.missing.take() {
                    return Ok(Some(self.damaged(damage)));
                }
            }
            let Some(place) = &mut self.place else { return Ok(None) };
            let step = place.step(self.after);
            let former = place.segment.clone();
            let replaced = former.is_replaced();
            if (replaced || former.is_reclaimed()) && !matches!(step, Ok(Step::Entry(_))) {
                // What does not fit may be what the recycled file holds now. The successor of a segment that was
                // replaced has the same bytes; of one that has left the log everything may have been read before.
                self.place = None;
                if replaced {
                    self.enter(Some(former.number()))?;
                }
                continue;
            }
            match step.map_err(|error| read_error(&former.path, error))? {
                Step::Entry(entry) => {
                    self.after = entry.sequence;
                    return Ok(Some(ReadItem::Entry(entry)));
                }
                Step::Damaged(damage, entry) => {
                    self.ahead = entry;
                    return Ok(Some(self.damaged(damage)));
                }
                Step::Waiting => return Ok(None),
                Step::Finished(damage) => {
                    let damage = damage.map(|damage| self.damaged(damage));
                    let entered = self.enter(Some(former.number() + 1))?;
                    match (damage, self.missing.take()) {
                        (None, None) if entered => {}
                        (None, Some(missing)) => return Ok(Some(self.damaged(missing))),
                        (damage, missing) => {
                            self.missing = missing;
                            return Ok(damage);
                        }
                    }
                }
            }
        }
    }

    /// Appends entries to `into` until there are `max_entries` new ones, or `max_bytes` of bodies, or nothing more is
    /// written yet. Stops early at a damage and returns it; the next call goes on behind it.
    ///
    /// # Errors
    /// As [`Reader::next`]; what was appended before the error stays in `into`.
    pub fn next_batch(
        &mut self,
        max_entries: usize,
        max_bytes: usize,
        into: &mut Vec<Entry>,
    ) -> Result<Option<Damage>, ReadError> {
        let (mut entries, mut bytes) = (0, 0);
        while entries < max_entries && bytes < max_bytes {
            match self.next()? {
                Some(ReadItem::Entry(entry)) => {
                    entries += 1;
                    bytes += entry.body.len();
                    into.push(entry);
                }
                Some(ReadItem::Damaged(damage)) => return Ok(Some(damage)),
                None => break,
            }
        }
        Ok(None)
    }

    /// Goes to the first segment that has at least this number, or to the one that holds what comes after `after`.
    /// `false` if that one does not exist yet; the place is then left as it was.
    fn enter(&mut self, number: Option<u64>) -> Result<bool, ReadError> {
        loop {
            let segments = self.shared.segments();
            let retained_after = segments.first().map_or(Sequence::START, |first| first.header.previous);
            if self.after < retained_after {
                return Err(ReadError::Reclaimed { retained_after });
            }
            let index = match number {
                Some(number) => segments.partition_point(|segment| segment.number() < number),
                // Everything is read: at the end of the last segment more may come.
                None => segments
                    .partition_point(|segment| segment.last() <= self.after)
                    .min(segments.len().saturating_sub(1)),
            };
            let Some(segment) = segments.get(index).filter(|segment| segment.written() > 0) else {
                return Ok(false);
            };
            let (offset, seen) = segment.seek(self.after);
            let file = match segment.open(&*self.shared.disk) {
                Ok(file) => file,
                Err(_) if segment.is_replaced() || segment.is_reclaimed() => continue,
                Err(error) => return Err(read_error(&segment.path, error)),
            };
            let scanner = Scanner::new(file, segment.codec.clone(), offset, offset);
            // Also when reading begins behind the last entry before one that is missing, or among those.
            let former = index.checked_sub(1).map(|index| &segments[index]);
            let missing = former.and_then(|former| missing_between(former, segment));
            self.missing = missing.filter(|damage| damage.lost.is_some_and(|(_, last)| last > self.after));
            self.place = Some(Place { segment: segment.clone(), scanner, seen, gap: None });
            return Ok(true);
        }
    }

    fn damaged(&mut self, damage: Damage) -> ReadItem {
        if let Some(place) = &self.place {
            // The report matters more than the copy.
            let _ = keep_damaged(
                &*self.shared.disk,
                &self.shared.layout,
                &place.segment.path,
                place.scanner.file(),
                &damage,
            );
        }
        if let Some((_, last)) = damage.lost {
            self.after = self.after.max(last);
        }
        ReadItem::Damaged(damage)
    }
}

impl Place {
    /// Goes on to the next entry greater than `after`.
    fn step(&mut self, after: Sequence) -> io::Result<Step> {
        // In this order: once a segment is sealed, what was written is final.
        let sealed = self.segment.sealed_at_ms().is_some();
        self.scanner.extend(self.segment.written());
        loop {
            match self.scanner.next()? {
                Found::Frame(_, Frame::Mark { .. }) => {}
                Found::Frame(place, frame) => {
                    let Frame::Entry { sequence, .. } = frame else { continue };
                    let expected = self.segment.lost_between(self.seen, Some(sequence)).is_none();
                    if sequence <= self.seen || sequence.epoch() != self.segment.header.epoch {
                        // A whole frame in a place where it cannot be.
                        let gap =
                            Gap { offset: place.start, dirty_end: place.end, end: place.end, hole: false };
                        self.gap.get_or_insert(gap);
                        continue;
                    }
                    let entry = (sequence > after).then(|| frame.to_entry()).flatten();
                    let missing =
                        Gap { offset: place.start, dirty_end: place.start, end: place.start, hole: false };
                    let gap = self.gap.take().or((!expected).then_some(missing));
                    let damage = gap.map(|gap| self.damage(gap, Some(sequence)));
                    self.seen = sequence;
                    match (damage, entry) {
                        (Some(damage), entry) if sequence > after => return Ok(Step::Damaged(damage, entry)),
                        (_, Some(entry)) => return Ok(Step::Entry(entry)),
                        (_, None) => {}
                    }
                }
                Found::Bad => {
                    let gap = self.scanner.skip_gap()?;
                    self.gap.get_or_insert(gap);
                }
                Found::End if !sealed => return Ok(Step::Waiting),
                Found::End => return Ok(Step::Finished(self.end())),
            }
        }
    }

    /// At the end of a sealed segment: entries that it should have and that were not there.
    fn end(&mut self) -> Option<Damage> {
        let end = self.segment.written();
        let missing = Gap { offset: end, dirty_end: end, end, hole: false };
        let short = self.segment.entries() > 0 && self.seen < self.segment.last();
        let gap = self.gap.take().or(short.then_some(missing))?;
        let damage = self.damage(gap, None);
        self.seen = self.segment.last(); // reported once
        Some(damage)
    }

    fn damage(&self, gap: Gap, before: Option<Sequence>) -> Damage {
        Damage {
            segment: self.segment.number(),
            offset: gap.offset,
            bytes: gap.end - gap.offset,
            after: self.seen,
            before,
            lost: self.segment.lost_between(self.seen, before),
        }
    }
}

/// What the header of a segment says was before it, and was not.
fn missing_between(former: &Segment, next: &Segment) -> Option<Damage> {
    let after = former.last();
    let first = Sequence::from_u64(after.as_u64() + 1)?;
    let lost = Some((first, next.header.previous)).filter(|(first, last)| first <= last)?;
    let (segment, before) = (former.number() + 1, Some(next.header.first));
    Some(Damage { segment, offset: 0, bytes: 0, after, before, lost: Some(lost) })
}

fn read_error(path: &Path, source: io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), source }
}
