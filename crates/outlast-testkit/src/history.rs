//! [`History`]: what clients were told about their writes, held against what the database shows in the end.
//!
//! Each operation has a [`Token`] of its own that stands in what it writes, so that effects can be counted. The checker
//! finds effects that are lost, doubled, out of order, or that nobody asked for:
//!
//! - every acknowledged write has taken effect exactly once, every refused one not at all, one with an unknown
//!   outcome at most once;
//! - if a write was acknowledged before another one to the same record was begun, its effect comes first.
//!
//! Two kinds of records make that visible. A *ledger* is a record to which every write adds 1 to a counter and its
//! token to a list: the list is the order of effects. A *document* is created, put, patched and deleted; only its last
//! state is seen, so the checker searches for an order of its writes that keeps the rules and ends in that state.

mod explain;
mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Names one operation, and stands in what it writes: `t17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(usize);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('t').and_then(|digits| digits.parse().ok());
        number.map(Self).ok_or_else(|| format!("{text:?} is no token"))
    }
}

/// What an operation asks for. Documents hold the token somewhere, so that their state tells who wrote it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Add 1 to the ledger's counter and the token to its list.
    Note,
    /// Make the document; refused when it exists.
    Create(Value),
    /// Make or replace the document.
    Put(Value),
    /// Merge into the document (RFC 7396); refused when it is absent.
    Patch(Value),
    /// Remove the document.
    Delete,
}

/// Why a write took no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The record existed at its place in the order.
    Exists,
    /// The record was absent at its place in the order.
    Absent,
    /// It was not taken in, or was refused for a reason that says nothing about the record.
    Other,
}

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The database has committed it.
    Applied,
    /// It is durable in the log.
    Queued,
    /// It takes no effect.
    Refused(Cause),
    /// Nothing, or nothing certain: the connection was lost after sending.
    Unknown,
}

/// An instant: the count of things that were recorded before.
type Instant = usize;
const NEVER: Instant = Instant::MAX;

#[derive(Debug, Clone)]
struct Entry {
    token: Token,
    record: String,
    change: Change,
    begun: Instant,
    /// `NEVER` while the answer is open, and for unknown outcomes: they may take effect any time later.
    ended: Instant,
    told: Told,
}

impl Entry {
    fn is_acknowledged(&self) -> bool {
        matches!(self.told, Told::Applied | Told::Queued)
    }
}

/// What the database shows of a record in the end.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A ledger.
    Ledger {
        /// Its counter.
        count: u64,
        /// Its list of tokens, in order.
        tokens: Vec<String>,
    },
    /// A document.
    Document(Value),
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq)]
pub enum Violation {
    /// An acknowledged write has no effect.
    Lost(Token),
    /// A write took effect more than once.
    Doubled(Token),
    /// The second write was begun after the first was acknowledged, but took effect before it.
    Reordered(Token, Token),
    /// An effect that nobody asked for.
    Invented(String),
    /// A write that was refused took effect.
    RefusedTookEffect(Token),
    /// The counter of a ledger is not the length of its list.
    Miscounted(String),
    /// No order of the writes to this document that keeps the rules ends in the state that was seen.
    Unexplained(String),
}

/// How many operations of each kind a checked history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Told *applied*.
    pub applied: u64,
    /// Told *queued*, and not buried later.
    pub queued: u64,
    /// Took no effect.
    pub refused: u64,
    /// Outcome unknown.
    pub unknown: u64,
}

/// Records operations; shared by all clients of a test.
#[derive(Debug, Default)]
pub struct History {
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    now: Instant,
    entries: Vec<Entry>,
}

impl History {
    /// An operation is about to be sent. `change` makes what it asks for from its token.
    pub fn begin(&self, record: impl Into<String>, change: impl FnOnce(Token) -> Change) -> (Token, Change) {
        let mut recorded = self.lock();
        let token = Token(recorded.entries.len());
        let change = change(token);
        let (record, begun) = (record.into(), recorded.tick());
        let entry = Entry { token, record, change: change.clone(), begun, ended: NEVER, told: Told::Unknown };
        recorded.entries.push(entry);
        (token, change)
    }

    /// Its answer came, or will not come any more.
    ///
    /// # Panics
    /// For a token of another history.
    pub fn end(&self, token: Token, told: Told) {
        let mut recorded = self.lock();
        let now = recorded.tick();
        let entry = &mut recorded.entries[token.0];
        entry.told = told;
        entry.ended = if told == Told::Unknown { NEVER } else { now };
    }

    /// A write that was queued, or whose outcome was unknown, is a dead letter: it takes no effect after all.
    ///
    /// # Panics
    /// For a token of another history.
    pub fn bury(&self, token: Token, cause: Cause) {
        let mut recorded = self.lock();
        let entry = &mut recorded.entries[token.0];
        // Nothing bounds the place of a write whose caller was told nothing.
        entry.told = Told::Refused(if entry.told == Told::Unknown { Cause::Other } else { cause });
    }

    /// Holds the history against what the database shows. Records are named as in [`History::begin`].
    ///
    /// # Errors
    /// Every broken promise.
    pub fn check(&self, seen: &BTreeMap<String, Seen>) -> Result<Summary, Vec<Violation>> {
        let recorded = self.lock();
        let mut records: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for entry in &recorded.entries {
            records.entry(&entry.record).or_default().push(entry);
        }
        let names: BTreeSet<&str> = records.keys().copied().chain(seen.keys().map(String::as_str)).collect();
        let mut violations = Vec::new();
        for name in names {
            let entries = records.get(name).map(Vec::as_slice).unwrap_or_default();
            violations.extend(check_record(name, entries, seen.get(name)));
        }
        if violations.is_empty() { Ok(summary(&recorded.entries)) } else { Err(violations) }
    }

    /// How many operations were told what, without a check.
    pub fn summary(&self) -> Summary {
        summary(&self.lock().entries)
    }

    /// The record to which this write went.
    pub fn record_of(&self, token: Token) -> Option<String> {
        self.lock().entries.iter().find(|entry| entry.token == token).map(|entry| entry.record.clone())
    }

    /// Everything that is known about the writes to a record, for the message of a failed test.
    pub fn describe(&self, record: &str) -> String {
        let recorded = self.lock();
        let entries = recorded.entries.iter().filter(|entry| entry.record == record);
        entries.fold(String::new(), |text, entry| {
            let ended = if entry.ended == NEVER { "-".to_owned() } else { entry.ended.to_string() };
            let Entry { token, change, begun, told, .. } = entry;
            format!("{text}  {begun}..{ended} {token}: {change:?} -> {told:?}\n")
        })
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn tick(&mut self) -> Instant {
        self.now += 1;
        self.now
    }
}

fn check_record(name: &str, entries: &[&Entry], seen: Option<&Seen>) -> Vec<Violation> {
    let is_ledger = entries.iter().any(|entry| entry.change == Change::Note);
    match seen {
        Some(Seen::Ledger { count, tokens }) => ledger::check(name, entries, *count, tokens),
        None if is_ledger => ledger::check(name, entries, 0, &[]),
        Some(Seen::Document(_)) if entries.is_empty() => vec![Violation::Invented(name.to_owned())],
        Some(Seen::Document(document)) => explain::check(name, entries, Some(document)).into_iter().collect(),
        None => explain::check(name, entries, None).into_iter().collect(),
    }
}

fn summary(entries: &[Entry]) -> Summary {
    let mut summary = Summary::default();
    for entry in entries {
        let count = match entry.told {
            Told::Applied => &mut summary.applied,
            Told::Queued => &mut summary.queued,
            Told::Refused(_) => &mut summary.refused,
            Told::Unknown => &mut summary.unknown,
        };
        *count += 1;
    }
    summary
}
