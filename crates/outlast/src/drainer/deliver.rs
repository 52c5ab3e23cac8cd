//! One batch: what may be sent, in one transaction, and what its answer means.

use std::time::Duration;

use outlast_log::Sequence;
use tokio::time::Instant;

use super::{Drainer, Flow};
use crate::clock::now_ms;
use crate::database::{ApplyError, Item, Position, Sequence64};
use crate::feed::{Pending, Read};
use crate::ledger::keys_of;
use crate::write::WriteId;

/// Conflicts in a row after which somebody else may hold the position.
const CONFLICTS_MAX: u32 = 20;

impl Drainer {
    /// Decides about everything read, applies what may be sent, and moves the watermark over all of it.
    pub(super) async fn deliver(&mut self, read: Read) -> Result<(), Flow> {
        self.count_losses(&read);
        let Some(next) = last_of(&read) else { return Ok(()) };
        let batch = self.sift(read.writes).await?;
        // Rule 1: the watermark passes only what is applied and what has a durable mark. Rule 5: what was appended
        // again is durable before it is sent.
        if batch.must_sync {
            self.core.log.sync().await.map_err(Flow::LogFailed)?;
        }
        if self.core.throttle().is_some() {
            self.allowance.0 -= batch.send.len() as f64;
        }
        self.apply(batch.send, next).await
    }

    /// Applies the batch and decides whatever is refused, until it is committed or in doubt.
    ///
    /// A refusal counts only when everything before it is committed: seen from within a transaction it may rest on a
    /// write of the same batch that takes no effect in the end. So what stands before a refused write is committed first.
    async fn apply(&mut self, mut batch: Vec<Pending>, next: Sequence) -> Result<(), Flow> {
        // Waits until the batch in front of it is committed.
        let mut rest: Vec<Pending> = Vec::new();
        let mut conflicts = 0;
        loop {
            let Some(position) = self.position.clone() else { return Err(Flow::Again) };
            let most = self.core.database.batch_writes_max().max(1);
            if batch.len() > most {
                let mut later = batch.split_off(most);
                later.append(&mut rest);
                rest = later;
            }
            let next = match batch.last() {
                Some(last) if !rest.is_empty() => last.sequence,
                _ => next,
            };
            let items: Vec<Item> = batch
                .iter()
                .map(|pending| Item { id: pending.first, write: pending.write.clone() })
                .collect();
            let started = Instant::now();
            let database = self.core.database.clone();
            let lane = self.core.lane.clone();
            let expected = position.clone();
            let mut applying = database.apply(&lane, &expected, next, &items);
            // Sent; while the database works, the next part of a backlog is read and decoded.
            let mut answer = poll_once(applying.as_mut()).await;
            if answer.is_none() && self.core.throttle().is_none() {
                self.feed.read_ahead(self.ramp.size(), self.core.options.batch_bytes_max);
            }
            let answer = match answer.take() {
                Some(answer) => answer,
                None => applying.await,
            };
            let took = started.elapsed();
            self.core.metrics.attempt(result_name(&answer), took);
            match answer {
                Ok(applied) => {
                    self.ramp.took(batch.len(), took);
                    self.committed(&batch, &applied.duplicates, position, next);
                    if rest.is_empty() {
                        return Ok(());
                    }
                    batch = std::mem::take(&mut rest);
                }
                Err(ApplyError::Conflict(reason)) => {
                    conflicts += 1;
                    tracing::debug!(reason, conflicts, "the transaction conflicted");
                    if conflicts > CONFLICTS_MAX {
                        self.position = None;
                        return Err(Flow::Again);
                    }
                    tokio::time::sleep(Duration::from_millis(1 + fastrand::u64(0..20))).await;
                }
                Err(ApplyError::Rejected { index, .. }) if 0 < index && index < batch.len() => {
                    let mut refused = batch.split_off(index);
                    refused.append(&mut rest);
                    rest = refused;
                }
                Err(ApplyError::Rejected { index, reason, retryable }) if index < batch.len() => {
                    batch.append(&mut rest);
                    let refused = batch.remove(index);
                    if self.decide_refusal(refused, reason, retryable, &mut batch).await? {
                        // A refusal storm: nothing of this batch is decided by it.
                        return Err(Flow::Again);
                    }
                }
                Err(ApplyError::Rejected { reason, .. }) => {
                    self.core
                        .monitor
                        .report_failure("write", &format!("a refusal without a write: {reason}"));
                    return Err(Flow::Again);
                }
                Err(ApplyError::Unavailable(reason)) => {
                    self.core.monitor.report_failure("write", &reason);
                    return Err(Flow::Again);
                }
                Err(ApplyError::Unknown(reason)) => {
                    // It may have committed, and may still: no fate may change until the position is read again.
                    self.certain = false;
                    self.position = None;
                    self.core.monitor.report_failure("write", &reason);
                    return Err(Flow::Again);
                }
                Err(ApplyError::Moved { actual }) => {
                    tracing::warn!(?actual, expected = ?position, "the position moved");
                    self.certain = false;
                    self.position = None;
                    return Err(Flow::Again);
                }
            }
        }
    }

    pub(super) fn committed(
        &mut self,
        batch: &[Pending],
        duplicates: &[(usize, WriteId)],
        position: Position,
        next: Sequence,
    ) {
        self.position = Some(Position { sequence: Sequence64(next), ..position });
        self.core.set_cursor(next);
        self.core.monitor.report_success();
        if !batch.is_empty() {
            self.storm.passed();
        }
        {
            let mut book = self.core.book();
            book.terms.pending = book.terms.pending.saturating_sub(batch.len() as u64);
            book.terms.applied += batch.len() as u64;
            let bytes: usize = batch.iter().map(|pending| pending.bytes).sum();
            let left = book.bytes.saturating_sub(bytes as u64);
            book.set_bytes(left);
        }
        // Before callers hear of it: they may use the key again at once.
        for pending in batch {
            self.core.forget_key(pending.write.key(), pending.first);
        }
        let duplicate_of = |index: usize| duplicates.iter().find(|(at, _)| *at == index).map(|(_, id)| *id);
        self.core.waiters.applied(
            batch.iter().enumerate().map(|(index, pending)| (pending.sequence, duplicate_of(index))),
        );
        self.core.ledger().chains.dissolve(next);
        for run in batch.chunk_by(|one, other| one.write.verb() == other.write.verb()) {
            self.core.metrics.applied(run[0].write.verb(), run.len() as u64);
        }
        if !batch.is_empty() {
            self.core.metrics.batch_size.observe(batch.len() as f64);
        }
        self.core.fates_changed();
    }

    /// Tells apart what is decided, what waits behind a refusal, what is too old, and what may be sent.
    async fn sift(&mut self, writes: Vec<Pending>) -> Result<Sifted, Flow> {
        if self.core.options.max_age.is_none() && self.is_plain(&writes) {
            let must_sync = writes.iter().any(|pending| pending.appended_again);
            return Ok(Sifted { send: writes, must_sync });
        }
        let mut sifted = Sifted { send: Vec::with_capacity(writes.len()), must_sync: false };
        for pending in writes {
            let (decided, behind) = {
                let ledger = self.core.ledger();
                if ledger.fate(pending.sequence).is_some() {
                    (true, false)
                } else {
                    (
                        false,
                        ledger.chains.is_behind(&keys_of(&pending.write), pending.first, pending.sequence),
                    )
                }
            };
            if decided {
                sifted.must_sync = true;
            } else if behind {
                self.park_behind(&pending).map_err(Flow::LogFailed)?;
                sifted.must_sync = true;
            } else if self.is_expired(&pending) {
                self.bury_expired(pending).await?;
                sifted.must_sync = true;
            } else {
                sifted.must_sync |= pending.appended_again;
                sifted.send.push(pending);
            }
        }
        Ok(sifted)
    }

    /// Whether nothing is decided about these writes and nothing waits that they could overtake: the usual case, told by
    /// one look for the whole batch.
    fn is_plain(&self, writes: &[Pending]) -> bool {
        let ledger = self.core.ledger();
        match (writes.first(), writes.last()) {
            (Some(first), Some(last)) => {
                ledger.chains.is_empty() && !ledger.decided_within(first.sequence, last.sequence)
            }
            _ => true,
        }
    }

    fn is_expired(&self, pending: &Pending) -> bool {
        let Some(max_age) = self.core.options.max_age else { return false };
        let mut age = Duration::from_millis(now_ms().saturating_sub(pending.accepted_ms));
        if !self.core.options.max_age_includes_outages {
            // Only time in which the database could have taken it counts (P5).
            age = age.min(self.core.monitor.lasted());
        }
        age > max_age
    }

    fn count_losses(&self, read: &Read) {
        for damage in &read.damage {
            let lost =
                damage.lost.map_or(0, |(first, last)| last.counter().saturating_sub(first.counter()) + 1);
            tracing::error!(%damage, lost, "the log is damaged: these writes are lost");
            self.lose(lost);
        }
        for (sequence, error) in &read.unreadable {
            tracing::error!(%sequence, error, "an entry of the log cannot be understood: it is left in the log and not applied");
            self.lose(1);
        }
    }

    fn lose(&self, writes: u64) {
        self.core.metrics.lost.inc_by(writes);
        self.core.outages().update(|outage| outage.lost += writes);
        let mut book = self.core.book();
        book.terms.pending = book.terms.pending.saturating_sub(writes);
        book.terms.accepted = book.terms.accepted.saturating_sub(writes);
    }
}

/// What a future has come to after one look at it.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

struct Sifted {
    send: Vec<Pending>,
    must_sync: bool,
}

/// The last sequence of what was read: the watermark may move there when all of it is decided.
fn last_of(read: &Read) -> Option<Sequence> {
    let write = read.writes.last().map(|pending| pending.sequence);
    let unreadable = read.unreadable.last().map(|(sequence, _)| *sequence);
    write.max(unreadable)
}

fn result_name<T>(answer: &Result<T, ApplyError>) -> &'static str {
    match answer {
        Ok(_) => "applied",
        Err(ApplyError::Unavailable(_)) => "unavailable",
        Err(ApplyError::Conflict(_)) => "conflict",
        Err(ApplyError::Rejected { .. }) => "rejected",
        Err(ApplyError::Unknown(_)) => "unknown",
        Err(ApplyError::Moved { .. }) => "moved",
    }
}
