//! Dead letters: a log of their own, never evicted silently.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outlast_log::{
    Disk, Entry, KeyId, Log, LogOptions, LogState, Mark, MarkKind, NewEntry, ReadError, ReadItem, Reader,
    Retention, Sequence, Ticket,
};
use serde::{Deserialize, Serialize};

use crate::alike::without_own_values;
use crate::clock::{now_ms, rfc3339};
use crate::error::{Error, Refusal};
use crate::kept::parts;
use crate::redact::Redaction;
use crate::status::{Attempt, DeadFilter, DeadGroup, DeadLetter, DeadLetters, DeadMark, DeadSelection};
use crate::write::{Write, WriteId};

/// Size of one file of dead letters.
pub(crate) const SEGMENT_BYTES: u64 = 4 << 20;
/// Groups of reasons that a list shows.
const GROUPS_MAX: usize = 100;
/// A page that has so many bytes of letters ends.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// A letter that stands further behind than this is looked up instead.
const NEXT_MAX: u64 = 32;

/// A dead letter as its log keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub id: WriteId,
    /// Its last sequence in the main log.
    pub sequence: WriteId,
    pub accepted_ms: u64,
    pub died_ms: u64,
    pub reason: Refusal,
    pub history: Vec<Attempt>,
    pub write: Write,
}

/// What is kept in memory of a letter.
#[derive(Debug, Clone)]
struct Slot {
    stored_at: Sequence,
    /// Its last sequence in the main log.
    sequence: Sequence,
    /// Its reason, without what is the write's own.
    group: Arc<Refusal>,
    collections: Box<[Box<str>]>,
}

impl Slot {
    fn matches(&self, filter: &DeadFilter) -> bool {
        let has = |wanted: &str| self.collections.iter().any(|name| **name == *wanted);
        filter.kind.is_none_or(|kind| self.group.kind == kind)
            && filter.message.as_ref().is_none_or(|message| self.group.message == *message)
            && filter.collection.as_ref().is_none_or(|wanted| has(wanted.as_str()))
            && filter.there_at.is_none_or(|mark| self.stored_at <= mark.0)
    }
}

/// The dead letters of a queue.
#[derive(Debug)]
pub(crate) struct DeadLetterStore {
    log: Log,
    /// Groups are by what is shown of a reason: what is not cannot be searched for either.
    redact: Redaction,
    slots: Mutex<Slots>,
    /// Letters that could not be read when it was opened, and that nobody had taken out.
    unreadable: Vec<(Sequence, Sequence)>,
}

#[derive(Debug, Default)]
struct Slots {
    live: BTreeMap<WriteId, Slot>,
    /// Where they stand: the first says what can be given back.
    stored: BTreeSet<Sequence>,
    /// One copy of each: a hundred thousand letters rarely have more than a few.
    groups: HashMap<Refusal, Arc<Refusal>>,
    /// Where letters stand that were retried while there was no space for the mark that says so.
    owed: Vec<Sequence>,
}

impl Slots {
    fn insert(&mut self, letter: &Letter, stored_at: Sequence, redact: &Redaction) {
        let reason = redact.reason(letter.reason.clone(), letter.write.operations());
        let message = without_own_values(&reason.message, &letter.write);
        let group = Refusal::new(letter.reason.kind, message);
        let group = self.groups.entry(group).or_insert_with_key(|group| Arc::new(group.clone())).clone();
        let mut collections: Vec<Box<str>> =
            letter.write.records().map(|record| record.collection.as_str().into()).collect();
        collections.sort_unstable();
        collections.dedup();
        let sequence = letter.sequence.0;
        self.remove(letter.id);
        self.live.insert(letter.id, Slot { stored_at, sequence, group, collections: collections.into() });
        self.stored.insert(stored_at);
    }

    fn remove(&mut self, id: WriteId) {
        let Some(slot) = self.live.remove(&id) else { return };
        self.stored.remove(&slot.stored_at);
        // Its own, and the one in the map.
        if Arc::strong_count(&slot.group) == 2 {
            self.groups.remove(&*slot.group);
        }
    }
}

impl DeadLetterStore {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: &LogOptions,
        redact: Redaction,
    ) -> Result<Self, outlast_log::OpenError> {
        let options =
            LogOptions { segment_bytes: options.segment_bytes.min(SEGMENT_BYTES), ..options.clone() };
        let (log, recovered) = Log::open_on(disk, directory, options)?;
        let gone: std::collections::HashSet<Sequence> =
            recovered.marks.iter().map(|mark| mark.target).collect();
        let mut slots = Slots::default();
        let mut unreadable = Vec::new();
        let mut reader = log.reader(log.retained_after());
        // Whoever went on without them would take them for discarded.
        while let Some(item) = reader.next().map_err(|error| not_read(directory, error))? {
            match item {
                ReadItem::Entry(entry) if !gone.contains(&entry.sequence) => {
                    match serde_json::from_str::<Letter>(&entry.body) {
                        Ok(letter) => slots.insert(&letter, entry.sequence, &redact),
                        Err(error) => {
                            tracing::error!(%error, sequence = %entry.sequence, "a dead letter cannot be understood");
                            unreadable.push((entry.sequence, entry.sequence));
                            // Its bytes are whole: they stay for whoever understands them.
                            slots.stored.insert(entry.sequence);
                        }
                    }
                }
                ReadItem::Entry(_) => {}
                ReadItem::Damaged(damage) => {
                    tracing::error!(%damage, "dead letters are damaged");
                    let left = |lost| parts(lost, |sequence| gone.contains(&sequence));
                    unreadable.extend(damage.lost.into_iter().flat_map(left));
                }
            }
        }
        Ok(Self { log, redact, slots: Mutex::new(slots), unreadable })
    }

    /// Letters that could not be read when it was opened, and that nobody had taken out.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (Sequence, Sequence)> {
        self.unreadable.iter().copied()
    }

    /// Stores a letter; durable when this returns.
    pub(crate) async fn bury(&self, letter: &Letter) -> Result<(), Error> {
        // It was stored before there was no space for its mark.
        if self.lock().live.get(&letter.id).is_some_and(|slot| slot.sequence == letter.sequence.0) {
            return Ok(());
        }
        let body = serde_json::to_string(letter).map_err(|error| log_failed(&error))?;
        let entry = NewEntry { body: &body, time_ms: letter.accepted_ms, origin: None };
        let appended = self.log.append(entry).map_err(|error| log_failed(&error))?;
        self.log.durable(appended.ticket).await.map_err(|error| log_failed(&error))?;
        self.lock().insert(letter, appended.sequence, &self.redact);
        Ok(())
    }

    /// Takes letters out: they were retried or discarded. Durable when this returns. Returns how many of the first that
    /// are: for the others there was no space.
    pub(crate) async fn take_out(&self, ids: &[WriteId], kind: MarkKind) -> Result<usize, Error> {
        let (mut out, mut places, mut last) = (0, Vec::with_capacity(ids.len()), None);
        for id in ids {
            let stored_at = self.lock().live.get(id).map(|slot| slot.stored_at);
            if let Some(stored_at) = stored_at {
                match self.mark(stored_at, kind) {
                    Ok(ticket) => last = Some(ticket),
                    Err(error) if last.is_none() => return Err(error),
                    Err(_) => break,
                }
                places.push((*id, stored_at));
            }
            out += 1;
        }
        let Some(last) = last else { return Ok(out) };
        self.log.durable(last).await.map_err(|error| log_failed(&error))?;
        let mut slots = self.lock();
        for (id, _) in &places {
            slots.remove(*id);
        }
        drop(slots);
        if let Some(furthest) = places.iter().map(|(_, stored_at)| *stored_at).max() {
            self.give_space_back(furthest);
        }
        Ok(out)
    }

    /// Takes letters out that stand in the main log again. Without space for their marks they are out all the same, and
    /// the marks are owed: until then the main log must keep the entries, which tell a next start.
    pub(crate) async fn retried(&self, ids: &[WriteId]) {
        let out = match self.take_out(ids, MarkKind::Retried).await {
            Ok(out) if out == ids.len() => return,
            Ok(out) => out,
            Err(error) => {
                tracing::debug!(%error, "no mark of a dead letter that was retried");
                0
            }
        };
        let left = &ids[out..];
        tracing::warn!(letters = left.len(), "that dead letters were retried cannot be noted yet");
        let mut slots = self.lock();
        for id in left {
            if let Some(slot) = slots.live.get(id) {
                let stored_at = slot.stored_at;
                slots.remove(*id);
                slots.owed.push(stored_at);
            }
        }
    }

    /// Writes the marks that are owed, if there is space now. True when there are none left.
    pub(crate) async fn pay(&self) -> bool {
        loop {
            let Some(stored_at) = self.lock().owed.last().copied() else { return true };
            let Ok(ticket) = self.mark(stored_at, MarkKind::Retried) else { return false };
            if self.log.durable(ticket).await.is_err() {
                return false;
            }
            self.lock().owed.retain(|owed| *owed != stored_at);
            self.give_space_back(stored_at);
        }
    }

    /// Not synced.
    fn mark(&self, stored_at: Sequence, kind: MarkKind) -> Result<Ticket, Error> {
        let mark = Mark { kind, target: stored_at, time_ms: now_ms(), body: "{}".into() };
        self.log.mark(&mark).map_err(|error| log_failed(&error))
    }

    fn give_space_back(&self, stored_at: Sequence) {
        let oldest = {
            let slots = self.lock();
            slots.stored.first().into_iter().chain(&slots.owed).min().copied()
        };
        let settled = oldest
            .map_or(stored_at, |oldest| Sequence::from_u64(oldest.as_u64() - 1).unwrap_or(Sequence::START));
        self.log.settle(settled);
        if let Err(error) = self.log.reclaim(Retention { time: std::time::Duration::ZERO, bytes: 0 }) {
            tracing::warn!(%error, "space of old dead letters was not given back");
        }
    }

    /// With which keys its segments are encrypted, and how many with each; `None` counts those in clear.
    pub(crate) fn keys(&self) -> BTreeMap<Option<KeyId>, u64> {
        self.log.keys()
    }

    /// How its log is doing.
    pub(crate) fn log_state(&self) -> LogState {
        self.log.state()
    }

    pub(crate) fn count(&self) -> u64 {
        self.lock().live.len() as u64
    }

    /// Discarded dead letters, ever.
    pub(crate) fn discarded(&self) -> u64 {
        self.log.counts().of(MarkKind::Discarded)
    }

    pub(crate) fn contains(&self, id: WriteId) -> bool {
        self.lock().live.contains_key(&id)
    }

    /// Every letter's id and its last sequence in the main log.
    pub(crate) fn sequences(&self) -> Vec<(WriteId, Sequence)> {
        self.lock().live.iter().map(|(id, slot)| (*id, slot.sequence)).collect()
    }

    /// Its last sequence in the main log.
    pub(crate) fn sequence(&self, id: WriteId) -> Result<Sequence, Error> {
        self.lock().live.get(&id).map(|slot| slot.sequence).ok_or_else(|| not_found(id))
    }

    pub(crate) fn read(&self, id: WriteId) -> Result<Letter, Error> {
        self.reader().read(id)
    }

    /// For several letters, in the order of their ids.
    pub(crate) fn reader(&self) -> Letters<'_> {
        Letters { store: self, behind: None, bytes: 0 }
    }

    pub(crate) fn list(&self, filter: &DeadFilter) -> Result<DeadLetters, Error> {
        let limit = filter.limit.max(1);
        let (mut total, mut rest) = (0, Vec::new());
        // There is one copy of each group: its address is quicker to compare than its words.
        let mut counts: HashMap<*const Refusal, DeadGroup> = HashMap::new();
        for (id, slot) in self.lock().live.iter().filter(|(_, slot)| slot.matches(filter)) {
            total += 1;
            let group = counts.entry(Arc::as_ptr(&slot.group));
            group.or_insert_with(|| DeadGroup { reason: (*slot.group).clone(), count: 0 }).count += 1;
            if rest.len() <= limit && filter.after.is_none_or(|after| *id > after) {
                rest.push(*id);
            }
        }
        let groups_total = counts.len() as u64;
        let mut groups: Vec<DeadGroup> = counts.into_values().collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.message.cmp(&b.reason.message)));
        groups.truncate(GROUPS_MAX);
        let mut more = rest.len() > limit;
        rest.truncate(limit);
        let (mut letters, mut reader, mut last) = (Vec::new(), self.reader(), None);
        for id in &rest {
            if reader.bytes >= PAGE_BYTES_MAX {
                more = true;
                break;
            }
            last = Some(*id);
            match reader.read(*id) {
                Ok(letter) => letters.push(letter.into_public()),
                // It was retried or discarded while this page was read.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let next = last.filter(|_| more);
        Ok(DeadLetters { total, groups, groups_total, letters, next })
    }

    /// All that match, and the present moment as a mark.
    pub(crate) fn select(&self, filter: &DeadFilter) -> DeadSelection {
        let slots = self.lock();
        let ids = slots.live.iter().filter(|(_, slot)| slot.matches(filter)).map(|(id, _)| *id).collect();
        let mark = DeadMark(slots.stored.last().copied().unwrap_or(Sequence::START));
        DeadSelection { ids, mark }
    }

    pub(crate) fn close(&self) {
        if let Err(error) = self.log.sync().wait() {
            tracing::error!(%error, "the log of dead letters failed while closing");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads letters one after the other. Those that stand behind each other, as most do that died behind each other, are
/// read in one go.
pub(crate) struct Letters<'a> {
    store: &'a DeadLetterStore,
    /// Stands behind the letter that was read last.
    behind: Option<(Sequence, Reader)>,
    /// Bytes of the letters that were read.
    bytes: usize,
}

impl Letters<'_> {
    pub(crate) fn read(&mut self, id: WriteId) -> Result<Letter, Error> {
        let stored_at = self.store.lock().live.get(&id).map(|slot| slot.stored_at);
        let stored_at = stored_at.ok_or_else(|| not_found(id))?;
        let entry = if let Some(entry) = self.next(stored_at) {
            entry
        } else {
            let entry = self.store.log.get(stored_at).map_err(|error| log_failed(&error))?;
            self.behind = Some((stored_at, self.store.log.reader(stored_at)));
            entry.ok_or_else(|| not_found(id))?
        };
        self.bytes += entry.body.len();
        serde_json::from_str(&entry.body).map_err(|error| log_failed(&error))
    }

    /// The entry, if it is one of the next.
    fn next(&mut self, stored_at: Sequence) -> Option<Entry> {
        let (behind, mut reader) = self.behind.take()?;
        let distance =
            stored_at.as_u64().checked_sub(behind.as_u64()).filter(|distance| *distance <= NEXT_MAX)?;
        for _ in 0..distance {
            match reader.next() {
                Ok(Some(ReadItem::Entry(entry))) if entry.sequence < stored_at => {}
                Ok(Some(ReadItem::Entry(entry))) if entry.sequence == stored_at => {
                    self.behind = Some((stored_at, reader));
                    return Some(entry);
                }
                _ => return None,
            }
        }
        None
    }
}

impl Letter {
    pub(crate) fn into_public(self) -> DeadLetter {
        DeadLetter {
            id: self.id,
            accepted_at: rfc3339(self.accepted_ms),
            died_at: rfc3339(self.died_ms),
            reason: self.reason,
            history: self.history,
            operations: self.write.operations().to_vec(),
            redacted: false,
        }
    }
}

fn not_found(id: WriteId) -> Error {
    Error::NotFound { what: format!("dead letter {id}") }
}

fn log_failed(error: &dyn std::fmt::Display) -> Error {
    Error::LogFailed { reason: format!("dead letters: {error}"), outcome_unknown: false }
}

fn not_read(directory: &Path, error: ReadError) -> outlast_log::OpenError {
    match error {
        ReadError::Io { path, source } => outlast_log::OpenError::Io { action: "read", path, source },
        other => outlast_log::OpenError::Foreign { path: directory.to_owned(), reason: other.to_string() },
    }
}
