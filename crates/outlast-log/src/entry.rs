//! What stands in the log: entries, and marks about them.

use std::fmt;

use uuid::Uuid;

use crate::Sequence;

/// The identity of a queue: random, made with its directory, in every segment and every line of `epochs.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub(crate) Uuid);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One opening of a log. Recorded durably before the first append of that opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Counts openings, from 1; the high bits of every sequence given in it.
    pub number: u32,
    /// 128 random bits in hexadecimal: what the lane's position in the database calls its owner.
    pub owner: String,
    /// When it was opened, in Unix milliseconds.
    pub opened_at_ms: u64,
}

/// What a caller hands in.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// Compact JSON text, without control characters (so without newlines).
    pub body: &'a str,
    /// When the write was first accepted, in Unix milliseconds.
    pub time_ms: u64,
    /// For a write that is appended again: its former sequence.
    pub origin: Option<Sequence>,
}

/// What stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; greater than that of every entry before it.
    pub sequence: Sequence,
    /// When the write was first accepted, in Unix milliseconds.
    pub time_ms: u64,
    /// For a write that was appended again: its former sequence.
    pub origin: Option<Sequence>,
    /// The JSON text exactly as it was handed in.
    pub body: Box<str>,
}

/// A statement about an earlier entry (its fate), or about the log itself (the cursor).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What is stated.
    pub kind: MarkKind,
    /// The entry it is about.
    pub target: Sequence,
    /// When it was decided, in Unix milliseconds.
    pub time_ms: u64,
    /// Compact JSON text with the particulars, `{}` if there are none; the rules of [`NewEntry::body`] hold.
    pub body: Box<str>,
}

/// The kinds of marks, a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MarkKind {
    /// The write waits for its next attempt.
    Parked,
    /// The write was refused and its caller got the error.
    Rejected,
    /// The write was refused for good and became a dead letter.
    Dead,
    /// An operator discarded the write.
    Discarded,
    /// A dead letter was given another attempt.
    Retried,
    /// The local copy of the database's watermark; only the last one counts.
    Cursor,
}

impl MarkKind {
    /// Every kind, in the order in which counts are kept.
    pub const ALL: [Self; 6] =
        [Self::Parked, Self::Rejected, Self::Dead, Self::Discarded, Self::Retried, Self::Cursor];

    /// The word that stands in the log, for example `parked`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Rejected => "rejected",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
            Self::Retried => "retried",
            Self::Cursor => "cursor",
        }
    }

    /// Its place in [`MarkKind::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// Counts appends and marks of this process alike; a [`Durable`](crate::Durable) waits until it is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// The count as a number, for metrics.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// What an append returns, before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The name of the new entry.
    pub sequence: Sequence,
    /// Hand it to [`Log::durable`](crate::Log::durable) to wait for the sync.
    pub ticket: Ticket,
}

/// Everything that was ever put into this log, also what is reclaimed since. Cumulative, and cheap to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Entries of either kind: accepted writes and those appended again.
    pub entries: u64,
    /// Entries among them with an origin: writes that were appended again.
    pub requeued: u64,
    /// Marks by kind, in the order of [`MarkKind::ALL`]. A write that is parked twice counts twice.
    pub marks: [u64; 6],
}

impl Counts {
    /// Marks of one kind.
    pub const fn of(&self, kind: MarkKind) -> u64 {
        self.marks[kind.index()]
    }

    /// The sum of two counts.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        // A header may say anything.
        self.entries = self.entries.saturating_add(other.entries);
        self.requeued = self.requeued.saturating_add(other.requeued);
        for (mine, theirs) in self.marks.iter_mut().zip(other.marks) {
            *mine = mine.saturating_add(theirs);
        }
        self
    }

    pub(crate) fn marks_total(&self) -> u64 {
        self.marks.iter().fold(0, |sum, marks| sum.saturating_add(*marks))
    }
}
