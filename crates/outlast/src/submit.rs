//! The only way in for writes, also while the database is healthy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outlast_log::{AppendError, Failure, Sequence, Ticket};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::core::Core;
use crate::error::Error;
use crate::feed::{ENVELOPE_BYTES, NewWrite};
use crate::options::AfterTimeout;
use crate::status::{Durability, Fate, Outcome, Receipt, Wait};
use crate::waiters::Answer;
use crate::write::{LoggedWriteRef, Write, WriteId};

impl Core {
    /// Takes a write in and acknowledges it, or says why not.
    pub(crate) async fn submit(self: &Arc<Self>, write: Write, wait: Wait) -> Result<Outcome, Error> {
        self.begin(write, wait).await?.outcome().await
    }

    /// Gives a write its place in the order, or says why not.
    pub(crate) async fn begin(self: &Arc<Self>, write: Write, wait: Wait) -> Result<Submission, Error> {
        self.database.check(&write)?;
        if self.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        if self.options.after_timeout == AfterTimeout::Reject && self.monitor.is_long_outage() {
            return Err(self.unavailable());
        }
        if let Some(outcome) = self.same_key(&write).await? {
            return Ok(Submission(Stage::Known(outcome)));
        }
        let body = self.body_of(&write)?;
        self.reserve(entry_bytes(&body)).await?;
        let (id, ticket, waiting) = self.append(write, &body, wait)?;
        let waiting = waiting.map(|(answer, at_most)| Waiting {
            leaving: Leaving { core: Arc::clone(self), sequence: id.0, left: false },
            answer,
            began: Instant::now(),
            at_most,
        });
        Ok(Submission(Stage::Appended { core: Arc::clone(self), id, ticket, waiting }))
    }

    /// The write as the log keeps it, if it is not too large.
    pub(crate) fn body_of(&self, write: &Write) -> Result<String, Error> {
        let body =
            serde_json::to_string(&LoggedWriteRef { first: None, attempts: 0, write }).map_err(|error| {
                crate::error::Invalid::new(format!("the write cannot be written as JSON: {error}"))
            })?;
        if body.len() as u64 > self.options.write_bytes_max {
            return Err(Error::TooLarge {
                what: "the write",
                bytes: body.len() as u64,
                bytes_max: self.options.write_bytes_max,
                setting: "queue.write_bytes_max",
            });
        }
        Ok(body)
    }

    /// Appends; `waiting` is the way in which the drainer will answer, when it is worth waiting.
    #[expect(clippy::type_complexity, reason = "a pair of options would not be clearer")]
    fn append(
        &self,
        write: Write,
        body: &str,
        wait: Wait,
    ) -> Result<(WriteId, Ticket, Option<(oneshot::Receiver<Answer>, Duration)>), Error> {
        let write = Arc::new(write);
        let keyed = write.key().is_some().then(|| write.clone());
        let new = NewWrite { body, accepted_ms: now_ms(), origin: None, first: None, attempts: 0, write };
        let appended = self.intake.append(&self.log, new, |sequence| {
            if let Some(key) = keyed.as_ref().and_then(|write| write.key()) {
                self.remember_key(key, WriteId(sequence));
            }
            match wait {
                Wait::No => None,
                Wait::UpTo(at_most) => {
                    let receiver = self.waiters.register(sequence, self.is_draining());
                    receiver.map(|receiver| (receiver, at_most))
                }
            }
        });
        match appended {
            Ok((sequence, ticket, waiting)) => Ok((WriteId(sequence), ticket, waiting)),
            Err(error) => {
                self.unreserve(entry_bytes(body));
                Err(append_error(error))
            }
        }
    }

    /// Waits for the drainer's answer. `None`: patience ended, and the drainer will not answer any more.
    async fn answer(
        guard: &Leaving,
        mut waiting: oneshot::Receiver<Answer>,
        at_most: Duration,
    ) -> Option<Answer> {
        tokio::select! {
            biased;
            answer = &mut waiting => return Some(answer.unwrap_or(Answer::Undecided)),
            () = tokio::time::sleep(at_most) => {}
        }
        if guard.core.waiters.take(guard.sequence).is_some() {
            return None;
        }
        // The drainer was first: it is deciding, and answers. If it cannot, *queued* would be a promise that a mark of
        // its may break.
        Some(waiting.await.unwrap_or(Answer::Undecided))
    }

    /// Acknowledges as *queued*, once the log is synced.
    async fn queued(&self, id: WriteId, ticket: Ticket) -> Result<Outcome, Error> {
        let started = Instant::now();
        self.log.durable(ticket).await.map_err(|failure| not_durable(&failure))?;
        self.metrics.sync_duration.observe(started.elapsed().as_secs_f64());
        self.metrics.accepted("queued");
        if !self.monitor.is_healthy() {
            self.outages().update(|outage| outage.writes_queued += 1);
        }
        self.decided_or_waiting(id).map(Outcome::Queued)
    }

    /// The receipt of a write that certainly was in the log. Whoever asks very late, with a short retention, may find
    /// that it was decided so long ago that the log has let it go.
    fn decided_or_waiting(&self, id: WriteId) -> Result<Receipt, Error> {
        match self.receipt(id) {
            Err(Error::NotFound { .. }) => Ok(Receipt {
                id,
                status: if self.dead.contains(id) { Fate::Dead } else { Fate::Applied },
                position: None,
                estimate_seconds: None,
                durability: Durability::Log,
                reason: None,
                attempts: 0,
            }),
            receipt => receipt,
        }
    }

    /// A write with the same idempotency key that is pending here: its outcome, if it is the same write.
    async fn same_key(&self, write: &Write) -> Result<Option<Outcome>, Error> {
        let Some(key) = write.key() else { return Ok(None) };
        let Some((fingerprint, id)) = self.pending_key(&key.key) else { return Ok(None) };
        if fingerprint != key.fingerprint {
            return Err(Error::KeyReused);
        }
        if self.waiters.is_waiting(id.0) {
            return Err(Error::KeyInFlight { id });
        }
        match self.receipt(id) {
            Ok(receipt) if receipt.status == Fate::Applied => {
                return Ok(Some(Outcome::Applied { id, duplicate_of: Some(id) }));
            }
            // Given up, so that the key is free; or decided so long ago that only the database can tell.
            Ok(Receipt { status: Fate::Discarded, .. }) | Err(Error::NotFound { .. }) => {
                self.forget_key(Some(key), id);
                return Ok(None);
            }
            receipt => receipt?,
        };
        // The one who brought it may have left without an answer: then it is perhaps not durable yet.
        self.log.sync().await.map_err(|failure| not_durable(&failure))?;
        let receipt = self.decided_or_waiting(id)?;
        if receipt.status == Fate::Rejected {
            // Its caller is about to be told so. After that the key is free.
            return Err(Error::KeyInFlight { id });
        }
        Ok(Some(Outcome::Queued(receipt)))
    }

    /// Makes room in the books, or waits for it as long as `block_when_full` says.
    async fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.block_when_full;
        let mut decided = self.decided.subscribe();
        loop {
            {
                let mut book = self.book();
                let writes = book.terms.pending + book.terms.parked;
                if writes < self.options.max_writes && book.bytes + bytes <= self.options.max_bytes {
                    book.terms.accepted += 1;
                    book.terms.pending += 1;
                    book.bytes += bytes;
                    return Ok(());
                }
            }
            self.no_room.store(true, Ordering::Relaxed);
            if tokio::time::timeout_at(deadline, decided.changed()).await.is_err() {
                return Err(self.queue_full());
            }
        }
    }

    fn unreserve(&self, bytes: u64) {
        let mut book = self.book();
        book.terms.accepted -= 1;
        book.terms.pending -= 1;
        book.bytes = book.bytes.saturating_sub(bytes);
    }
}

/// A write that has its place in the order: writes that are begun one after the other take effect in that order, however
/// long their outcomes are waited for.
///
/// Nothing is acknowledged yet. Dropped without asking for its outcome, it takes effect all the same (unless the log is
/// lost before it was synced), and a refusal of it becomes a dead letter.
#[must_use = "nothing is acknowledged before the outcome"]
pub struct Submission(Stage);

enum Stage {
    /// Another write under the same key has answered for it.
    Known(Outcome),
    Appended {
        core: Arc<Core>,
        id: WriteId,
        ticket: Ticket,
        waiting: Option<Waiting>,
    },
}

/// What the drainer will answer, and how long that is worth waiting for.
struct Waiting {
    leaving: Leaving,
    answer: oneshot::Receiver<Answer>,
    began: Instant,
    at_most: Duration,
}

impl Submission {
    /// Whether a write under the same idempotency key was there before: this one takes no effect.
    pub fn is_known(&self) -> bool {
        matches!(self.0, Stage::Known(_))
    }

    /// The acknowledgement. Time spent since the write was begun counts as waited.
    ///
    /// # Errors
    /// As [`Outlast::submit`](crate::Outlast::submit), for what is found out after a write has its place.
    pub async fn outcome(self) -> Result<Outcome, Error> {
        let (core, id, ticket, waiting) = match self.0 {
            Stage::Known(outcome) => return Ok(outcome),
            Stage::Appended { core, id, ticket, waiting } => (core, id, ticket, waiting),
        };
        let Some(Waiting { mut leaving, answer, began, at_most }) = waiting else {
            return core.queued(id, ticket).await;
        };
        let answer = Core::answer(&leaving, answer, at_most.saturating_sub(began.elapsed())).await;
        leaving.left = true;
        match answer {
            Some(Answer::Applied { duplicate_of }) => {
                core.metrics.accepted("applied");
                Ok(Outcome::Applied { id, duplicate_of })
            }
            Some(Answer::Rejected(reason)) => Err(Error::Rejected { id, reason }),
            Some(Answer::Undecided) => Err(Error::LogFailed {
                reason:
                    "a decision about this write could not be made durable; it was not acknowledged, but may \
                         be applied"
                        .into(),
                outcome_unknown: true,
            }),
            Some(Answer::Released) | None => core.queued(id, ticket).await,
        }
    }
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = match &self.0 {
            Stage::Known(Outcome::Applied { id, .. }) | Stage::Appended { id, .. } => *id,
            Stage::Known(Outcome::Queued(receipt)) => receipt.id,
        };
        f.debug_tuple("Submission").field(&id).finish()
    }
}

/// A caller that waits. If it is dropped (the client hung up), nobody waits any more: a refusal then goes to the dead
/// letters instead of into the void.
struct Leaving {
    core: Arc<Core>,
    sequence: Sequence,
    left: bool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.left {
            self.core.waiters.take(self.sequence);
        }
    }
}

/// What the write takes in the log: the same measure as after a restart, when the log counts.
fn entry_bytes(body: &str) -> u64 {
    (body.len() + ENVELOPE_BYTES) as u64
}

fn not_durable(failure: &Failure) -> Error {
    Error::LogFailed {
        reason: format!("{failure}; this write was not acknowledged, but may be applied"),
        outcome_unknown: true,
    }
}

fn append_error(error: AppendError) -> Error {
    match error {
        AppendError::TooLarge { bytes, max } => {
            Error::TooLarge { what: "the write", bytes, bytes_max: max, setting: "queue.write_bytes_max" }
        }
        AppendError::Closed => Error::ShuttingDown,
        error => Error::LogFailed { reason: error.to_string(), outcome_unknown: false },
    }
}
