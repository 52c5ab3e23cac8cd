//! The drainer: takes writes from the log in order and applies them. It alone moves the cursor and decides fates.
//!
//! One task, in three steps that repeat: wait until the database answers and nobody has paused the lanes; find out where
//! the database is and take the positions over; apply round after round until something is in doubt. In a round each
//! lane has one transaction under way (decision 0021).

mod ahead;
mod backoff;
mod commands;
mod deliver;
mod lanes;
mod position;
mod ramp;
mod refusals;
mod requeue;

use std::sync::Arc;
use std::time::Duration;

use outlast_log::{Failure, LogState, Retention, Sequence};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use self::commands::{Command, CommandKind, Room, STEP_LETTERS_MAX};
use self::lanes::rows;
use self::ramp::Ramp;
use self::refusals::Storm;
pub(crate) use self::refusals::decided_by;
use crate::clock::now_ms;
use crate::core::Core;
use crate::database::{LaneId, Position};
use crate::feed::Feed;
use crate::fullness::Fullness;
use crate::health::ConnectionState;
use crate::lanes::{Change, CursorNote};
use crate::status::LaneState;

/// How often the cursor is noted, space given back and rates are sampled.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often old idempotency keys are forgotten.
const KEY_PRUNING: Duration = Duration::from_mins(10);
/// How often answered callers are let run before the next read.
const YIELDS_MAX: usize = 4;
/// How long to wait before another look after something that is no outage did not work.
const RETRY: Duration = Duration::from_millis(500);

/// Why draining stopped.
#[derive(Debug)]
enum Flow {
    /// Something is in doubt, or the database is away: begin again from the first step.
    Again,
    /// The lane is paused, halted or stands in a storm.
    Stand,
    /// Shutting down.
    Stop,
    /// The log takes no marks, or that of the dead letters no letter: no fate can be decided, until that changes or ever.
    LogFailed(Failure),
}

/// A lane's row in the database.
struct Row {
    id: LaneId,
    /// Where it stood when it was seen last. Behind the lane, while that has nothing to do.
    seen: Sequence,
    /// What stands there, while that is known.
    position: Option<Position>,
}

pub(crate) struct Drainer {
    core: Arc<Core>,
    feed: Feed,
    commands: mpsc::Receiver<Command>,
    connection: watch::Receiver<ConnectionState>,
    lane_state: watch::Receiver<LaneState>,
    /// One for each lane.
    rows: Vec<Row>,
    /// How many lanes the log has noted, and when that was changed. It is the number of rows, unless the database comes
    /// from before.
    lanes: u16,
    changes: Vec<Change>,
    /// The positions were read at least once and nothing is in doubt: fates may be decided.
    certain: bool,
    /// A position of this queue was ever in a database.
    bound: bool,
    ramp: Ramp,
    storm: Storm,
    /// Writes that the run-time limit still allows, and when that was computed.
    allowance: (f64, Instant),
    housekeeping: Instant,
    keys_pruned: Option<Instant>,
    /// Ends with the drainer.
    pruning: JoinSet<()>,
    noted_cursor: Sequence,
    /// The last write that waited when the database came back: with it an outage is over, however many came since.
    backlog_end: Sequence,
    /// What was told last about a log that takes no writes.
    log_trouble: Option<String>,
    fullness: Fullness,
    /// It was told that another number of lanes is configured.
    lanes_told: bool,
    /// Commands that wait until fates may be decided.
    deferred: Vec<Command>,
}

impl Drainer {
    pub(crate) fn new(
        core: Arc<Core>,
        commands: mpsc::Receiver<Command>,
        bound: bool,
        note: CursorNote,
    ) -> Self {
        let now = Instant::now();
        Self {
            rows: rows(&core, core.lanes(), core.cursor()),
            lanes: note.lanes,
            changes: note.changes,
            feed: Feed::new(core.log.clone(), core.intake.clone()),
            connection: core.monitor.subscribe(),
            lane_state: core.lane_state.subscribe(),
            ramp: Ramp::new(core.options.batch_max),
            storm: Storm::default(),
            core,
            commands,
            certain: false,
            bound,
            allowance: (0.0, now),
            housekeeping: now,
            keys_pruned: None,
            pruning: JoinSet::new(),
            // Noted anew after every start, so that it outlives the segment that has the last note.
            noted_cursor: Sequence::START,
            backlog_end: Sequence::START,
            log_trouble: None,
            fullness: Fullness::default(),
            lanes_told: false,
            deferred: Vec::new(),
        }
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        self.tell_lanes();
        loop {
            self.core.waiters.close();
            if !self.wait_until_runnable().await {
                break;
            }
            if !self.establish().await {
                self.pause_for(RETRY).await;
                continue;
            }
            self.serve_deferred().await;
            if matches!(*self.lane_state.borrow(), LaneState::Running) {
                self.core.waiters.open();
            }
            self.ramp = Ramp::new(self.core.options.batch_max);
            self.core.reset_rates();
            let flow = self.drain().await;
            match flow {
                Flow::Again | Flow::Stand => {}
                Flow::Stop => break,
                Flow::LogFailed(failure) if !matches!(self.core.log_state(), LogState::Failed(_)) => {
                    // No space for a mark or a dead letter: nothing was decided, and it is tried again. What is applied
                    // meanwhile gives space back by itself.
                    tracing::debug!(%failure, "the lane waits: a refusal cannot be noted");
                    self.core.waiters.close();
                    self.pause_for(RETRY).await;
                    self.keep_house().await;
                }
                Flow::LogFailed(failure) => {
                    // Without marks no refusal can be decided. What is durable stays; a restart recovers.
                    tracing::error!(%failure, "the lane stops: the log has failed");
                    self.core.waiters.close();
                    self.refuse_commands().await;
                    break;
                }
            }
        }
        self.core.waiters.close();
        if self.certain && self.connection.borrow().is_connected() {
            // What does not work here is done after the next start.
            let _ = self.bring_up_rows().await;
        }
        self.note_cursor();
        self.core.outages().close();
        self.feed.restart(self.core.cursor());
    }

    /// Waits for a connection and for the operators' leave; false at shutdown.
    async fn wait_until_runnable(&mut self) -> bool {
        loop {
            if self.core.is_stopping() {
                return false;
            }
            let standing = matches!(*self.lane_state.borrow_and_update(), LaneState::Paused { .. });
            let connected = self.connection.borrow_and_update().is_connected();
            if connected && (!standing || !self.certain) {
                // A standing lane still finds out where the database is, so that operators may decide fates.
                self.note_depth();
                return true;
            }
            // Whoever came while it still looked well takes *queued* now.
            self.core.waiters.close();
            // They are read anew: until then nobody knows whether it is the same database.
            self.forget_positions();
            self.wait_for(HOUSEKEEPING, false).await;
            self.keep_house().await;
        }
    }

    /// Applies until something is in doubt.
    async fn drain(&mut self) -> Flow {
        loop {
            if self.core.is_stopping() && self.core.waiters.count() == 0 {
                return Flow::Stop;
            }
            if !self.connection.borrow_and_update().is_connected() {
                return Flow::Again;
            }
            self.serve_commands().await;
            let lane_state = self.lane_state.borrow_and_update().clone();
            match lane_state {
                LaneState::Running => {}
                LaneState::Storm { .. } => {
                    if let Err(flow) = self.weather_storm().await {
                        return flow;
                    }
                    continue;
                }
                _ => return Flow::Stand,
            }
            if !self.core.waiters.is_open() {
                self.core.waiters.open();
            }
            if self.housekeeping.elapsed() >= HOUSEKEEPING
                && let Err(flow) = self.bring_up_rows().await
            {
                return flow;
            }
            self.keep_house().await;
            if let Err(failure) = self.requeue_due().await {
                return Flow::LogFailed(failure);
            }
            let lanes = self.rows.len();
            let count = (self.ramp.size() * lanes).min(self.allowed());
            if count == 0 {
                self.wait_for_news(Duration::from_millis(20)).await;
                continue;
            }
            let read = match self.feed.next(count, self.core.options.batch_bytes_max * lanes) {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    self.pause_for(RETRY).await;
                    return Flow::Again;
                }
            };
            if read.is_empty() {
                if let Err(flow) = self.idle().await {
                    return flow;
                }
                continue;
            }
            let sent = read.writes.len();
            if let Err(flow) = self.deliver(read).await {
                return flow;
            }
            self.see_outage_end();
            self.let_callers_run(sent).await;
        }
    }

    /// The callers just answered run first: those of them that write again are then found by the next read, all together,
    /// and not one by one or by a sleep and a wake-up in between.
    async fn let_callers_run(&self, sent: usize) {
        // A lone caller has nobody to be gathered with: to step aside for it would only wake another thread.
        if sent <= 1 {
            return;
        }
        let mut waiting = self.core.book().terms.pending;
        for _ in 0..YIELDS_MAX {
            tokio::task::yield_now().await;
            let before = std::mem::replace(&mut waiting, self.core.book().terms.pending);
            // As many as before, or no more of them come.
            if waiting >= sent as u64 || waiting == before {
                return;
            }
        }
    }

    /// Nothing to read: either everything is applied, or the log has not written it yet.
    async fn idle(&mut self) -> Result<(), Flow> {
        if !self.feed.is_drained() {
            return self.core.log.sync().await.map_err(Flow::LogFailed);
        }
        let terms = self.core.book().terms;
        if terms.pending == 0 {
            self.end_outage();
            if terms.parked == 0 && usize::from(self.core.options.wanted_lanes()) != self.rows.len() {
                return self.change_lanes().await;
            }
        }
        let due = self.core.ledger().chains.next_due_ms();
        let wait = due.map_or(HOUSEKEEPING, |due| Duration::from_millis(due.saturating_sub(now_ms()).max(1)));
        self.wait_for_news(wait.min(HOUSEKEEPING)).await;
        Ok(())
    }

    fn see_outage_end(&self) {
        if self.core.cursor() >= self.backlog_end {
            self.end_outage();
        }
    }

    /// The backlog is drained: if an outage lasts and the database is back, it is over.
    fn end_outage(&self) {
        let ended = self.core.outages().drained();
        let Some(outage) = ended else { return };
        self.core.metrics.outage_duration.observe(outage.duration_seconds);
        tracing::info!(
            event = "outage_ended",
            outage = outage.id,
            seconds = outage.duration_seconds,
            queued = outage.writes_queued,
            healed = outage.healed_writes,
            dead = outage.dead,
            lost = outage.lost,
            "the outage is over: everything is applied"
        );
        self.core.tell(crate::event::EventKind::OutageEnded { outage: outage.id });
    }

    /// Waits for another write or a change, at most `at_most`.
    async fn wait_for_news(&mut self, at_most: Duration) {
        self.wait_for(at_most, true).await;
    }

    /// Waits until something may have changed, at most `at_most`. Commands are served on the way. While the database is
    /// away `writes` are no news: being woken by each would cost them.
    async fn wait_for(&mut self, at_most: Duration, writes: bool) {
        tokio::select! {
            biased;
            () = self.core.intake.arrived.notified(), if writes => {}
            _ = self.connection.changed() => {}
            _ = self.lane_state.changed() => {}
            () = tokio::time::sleep(at_most) => {}
            command = self.commands.recv() => {
                if let Some(command) = command {
                    self.serve(command).await;
                }
            }
        }
    }

    async fn pause_for(&mut self, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.serve_commands().await;
    }

    /// How many writes the run-time limit allows now.
    fn allowed(&mut self) -> usize {
        let now = Instant::now();
        let Some(rate) = self.core.throttle() else {
            self.allowance = (0.0, now);
            return usize::MAX;
        };
        let (left, at) = self.allowance;
        let refilled = left + now.duration_since(at).as_secs_f64() * rate as f64;
        // At most a tenth of a second in one go, and always at least one write some time.
        self.allowance = (refilled.min((rate as f64 / 10.0).max(1.0)), now);
        self.allowance.0 as usize
    }

    async fn keep_house(&mut self) {
        if self.housekeeping.elapsed() < HOUSEKEEPING {
            return;
        }
        self.housekeeping = Instant::now();
        self.core.sample_rates();
        self.note_depth();
        self.tell_fullness();
        self.tell_lanes();
        self.tell_log_state();
        self.core.outages().save_now_and_then();
        self.note_cursor();
        if self.core.dead.pay().await && self.may_reclaim() {
            self.reclaim();
        }
        self.prune_keys();
    }

    /// How deep the queue is, for the report of the outage: now and then, and just before it is drained.
    fn note_depth(&self) {
        let status = self.core.queue_status();
        self.core.outages().update(|outage| {
            outage.peak_writes = outage.peak_writes.max(status.writes);
            outage.oldest_age_seconds = outage.oldest_age_seconds.max(status.oldest_age_seconds);
        });
    }

    /// One line when the log stops taking writes, and one when it goes on.
    fn tell_log_state(&mut self) {
        let (state, trouble) = match self.core.log_state() {
            LogState::Ok => ("ok", None),
            LogState::NoSpace { .. } => {
                ("no_space", Some("the disk is full; it goes on when there is space again".to_owned()))
            }
            LogState::Failed(failure) => ("failed", Some(failure.to_string())),
        };
        match &trouble {
            same if *same == self.log_trouble => {}
            Some(reason) => tracing::error!(event = "log_state", state, reason, "the log takes no writes"),
            None => tracing::info!(event = "log_state", state, "the log takes writes again"),
        }
        self.log_trouble = trouble;
    }

    /// One line when the queue fills up, and one when there is room again.
    fn tell_fullness(&mut self) {
        let (writes, bytes) = {
            let book = self.core.book();
            (book.terms.pending + book.terms.parked, book.bytes)
        };
        let (writes_max, bytes_max) = (self.core.options.max_writes, self.core.options.max_bytes);
        let usage = (writes as f64 / writes_max as f64).max(bytes as f64 / bytes_max as f64);
        let next =
            self.fullness.next(usage, self.core.no_room.swap(false, std::sync::atomic::Ordering::Relaxed));
        if next != self.fullness {
            let state = next.name();
            if next > self.fullness {
                tracing::warn!(
                    event = "queue_state",
                    state,
                    writes,
                    writes_max,
                    bytes,
                    bytes_max,
                    "the queue fills up"
                );
            } else {
                tracing::info!(
                    event = "queue_state",
                    state,
                    writes,
                    writes_max,
                    bytes,
                    bytes_max,
                    "the queue empties"
                );
            }
            self.fullness = next;
        }
    }

    /// Writes the cursor to the log. Never synced for its own sake: it is a hint.
    fn note_cursor(&mut self) {
        // A lane whose row is behind would look as if the database had gone back.
        let cursor = self.rows.iter().map(|row| row.seen).fold(self.core.cursor(), Sequence::min);
        if cursor != self.noted_cursor {
            match self.core.log.mark(&self.cursor_mark(cursor)) {
                Ok(_) => self.noted_cursor = cursor,
                Err(error) => tracing::debug!(%error, "the cursor was not noted"),
            }
        }
    }

    /// Only while it is known where the database is: one that comes back older than it left needs what the log retains,
    /// however long it was away. Nothing is applied meanwhile, so that this takes no further space; and where there is
    /// none left, taking writes comes first.
    fn may_reclaim(&self) -> bool {
        let known = self.certain && self.knows_positions() && self.connection.borrow().is_connected();
        let running = matches!(*self.lane_state.borrow(), LaneState::Running);
        (known && running) || matches!(self.core.log_state(), LogState::NoSpace { .. })
    }

    /// Lets the log give back what is decided and older than the retention.
    fn reclaim(&mut self) {
        let settled = {
            let ledger = self.core.ledger();
            let oldest_parked =
                ledger.chains.oldest().and_then(|oldest| Sequence::from_u64(oldest.as_u64() - 1));
            let rows = self.rows.iter().map(|row| row.seen);
            rows.chain(oldest_parked).fold(self.core.cursor(), Sequence::min)
        };
        self.core.log.settle(settled);
        let keep = Retention { time: self.core.options.retain, bytes: self.core.options.retain_bytes };
        match self.core.log.reclaim(keep) {
            Ok(reclaimed) if reclaimed.segments > 0 => {
                let retained_after = self.core.log.retained_after();
                self.core.ledger().prune(retained_after);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "nothing was reclaimed"),
        }
    }

    /// Beside everything else: with many keys it takes its time, and writes pass between its transactions.
    fn prune_keys(&mut self) {
        if !self.core.monitor.is_healthy() || self.keys_pruned.is_some_and(|at| at.elapsed() < KEY_PRUNING) {
            return;
        }
        // The first time a while after the start.
        if self.keys_pruned.replace(Instant::now()).is_none() {
            return;
        }
        while self.pruning.try_join_next().is_some() {}
        if self.pruning.is_empty() {
            let (database, retention) = (self.core.database.clone(), self.core.options.key_retention);
            self.pruning.spawn(async move {
                if let Err(error) = database.prune_keys(retention).await {
                    tracing::debug!(%error, "idempotency keys were not pruned");
                }
            });
        }
    }
}
