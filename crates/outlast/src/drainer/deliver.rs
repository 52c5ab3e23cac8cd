//! One round: what may be sent, in a transaction for each lane, and what the answers mean.

use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use outlast_log::Sequence;
use tokio::time::Instant;

use super::{Drainer, Flow};
use crate::clock::now_ms;
use crate::database::{Applied, ApplyError, Item, LaneId, Position};
use crate::feed::{Pending, Read};
use crate::lanes::place_of;
use crate::ledger::keys_of;
use crate::trace::{Attempt, LINKS_MAX, TraceContext};
use crate::write::{Operation, WriteId};

/// Conflicts in a row after which somebody else may hold the position.
const CONFLICTS_MAX: u32 = 20;

/// What one lane applies in a round; or all of them together, when a write goes alone.
pub(super) struct Part {
    pub(super) lanes: Range<usize>,
    /// The transaction under way.
    batch: Vec<Pending>,
    /// Waits until the batch in front of it is committed.
    rest: Vec<Pending>,
    /// Where the lane is when all of it is decided.
    end: Sequence,
    conflicts: u32,
    /// It is sent again after a pause.
    pauses: bool,
    /// It was sent behind another transaction, before that one was answered.
    early: bool,
}

impl Part {
    fn new(lanes: Range<usize>, batch: Vec<Pending>, end: Sequence) -> Self {
        Self { lanes, batch, rest: Vec::new(), end, conflicts: 0, pauses: false, early: false }
    }

    /// Of the only lane, to be sent behind another one.
    pub(super) fn behind(batch: Vec<Pending>, end: Sequence) -> Self {
        Self { early: true, ..Self::new(0..1, batch, end) }
    }

    pub(super) fn into_writes(mut self) -> Vec<Pending> {
        self.batch.append(&mut self.rest);
        self.batch
    }

    /// Writes in it.
    pub(super) fn len(&self) -> usize {
        self.batch.len() + self.rest.len()
    }

    /// Whether another one may be sent behind it: its one transaction is all of it, and on its way; and it has no
    /// statement, which could need a table for itself of which the one behind holds a lock.
    pub(super) fn leads(&self) -> bool {
        let is_statement = |operation: &Operation| matches!(operation, Operation::Statement { .. });
        self.rest.is_empty()
            && !self.pauses
            && !self.batch.iter().any(|pending| pending.write.operations().iter().any(is_statement))
    }

    /// Whether it was sent early and refused because its turn had not come. That can happen once.
    pub(super) fn came_early(&mut self, answer: &mut Result<Applied, ApplyError>) -> bool {
        let early = std::mem::take(&mut self.early);
        if early && let Err(ApplyError::Moved { .. }) = answer {
            *answer = Err(ApplyError::Conflict("it arrived before the one in front of it".to_owned()));
        }
        early && matches!(answer, Err(ApplyError::Conflict(_)))
    }

    /// Where the lane is when the batch is committed.
    pub(super) fn next(&self) -> Sequence {
        match self.batch.last() {
            Some(last) if !self.rest.is_empty() => last.sequence,
            _ => self.end,
        }
    }

    /// Leaves the rest for a later transaction.
    fn split(&mut self, at: usize) {
        if at < self.batch.len() {
            let mut later = self.batch.split_off(at);
            later.append(&mut self.rest);
            self.rest = later;
        }
    }
}

/// The database's answer to a batch, and how long it took.
pub(super) type Answered = (Result<Applied, ApplyError>, Duration);
/// A transaction under way.
pub(super) type Flight = Pin<Box<dyn Future<Output = Answered> + Send>>;

impl Drainer {
    /// Decides about everything read, applies what may be sent, and moves the watermarks over all of it.
    pub(super) async fn deliver(&mut self, read: Read) -> Result<(), Flow> {
        self.count_losses(&read);
        let Some(end) = last_of(&read) else { return Ok(()) };
        let mut rounds = rounds(read.writes, self.rows.len()).into_iter().peekable();
        while let Some(writes) = rounds.next() {
            let end = match writes.last() {
                Some(last) if rounds.peek().is_some() => last.sequence,
                _ => end,
            };
            let batch = self.sift(writes).await?;
            // Rule 1: a watermark passes only what is applied and what has a durable mark. Rule 5: what was appended
            // again is durable before it is sent.
            if batch.must_sync {
                self.core.log.sync().await.map_err(Flow::LogFailed)?;
            }
            if self.core.throttle().is_some() {
                self.allowance.0 -= batch.send.len() as f64;
            }
            self.apply(batch.send, end).await?;
        }
        Ok(())
    }

    /// One round: each lane applies what is its own, all at once. It ends when every write is decided, or one is in
    /// doubt and no transaction is under way any more.
    async fn apply(&mut self, writes: Vec<Pending>, end: Sequence) -> Result<(), Flow> {
        let mut parts = self.parts(writes, end);
        if self.rows.len() == 1
            && let Some(mut part) = parts.pop()
        {
            let flight = self.send(&mut part, Duration::ZERO)?;
            return self.apply_in_chain(part, flight).await;
        }
        let mut flights: Vec<(Part, Flight)> = Vec::with_capacity(parts.len());
        for mut part in parts {
            let flight = self.send(&mut part, Duration::ZERO)?;
            flights.push((part, flight));
        }
        // Sent; while the database works, the next part of a backlog is read and decoded.
        let mut landed = poll_once(first_of(&mut flights)).await;
        if landed.is_none() && self.core.throttle().is_none() {
            let lanes = self.rows.len();
            self.feed.read_ahead(self.ramp.size() * lanes, self.core.options.batch_bytes_max * lanes);
        }
        let mut broken = None;
        while !flights.is_empty() {
            let (index, (answer, took)) = match landed.take() {
                Some(landed) => landed,
                None => first_of(&mut flights).await,
            };
            let (part, _) = flights.swap_remove(index);
            self.note_attempt(&part, &answer, took);
            match self.answered(part, answer, took, broken.is_some()).await {
                Ok(Some((mut part, pause))) => match self.send(&mut part, pause) {
                    Ok(flight) => flights.push((part, flight)),
                    Err(flow) => broken = broken.or(Some(flow)),
                },
                Ok(None) => {}
                Err(flow) => broken = broken.or(Some(flow)),
            }
        }
        if let Some(flow) = broken {
            return Err(flow);
        }
        // Also those that had nothing to do.
        self.core.reach_at_least(end);
        self.core.ledger().chains.dissolve(self.core.cursor());
        Ok(())
    }

    /// What each lane has to do. A round without writes moves the watermark of a lane that is the only one; those of
    /// several are brought up when there is time.
    fn parts(&self, writes: Vec<Pending>, end: Sequence) -> Vec<Part> {
        let lanes = self.rows.len();
        let alone = writes.first().is_some_and(|first| place_of(&first.write, lanes).alone);
        if lanes == 1 || alone {
            return vec![Part::new(0..lanes, writes, end)];
        }
        let mut parts: Vec<Part> =
            (0..lanes).map(|lane| Part::new(lane..lane + 1, Vec::new(), end)).collect();
        for pending in writes {
            parts[place_of(&pending.write, lanes).lane].batch.push(pending);
        }
        parts.retain(|part| !part.batch.is_empty());
        parts
    }

    /// Sends the batch of a part after a pause.
    pub(super) fn send(&self, part: &mut Part, pause: Duration) -> Result<Flight, Flow> {
        let expected = self.expected(part.lanes.clone())?;
        Ok(self.send_from(expected, part, pause))
    }

    /// The same from where the rows will stand when it arrives.
    pub(super) fn send_from(
        &self,
        expected: Vec<(LaneId, Position)>,
        part: &mut Part,
        pause: Duration,
    ) -> Flight {
        part.split(self.core.database.batch_writes_max().max(1));
        part.pauses = !pause.is_zero();
        let (database, next) = (self.core.database.clone(), part.next());
        let items: Vec<Item> = part
            .batch
            .iter()
            .map(|pending| Item { id: pending.first, write: pending.write.clone() })
            .collect();
        Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let started = Instant::now();
            let answer = database.apply_across(&expected, next, &items).await;
            (answer, started.elapsed())
        })
    }

    pub(super) fn note_attempt(&self, part: &Part, answer: &Result<Applied, ApplyError>, took: Duration) {
        self.core.metrics.attempt(result_name(answer), took);
        self.trace(&part.batch, result_name(answer), took);
    }

    /// What the answer means for a part. Returns what of it is to be sent next, and after which pause. While the round
    /// is `broken` nothing more is sent, and no fate is decided.
    ///
    /// A refusal counts only when everything before it is committed: seen from within a transaction it may rest on a
    /// write of the same batch that takes no effect in the end. So what stands before a refused write is committed first.
    pub(super) async fn answered(
        &mut self,
        mut part: Part,
        answer: Result<Applied, ApplyError>,
        took: Duration,
        broken: bool,
    ) -> Result<Option<(Part, Duration)>, Flow> {
        match answer {
            Ok(applied) => {
                self.ramp.took(part.batch.len(), took);
                let next = part.next();
                self.committed(part.lanes.clone(), &part.batch, &applied.duplicates, next);
                part.batch = std::mem::take(&mut part.rest);
                Ok((!part.batch.is_empty() && !broken).then_some((part, Duration::ZERO)))
            }
            Err(ApplyError::Unavailable(reason)) => {
                self.core.monitor.report_failure("write", &reason);
                Err(Flow::Again)
            }
            // It may have committed, and may still.
            Err(ApplyError::Unknown(reason)) => Err(self.in_doubt(Some(&reason))),
            Err(ApplyError::Moved { actual }) => {
                tracing::warn!(?actual, expected = ?self.expected(part.lanes).ok(), "the position moved");
                Err(self.in_doubt(None))
            }
            Err(_) if broken => Ok(None),
            Err(ApplyError::Conflict(reason)) => {
                part.conflicts += 1;
                tracing::debug!(reason, conflicts = part.conflicts, "the transaction conflicted");
                if part.conflicts > CONFLICTS_MAX {
                    self.forget_positions();
                    return Err(Flow::Again);
                }
                Ok(Some((part, Duration::from_millis(1 + fastrand::u64(0..20)))))
            }
            Err(ApplyError::Rejected { index, .. }) if 0 < index && index < part.batch.len() => {
                part.split(index);
                Ok(Some((part, Duration::ZERO)))
            }
            Err(ApplyError::Rejected { index, reason, retryable }) if index < part.batch.len() => {
                part.batch.append(&mut part.rest);
                let refused = part.batch.remove(index);
                if self.decide_refusal(refused, reason, retryable, &mut part.batch).await? {
                    // A refusal storm: nothing of this batch is decided by it.
                    return Err(Flow::Again);
                }
                Ok(Some((part, Duration::ZERO)))
            }
            Err(ApplyError::Rejected { reason, .. }) => {
                self.core.monitor.report_failure("write", &format!("a refusal without a write: {reason}"));
                Err(Flow::Again)
            }
        }
    }

    /// Tells which requests are behind a transaction.
    fn trace(&self, batch: &[Pending], result: &'static str, took: Duration) {
        let Some(tracer) = &self.core.options.tracer else { return };
        let mut contexts: Vec<&TraceContext> =
            batch.iter().filter_map(|pending| pending.write.trace()).collect();
        let linkable = contexts.len();
        contexts.truncate(LINKS_MAX);
        if linkable > 0 {
            let started = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
            tracer.attempted(&Attempt {
                started,
                took,
                writes: batch.len(),
                result,
                contexts,
                traced: linkable,
            });
        }
    }

    pub(super) fn committed(
        &mut self,
        lanes: Range<usize>,
        batch: &[Pending],
        duplicates: &[(usize, WriteId)],
        next: Sequence,
    ) {
        self.moved(lanes, next);
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
        self.core.ledger().chains.dissolve(self.core.cursor());
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
        // When not all lanes are at one place, some of it is applied already.
        let even = self.core.is_even();
        if even && self.core.options.max_age.is_none() && self.is_plain(&writes) {
            let must_sync = writes.iter().any(|pending| pending.appended_again);
            return Ok(Sifted { send: writes, must_sync });
        }
        let mut sifted = Sifted { send: Vec::with_capacity(writes.len()), must_sync: false };
        for pending in writes {
            if !even && self.core.is_reached(pending.sequence, &pending.write) {
                continue;
            }
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
    pub(super) fn is_plain(&self, writes: &[Pending]) -> bool {
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

    pub(super) fn count_losses(&self, read: &Read) {
        for damage in &read.damage {
            let lost = damage.lost.map_or(0, |stretch| self.core.lose_pending(stretch));
            tracing::error!(%damage, lost, "the log is damaged: these writes are lost");
        }
        for (sequence, error) in &read.unreadable {
            tracing::error!(%sequence, error, "an entry of the log cannot be understood: it is left in the log and not applied");
            self.core.lose_pending((*sequence, *sequence));
        }
    }
}

/// Writes that may be under way at the same time: all up to one that goes alone.
fn rounds(writes: Vec<Pending>, lanes: usize) -> Vec<Vec<Pending>> {
    let mut rounds = vec![Vec::new()];
    if lanes == 1 {
        return vec![writes];
    }
    let mut alone = false;
    for pending in writes {
        let before = std::mem::replace(&mut alone, place_of(&pending.write, lanes).alone);
        match rounds.last_mut() {
            Some(round) if round.is_empty() || !(before || alone) => round.push(pending),
            _ => rounds.push(vec![pending]),
        }
    }
    rounds
}

/// The first flight that lands.
fn first_of(flights: &mut [(Part, Flight)]) -> impl Future<Output = (usize, Answered)> + Unpin {
    std::future::poll_fn(|context| {
        for (index, (_, flight)) in flights.iter_mut().enumerate() {
            if let Poll::Ready(answered) = flight.as_mut().poll(context) {
                return Poll::Ready((index, answered));
            }
        }
        Poll::Pending
    })
}

/// What a future has come to after one look at it.
pub(super) async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| match Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
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
