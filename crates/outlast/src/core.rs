//! What the handle, the drainer and the monitor share. Each mutable thing has one owner; this is where they meet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outlast_log::{Log, LogState, Sequence};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use crate::clock::rfc3339_now;
use crate::database::Database;
use crate::dead::DeadLetterStore;
use crate::drainer::Command;
use crate::error::Error;
use crate::estimate::{Rates, RetryInputs, retry_after, seconds, usual_rest};
use crate::event::{Event, EventKind};
use crate::feed::{Intake, Pending};
use crate::health::{Check, HealthManager, Level, Monitor, StateChange};
use crate::lanes::{Progress, place_of};
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Snapshot};
use crate::options::Options;
use crate::outage::Outages;
use crate::status::{Accounting, EncryptionStatus, KeyStatus, LaneState, QueueStatus};
use crate::waiters::Waiters;
use crate::write::{IdempotencyKey, Write, WriteId};

/// Idempotency keys remembered while their writes are pending; beyond that only the database's table tells.
const PENDING_KEYS_MAX: usize = 200_000;

/// The terms of the accounting identity and the bytes that wait. One lock, so that the identity holds whenever
/// somebody looks.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub terms: Accounting,
    pub bytes: u64,
}

impl Book {
    /// So many bytes of log are behind the cursor. While no write waits they are marks, and no backlog.
    pub(crate) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = if self.terms.pending + self.terms.parked == 0 { 0 } else { bytes };
    }
}

pub(crate) struct Core {
    pub options: Options,
    pub database: Arc<dyn Database>,
    pub log: Log,
    pub dead: DeadLetterStore,
    pub monitor: Monitor,
    pub intake: Arc<Intake>,
    pub waiters: Waiters,
    pub ledger: Mutex<Ledger>,
    pub book: Mutex<Book>,
    pub outages: Arc<Mutex<Outages>>,
    pub metrics: Arc<Metrics>,
    pub health: HealthManager,
    pub events: broadcast::Sender<Event>,
    pub lane_state: watch::Sender<LaneState>,
    /// Raised whenever a fate changed.
    pub decided: watch::Sender<u64>,
    pub commands: mpsc::Sender<Command>,
    keys: Mutex<HashMap<String, (String, WriteId)>>,
    progress: Mutex<Progress>,
    /// The lowest of `progress`, to be read without a lock.
    cursor: AtomicU64,
    throttle: AtomicU64,
    stopping: AtomicBool,
    /// A write has found no room since the last look.
    pub no_room: AtomicBool,
    rates: Mutex<Rates>,
}

/// What [`Core::new`] is made of.
pub(crate) struct Parts {
    pub options: Options,
    pub database: Arc<dyn Database>,
    pub log: Log,
    pub dead: DeadLetterStore,
    pub monitor: Monitor,
    pub outages: Arc<Mutex<Outages>>,
    pub metrics: Arc<Metrics>,
    pub events: broadcast::Sender<Event>,
    pub commands: mpsc::Sender<Command>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let throttle = parts.options.drain_rate.unwrap_or(0);
        Self {
            options: parts.options,
            database: parts.database,
            log: parts.log,
            dead: parts.dead,
            monitor: parts.monitor,
            intake: Arc::new(Intake::default()),
            waiters: Waiters::default(),
            ledger: Mutex::default(),
            book: Mutex::default(),
            outages: parts.outages,
            metrics: parts.metrics,
            health: HealthManager::default(),
            events: parts.events,
            lane_state: watch::channel(LaneState::Running).0,
            decided: watch::channel(0).0,
            commands: parts.commands,
            keys: Mutex::default(),
            progress: Mutex::new(Progress::new(1, Sequence::START)),
            cursor: AtomicU64::new(0),
            throttle: AtomicU64::new(throttle),
            stopping: AtomicBool::new(false),
            no_room: AtomicBool::new(false),
            rates: Mutex::default(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local copy of the watermark: every write up to here is decided, in every lane. The drainer alone moves it.
    pub(crate) fn cursor(&self) -> Sequence {
        Sequence::from_u64(self.cursor.load(Ordering::Acquire)).unwrap_or(Sequence::START)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> usize {
        self.progress().lanes()
    }

    /// How far this lane is, as far as is known here.
    pub(crate) fn reached(&self, lane: usize) -> Sequence {
        self.progress().of(lane)
    }

    /// This lane is at `to`.
    pub(crate) fn reach(&self, lane: usize, to: Sequence) {
        let mut progress = self.progress();
        progress.set(lane, to);
        self.cursor.store(progress.lowest().as_u64(), Ordering::Release);
    }

    /// All lanes are at `to`, or further.
    pub(crate) fn reach_at_least(&self, to: Sequence) {
        let mut progress = self.progress();
        for lane in 0..progress.lanes() {
            let reached = progress.of(lane);
            progress.set(lane, reached.max(to));
        }
        self.cursor.store(progress.lowest().as_u64(), Ordering::Release);
    }

    /// There are so many lanes, and all are at `at`.
    pub(crate) fn reach_all(&self, lanes: usize, at: Sequence) {
        *self.progress() = Progress::new(lanes, at);
        self.cursor.store(at.as_u64(), Ordering::Release);
    }

    /// Whether all lanes are at the same place: so it is but while they are under way, and after a doubt.
    pub(crate) fn is_even(&self) -> bool {
        let progress = self.progress();
        progress.lowest() == progress.highest()
    }

    /// Whether this write is decided by the position of its lane.
    pub(crate) fn is_reached(&self, sequence: Sequence, write: &Write) -> bool {
        let progress = self.progress();
        sequence <= progress.of(place_of(write, progress.lanes()).lane)
    }

    /// The same of a write that is perhaps only in the log.
    pub(crate) fn is_reached_in_log(&self, sequence: Sequence) -> bool {
        if sequence <= self.cursor() {
            return true;
        }
        if sequence > self.progress().highest() {
            return false;
        }
        match self.log.get(sequence) {
            Ok(Some(entry)) => {
                Pending::decode(&entry).is_ok_and(|pending| self.is_reached(sequence, &pending.write))
            }
            _ => false,
        }
    }

    /// Most writes per second while draining; `None` without a limit.
    pub(crate) fn throttle(&self) -> Option<u64> {
        Some(self.throttle.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    pub(crate) fn set_throttle(&self, rate: Option<u64>) {
        self.throttle.store(rate.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn tell(&self, kind: EventKind) {
        // Nobody listening is fine.
        let _ = self.events.send(Event { at: rfc3339_now(), kind });
    }

    pub(crate) fn set_lane_state(&self, state: &LaneState) {
        let mut another = false;
        let changed = self.lane_state.send_if_modified(|now| {
            let changed = now != state;
            // A storm that has refused more is the same storm.
            another =
                changed && !matches!((&*now, state), (LaneState::Storm { .. }, LaneState::Storm { .. }));
            now.clone_from(state);
            changed
        });
        let message = lane_message(state);
        if another {
            let (state, detail) = (state.name(), &*message);
            match state {
                "halted" | "storm" => {
                    tracing::error!(event = "lane_state", state, detail, "delivery: {detail}");
                }
                _ => tracing::info!(event = "lane_state", state, detail, "delivery: {detail}"),
            }
        }
        if changed {
            self.tell(EventKind::LaneState { message });
        }
    }

    /// Tells whoever waits for a fate to look again.
    pub(crate) fn fates_changed(&self) {
        self.decided.send_modify(|version| *version += 1);
    }

    /// The pending write that has this idempotency key, and its fingerprint.
    pub(crate) fn pending_key(&self, key: &str) -> Option<(String, WriteId)> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn remember_key(&self, key: &IdempotencyKey, id: WriteId) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < PENDING_KEYS_MAX {
            keys.insert(key.key.clone(), (key.fingerprint.clone(), id));
        }
    }

    /// The write is decided: its key is the database's to remember now. Another write's entry stays.
    pub(crate) fn forget_key(&self, key: Option<&IdempotencyKey>, id: WriteId) {
        let Some(key) = key else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.get(&key.key).is_some_and(|(_, other)| *other == id) {
            keys.remove(&key.key);
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples the rates; called about once a second.
    pub(crate) fn sample_rates(&self) {
        let terms = self.book().terms;
        self.rates().note(terms.accepted, terms.pending, Instant::now());
    }

    pub(crate) fn reset_rates(&self) {
        *self.rates() = Rates::default();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.monitor.is_healthy() && matches!(*self.lane_state.borrow(), LaneState::Running)
    }

    /// Estimated seconds until `writes` are applied; `None` while nobody can tell.
    pub(crate) fn estimate(&self, writes: u64) -> Option<u64> {
        if !self.is_draining() {
            return None;
        }
        // A limit that was just set is not yet seen in the rate.
        let limit = self.throttle().map_or(f64::INFINITY, |limit| limit as f64);
        let drain_rate = self.rates().drain();
        seconds(writes, drain_rate.min(limit))
    }

    /// The computed `Retry-After`, never 0 and at most `retry_after_max`.
    pub(crate) fn retry_after(&self, drain: Option<Duration>) -> Duration {
        let connected = self.monitor.is_healthy();
        let usual =
            if connected { None } else { usual_rest(&self.outages().lengths(), self.monitor.lasted()) };
        let next_probe = if connected { Duration::ZERO } else { self.monitor.until_next_probe() };
        retry_after(
            RetryInputs { next_probe, usual_rest: usual, drain },
            self.options.retry_after_max,
            fastrand::f64(),
        )
    }

    /// The error for what cannot be served without the database.
    pub(crate) fn unavailable(&self) -> Error {
        let (_, reason) = self.monitor.level();
        Error::ServiceUnavailable { retry_after: self.retry_after(None), reason }
    }

    pub(crate) fn queue_full(&self) -> Error {
        let (writes, bytes) = {
            let book = self.book();
            (book.terms.pending + book.terms.parked, book.bytes)
        };
        // Room for a tenth of the queue is worth coming back for.
        let drain = self.estimate(self.options.max_writes / 10).map(Duration::from_secs);
        Error::QueueFull {
            retry_after: self.retry_after(drain),
            writes,
            writes_max: self.options.max_writes,
            bytes,
            bytes_max: self.options.max_bytes,
        }
    }

    /// Age of the oldest write that waits, in seconds.
    fn oldest_age(&self) -> f64 {
        if self.book().terms.pending == 0 {
            return 0.0;
        }
        match self.log.reader(self.cursor()).next() {
            Ok(Some(outlast_log::ReadItem::Entry(entry))) => {
                crate::clock::now_ms().saturating_sub(entry.time_ms) as f64 / 1000.0
            }
            _ => 0.0,
        }
    }

    pub(crate) fn queue_status(&self) -> QueueStatus {
        let (terms, bytes) = {
            let book = self.book();
            (book.terms, book.bytes)
        };
        let writes = terms.pending + terms.parked;
        // Not within the expression below: it would be held to its end, where the estimate takes it again.
        let (drain_rate, growth) = {
            let rates = self.rates();
            (rates.drain(), rates.growth())
        };
        let room = self.options.max_writes.saturating_sub(writes);
        QueueStatus {
            id: self.log.queue_id().to_string(),
            writes,
            writes_max: self.options.max_writes,
            bytes,
            bytes_max: self.options.max_bytes,
            oldest_age_seconds: self.oldest_age(),
            drain_rate,
            drain_eta_seconds: if writes == 0 { Some(0) } else { self.estimate(writes) },
            time_to_full_seconds: if growth > 0.5 { seconds(room, growth) } else { None },
            throttle: self.throttle(),
            lanes: self.lanes() as u64,
            encryption: self.encryption_status(),
        }
    }

    /// `None` without keys: then nothing is encrypted.
    pub(crate) fn encryption_status(&self) -> Option<EncryptionStatus> {
        let encryption = &self.options.encryption;
        if encryption.keys.is_empty() {
            return None;
        }
        let mut segments = self.log.keys();
        for (key, count) in self.dead.keys() {
            *segments.entry(key).or_default() += count;
        }
        Some(EncryptionStatus {
            current: encryption.current().map(|key| key.id().to_string()),
            segments_in_clear: segments.remove(&None).unwrap_or(0),
            keys: segments
                .into_iter()
                .filter_map(|(key, segments)| Some(KeyStatus { id: key?.to_string(), segments }))
                .collect(),
        })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let queue = self.queue_status();
        let terms = self.book().terms;
        let marks = self.log.watermarks();
        let lane = self.lane_state.borrow().name();
        Snapshot {
            writes: queue.writes,
            writes_max: queue.writes_max,
            bytes: queue.bytes,
            bytes_max: queue.bytes_max,
            oldest_age: queue.oldest_age_seconds,
            time_to_full: queue.time_to_full_seconds,
            drain_eta: queue.drain_eta_seconds,
            parked: terms.parked,
            dead: terms.dead,
            pending: terms.pending,
            accepted: terms.accepted,
            applied: terms.applied,
            discarded: terms.discarded,
            syncs: marks.syncs,
            segments_with_old_keys: queue.encryption.as_ref().map_or(0, EncryptionStatus::with_old_keys),
            last_success_unix: self
                .monitor
                .last_success()
                .map_or(0.0, |ago| crate::clock::now_ms() as f64 / 1000.0 - ago.as_secs_f64()),
            accepting: self.accepting().is_ok(),
            lane,
            log: match self.log_state() {
                LogState::Ok => "ok",
                LogState::NoSpace { .. } => "no_space",
                LogState::Failed(_) => "failed",
            },
        }
    }

    /// Whether a write can be durably accepted now, and if not, why.
    pub(crate) fn accepting(&self) -> Result<(), String> {
        if self.is_stopping() {
            return Err("shutting down".into());
        }
        match self.log.state() {
            LogState::Ok => {}
            LogState::NoSpace { .. } => return Err("the disk of the log is full: free some space".into()),
            LogState::Failed(failure) => {
                return Err(format!("the log has failed: {}; restart to recover it", failure.reason));
            }
        }
        let book = self.book();
        if book.terms.pending + book.terms.parked >= self.options.max_writes
            || book.bytes >= self.options.max_bytes
        {
            return Err("the queue is full".into());
        }
        Ok(())
    }

    /// How the log is doing, and that of the dead letters beside it: delivery needs both.
    pub(crate) fn log_state(&self) -> LogState {
        match (self.log.state(), self.dead.log_state()) {
            (LogState::Ok, dead) | (LogState::NoSpace { .. }, dead @ LogState::Failed(_)) => dead,
            (log, _) => log,
        }
    }

    /// Registers the components `database`, `queue`, `log` and `lane`.
    pub(crate) fn register_components(self: &Arc<Self>) {
        let core = Arc::downgrade(self);
        let component = |name: &str, check: fn(&Core) -> Check| {
            let core = core.clone();
            self.health.register(name, move || {
                core.upgrade().map_or_else(|| Check::new(Level::Critical, "stopped"), |core| check(&core))
            });
        };
        component("database", |core| {
            let (level, message) = core.monitor.level();
            Check::new(level, message).with_data(serde_json::json!({"state": core.monitor.state().name()}))
        });
        component("queue", Self::check_queue);
        component("log", |core| match core.log_state() {
            LogState::Ok => Check::new(Level::Healthy, "takes writes"),
            LogState::NoSpace { .. } => Check::new(Level::Critical, "the disk is full: free some space"),
            LogState::Failed(failure) => Check::new(Level::Critical, format!("failed: {}", failure.reason)),
        });
        component("lane", |core| {
            let state = core.lane_state.borrow().clone();
            let level = match state {
                LaneState::Running => Level::Healthy,
                LaneState::Paused { .. } => Level::Warning,
                LaneState::Storm { .. } | LaneState::Halted { .. } => Level::Critical,
            };
            Check::new(level, lane_message(&state))
        });
        component("losses", |core| match core.metrics.lost.get() {
            0 => Check::new(Level::Healthy, "nothing acknowledged is lost"),
            lost => Check::new(
                Level::Warning,
                format!(
                    "{lost} acknowledged writes cannot be read back: see damaged/ in the queue directory"
                ),
            ),
        });
    }

    fn check_queue(&self) -> Check {
        let (terms, bytes) = {
            let book = self.book();
            (book.terms, book.bytes)
        };
        let writes = terms.pending + terms.parked;
        let full = (writes as f64 / self.options.max_writes as f64)
            .max(bytes as f64 / self.options.max_bytes as f64);
        let level = match full {
            full if full >= 0.9 => Level::Critical,
            full if full >= 0.75 => Level::Warning,
            _ => Level::Healthy,
        };
        Check::new(level, format!("{writes} writes wait, {:.0} % full", full * 100.0)).with_data(
            serde_json::json!({
                "writes": writes, "bytes": bytes, "parked": terms.parked, "dead": terms.dead,
            }),
        )
    }
}

/// A lane's state in a sentence.
pub(crate) fn lane_message(state: &LaneState) -> String {
    match state {
        LaneState::Running => "running".into(),
        LaneState::Paused { until: None } => "paused by an operator until resumed".into(),
        LaneState::Paused { until: Some(until) } => format!("paused by an operator until {until}"),
        LaneState::Storm { refusals, reasons } => {
            let first = reasons.first().map_or("", |(reason, _)| reason.as_str());
            format!(
                "refusal storm: the database refused {refusals} writes to different records in a row ({first}); nothing is \
                 buried, a trial write is sent from time to time, or resume by hand when the cause is gone"
            )
        }
        LaneState::Halted { message, .. } => format!("halted: {message}"),
    }
}

/// What the monitor does on a change of state, beyond telling its subscribers.
pub(crate) fn on_state_change(
    outages: &Arc<Mutex<Outages>>,
    metrics: &Arc<Metrics>,
    events: &broadcast::Sender<Event>,
) -> impl Fn(&StateChange, &'static str) + Send + Sync + 'static {
    let (outages, metrics, events) = (outages.clone(), metrics.clone(), events.clone());
    move |change, noticed_by| {
        let tell = |kind| {
            let _ = events.send(Event { at: rfc3339_now(), kind });
        };
        let mut outages = outages.lock().unwrap_or_else(PoisonError::into_inner);
        let StateChange { from, to, reason, .. } = change;
        match to.as_str() {
            "failed" => {
                tracing::warn!(
                    event = "database_state",
                    from,
                    to,
                    reason,
                    noticed_by,
                    "the database is away; writes are queued"
                );
                if let Some(outage) = outages.failed(noticed_by, reason) {
                    tracing::warn!(
                        event = "outage_started",
                        outage,
                        reason,
                        noticed_by,
                        "an outage has begun"
                    );
                    metrics.outages.inc();
                    tell(EventKind::OutageStarted { outage, reason: change.reason.clone() });
                }
            }
            "connected" => {
                tracing::info!(
                    event = "database_state",
                    from,
                    to,
                    reason,
                    noticed_by,
                    "the database answers"
                );
                outages.reconnected();
            }
            _ => tracing::info!(
                event = "database_state",
                from,
                to,
                reason,
                noticed_by,
                "the connection to the database"
            ),
        }
        metrics.state_changed();
        tell(EventKind::DatabaseState {
            from: change.from.clone(),
            to: change.to.clone(),
            reason: change.reason.clone(),
        });
    }
}
