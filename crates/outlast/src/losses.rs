//! Acknowledged writes that cannot be read back: in the books, the metrics and the report of the outage, each once.

use outlast_log::Sequence;

use crate::core::Core;
use crate::kept::{Of, parts};
use crate::write::WriteId;

impl Core {
    /// Returns how many of these were not known to be lost.
    pub(crate) fn note_lost(&self, of: Of, stretch: (Sequence, Sequence)) -> u64 {
        let new = self.kept.lose(of, stretch);
        self.metrics.lost.inc_by(new);
        self.outages().update(|outage| outage.lost += new);
        new
    }

    /// Of writes that wait, those that nothing is decided about. Returns how many of them were not known to be lost.
    pub(crate) fn lose_pending(&self, stretch: (Sequence, Sequence)) -> u64 {
        let undecided = parts(stretch, |sequence| self.ledger().fate(sequence).is_some());
        let new = undecided.into_iter().map(|part| self.note_lost(Of::Queue, part)).sum();
        let mut book = self.book();
        book.terms.pending = book.terms.pending.saturating_sub(new);
        book.terms.accepted = book.terms.accepted.saturating_sub(new);
        new
    }

    /// One that was parked.
    pub(crate) fn lose_parked(&self, first: WriteId, sequence: Sequence) {
        self.ledger().chains.remove(first);
        self.forget_key_of(first);
        let new = self.note_lost(Of::Queue, (sequence, sequence));
        let mut book = self.book();
        book.terms.parked = book.terms.parked.saturating_sub(new);
        book.terms.accepted = book.terms.accepted.saturating_sub(new);
    }

    /// Entries between two places that may be delivered: what is decided or lost is none.
    pub(crate) fn undecided_between(&self, after: Sequence, to: Sequence) -> u64 {
        let decided = self.ledger().decided_between(after, to);
        let lost = self.kept.lost_between(after, to);
        self.log.count(after, to).saturating_sub(decided + lost)
    }
}
