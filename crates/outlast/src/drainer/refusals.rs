//! Refusals: the fate of a write that the database will not take, and the storm when it takes none.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outlast_log::{Failure, LogState, Mark, MarkKind};

use super::backoff::pause;
use super::{Drainer, Flow};
use crate::clock::{now_ms, rfc3339};
use crate::core::Core;
use crate::database::{ApplyError, Item};
use crate::dead::Letter;
use crate::error::{Refusal, RefusalKind};
use crate::event::EventKind;
use crate::feed::Pending;
use crate::lanes::{Place, place_of};
use crate::ledger::{Decided, Fated, Key, MarkBody, Waiting, keys_of};
use crate::status::{Attempt, LaneState};
use crate::waiters::Answer;

/// Longest pause between two looks.
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Consecutive refusals over different records.
#[derive(Debug, Default)]
pub(super) struct Storm {
    records: HashSet<Key>,
    reasons: HashMap<String, u32>,
    kinds: HashSet<RefusalKind>,
    refusals: u32,
    looks: u32,
}

impl Storm {
    /// Something was applied.
    pub(super) fn passed(&mut self) {
        if self.refusals > 0 {
            *self = Self::default();
        }
    }

    /// Something was refused. Only refusals that would hit any write count: that a record exists or does not says
    /// that the database works.
    fn refused(&mut self, keys: &[Key], reason: &Refusal) -> u32 {
        if matches!(
            reason.kind,
            RefusalKind::Exists | RefusalKind::NotFound | RefusalKind::KeyReused | RefusalKind::TooLarge
        ) {
            return self.refusals;
        }
        let before = self.records.len();
        self.records.extend(keys);
        if keys.is_empty() || self.records.len() > before {
            self.refusals += 1;
            self.kinds.insert(reason.kind);
            *self.reasons.entry(reason.message.clone()).or_default() += 1;
        }
        self.refusals
    }

    fn state(&self) -> LaneState {
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect();
        reasons.sort_by(|(one, few), (other, many)| many.cmp(few).then_with(|| one.cmp(other)));
        LaneState::Storm { refusals: self.refusals, reasons }
    }
}

impl Drainer {
    /// Decides the fate of a write that was certainly refused. True: this was one too many, a storm; then the write
    /// is not decided and the batch is left as it is.
    pub(super) async fn decide_refusal(
        &mut self,
        refused: Pending,
        reason: Refusal,
        retryable: bool,
        rest: &mut Vec<Pending>,
    ) -> Result<bool, Flow> {
        // What may not be shown is not kept either.
        let reason = self.core.options.redact.reason(reason, refused.write.operations());
        // Whoever takes the waiter out decides what the caller is told.
        if let Some(waiter) = self.core.waiters.take(refused.sequence) {
            let marked = self.mark(MarkKind::Rejected, &refused, Some(&reason), None, refused.attempts + 1);
            if let Err(failure) = marked {
                // Nothing is decided: it waits in the log.
                let _ = waiter.send(Answer::Released);
                return Err(Flow::LogFailed(failure));
            }
            // Rule 7: marked and synced before the caller is told.
            self.core.log.sync().await.map_err(Flow::LogFailed)?;
            {
                let mut book = self.core.book();
                book.terms.pending = book.terms.pending.saturating_sub(1);
                book.terms.accepted = book.terms.accepted.saturating_sub(1);
                let left = book.bytes.saturating_sub(refused.bytes as u64);
                book.set_bytes(left);
            }
            self.core.metrics.failed(reason.kind.as_str());
            self.core.forget_key(refused.write.key(), refused.first);
            let _ = waiter.send(Answer::Rejected(reason));
            self.core.fates_changed();
            return Ok(false);
        }
        let keys = keys_of(&refused.write);
        if self.storm.refused(&keys, &reason) >= self.core.options.storm_threshold {
            self.core.set_lane_state(&self.storm.state());
            return Ok(true);
        }
        let attempts = refused.attempts + 1;
        if retryable && attempts < self.core.options.max_attempts {
            self.park(&refused, &reason, attempts).map_err(Flow::LogFailed)?;
        } else {
            self.bury(&refused, reason, attempts).await?;
        }
        // Writes of this batch to the same records wait behind it.
        let mut kept = Vec::with_capacity(rest.len());
        for pending in rest.drain(..) {
            let behind = {
                let ledger = self.core.ledger();
                ledger.chains.is_behind(&keys_of(&pending.write), pending.first, pending.sequence)
            };
            if behind {
                self.park_behind(&pending).map_err(Flow::LogFailed)?;
            } else {
                kept.push(pending);
            }
        }
        *rest = kept;
        self.core.log.sync().await.map_err(Flow::LogFailed)?;
        self.core.fates_changed();
        Ok(false)
    }

    /// Parks a refused write until its next attempt.
    fn park(&self, refused: &Pending, reason: &Refusal, attempts: u32) -> Result<(), Failure> {
        let options = &self.core.options;
        let pause = pause(attempts, options.backoff, options.backoff_max, fastrand::f64());
        let due_ms = now_ms() + pause.as_millis() as u64;
        tracing::info!(event = "parked", write = %refused.first, kind = reason.kind.as_str(), %reason, attempts, pause_ms = pause.as_millis() as u64, "refused; it waits for its next attempt");
        self.mark(MarkKind::Parked, refused, Some(reason), Some(due_ms), attempts)?;
        self.wait(refused, due_ms);
        Ok(())
    }

    /// Parks a write behind an earlier one to the same record.
    pub(super) fn park_behind(&self, pending: &Pending) -> Result<(), Failure> {
        self.mark(MarkKind::Parked, pending, None, None, pending.attempts)?;
        self.wait(pending, 0);
        Ok(())
    }

    fn wait(&self, pending: &Pending, due_ms: u64) {
        let keys = keys_of(&pending.write);
        let waiting = Waiting { sequence: pending.sequence, due_ms };
        self.core.ledger().chains.park(pending.first, waiting, &keys);
        let mut book = self.core.book();
        book.terms.pending = book.terms.pending.saturating_sub(1);
        book.terms.parked += 1;
    }

    /// Makes a refused write a dead letter: stored first, then marked, so that a crash between the two loses nothing.
    async fn bury(&mut self, refused: &Pending, reason: Refusal, attempts: u32) -> Result<(), Flow> {
        let mut history = self.core.attempts_before(refused);
        history.push(Attempt { at: rfc3339(now_ms()), reason: reason.clone() });
        let letter = Letter {
            id: refused.first,
            sequence: crate::write::WriteId(refused.sequence),
            accepted_ms: refused.accepted_ms,
            died_ms: now_ms(),
            reason: reason.clone(),
            history,
            write: (*refused.write).clone(),
        };
        if let Err(error) = self.core.dead.bury(&letter).await {
            return Err(Flow::LogFailed(Failure {
                reason: error.to_string().into(),
                since: std::time::SystemTime::now(),
            }));
        }
        // It is a dead letter now: without space for the mark nothing else may be decided about it.
        while let Err(failure) = self.mark(MarkKind::Dead, refused, Some(&reason), None, attempts) {
            if matches!(self.core.log_state(), LogState::Failed(_)) || self.core.is_stopping() {
                return Err(Flow::LogFailed(failure));
            }
            self.core.waiters.close();
            tokio::time::sleep(super::RETRY).await;
            self.keep_house().await;
        }
        {
            let mut book = self.core.book();
            book.terms.pending = book.terms.pending.saturating_sub(1);
            book.terms.dead += 1;
            let left = book.bytes.saturating_sub(refused.bytes as u64);
            book.set_bytes(left);
        }
        if self.core.options.hold_record_on_dead_letter {
            self.core.ledger().chains.hold(&keys_of(&refused.write), refused.first);
        }
        self.core.outages().update(|outage| outage.dead += 1);
        self.core.metrics.failed(reason.kind.as_str());
        self.core.forget_key(refused.write.key(), refused.first);
        tracing::warn!(event = "dead_letter", write = %refused.first, kind = reason.kind.as_str(), %reason, attempts, "dead letter");
        self.core.tell(EventKind::DeadLetter { id: refused.first.to_string(), reason: reason.message });
        Ok(())
    }

    pub(super) async fn bury_expired(&mut self, pending: Pending) -> Result<(), Flow> {
        self.core.waiters.release(pending.sequence);
        let reason = Refusal::new(RefusalKind::Expired, "it waited longer than queue.max_age");
        let attempts = pending.attempts;
        self.bury(&pending, reason, attempts).await
    }

    /// Appends a mark and keeps it in the ledger.
    fn mark(
        &self,
        kind: MarkKind,
        pending: &Pending,
        reason: Option<&Refusal>,
        due_ms: Option<u64>,
        attempts: u32,
    ) -> Result<(), Failure> {
        let records = pending.write.records().cloned().collect();
        let body = MarkBody { first: pending.first, reason: reason.cloned(), attempts, due_ms, records };
        self.core.mark(kind, pending.sequence, &body)
    }

    /// In a storm: looks from time to time whether a write passes, and goes on when one does.
    pub(super) async fn weather_storm(&mut self) -> Result<(), Flow> {
        self.core.waiters.close();
        self.storm.looks += 1;
        let wait =
            pause(self.storm.looks, Duration::from_secs(1), TRIAL_PAUSE_MAX, 0.5 + fastrand::f64() / 2.0);
        let until = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < until {
            if self.core.is_stopping() || !self.connection.borrow().is_connected() {
                return Err(Flow::Again);
            }
            if !matches!(*self.lane_state.borrow(), LaneState::Storm { .. }) {
                break;
            }
            self.wait_for_news(
                until.saturating_duration_since(tokio::time::Instant::now()).min(super::HOUSEKEEPING),
            )
            .await;
            self.keep_house().await;
        }
        if matches!(*self.lane_state.borrow(), LaneState::Storm { .. }) && !self.try_first().await? {
            return Ok(());
        }
        self.storm = Storm::default();
        if matches!(*self.lane_state.borrow(), LaneState::Storm { .. }) {
            self.core.set_lane_state(&LaneState::Running);
        }
        self.core.waiters.open();
        self.feed.restart(self.core.cursor());
        Ok(())
    }

    /// Tries the first write that is not decided, without deciding its fate. True when the database works again.
    async fn try_first(&mut self) -> Result<bool, Flow> {
        self.feed.restart(self.core.cursor());
        let first = loop {
            let mut read = self.feed.next(1, usize::MAX).map_err(|_| Flow::Again)?;
            if read.is_empty() {
                return Ok(true);
            }
            self.count_losses(&read);
            let Some(next) = read.writes.pop() else { continue };
            if self.core.is_reached(next.sequence, &next.write)
                || self.core.ledger().fate(next.sequence).is_some()
            {
                continue;
            }
            let keys = keys_of(&next.write);
            if !self.core.ledger().chains.is_behind(&keys, next.first, next.sequence) {
                break next;
            }
            self.park_behind(&next).map_err(Flow::LogFailed)?;
        };
        // A watermark passes only what has a durable mark, and what was appended again is durable before it is sent.
        self.core.log.sync().await.map_err(Flow::LogFailed)?;
        let lanes = match place_of(&first.write, self.rows.len()) {
            Place { alone: true, .. } => 0..self.rows.len(),
            Place { lane, .. } => lane..lane + 1,
        };
        let expected = self.expected(lanes.clone())?;
        let items = [Item { id: first.first, write: first.write.clone() }];
        match self.core.database.apply_across(&expected, first.sequence, &items).await {
            Ok(applied) => {
                let batch = std::slice::from_ref(&first);
                self.committed(lanes, batch, &applied.duplicates, first.sequence);
                Ok(true)
            }
            Err(ApplyError::Rejected { reason, .. }) => {
                // A refusal of another kind than all got says that the database works again.
                Ok(!self.storm.kinds.contains(&reason.kind))
            }
            Err(ApplyError::Conflict(_)) => Ok(false),
            Err(ApplyError::Unavailable(reason)) => {
                self.core.monitor.report_failure("write", &reason);
                Err(Flow::Again)
            }
            Err(ApplyError::Unknown(reason)) => Err(self.in_doubt(Some(&reason))),
            Err(ApplyError::Moved { .. }) => Err(self.in_doubt(None)),
        }
    }
}

impl Core {
    /// Appends a mark about the entry at `sequence` and keeps it in the ledger. Not synced.
    pub(crate) fn mark(
        &self,
        kind: MarkKind,
        sequence: outlast_log::Sequence,
        body: &MarkBody,
    ) -> Result<(), Failure> {
        let text = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
        let mark = Mark { kind, target: sequence, time_ms: now_ms(), body: text.into() };
        self.log.mark(&mark).map_err(|error| Failure {
            reason: error.to_string().into(),
            since: std::time::SystemTime::now(),
        })?;
        if let Some(decided) = decided_by(kind) {
            let reason = body.reason.clone().map(Box::new);
            self.ledger()
                .decide(sequence, Fated { decided, attempts: body.attempts, reason, time_ms: mark.time_ms });
        }
        Ok(())
    }

    /// Earlier refusals of a write, from the marks of its former entries.
    fn attempts_before(&self, pending: &Pending) -> Vec<Attempt> {
        let ledger = self.ledger();
        let mut history = Vec::new();
        let mut sequence = pending.first.0;
        while sequence != pending.sequence {
            let fated = ledger.fate(sequence);
            if let Some((fated, reason)) = fated.and_then(|fated| Some((fated, fated.reason.as_deref()?))) {
                history.push(Attempt { at: rfc3339(fated.time_ms), reason: reason.clone() });
            }
            match ledger.later(sequence) {
                Some(later) => sequence = later,
                None => break,
            }
        }
        history
    }
}

/// The decision that a mark states.
pub(crate) fn decided_by(kind: MarkKind) -> Option<Decided> {
    match kind {
        MarkKind::Parked => Some(Decided::Parked),
        MarkKind::Rejected => Some(Decided::Rejected),
        MarkKind::Dead => Some(Decided::Dead),
        MarkKind::Discarded => Some(Decided::Discarded),
        MarkKind::Retried | MarkKind::Cursor => None,
    }
}
