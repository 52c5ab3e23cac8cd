//! What operators and clients ask of the drainer: it alone decides fates, and only while the position is known.

use std::sync::Arc;

use outlast_log::{AppendError, MarkKind, Ticket};
use tokio::sync::oneshot;

use super::Drainer;
use crate::core::Core;
use crate::dead::Letter;
use crate::error::Error;
use crate::feed::{ENVELOPE_BYTES, NewWrite};
use crate::ledger::{Decided, MarkBody, keys_of};
use crate::status::{DeadStep, Decision};
use crate::write::{LoggedWriteRef, Write, WriteId};

/// Most dead letters of one step: so long the drainer does nothing else.
pub(crate) const STEP_LETTERS_MAX: usize = 500;
/// A step ends behind the letter with which it has appended so many bytes.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// A question to the drainer, with the way back for its answer.
#[derive(Debug)]
pub(crate) struct Command {
    pub kind: CommandKind,
    pub reply: oneshot::Sender<Result<DeadStep, Error>>,
}

#[derive(Debug)]
pub(crate) enum CommandKind {
    /// Give up a write that is not applied yet.
    Cancel(WriteId),
    /// Give dead letters another attempt, in this order.
    RetryDead { ids: Vec<WriteId>, room: Room },
    /// Give a dead letter another attempt as this write: of the same records, under the same key.
    EditDead { id: WriteId, write: Arc<Write> },
    /// Give up dead letters.
    DiscardDead(Vec<WriteId>),
    /// Go on from a halt.
    Decide(Decision),
}

/// Commands that may wait until the position is known.
const DEFERRED_MAX: usize = 256;

/// Whether a retried letter must find room in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// By the thousand they would fill it: the limits hold for them.
    Needed,
    /// A single one goes back in, also when the queue is full: what operators do must be possible then.
    Found,
}

impl Drainer {
    /// Serves what has arrived. What comes meanwhile waits for the next time: whoever sends one command after the other
    /// would keep everything else from being done.
    pub(super) async fn serve_commands(&mut self) {
        for _ in 0..self.commands.len() {
            let Ok(command) = self.commands.try_recv() else { return };
            self.serve(command).await;
        }
    }

    /// Serves what had to wait until the position was known.
    pub(super) async fn serve_deferred(&mut self) {
        for command in std::mem::take(&mut self.deferred) {
            self.serve(command).await;
        }
    }

    /// Rule 2: what looks pending may be applied while the position is not known, so fates wait until it is.
    pub(super) async fn serve(&mut self, command: Command) {
        if command.reply.is_closed() {
            return;
        }
        if let CommandKind::Decide(decision) = command.kind {
            let outcome = self.carry_out(decision).await.map_err(Error::Conflict);
            let _ = command.reply.send(outcome.map(|()| DeadStep::default()));
            return;
        }
        if !self.certain {
            self.deferred.retain(|deferred| !deferred.reply.is_closed());
            if self.deferred.len() < DEFERRED_MAX {
                self.deferred.push(command);
            } else {
                let _ = command.reply.send(Err(self.core.unavailable()));
            }
            return;
        }
        let outcome = match command.kind {
            CommandKind::Cancel(id) => self.core.discard(id).await.map(|()| DeadStep::default()),
            CommandKind::RetryDead { ids, room } => self.core.retry_dead(&ids, room).await,
            CommandKind::EditDead { id, write } => self.core.edit_dead(id, write).await,
            CommandKind::DiscardDead(ids) => self.core.discard_dead(&ids).await,
            CommandKind::Decide(_) => Ok(DeadStep::default()),
        };
        self.core.fates_changed();
        let _ = command.reply.send(outcome);
    }

    /// The log has failed: answers everything with that until the handle is gone.
    pub(super) async fn refuse_commands(&mut self) {
        for command in std::mem::take(&mut self.deferred) {
            let _ = command.reply.send(Err(failed_log()));
        }
        while !self.core.is_stopping() {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => { let _ = command.reply.send(Err(failed_log())); }
                    None => return,
                },
                () = tokio::time::sleep(super::HOUSEKEEPING) => {}
            }
        }
    }
}

fn failed_log() -> Error {
    Error::LogFailed {
        reason: "no decision can be noted; restart to recover the log".into(),
        outcome_unknown: false,
    }
}

fn log_failed(error: impl std::fmt::Display) -> Error {
    Error::LogFailed { reason: error.to_string(), outcome_unknown: false }
}

impl Core {
    /// Discards a write that is pending or parked. Durable when this returns.
    async fn discard(&self, id: WriteId) -> Result<(), Error> {
        let (sequence, parked) = {
            let ledger = self.ledger();
            let sequence = ledger.present(id);
            match ledger.fate(sequence).map(|fated| fated.decided) {
                None if self.is_reached_in_log(sequence) => {
                    return Err(Error::Conflict(format!("write {id} is applied already")));
                }
                None => (sequence, false),
                Some(Decided::Parked) => (sequence, true),
                Some(Decided::Dead) => {
                    return Err(Error::Conflict(format!("write {id} is a dead letter: discard it there")));
                }
                Some(Decided::Discarded) => return Ok(()),
                Some(Decided::Rejected) => {
                    return Err(Error::Conflict(format!("write {id} was refused already")));
                }
            }
        };
        let body = MarkBody { first: id, reason: None, attempts: 0, due_ms: None, records: Vec::new() };
        self.mark(MarkKind::Discarded, sequence, &body).map_err(log_failed)?;
        self.log.sync().await.map_err(log_failed)?;
        if parked {
            self.ledger().chains.remove(id);
        }
        let mut book = self.book();
        let from = if parked { &mut book.terms.parked } else { &mut book.terms.pending };
        *from = from.saturating_sub(1);
        book.terms.discarded += 1;
        let left = book.bytes;
        book.set_bytes(left);
        drop(book);
        self.forget_key_of(id);
        self.waiters.release(sequence);
        tracing::info!(write = %id, "discarded");
        Ok(())
    }

    /// Appends dead letters again, in this order, then takes them out of the dead letters: a crash between the two is
    /// noticed at the next start, by the origins of the entries. One sync for all entries, and one for all marks.
    async fn retry_dead(&self, ids: &[WriteId], room: Room) -> Result<DeadStep, Error> {
        let mut step = DeadStep::default();
        let (mut again, mut bytes, mut last) = (Vec::with_capacity(ids.len()), 0, None);
        let mut letters = self.dead.reader();
        for id in ids {
            let appended = match letters.read(*id) {
                Ok(letter) => self.append_letter(letter, None, room),
                Err(error) => Err(NotAppended::Letter(error)),
            };
            match appended {
                Ok((ticket, size)) => {
                    again.push(*id);
                    last = Some(ticket);
                    bytes += size;
                }
                Err(NotAppended::Letter(error)) => step.failures.push((*id, error)),
                Err(NotAppended::Any(error)) if step.reached == 0 => return Err(error),
                // Whoever asks for the rest is told.
                Err(NotAppended::Any(_)) => break,
            }
            step.reached += 1;
            if bytes >= STEP_BYTES_MAX {
                break;
            }
        }
        if let Some(ticket) = last {
            self.appended_again(&again, ticket).await?;
        }
        Ok(step)
    }

    /// As a retry, with another content.
    async fn edit_dead(&self, id: WriteId, write: Arc<Write>) -> Result<DeadStep, Error> {
        let letter = self.dead.read(id)?;
        let (ticket, _) = self.append_letter(letter, Some(write), Room::Found)?;
        self.appended_again(&[id], ticket).await?;
        tracing::info!(write = %id, "dead letter: edited");
        Ok(DeadStep::default())
    }

    /// Appends the letter, with another content if it was edited; its chain and the books follow. Not synced.
    fn append_letter(
        &self,
        letter: Letter,
        edited: Option<Arc<Write>>,
        room: Room,
    ) -> Result<(Ticket, u64), NotAppended> {
        let id = letter.id;
        let write = edited.unwrap_or_else(|| Arc::new(letter.write));
        let logged = LoggedWriteRef { first: Some(id), attempts: 0, write: &write };
        let body = serde_json::to_string(&logged).map_err(|error| NotAppended::Letter(log_failed(error)))?;
        let bytes = (body.len() + ENVELOPE_BYTES) as u64;
        self.take_back_in(bytes, room).map_err(NotAppended::Any)?;
        let keys = keys_of(&write);
        let new = NewWrite {
            body: &body,
            accepted_ms: letter.accepted_ms,
            origin: Some(letter.sequence.0),
            first: Some(id),
            attempts: 0,
            write,
        };
        let hold = self.options.hold_record_on_dead_letter;
        let appended = self.intake.append(&self.log, new, |sequence| {
            let mut ledger = self.ledger();
            ledger.requeue(letter.sequence.0, sequence);
            if hold {
                // What waited for it follows behind it, in order.
                ledger.chains.appended_again(id, sequence, &keys);
                ledger.chains.release(id);
            }
        });
        match appended {
            Ok((_, ticket, ())) => Ok((ticket, bytes)),
            Err(error) => {
                self.leave_out_again(bytes);
                Err(match error {
                    AppendError::TooLarge { .. } => NotAppended::Letter(log_failed(error)),
                    error => NotAppended::Any(log_failed(error)),
                })
            }
        }
    }

    /// They are durable, then they are no dead letters any more.
    async fn appended_again(&self, ids: &[WriteId], last: Ticket) -> Result<(), Error> {
        self.log.durable(last).await.map_err(log_failed)?;
        self.dead.retried(ids).await;
        told(ids, "appended again");
        Ok(())
    }

    /// In the books, a dead letter waits again.
    fn take_back_in(&self, bytes: u64, room: Room) -> Result<(), Error> {
        let mut book = self.book();
        let writes = book.terms.pending + book.terms.parked;
        let fits = writes < self.options.max_writes && book.bytes + bytes <= self.options.max_bytes;
        if room == Room::Needed && !fits {
            drop(book);
            return Err(self.queue_full());
        }
        book.terms.dead = book.terms.dead.saturating_sub(1);
        book.terms.pending += 1;
        book.bytes += bytes;
        Ok(())
    }

    fn leave_out_again(&self, bytes: u64) {
        let mut book = self.book();
        book.terms.dead += 1;
        book.terms.pending = book.terms.pending.saturating_sub(1);
        let left = book.bytes.saturating_sub(bytes);
        book.set_bytes(left);
    }

    async fn discard_dead(&self, ids: &[WriteId]) -> Result<DeadStep, Error> {
        let mut failures = Vec::new();
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            match self.dead.sequence(*id) {
                // It was queued again as the log failed: the next start knows whether that is durable.
                Ok(sequence) if self.ledger().is_requeued(sequence) => failures.push((*id, failed_log())),
                Ok(sequence) => found.push((*id, sequence)),
                Err(error) => failures.push((*id, error)),
            }
        }
        let there: Vec<WriteId> = found.iter().map(|(id, _)| *id).collect();
        let out = self.dead.take_out(&there, MarkKind::Discarded).await?;
        let reached = if out == there.len() {
            ids.len()
        } else {
            // There was no space for the next mark.
            ids.iter().take_while(|id| **id != there[out]).count()
        };
        found.truncate(out);
        failures.retain(|(id, _)| ids[..reached].contains(id));
        {
            let mut ledger = self.ledger();
            for (id, sequence) in &found {
                ledger.chains.release(*id);
                ledger.letter_discarded(*sequence);
            }
        }
        let mut book = self.book();
        book.terms.dead = book.terms.dead.saturating_sub(out as u64);
        book.terms.discarded += out as u64;
        drop(book);
        told(&there[..out], "discarded");
        Ok(DeadStep { reached, failures })
    }
}

/// One line, also for many.
fn told(ids: &[WriteId], what: &str) {
    match ids {
        [] => {}
        [id] => tracing::info!(write = %id, "dead letter: {what}"),
        [first, .., last] => {
            tracing::info!(letters = ids.len(), %first, %last, "dead letters: {what}");
            for id in ids {
                tracing::debug!(write = %id, "dead letter: {what}");
            }
        }
    }
}

/// Why a dead letter was not appended again.
enum NotAppended {
    /// It cannot be; others can.
    Letter(Error),
    /// No other could be either.
    Any(Error),
}

impl From<NotAppended> for Error {
    fn from(not: NotAppended) -> Self {
        match not {
            NotAppended::Letter(error) | NotAppended::Any(error) => error,
        }
    }
}
