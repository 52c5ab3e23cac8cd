//! What a log is, as a list in memory: this file is meant to be read as the specification. It knows nothing of files,
//! threads, formats or checksums; `main.rs` does the same to it and to a real log and compares.

use outlast_log::{Counts, Entry, Mark, MarkKind, NewEntry, Sequence};

#[derive(Debug, Clone)]
pub(crate) enum Item {
    Entry(Entry),
    Mark(Mark),
}

#[derive(Debug, Default)]
pub(crate) struct Specification {
    /// Everything that was ever put in and is not lost, in the one order of entries and marks.
    items: Vec<Item>,
    /// So many of them were acknowledged. Whatever happens, these stay.
    durable: usize,
    /// Where segments begin. Only whole segments are reclaimed.
    starts: Vec<usize>,
    /// Where the first segment begins that is still in the log: at the first, or when reclaiming failed perhaps only at
    /// the second.
    retained: (usize, usize),
    /// The present opening, and the sequences given in it.
    epoch: u32,
    counter: u64,
    /// Everything up to here may be reclaimed; asked for anew in each opening.
    settled: Sequence,
}

/// What an opening finds.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) epoch: u32,
    pub(crate) counts: Counts,
    pub(crate) marks: &'a [Mark],
    pub(crate) retained_after: Sequence,
}

impl Specification {
    /// Every opening is a new epoch. A crash before it may have taken the end of the list: never anything from its
    /// middle, never anything acknowledged. What it finds stays from now on.
    pub(crate) fn open(&mut self, found: &Found<'_>) {
        assert!(found.epoch > self.epoch, "an epoch is used once");
        let left = (found.counts.entries + found.counts.marks.iter().sum::<u64>()) as usize;
        assert!(left >= self.durable, "{left} items are left of {} that were acknowledged", self.durable);
        assert!(left <= self.items.len(), "{left} items are there of {} that were put in", self.items.len());
        self.items.truncate(left);
        assert_eq!(found.counts, self.counts(), "what is left is a prefix");
        self.starts.retain(|start| *start < left);
        self.starts.push(left);
        let (sure, perhaps) = self.retained;
        let fits = |start: &usize| {
            self.last_before(*start) == found.retained_after && self.marks_from(*start) == found.marks
        };
        let start = self.starts.iter().copied().filter(|start| (sure..=perhaps).contains(start)).find(fits);
        let start = start.expect("what is in the log begins with a segment, and its marks are all there");
        *self = Self {
            items: std::mem::take(&mut self.items),
            starts: std::mem::take(&mut self.starts),
            durable: left,
            retained: (start, start),
            epoch: found.epoch,
            counter: 0,
            settled: Sequence::START,
        };
    }

    /// Neighbouring sequences of the present epoch.
    pub(crate) fn append(&mut self, new: &[NewEntry<'_>]) -> Vec<Sequence> {
        let first = self.items.len();
        for NewEntry { body, time_ms, origin } in new.iter().copied() {
            self.counter += 1;
            let sequence = Sequence::new(self.epoch, self.counter).expect("so many are never given");
            self.items.push(Item::Entry(Entry { sequence, time_ms, origin, body: body.into() }));
        }
        self.items[first..].iter().filter_map(Item::entry).map(|entry| entry.sequence).collect()
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.items.push(Item::Mark(mark));
    }

    /// The last `items` items were put into a new segment.
    pub(crate) fn rotated(&mut self, items: usize) {
        self.starts.push(self.items.len() - items);
    }

    /// An acknowledgement of everything so far.
    pub(crate) fn sync(&mut self) {
        self.durable = self.items.len();
    }

    pub(crate) fn settle(&mut self, upto: Sequence) {
        self.settled = self.settled.max(upto);
    }

    /// Segments leave from the front while everything in them is settled, but for the last one. After a failure any
    /// number of those may still be there.
    pub(crate) fn reclaim(&mut self, failed: bool) {
        let settled = |start: &&usize| self.last_before(**start) <= self.settled;
        let start = self.starts.iter().take_while(settled).last().copied();
        let start = start.map_or(self.retained.1, |start| start.max(self.retained.1));
        self.retained = (if failed { self.retained.0 } else { start }, start);
    }

    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Entries that are still in the log.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.items[self.retained.1..].iter().filter_map(Item::entry)
    }

    pub(crate) fn retained_after(&self) -> Sequence {
        self.last_before(self.retained.1)
    }

    pub(crate) fn last(&self) -> Sequence {
        self.last_before(self.items.len())
    }

    /// The last cursor survives everything.
    pub(crate) fn cursor(&self) -> Option<&Mark> {
        self.items.iter().filter_map(Item::mark).rfind(|mark| mark.kind == MarkKind::Cursor)
    }

    /// Everything that was ever put in, also what is reclaimed.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for item in &self.items {
            match item {
                Item::Entry(entry) => {
                    counts.entries += 1;
                    counts.requeued += u64::from(entry.origin.is_some());
                }
                Item::Mark(Mark { kind, .. }) => {
                    let index = MarkKind::ALL.iter().position(|other| other == kind);
                    counts.marks[index.expect("`ALL` has every kind")] += 1;
                }
            }
        }
        counts
    }

    fn last_before(&self, index: usize) -> Sequence {
        self.items[..index].iter().rev().find_map(Item::entry).map_or(Sequence::START, |entry| entry.sequence)
    }

    fn marks_from(&self, start: usize) -> Vec<Mark> {
        let marks = self.items[start..].iter().filter_map(Item::mark);
        marks.filter(|mark| mark.kind != MarkKind::Cursor).cloned().collect()
    }
}

impl Item {
    pub(crate) fn entry(&self) -> Option<&Entry> {
        if let Self::Entry(entry) = self { Some(entry) } else { None }
    }

    pub(crate) fn mark(&self) -> Option<&Mark> {
        if let Self::Mark(mark) = self { Some(mark) } else { None }
    }
}
