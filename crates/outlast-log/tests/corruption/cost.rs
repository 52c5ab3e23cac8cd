//! What a change to the files must cost, from where the frames are, and whether it did cost just that.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use outlast_log::{Damage, Entry, Format, Log, Mark, MarkKind, ReadError, Recovered, Sequence};
use outlast_testkit::disk::SimulatedDisk;

use crate::common::read;
use crate::sample::{End, Frame, HEADER_BYTES, QUEUE, Sample, Segment, open};

const SECTOR_BYTES: usize = 512;

/// What is done to a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Flip { segment: usize, at: usize, mask: u8 },
    Cut { segment: usize, length: usize },
}

#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// Frames that are gone: segment and index.
    lost: HashSet<(usize, usize)>,
    /// Stretches that must be reported, in the order of the log.
    damage: Vec<Stretch>,
    /// Where the last segment is cut, and how many bytes are cut off.
    torn: Option<(usize, usize)>,
    /// Frames that are cut off the last segment, and so are as if they had never been.
    forgotten: HashSet<(usize, usize)>,
    /// The first segment is gone with its header: nothing says where it began, so the log begins behind it.
    is_first_aside: bool,
}

#[derive(Debug)]
struct Stretch {
    segment: usize,
    bytes: Range<usize>,
    lost: Option<(Sequence, Sequence)>,
    /// Opening says so; otherwise only reading does.
    at_opening: bool,
    /// Reading says so; otherwise only opening does.
    at_reading: bool,
}

/// Makes these changes, of different segments, and opens and reads the log.
pub(crate) fn check(sample: &Sample, changes: &[Change]) {
    let mut cost = Cost::default();
    let disk = SimulatedDisk::holding(sample.medium.clone(), 1);
    let mut touched = Vec::new();
    for change in changes {
        let (index, bytes) = match *change {
            Change::Flip { segment, at, mask } => {
                let mut bytes = sample.segments[segment].bytes.clone();
                bytes[at] ^= mask;
                cost.flip(sample, segment, at, &bytes);
                (segment, bytes)
            }
            Change::Cut { segment, length } => {
                cost.cut(sample, segment, length);
                (segment, sample.segments[segment].bytes[..length].to_vec())
            }
        };
        disk.change(&sample.segments[index].path, |all| all.clone_from(&bytes));
        touched.push((index, bytes));
    }
    let (log, recovered) = open(&disk, sample.format);
    let found = Found { disk, log, recovered };
    let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        found.compare(sample, &cost);
        for Stretch { segment, bytes, .. } in &cost.damage {
            found.compare_copy(sample, *segment, bytes, &touched);
        }
    }));
    assert!(compared.is_ok(), "{:?} {:?} {changes:?} {cost:?}", sample.format, sample.end);
}

impl Cost {
    fn flip(&mut self, sample: &Sample, segment: usize, at: usize, bytes: &[u8]) {
        let it = &sample.segments[segment];
        let may_be_torn = sample.end == End::Killed && segment + 1 == sample.segments.len();
        let hit = it.frames.iter().position(|frame| frame.place.contains(&at));
        match hit {
            _ if at < HEADER_BYTES => {}
            // Rot that looks exactly as a write does that the power kept from the disk.
            Some(index)
                if may_be_torn
                    && (index + 1 == it.frames.len() || is_unwritten(sample, it, index, bytes)) =>
            {
                self.tear(sample, segment, index, bytes);
            }
            Some(index) => {
                let lost =
                    it.frames[index].entry().map(|entry| (sample.sequence(entry), sample.sequence(entry)));
                self.lost.insert((segment, index));
                let mut place = it.frames[index].place.clone();
                if sample.end == End::Killed && index + 1 == it.frames.len() {
                    place.end = dirty_end(sample, bytes);
                }
                self.damage(sample, segment, place, lost);
            }
            None if may_be_torn => self.torn = Some((it.end(), at + 1 - it.end())),
            None if sample.end == End::Killed => self.damage(sample, segment, it.end()..at + 1, None),
            // The sidecar knows that nothing stands there.
            None => {}
        }
    }

    fn cut(&mut self, sample: &Sample, segment: usize, length: usize) {
        let it = &sample.segments[segment];
        let (is_first, is_last) = (segment == 0, segment + 1 == sample.segments.len());
        // A file whose end is known gets its length again, as prefill: in json that is the newline that is missing.
        let newline = usize::from(sample.end == End::Closed && sample.format == Format::Json);
        let first = it.frames.iter().position(|frame| frame.place.end > length + newline);
        let Some(first) = first else { return };
        let start = it.frames[first].place.start;
        let gone = first..it.frames.len();
        let entries: Vec<usize> = it.frames[first..].iter().filter_map(Frame::entry).collect();
        let lost = entries.first().zip(entries.last());
        let lost = lost.map(|(first, last)| (sample.sequence(*first), sample.sequence(*last)));
        let has_header = sample.end == End::Closed || length >= it.header_length();
        let places = |index| (segment, index);
        if has_header && is_last && sample.end == End::Killed {
            // As if it had never been longer.
            self.tear(sample, segment, first, &it.bytes[..length]);
            return;
        }
        self.lost.extend(gone.clone().map(places));
        if !has_header {
            // Nothing of it can be read; what it had shows in its neighbours, if it has them on both sides.
            if is_last {
                self.forgotten.extend(gone.map(places));
            }
            self.is_first_aside |= is_first;
            if !is_first && !is_last {
                // The one before it does not know where it ended either.
                let end = sample.segments[segment - 1].end();
                let (bytes, at_opening, at_reading) = (end..end, true, true);
                self.damage.push(Stretch { segment: segment - 1, bytes, lost, at_opening, at_reading });
            }
            let (bytes, lost) = (0..length, None);
            self.damage.push(Stretch { segment, bytes, lost, at_opening: true, at_reading: false });
            return;
        }
        let bytes = start..dirty_end(sample, &it.bytes[..length]).max(start);
        if sample.end == End::Killed {
            let at_reading = lost.is_some() || !bytes.is_empty();
            self.damage.push(Stretch { segment, bytes, lost, at_opening: true, at_reading });
            return;
        }
        // It gets its length again, so that for a reader everything that is missing is damaged.
        let whole = start..it.end();
        let bytes = if bytes.is_empty() && lost.is_none() { whole.clone() } else { bytes };
        self.damage.push(Stretch { segment, bytes, lost, at_opening: true, at_reading: false });
        self.damage.push(Stretch { segment, bytes: whole, lost, at_opening: false, at_reading: true });
    }

    fn damage(
        &mut self,
        sample: &Sample,
        segment: usize,
        bytes: Range<usize>,
        lost: Option<(Sequence, Sequence)>,
    ) {
        let at_opening = sample.end == End::Killed;
        self.damage.push(Stretch { segment, bytes, lost, at_opening, at_reading: true });
    }

    fn tear(&mut self, sample: &Sample, segment: usize, first: usize, bytes: &[u8]) {
        let it = &sample.segments[segment];
        let (start, end) = (it.frames[first].place.start, dirty_end(sample, bytes));
        self.torn = (end > start).then(|| (start, end - start));
        let gone = (first..it.frames.len()).map(|index| (segment, index));
        self.lost.extend(gone.clone());
        self.forgotten.extend(gone);
    }
}

/// Behind the last byte that is not prefill.
fn dirty_end(sample: &Sample, bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != sample.prefill()).map_or(0, |last| last + 1)
}

/// Whether nothing but prefill stands from the frame's beginning, or from a sector's, to the end of a sector.
fn is_unwritten(sample: &Sample, it: &Segment, index: usize, bytes: &[u8]) -> bool {
    let place = it.frames[index].place.clone();
    let first_end = place.start / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
    first_end <= place.end && bytes[place.start..first_end].iter().all(|byte| *byte == sample.prefill())
}

/// A log that was changed and opened.
pub(crate) struct Found {
    pub(crate) disk: SimulatedDisk,
    pub(crate) log: Log,
    pub(crate) recovered: Recovered,
}

impl Found {
    pub(crate) fn compare(&self, sample: &Sample, cost: &Cost) {
        let Self { log, recovered, .. } = self;
        let is_kept = |segment: usize, index: usize| !cost.lost.contains(&(segment, index));
        let frames = || {
            let all = sample.segments.iter().enumerate();
            all.flat_map(|(at, segment)| {
                segment.frames.iter().enumerate().map(move |(index, frame)| (at, index, frame))
            })
        };
        let kept: Vec<&Entry> = frames()
            .filter(|(segment, index, _)| is_kept(*segment, *index))
            .filter_map(|(_, _, frame)| frame.entry().map(|entry| &sample.entries[entry]))
            .collect();
        assert_eq!(log.retained_after() > Sequence::START, cost.is_first_aside);
        let (entries, damage) = read(log, log.retained_after());
        assert!(
            entries.iter().eq(kept),
            "what was appended and was not touched is delivered, and nothing else"
        );

        let says =
            |damage: &Damage| (damage.segment, damage.offset as usize, damage.bytes as usize, damage.lost);
        let expected = |stretch: &Stretch| {
            let number = sample.segments[stretch.segment].number;
            (number, stretch.bytes.start, stretch.bytes.len(), stretch.lost)
        };
        let read: Vec<_> = cost.damage.iter().filter(|stretch| stretch.at_reading).map(expected).collect();
        let reported: Vec<_> = damage.iter().map(says).collect();
        assert_eq!(reported, read, "reading names exactly what is lost");
        let expected: Vec<_> =
            cost.damage.iter().filter(|stretch| stretch.at_opening).map(expected).collect();
        let mut reported: Vec<_> =
            recovered.damage.iter().filter(|damage| damage.segment > 0).map(says).collect();
        reported.sort_unstable();
        assert_eq!(reported, expected, "opening names exactly what is lost");
        assert_eq!(recovered.torn.map(|torn| (torn.offset as usize, torn.bytes as usize)), cost.torn);

        // What a sidecar says is not lost with the segment.
        let is_said = |segment: usize, index: usize| sample.end == End::Closed || is_kept(segment, index);
        let said =
            || frames().filter(|(segment, index, _)| is_said(*segment, *index)).map(|(_, _, frame)| frame);
        let not_cursor = |mark: &&Mark| mark.kind != MarkKind::Cursor;
        let marks = said().filter_map(Frame::mark).map(|mark| &sample.marks[mark]).filter(not_cursor);
        assert!(recovered.marks.iter().eq(marks), "marks");
        let mut cursor = said().filter_map(Frame::mark_or_carried).map(|mark| &sample.marks[mark]);
        assert_eq!(recovered.cursor.as_ref(), cursor.rfind(|mark| mark.kind == MarkKind::Cursor));
        let origins = said().filter_map(Frame::entry).map(|entry| &sample.entries[entry]);
        assert!(
            recovered
                .origins
                .iter()
                .copied()
                .eq(origins.filter_map(|entry| Some((entry.sequence, entry.origin?))))
        );
        let forgotten = frames().filter(|(segment, index, _)| cost.forgotten.contains(&(*segment, *index)));
        let forgotten = forgotten.filter(|(_, _, frame)| frame.entry().is_some()).count();
        assert_eq!(log.counts().entries as usize, sample.entries.len() - forgotten, "what is lost was there");

        if let Some((first, _)) = cost.damage.iter().find_map(|stretch| stretch.lost) {
            assert!(
                matches!(log.get(first), Err(ReadError::Damaged(damage)) if damage.lost.unwrap().0 == first)
            );
        }
    }

    /// The damaged bytes are kept as they were found.
    fn compare_copy(
        &self,
        sample: &Sample,
        segment: usize,
        place: &Range<usize>,
        changed: &[(usize, Vec<u8>)],
    ) {
        if place.is_empty() && place.start > 0 {
            return;
        }
        let name = format!("damaged/{:08}-{}.bin", sample.segments[segment].number, place.start);
        let (_, bytes) = changed.iter().find(|(index, _)| *index == segment).unwrap();
        // Of a file that was cut and got its length again, the prefill behind it too.
        let found = bytes.get(place.start..place.end.min(bytes.len())).unwrap_or_default();
        assert!(self.disk.read(&Path::new(QUEUE).join(name)).starts_with(found));
    }
}
