//! Acknowledged writes that cannot be read back: in the books, the metrics and the report of the outage, each once.

use outlast_log::Sequence;

use crate::core::Core;
use crate::kept::{Of, length};
use crate::write::WriteId;

impl Core {
    /// Returns how many of these were not known to be lost.
    pub(crate) fn note_lost(&self, of: Of, stretch: (Sequence, Sequence)) -> u64 {
        let new = self.kept.lose(of, stretch);
        self.metrics.lost.inc_by(new);
        self.outages().update(|outage| outage.lost += new);
        new
    }

    /// Of writes that wait. Returns how many of them were not known to be lost.
    pub(crate) fn lose_pending(&self, stretch: (Sequence, Sequence)) -> u64 {
        let new = self.note_lost(Of::Queue, stretch);
        let all = length(stretch);
        let mut book = self.book();
        let counted = all.min(book.terms.pending);
        book.terms.pending -= counted;
        // Those that were known had left the sum already.
        let gone = new.min(book.terms.applied + counted);
        book.terms.accepted = book.terms.accepted.saturating_sub(gone);
        book.terms.applied = book.terms.applied + counted - gone;
        new
    }

    /// One that was parked.
    pub(crate) fn lose_parked(&self, first: WriteId, sequence: Sequence) {
        self.ledger().chains.remove(first);
        self.forget_key_of(first);
        let new = self.note_lost(Of::Queue, (sequence, sequence));
        let mut book = self.book();
        let counted = book.terms.parked.min(1);
        book.terms.parked -= counted;
        let gone = new.min(book.terms.applied + counted);
        book.terms.accepted = book.terms.accepted.saturating_sub(gone);
        book.terms.applied = book.terms.applied + counted - gone;
    }
}
