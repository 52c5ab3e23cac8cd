//! Parked writes return: appended again, behind everything that is in the log, in the order of their first ids.

use outlast_log::{AppendError, Failure, ReadError, Sequence};

use super::Drainer;
use crate::clock::now_ms;
use crate::core::Core;
use crate::feed::{NewWrite, Pending};
use crate::ledger::keys_of;
use crate::write::LoggedWriteRef;

/// Most writes of one chain appended again in one go.
const REQUEUE_MAX: usize = 200;

impl Drainer {
    /// Appends again what is due. Rule 4: a retry is a new entry; rule 6: in the order of first ids.
    pub(super) async fn requeue_due(&mut self) -> Result<(), Failure> {
        let due = self.core.ledger().chains.due(now_ms(), REQUEUE_MAX);
        if due.is_empty() {
            return Ok(());
        }
        for (first, sequence) in due {
            let pending = match self.core.log.get(sequence) {
                Ok(Some(entry)) => Pending::decode(&entry).map_err(|error| error.to_string()),
                Ok(None) => Err("it is not in the log".to_owned()),
                Err(error @ ReadError::Damaged(_)) => Err(error.to_string()),
                Err(error) => {
                    // It is still there: it stays parked, with what waits behind it, and is read again.
                    tracing::error!(%error, write = %first, "a parked write cannot be read now");
                    break;
                }
            };
            let pending = match pending {
                Ok(pending) => pending,
                Err(error) => {
                    tracing::error!(write = %first, %sequence, error, "a parked write cannot be read back: it is lost");
                    self.core.lose_parked(first, sequence);
                    continue;
                }
            };
            let attempts = self.core.ledger().fate(sequence).map_or(pending.attempts, |fated| fated.attempts);
            match self.core.append_again(&pending, attempts) {
                Ok(_) => {}
                Err(AppendError::Failed(failure)) => return Err(failure),
                Err(error) => {
                    // No space, say: it stays parked and is tried again.
                    tracing::warn!(%error, write = %first, "a parked write could not be appended again yet");
                    break;
                }
            }
        }
        // Rule 5: durable before it is sent, since its former entry is still in the log.
        self.core.log.sync().await
    }
}

impl Core {
    /// Appends a parked write again; its chain and the books follow.
    fn append_again(&self, pending: &Pending, attempts: u32) -> Result<Sequence, AppendError> {
        let logged = LoggedWriteRef { first: Some(pending.first), attempts, write: &pending.write };
        let body = serde_json::to_string(&logged).map_err(|_| AppendError::InvalidBody)?;
        let new = NewWrite {
            body: &body,
            accepted_ms: pending.accepted_ms,
            origin: Some(pending.sequence),
            first: Some(pending.first),
            attempts,
            write: pending.write.clone(),
        };
        let keys = keys_of(&pending.write);
        let (sequence, _, ()) = self.intake.append(&self.log, new, |sequence| {
            let mut ledger = self.ledger();
            ledger.requeue(pending.sequence, sequence);
            ledger.chains.appended_again(pending.first, sequence, &keys);
        })?;
        let mut book = self.book();
        book.terms.parked = book.terms.parked.saturating_sub(1);
        book.terms.pending += 1;
        Ok(sequence)
    }
}
