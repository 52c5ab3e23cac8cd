//! What operators and clients ask of the drainer: it alone decides fates, and only while the position is known.

use outlast_log::MarkKind;
use tokio::sync::oneshot;

use super::Drainer;
use crate::core::Core;
use crate::error::Error;
use crate::feed::NewWrite;
use crate::ledger::{Decided, MarkBody, keys_of};
use crate::status::Decision;
use crate::write::{LoggedWriteRef, WriteId};

/// A question to the drainer, with the way back for its answer.
#[derive(Debug)]
pub(crate) struct Command {
    pub kind: CommandKind,
    pub reply: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum CommandKind {
    /// Give up a write that is not applied yet.
    Cancel(WriteId),
    /// Give a dead letter another attempt.
    RetryDead(WriteId),
    /// Give up a dead letter.
    DiscardDead(WriteId),
    /// Go on from a halt.
    Decide(Decision),
}

impl Drainer {
    /// Serves what has arrived.
    pub(super) async fn serve_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
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
            let _ = command.reply.send(outcome);
            return;
        }
        if !self.certain {
            self.deferred.push(command);
            return;
        }
        let outcome = match command.kind {
            CommandKind::Cancel(id) => self.core.discard(id).await,
            CommandKind::RetryDead(id) => self.core.retry_dead(id).await,
            CommandKind::DiscardDead(id) => self.core.discard_dead(id).await,
            CommandKind::Decide(_) => Ok(()),
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
        self.waiters.release(sequence);
        tracing::info!(write = %id, "discarded");
        Ok(())
    }

    /// Appends a dead letter again, then takes it out of the dead letters: a crash between the two is noticed at the
    /// next start, by the entry's origin.
    async fn retry_dead(&self, id: WriteId) -> Result<(), Error> {
        let letter = self.dead.read(id)?;
        let write = std::sync::Arc::new(letter.write);
        let logged = LoggedWriteRef { first: Some(id), attempts: 0, write: &write };
        let body = serde_json::to_string(&logged).map_err(log_failed)?;
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
        let (_, ticket, ()) = self
            .intake
            .append(&self.log, new, |sequence| {
                let mut ledger = self.ledger();
                ledger.requeue(letter.sequence.0, sequence);
                if hold {
                    // What waited for it follows behind it, in order.
                    ledger.chains.appended_again(id, sequence, &keys);
                    ledger.chains.release(id);
                }
            })
            .map_err(log_failed)?;
        {
            let mut book = self.book();
            book.terms.dead = book.terms.dead.saturating_sub(1);
            book.terms.pending += 1;
        }
        self.log.durable(ticket).await.map_err(log_failed)?;
        self.dead.retried(id).await;
        tracing::info!(write = %id, "dead letter: appended again");
        Ok(())
    }

    async fn discard_dead(&self, id: WriteId) -> Result<(), Error> {
        let letter = self.dead.read(id)?;
        self.dead.take_out(id, MarkKind::Discarded).await?;
        {
            let mut ledger = self.ledger();
            ledger.chains.release(id);
            ledger.letter_discarded(letter.sequence.0);
        }
        let mut book = self.book();
        book.terms.dead = book.terms.dead.saturating_sub(1);
        book.terms.discarded += 1;
        drop(book);
        tracing::info!(write = %id, "dead letter: discarded");
        Ok(())
    }
}
