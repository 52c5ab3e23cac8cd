//! What is decided about writes, and what waits behind a refusal. Pure data: no clock, no log, no database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use outlast_log::Sequence;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::write::{RecordName, Write, WriteId};

/// The hash of a record's name. A collision makes two records wait for each other, nothing worse.
pub(crate) type Key = u64;

/// The keys of the records that a write touches.
pub(crate) fn keys_of(write: &Write) -> Vec<Key> {
    write.records().map(key_of).collect()
}

pub(crate) fn key_of(record: &RecordName) -> Key {
    let mut hasher = DefaultHasher::new();
    (record.collection.as_str(), record.id.as_str()).hash(&mut hasher);
    hasher.finish()
}

/// A durable decision about an entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    Parked,
    Rejected,
    Dead,
    Discarded,
}

/// What a mark in the log says besides its kind: JSON in the mark's body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MarkBody {
    /// The id under which the caller knows the write.
    pub first: WriteId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Refusal>,
    /// Refused attempts so far.
    #[serde(default)]
    pub attempts: u32,
    /// Unix milliseconds of the next attempt; none for a write that waits behind another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// The records that wait with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordName>,
}

/// A decision with what receipts tell about it.
#[derive(Debug, Clone)]
pub(crate) struct Fated {
    pub decided: Decided,
    pub attempts: u32,
    pub reason: Option<Box<Refusal>>,
    /// When (Unix milliseconds).
    pub time_ms: u64,
}

/// Decisions by the present sequence of a write, and which entry succeeds which.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    fates: BTreeMap<Sequence, Fated>,
    /// Former sequence -> the sequence under which the write was appended again.
    requeued: HashMap<Sequence, Sequence>,
    /// What waits.
    pub chains: Chains,
}

impl Ledger {
    pub(crate) fn decide(&mut self, sequence: Sequence, fated: Fated) {
        self.fates.insert(sequence, fated);
    }

    pub(crate) fn fate(&self, sequence: Sequence) -> Option<&Fated> {
        self.fates.get(&sequence)
    }

    pub(crate) fn requeue(&mut self, former: Sequence, now: Sequence) {
        self.requeued.insert(former, now);
    }

    pub(crate) fn is_requeued(&self, sequence: Sequence) -> bool {
        self.requeued.contains_key(&sequence)
    }

    /// Under which sequence the entry was appended again.
    pub(crate) fn later(&self, sequence: Sequence) -> Option<Sequence> {
        self.requeued.get(&sequence).copied()
    }

    /// The present sequence of the write that its caller knows as `first`.
    pub(crate) fn present(&self, first: WriteId) -> Sequence {
        let mut sequence = first.0;
        while let Some(&later) = self.requeued.get(&sequence) {
            sequence = later;
        }
        sequence
    }

    /// The dead letter of this entry was discarded: its receipt says so.
    pub(crate) fn letter_discarded(&mut self, sequence: Sequence) {
        if let Some(fated) = self.fates.get_mut(&sequence) {
            fated.decided = Decided::Discarded;
        }
    }

    /// After a start: dead entries that are among the dead letters no more and were not appended again were discarded.
    pub(crate) fn settle_letters(&mut self, is_letter: impl Fn(Sequence) -> bool) {
        for (sequence, fated) in &mut self.fates {
            if fated.decided == Decided::Dead
                && !self.requeued.contains_key(sequence)
                && !is_letter(*sequence)
            {
                fated.decided = Decided::Discarded;
            }
        }
    }

    /// How many entries in (after, to] have a decision.
    pub(crate) fn decided_between(&self, after: Sequence, to: Sequence) -> u64 {
        if after >= to {
            return 0;
        }
        self.fates.range((std::ops::Bound::Excluded(after), std::ops::Bound::Included(to))).count() as u64
    }

    /// Whether any entry from `first` to `last` has a decision.
    pub(crate) fn decided_within(&self, first: Sequence, last: Sequence) -> bool {
        first <= last && self.fates.range(first..=last).next().is_some()
    }

    /// Forgets what the log has forgotten.
    pub(crate) fn prune(&mut self, retained_after: Sequence) {
        if self.fates.first_key_value().is_some_and(|(first, _)| *first <= retained_after) {
            self.fates = self.fates.split_off(&retained_after);
            self.fates.remove(&retained_after);
            self.requeued.retain(|_, now| *now > retained_after);
        }
    }
}

/// A write that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Its present sequence.
    pub sequence: Sequence,
    /// When it may be tried again (Unix milliseconds); 0 for one that only waits behind another.
    pub due_ms: u64,
}

/// Writes to the same records that wait for each other, in the order of their first ids.
#[derive(Debug, Default)]
struct Chain {
    keys: Vec<Key>,
    parked: BTreeMap<WriteId, Waiting>,
    /// Those that were appended again and that the watermark has not passed yet. A later write that stands earlier in
    /// the log than one of them waits as well, or it would overtake.
    again: Stairs,
    /// The dead letters for whose fate they wait (`hold_record_on_dead_letter`).
    held_by: BTreeSet<WriteId>,
}

/// Answers: of the writes before this one, how far behind does the furthest stand? Keeps only what can be the answer,
/// so that sequences rise with first ids.
#[derive(Debug, Default)]
struct Stairs(BTreeMap<WriteId, Sequence>);

impl Stairs {
    fn insert(&mut self, first: WriteId, sequence: Sequence) {
        if self.furthest_before(first).is_some_and(|furthest| furthest >= sequence) {
            return;
        }
        let behind = self.0.range(first..).take_while(|(_, other)| **other <= sequence);
        let lower: Vec<WriteId> = behind.map(|(first, _)| *first).collect();
        for first in lower {
            self.0.remove(&first);
        }
        self.0.insert(first, sequence);
    }

    fn furthest_before(&self, first: WriteId) -> Option<Sequence> {
        self.0.range(..first).next_back().map(|(_, sequence)| *sequence)
    }

    fn passed(&mut self, cursor: Sequence) {
        while self.0.first_key_value().is_some_and(|(_, sequence)| *sequence <= cursor) {
            self.0.pop_first();
        }
    }
}

/// Every chain, and which record belongs to which.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    next: u64,
    /// By their age, so that chains return in a fixed order.
    by_id: BTreeMap<u64, Chain>,
    keys: HashMap<Key, u64>,
    /// Which chain waits for a dead letter.
    held: HashMap<WriteId, u64>,
    parked: u64,
}

impl Chains {
    /// Whether no record waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Writes that wait.
    pub(crate) fn parked(&self) -> u64 {
        self.parked
    }

    /// The smallest present sequence of a write that waits: the log must keep everything from it on.
    pub(crate) fn oldest(&self) -> Option<Sequence> {
        self.by_id.values().flat_map(|chain| chain.parked.values()).map(|waiting| waiting.sequence).min()
    }

    /// Whether the write `first`, standing at `sequence`, must wait: an earlier write to one of its records waits, or
    /// was appended again further behind.
    pub(crate) fn is_behind(&self, keys: &[Key], first: WriteId, sequence: Sequence) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        keys.iter().filter_map(|key| self.keys.get(key)).any(|chain| {
            let chain = &self.by_id[chain];
            chain.parked.first_key_value().is_some_and(|(earliest, _)| *earliest < first)
                || chain.again.furthest_before(first).is_some_and(|furthest| furthest > sequence)
                || chain.held_by.first().is_some_and(|letter| *letter < first)
        })
    }

    /// Adds a write that waits; chains that share a record with it become one.
    pub(crate) fn park(&mut self, first: WriteId, waiting: Waiting, keys: &[Key]) {
        let id = self.chain_of(keys);
        let Some(chain) = self.by_id.get_mut(&id) else { return };
        if chain.parked.insert(first, waiting).is_none() {
            self.parked += 1;
        }
    }

    /// Notes that a write of these records was appended again at `sequence`.
    pub(crate) fn appended_again(&mut self, first: WriteId, sequence: Sequence, keys: &[Key]) {
        let id = self.chain_of(keys);
        if let Some(chain) = self.by_id.get_mut(&id) {
            if chain.parked.remove(&first).is_some() {
                self.parked -= 1;
            }
            chain.again.insert(first, sequence);
        }
    }

    /// The write no longer waits (it died, or was discarded).
    pub(crate) fn remove(&mut self, first: WriteId) {
        for chain in self.by_id.values_mut() {
            if chain.parked.remove(&first).is_some() {
                self.parked -= 1;
                return;
            }
        }
    }

    /// Makes whatever waits for these records wait for the fate of a dead letter.
    pub(crate) fn hold(&mut self, keys: &[Key], letter: WriteId) {
        let id = self.chain_of(keys);
        if let Some(chain) = self.by_id.get_mut(&id) {
            chain.held_by.insert(letter);
            self.held.insert(letter, id);
        }
    }

    /// The dead letter's fate is decided: what waits for it may go on.
    pub(crate) fn release(&mut self, letter: WriteId) {
        let chain = self.held.remove(&letter).and_then(|id| self.by_id.get_mut(&id));
        if let Some(chain) = chain {
            chain.held_by.remove(&letter);
        }
    }

    /// Writes to append again now, about `limit` of them, each chain in the order of first ids: those that are due and
    /// those behind them, up to the first one that is not due yet.
    pub(crate) fn due(&self, now_ms: u64, limit: usize) -> Vec<(WriteId, Sequence)> {
        let mut due = Vec::new();
        for chain in self.by_id.values().filter(|chain| chain.held_by.is_empty()) {
            if due.len() >= limit {
                break;
            }
            let ready = chain.parked.iter().take_while(|(_, waiting)| waiting.due_ms <= now_ms);
            due.extend(ready.take(limit).map(|(first, waiting)| (*first, waiting.sequence)));
        }
        due
    }

    /// When the next write is due (Unix milliseconds).
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let open = self.by_id.values().filter(|chain| chain.held_by.is_empty());
        open.filter_map(|chain| chain.parked.first_key_value()).map(|(_, waiting)| waiting.due_ms).min()
    }

    /// The watermark has passed `cursor`: lets go of chains in which nothing waits and nothing is on its way again.
    pub(crate) fn dissolve(&mut self, cursor: Sequence) {
        if self.by_id.is_empty() {
            return;
        }
        for chain in self.by_id.values_mut() {
            chain.again.passed(cursor);
        }
        let over =
            |chain: &Chain| chain.parked.is_empty() && chain.held_by.is_empty() && chain.again.0.is_empty();
        let chains = &self.by_id;
        self.keys.retain(|_, chain| !over(&chains[chain]));
        self.by_id.retain(|_, chain| !over(chain));
    }

    /// The one chain of these keys: made, or merged from several.
    fn chain_of(&mut self, keys: &[Key]) -> u64 {
        let mut ids: Vec<u64> = keys.iter().filter_map(|key| self.keys.get(key)).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let id = ids.first().copied().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let mut chain = self.by_id.remove(&id).unwrap_or_default();
        for other in ids.iter().skip(1).filter_map(|other| self.by_id.remove(other)) {
            for key in &other.keys {
                self.keys.insert(*key, id);
            }
            for letter in &other.held_by {
                self.held.insert(*letter, id);
            }
            chain.keys.extend(other.keys);
            chain.parked.extend(other.parked);
            chain.held_by.extend(other.held_by);
            for (first, sequence) in other.again.0 {
                chain.again.insert(first, sequence);
            }
        }
        for key in keys {
            if self.keys.insert(*key, id).is_none() {
                chain.keys.push(*key);
            }
        }
        self.by_id.insert(id, chain);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(counter: u64) -> Sequence {
        Sequence::new(1, counter).unwrap()
    }

    fn id(counter: u64) -> WriteId {
        WriteId(seq(counter))
    }

    fn waiting(counter: u64, due_ms: u64) -> Waiting {
        Waiting { sequence: seq(counter), due_ms }
    }

    #[test]
    fn later_writes_to_a_parked_record_wait_and_others_go_on() {
        let mut chains = Chains::default();
        chains.park(id(5), waiting(5, 100), &[1]);
        assert!(chains.is_behind(&[1], id(9), seq(9)));
        assert!(chains.is_behind(&[2, 1], id(9), seq(9)));
        assert!(!chains.is_behind(&[2], id(9), seq(9)));
        assert!(!chains.is_behind(&[1], id(4), seq(4)), "an earlier write is not behind");
    }

    #[test]
    fn nothing_overtakes_a_write_that_was_appended_again() {
        let mut chains = Chains::default();
        chains.park(id(5), waiting(5, 100), &[1]);
        assert_eq!(chains.due(99, 10), vec![]);
        assert_eq!(chains.due(100, 10), vec![(id(5), seq(5))]);
        chains.appended_again(id(5), seq(20), &[1]);
        assert_eq!(chains.parked(), 0);
        assert!(chains.is_behind(&[1], id(12), seq(12)), "it stands before 20 and would overtake");
        assert!(!chains.is_behind(&[1], id(5), seq(20)), "the write itself is sent");
        assert!(!chains.is_behind(&[1], id(25), seq(25)), "what stands behind it follows in order");
        chains.dissolve(seq(19));
        assert!(chains.is_behind(&[1], id(12), seq(12)));
        chains.dissolve(seq(20));
        assert!(!chains.is_behind(&[1], id(12), seq(12)));
    }

    /// Found by the seeded test of P4: the middle of a chain is refused again and appended once more at once, while
    /// what follows it has not been read yet.
    #[test]
    fn what_stands_between_a_write_and_its_next_attempt_does_not_overtake_it() {
        let mut chains = Chains::default();
        for (first, again) in [(9, 90), (10, 91), (11, 92), (13, 93)] {
            chains.park(id(first), waiting(first, 0), &[1]);
            chains.appended_again(id(first), seq(again), &[1]);
        }
        assert!(!chains.is_behind(&[1], id(10), seq(91)));
        chains.dissolve(seq(91));
        chains.park(id(10), waiting(91, 0), &[1]);
        chains.appended_again(id(10), seq(108), &[1]);
        assert!(chains.is_behind(&[1], id(11), seq(92)));
        assert!(chains.is_behind(&[1], id(13), seq(93)));
        assert!(!chains.is_behind(&[1], id(10), seq(108)));
        assert!(!chains.is_behind(&[1], id(9), seq(90)));
        chains.dissolve(seq(108));
        assert!(!chains.is_behind(&[1], id(13), seq(110)));
    }

    #[test]
    fn a_chain_is_appended_again_in_the_order_of_first_ids_behind_its_head() {
        let mut chains = Chains::default();
        chains.park(id(9), waiting(30, 0), &[1]);
        chains.park(id(5), waiting(5, 100), &[1]);
        chains.park(id(12), waiting(12, 0), &[1]);
        assert_eq!(chains.due(50, 10), vec![], "all wait for the head");
        assert_eq!(chains.next_due_ms(), Some(100));
        let due: Vec<_> = chains.due(100, 10).into_iter().map(|(first, _)| first).collect();
        assert_eq!(due, vec![id(5), id(9), id(12)]);
        assert_eq!(chains.due(100, 2).len(), 2);
    }

    #[test]
    fn a_write_to_two_records_joins_their_chains() {
        let mut chains = Chains::default();
        chains.park(id(5), waiting(5, 100), &[1]);
        chains.park(id(6), waiting(6, 10), &[2]);
        chains.park(id(7), waiting(7, 0), &[1, 2, 3]);
        assert!(chains.is_behind(&[3], id(8), seq(8)));
        assert_eq!(chains.due(50, 10), vec![], "6 is due, but 5 comes first now that 7 needs both");
        chains.remove(id(5));
        assert_eq!(chains.due(50, 10).len(), 2);
        assert_eq!(chains.parked(), 2);
    }

    #[test]
    fn a_held_record_waits_until_its_dead_letter_is_decided() {
        let mut chains = Chains::default();
        chains.hold(&[1], id(5));
        assert!(chains.is_behind(&[1], id(9), seq(9)));
        chains.park(id(9), waiting(9, 0), &[1]);
        assert_eq!(chains.due(u64::MAX, 10), vec![]);
        chains.release(id(5));
        assert_eq!(chains.due(0, 10).len(), 1);
    }

    #[test]
    fn receipts_follow_a_write_through_its_sequences() {
        let mut ledger = Ledger::default();
        ledger.requeue(seq(5), seq(20));
        ledger.requeue(seq(20), seq(31));
        assert_eq!(ledger.present(id(5)), seq(31));
        ledger.decide(seq(5), Fated { decided: Decided::Parked, attempts: 1, reason: None, time_ms: 0 });
        ledger.decide(seq(20), Fated { decided: Decided::Parked, attempts: 2, reason: None, time_ms: 0 });
        assert_eq!(ledger.decided_between(Sequence::START, seq(31)), 2);
        assert_eq!(ledger.decided_between(seq(5), seq(19)), 0);
        ledger.prune(seq(5));
        assert!(ledger.fate(seq(5)).is_none());
        assert_eq!(ledger.present(id(5)), seq(31), "its receipt lives as long as its last entry");
    }
}
