//! The fate of every entry, as far as the files know: what a start would derive from marks, origins and dead letters.

use std::collections::{BTreeMap, HashSet};

use outlast_log::Sequence;
use outlast_log::inspect::{Contents, InspectError, Inspection, Seen};

use super::line::{Status, before};
use crate::dead::Letter;
use crate::drainer::decided_by;
use crate::ledger::{Decided, Fated, Ledger};
use crate::open::mark_body;
use crate::write::WriteId;

/// What is known about writes.
#[derive(Debug)]
pub(super) struct Fates {
    pub ledger: Ledger,
    /// The local copy of the watermark; START when none was ever noted.
    pub cursor: Sequence,
    /// Dead letters by id: where they are stored, and their last sequence in the log.
    pub letters: BTreeMap<WriteId, (Sequence, Sequence)>,
    /// Letters whose mark a crash kept from the log; a start makes it again.
    pub unmarked: u64,
    /// Letters of writes that the log has lost: refused before they were synced, and acknowledged to nobody.
    pub strays: u64,
    /// Letters that were appended again and that a crash left among the dead; a start takes them out.
    pub retried: u64,
    /// Dead letters that cannot be read as such.
    pub not_understood: u64,
    /// Dead letters whose key was not given: nobody can tell which they are.
    pub hidden: u64,
}

impl Fates {
    pub(super) fn new(log: &Contents, dead: Option<(&Inspection, &Contents)>) -> Result<Self, InspectError> {
        let mut ledger = Ledger::default();
        for mark in &log.marks {
            let Some(decided) = decided_by(mark.kind) else { continue };
            let body = mark_body(mark);
            let reason = body.reason.map(Box::new);
            let fated = Fated { decided, attempts: body.attempts, reason, time_ms: mark.time_ms };
            ledger.decide(mark.target, fated);
        }
        for (sequence, origin) in &log.origins {
            ledger.requeue(*origin, *sequence);
        }
        let cursor = log.cursor.as_ref().map_or(Sequence::START, |mark| mark.target);
        let letters = BTreeMap::new();
        let mut fates = Self {
            ledger,
            cursor,
            letters,
            unmarked: 0,
            strays: 0,
            retried: 0,
            not_understood: 0,
            hidden: 0,
        };
        if let Some((inspection, contents)) = dead {
            fates.read_letters(inspection, contents)?;
        }
        fates.reconcile(log);
        Ok(fates)
    }

    fn read_letters(&mut self, inspection: &Inspection, contents: &Contents) -> Result<(), InspectError> {
        let gone: HashSet<Sequence> = contents.marks.iter().map(|mark| mark.target).collect();
        inspection.entries(contents, &mut |seen| {
            let Seen::Entry { sequence, body, .. } = seen else { return };
            if gone.contains(&sequence) {
                return;
            }
            if body.is_empty() {
                self.hidden += 1;
                return;
            }
            match serde_json::from_str::<Letter>(body) {
                Ok(letter) => {
                    self.letters.insert(letter.id, (sequence, letter.sequence.0));
                }
                Err(_) => self.not_understood += 1,
            }
        })
    }

    /// What a start does between the two logs.
    fn reconcile(&mut self, log: &Contents) {
        let ledger = &mut self.ledger;
        let stored = self.letters.len();
        self.letters.retain(|_, (_, sequence)| !ledger.is_requeued(*sequence));
        self.retried = (stored - self.letters.len()) as u64;
        for (_, sequence) in self.letters.values() {
            let is_dead = ledger.fate(*sequence).is_some_and(|fated| fated.decided == Decided::Dead);
            if is_dead || *sequence <= log.retained_after {
                continue;
            }
            let lost = log.lost().any(|(first, last)| (first..=last).contains(sequence));
            if log.count(before(*sequence), *sequence) == 0 && !lost {
                self.strays += 1;
            } else {
                let fated = Fated { decided: Decided::Dead, attempts: 0, reason: None, time_ms: 0 };
                ledger.decide(*sequence, fated);
                self.unmarked += 1;
            }
        }
        let letters: HashSet<Sequence> = self.letters.values().map(|(_, sequence)| *sequence).collect();
        if self.hidden == 0 {
            ledger.settle_letters(|sequence| letters.contains(&sequence));
        }
    }

    pub(super) fn status(&self, sequence: Sequence) -> Status {
        if self.ledger.is_requeued(sequence) {
            return Status::AppendedAgain;
        }
        match self.ledger.fate(sequence).map(|fated| fated.decided) {
            Some(Decided::Parked) => Status::Parked,
            Some(Decided::Rejected) => Status::Rejected,
            Some(Decided::Dead) => Status::Dead,
            Some(Decided::Discarded) => Status::Discarded,
            None if sequence <= self.cursor => Status::Applied,
            None => Status::Pending,
        }
    }

    /// Entries that wait for their next attempt.
    pub(super) fn parked(&self, log: &Contents) -> u64 {
        let targets: HashSet<Sequence> = log.marks.iter().map(|mark| mark.target).collect();
        targets.into_iter().filter(|sequence| self.status(*sequence) == Status::Parked).count() as u64
    }
}
