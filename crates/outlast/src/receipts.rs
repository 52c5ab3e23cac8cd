//! Where a write stands.

use outlast_log::{Entry, ReadError, ReadItem, Sequence};

use crate::clock::rfc3339;
use crate::core::Core;
use crate::error::Error;
use crate::feed::Pending;
use crate::ledger::Decided;
use crate::status::{Durability, Fate, QueueFilter, QueuedWrite, QueuedWrites, Receipt};
use crate::write::{Operation, RecordName, WriteId};

/// Entries of the log, and bytes of them, that one page looks at: some tens of milliseconds.
const LOOKED_AT_MAX: usize = 10_000;
const LOOKED_AT_BYTES_MAX: usize = 16 << 20;

impl Core {
    /// The receipt of the write that its caller knows as `id`.
    pub(crate) fn receipt(&self, id: WriteId) -> Result<Receipt, Error> {
        let cursor = self.cursor();
        let (sequence, reached, fated) = loop {
            let sequence = self.ledger().present(id);
            // Before its fate: what is decided in between must not look applied.
            let reached = self.is_reached_in_log(sequence);
            let ledger = self.ledger();
            if ledger.present(id) == sequence {
                break (sequence, reached, ledger.fate(sequence).cloned());
            }
        };
        if fated.is_none() {
            self.must_exist(id, sequence)?;
        }
        let (attempts, reason) =
            fated.as_ref().map_or((0, None), |fated| (fated.attempts, fated.reason.as_deref().cloned()));
        let status = match fated.map(|fated| fated.decided) {
            Some(Decided::Parked) => Fate::Parked,
            Some(Decided::Rejected) => Fate::Rejected,
            Some(Decided::Dead) => Fate::Dead,
            Some(Decided::Discarded) => Fate::Discarded,
            None if reached => Fate::Applied,
            None => Fate::Pending,
        };
        let position = (status == Fate::Pending).then(|| {
            let before = self.log.count(cursor, sequence).saturating_sub(1);
            before.saturating_sub(self.ledger().decided_between(cursor, sequence))
        });
        Ok(Receipt {
            id,
            status,
            position,
            estimate_seconds: position.and_then(|position| self.estimate(position + 1)),
            durability: if status == Fate::Applied { Durability::Database } else { Durability::Log },
            reason,
            attempts,
        })
    }

    fn must_exist(&self, id: WriteId, sequence: Sequence) -> Result<(), Error> {
        let issued = self.intake.last();
        let retained_after = self.log.retained_after();
        if sequence > issued || sequence == Sequence::START {
            return Err(Error::NotFound { what: format!("write {id}") });
        }
        if sequence <= retained_after {
            return Err(Error::NotFound {
                what: format!("write {id} (decided so long ago that its receipt is no longer kept)"),
            });
        }
        if sequence.epoch() < self.log.epoch().number
            && self.log.get(sequence).is_ok_and(|entry| entry.is_none())
        {
            return Err(Error::NotFound { what: format!("write {id}") });
        }
        Ok(())
    }

    /// A page of the writes that wait and match, in the order of the log.
    pub(crate) fn queue_list(&self, filter: &QueueFilter) -> Result<QueuedWrites, Error> {
        if let Some(write) = filter.write {
            return self.queue_find(write, filter);
        }
        let from = {
            let ledger = self.ledger();
            let before_parked =
                ledger.chains.oldest().and_then(|oldest| Sequence::from_u64(oldest.as_u64() - 1));
            before_parked.map_or(self.cursor(), |before| before.min(self.cursor()))
        };
        let mut reader = self.log.reader(filter.after.map_or(from, |after| after.0.max(from)));
        let (mut page, mut looked_at, mut bytes) = (QueuedWrites { writes: Vec::new(), next: None }, 0, 0);
        loop {
            let entry = match reader.next().map_err(read_error)? {
                Some(ReadItem::Entry(entry)) => entry,
                Some(ReadItem::Damaged(_)) => continue,
                None => return Ok(page),
            };
            let here = WriteId(entry.sequence);
            (looked_at, bytes) = (looked_at + 1, bytes + entry.body.len());
            if let Some(write) = self.waiting(&entry, filter)? {
                if page.writes.len() == filter.limit {
                    page.next = page.writes.last().map(|last| last.sequence);
                    return Ok(page);
                }
                page.writes.push(write);
            }
            if looked_at == LOOKED_AT_MAX || bytes >= LOOKED_AT_BYTES_MAX {
                page.next = Some(here);
                return Ok(page);
            }
        }
    }

    /// The one write of that id, if it waits and matches, as the only page.
    fn queue_find(&self, write: WriteId, filter: &QueueFilter) -> Result<QueuedWrites, Error> {
        let mut page = QueuedWrites { writes: Vec::new(), next: None };
        let sequence = self.ledger().present(write);
        let before = filter.after.is_some_and(|after| sequence <= after.0);
        if !before && let Some(entry) = self.log.get(sequence).map_err(read_error)? {
            page.writes.extend(self.waiting(&entry, filter)?);
        }
        Ok(page)
    }

    pub(crate) fn queue_show(&self, id: WriteId) -> Result<QueuedWrite, Error> {
        let sequence = self.ledger().present(id);
        let entry = self.log.get(sequence).map_err(read_error)?;
        entry.and_then(|entry| self.waiting(&entry, &QueueFilter::default()).transpose()).unwrap_or_else(
            || {
                Err(Error::NotFound {
                    what: format!("a waiting write {id} (ask for its receipt to learn its fate)"),
                })
            },
        )
    }

    /// The entry as a waiting write; `None` when it does not match, is decided, or stands under another sequence now.
    fn waiting(&self, entry: &Entry, filter: &QueueFilter) -> Result<Option<QueuedWrite>, Error> {
        if filter.accepted_until_ms.is_some_and(|until| entry.time_ms > until)
            || filter.accepted_from_ms.is_some_and(|from| entry.time_ms < from)
        {
            return Ok(None);
        }
        let reached = self.is_reached_in_log(entry.sequence);
        let fated = {
            let ledger = self.ledger();
            if ledger.is_requeued(entry.sequence) {
                return Ok(None);
            }
            ledger.fate(entry.sequence).cloned()
        };
        let status = match &fated {
            None if reached => return Ok(None),
            None => Fate::Pending,
            Some(fated) if fated.decided == Decided::Parked => Fate::Parked,
            Some(_) => return Ok(None),
        };
        if filter.status.is_some_and(|wanted| wanted != status) {
            return Ok(None);
        }
        let pending = Pending::decode(entry).map_err(|error| Error::LogFailed {
            reason: format!("entry {} cannot be understood: {error}", entry.sequence),
            outcome_unknown: false,
        })?;
        if !matches(filter, pending.write.operations()) {
            return Ok(None);
        }
        Ok(Some(QueuedWrite {
            id: pending.first,
            sequence: WriteId(entry.sequence),
            status,
            accepted_at: rfc3339(entry.time_ms),
            attempts: fated.as_ref().map_or(pending.attempts, |fated| fated.attempts),
            reason: fated.and_then(|fated| fated.reason).map(|reason| *reason),
            idempotency_key: pending.write.key().map(|key| key.key.clone()),
            operations: pending.write.operations().to_vec(),
            redacted: false,
        }))
    }
}

/// Whether what the write does is what is looked for.
fn matches(filter: &QueueFilter, operations: &[Operation]) -> bool {
    let named = |record: &RecordName| {
        filter.collection.as_ref().is_none_or(|wanted| record.collection == *wanted)
            && filter.record.as_ref().is_none_or(|wanted| record.id == *wanted)
    };
    let anywhere = filter.collection.is_none() && filter.record.is_none();
    filter.verb.is_none_or(|verb| operations.iter().any(|operation| operation.verb() == verb))
        && (anywhere || operations.iter().flat_map(Operation::records).any(named))
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Reclaimed { .. } => Error::NotFound { what: "a write that old".into() },
        error => Error::LogFailed { reason: error.to_string(), outcome_unknown: false },
    }
}
