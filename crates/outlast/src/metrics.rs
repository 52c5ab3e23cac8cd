//! The library's metrics. Names are the design's (section 11); every series is present from the start.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::error::RefusalKind;
use crate::health::{ConnectionState, Level};

/// One label with a fixed set of values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabel {
    status: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OperationLabel {
    operation: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    result: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    state: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LevelLabel {
    level: &'static str,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FateLabel {
    fate: &'static str,
}

type Float = Gauge<f64, AtomicU64>;

const OPERATIONS: [&str; 6] = ["create", "put", "patch", "delete", "statement", "transaction"];
const RESULTS: [&str; 6] = ["applied", "unavailable", "conflict", "rejected", "unknown", "moved"];
const STATES: [&str; 4] = ["disconnected", "connecting", "connected", "failed"];
const LANES: [&str; 4] = ["running", "paused", "storm", "halted"];
const LOGS: [&str; 3] = ["ok", "no_space", "failed"];

/// Gauges that are computed when somebody asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub writes: u64,
    pub writes_max: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    pub oldest_age: f64,
    pub time_to_full: Option<u64>,
    pub drain_eta: Option<u64>,
    pub parked: u64,
    pub dead: u64,
    pub pending: u64,
    pub accepted: u64,
    pub applied: u64,
    pub discarded: u64,
    pub syncs: u64,
    pub segments_with_old_keys: u64,
    pub last_success_unix: f64,
    pub accepting: bool,
    pub lane: &'static str,
    pub log: &'static str,
}

/// All series of the library.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    queue_writes: Gauge,
    queue_writes_capacity: Gauge,
    queue_bytes: Gauge,
    queue_bytes_capacity: Gauge,
    queue_oldest_age: Float,
    queue_time_to_full: Float,
    drain_eta: Float,
    parked: Gauge,
    dead: Gauge,
    accounting: Family<FateLabel, Gauge>,
    log_syncs: Counter,
    segments_with_old_keys: Gauge,
    last_success: Float,
    accepted: Family<StatusLabel, Counter>,
    applied: Family<OperationLabel, Counter>,
    failed: Family<ReasonLabel, Counter>,
    pub lost: Counter,
    pub healed: Counter,
    attempts: Family<ResultLabel, Counter>,
    pub batch_size: Histogram,
    pub apply_duration: Histogram,
    committed: AtomicU64,
    committed_nanos: AtomicU64,
    pub sync_duration: Histogram,
    state: Family<StateLabel, Gauge>,
    health: Family<LevelLabel, Gauge>,
    accepting: Gauge,
    lane: Family<StateLabel, Gauge>,
    log: Family<StateLabel, Gauge>,
    state_changes: Counter,
    pub outages: Counter,
    pub outage_duration: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("outlast")),
            queue_writes: Gauge::default(),
            queue_writes_capacity: Gauge::default(),
            queue_bytes: Gauge::default(),
            queue_bytes_capacity: Gauge::default(),
            queue_oldest_age: Float::default(),
            queue_time_to_full: Float::default(),
            drain_eta: Float::default(),
            parked: Gauge::default(),
            dead: Gauge::default(),
            accounting: Family::default(),
            log_syncs: Counter::default(),
            segments_with_old_keys: Gauge::default(),
            last_success: Float::default(),
            accepted: Family::default(),
            applied: Family::default(),
            failed: Family::default(),
            lost: Counter::default(),
            healed: Counter::default(),
            attempts: Family::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            apply_duration: Histogram::new(exponential_buckets(0.000_1, 2.5, 12)),
            committed: AtomicU64::new(0),
            committed_nanos: AtomicU64::new(0),
            sync_duration: Histogram::new(exponential_buckets(0.000_05, 2.5, 12)),
            state: Family::default(),
            health: Family::default(),
            accepting: Gauge::default(),
            lane: Family::default(),
            log: Family::default(),
            state_changes: Counter::default(),
            outages: Counter::default(),
            outage_duration: Histogram::new(exponential_buckets(1.0, 3.0, 10)),
        };
        metrics.make_every_series();
        metrics.register_all();
        metrics
    }

    fn make_every_series(&self) {
        for status in ["applied", "queued"] {
            drop(self.accepted.get_or_create(&StatusLabel { status }));
        }
        for operation in OPERATIONS {
            drop(self.applied.get_or_create(&OperationLabel { operation }));
        }
        for kind in RefusalKind::ALL {
            drop(self.failed.get_or_create(&ReasonLabel { reason: kind.as_str() }));
        }
        for result in RESULTS {
            drop(self.attempts.get_or_create(&ResultLabel { result }));
        }
        self.database_state(&ConnectionState::Disconnected);
        self.health_level(Level::Warning);
    }

    fn register_all(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *registry;
        r.register("queue_writes", "Writes that wait, parked ones included", self.queue_writes.clone());
        r.register("queue_writes_capacity", "queue.max_writes", self.queue_writes_capacity.clone());
        r.register("queue_bytes", "Bytes of writes that wait", self.queue_bytes.clone());
        r.register("queue_bytes_capacity", "queue.max_bytes", self.queue_bytes_capacity.clone());
        let (age, full, eta) =
            (self.queue_oldest_age.clone(), self.queue_time_to_full.clone(), self.drain_eta.clone());
        r.register("queue_oldest_age_seconds", "Age of the oldest write that waits", age);
        r.register(
            "queue_time_to_full_seconds",
            "Estimate at the present rate; +Inf when it is not filling",
            full,
        );
        r.register("drain_eta_seconds", "Estimate until nothing waits; +Inf while nobody can tell", eta);
        r.register("parked_writes", "Writes that wait for their next attempt", self.parked.clone());
        r.register("dead_letters", "Dead letters", self.dead.clone());
        r.register("accounting_writes", "The terms of the accounting identity", self.accounting.clone());
        r.register(
            "writes_accepted",
            "Writes acknowledged, by what their caller was told",
            self.accepted.clone(),
        );
        r.register("writes_applied", "Writes committed by the database", self.applied.clone());
        r.register(
            "writes_failed",
            "Refusals that ended a write: its caller was told, or it became a dead letter",
            self.failed.clone(),
        );
        r.register(
            "writes_lost",
            "Acknowledged writes that cannot be read back from the log. Must be 0",
            self.lost.clone(),
        );
        r.register(
            "writes_healed",
            "Writes replayed because the database came back older",
            self.healed.clone(),
        );
        r.register("apply_attempts", "Transactions, by result", self.attempts.clone());
        r.register("apply_batch_size", "Writes in one transaction", self.batch_size.clone());
        r.register_with_unit(
            "apply_duration",
            "Time of one transaction",
            Unit::Seconds,
            self.apply_duration.clone(),
        );
        r.register_with_unit(
            "log_sync_duration",
            "Time until a caller's write was durable in the log",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
        r.register("log_syncs", "Syncs of the log", self.log_syncs.clone());
        r.register(
            "segments_with_old_keys",
            "Segments that need another key than the one that encrypts new ones; 0: it is enough",
            self.segments_with_old_keys.clone(),
        );
        r.register("database_state", "1 for the present state of the connection", self.state.clone());
        r.register(
            "accepting_writes",
            "1 while a write would be durably accepted, as /readyz says",
            self.accepting.clone(),
        );
        r.register("lane_state", "1 for what the lane is doing", self.lane.clone());
        r.register("log_state", "1 for the state of the log and that of dead letters", self.log.clone());
        r.register("health_status", "1 for the present level of health", self.health.clone());
        r.register("database_state_changes", "Changes of that state", self.state_changes.clone());
        r.register(
            "database_last_success_timestamp_seconds",
            "When the database last answered, Unix time",
            self.last_success.clone(),
        );
        r.register("outages", "Outages that began", self.outages.clone());
        r.register_with_unit(
            "outage_duration",
            "From the first failure to the reconnection",
            Unit::Seconds,
            self.outage_duration.clone(),
        );
    }

    pub(crate) fn registry<R>(&self, register: impl FnOnce(&mut Registry) -> R) -> R {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn accepted(&self, status: &'static str) {
        self.accepted.get_or_create(&StatusLabel { status }).inc();
    }

    pub(crate) fn applied(&self, operation: &'static str, writes: u64) {
        self.applied.get_or_create(&OperationLabel { operation }).inc_by(writes);
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failed.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn attempt(&self, result: &'static str, took: Duration) {
        self.attempts.get_or_create(&ResultLabel { result }).inc();
        self.apply_duration.observe(took.as_secs_f64());
        if result == "applied" {
            self.committed.fetch_add(1, Ordering::Relaxed);
            self.committed_nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Committed transactions, and the time that they took together.
    pub(crate) fn transactions(&self) -> (u64, Duration) {
        let nanos = self.committed_nanos.load(Ordering::Relaxed);
        (self.committed.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }

    pub(crate) fn database_state(&self, state: &ConnectionState) {
        for name in STATES {
            self.state.get_or_create(&StateLabel { state: name }).set(i64::from(name == state.name()));
        }
    }

    pub(crate) fn state_changed(&self) {
        self.state_changes.inc();
    }

    pub(crate) fn health_level(&self, level: Level) {
        for (name, at) in
            [("healthy", Level::Healthy), ("warning", Level::Warning), ("critical", Level::Critical)]
        {
            self.health.get_or_create(&LevelLabel { level: name }).set(i64::from(at == level));
        }
    }

    /// Sets the computed gauges and writes everything in the Prometheus text format.
    pub(crate) fn encode(&self, now: &Snapshot) -> String {
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let seconds = |value: Option<u64>| value.map_or(f64::INFINITY, |value| value as f64);
        self.queue_writes.set(whole(now.writes));
        self.queue_writes_capacity.set(whole(now.writes_max));
        self.queue_bytes.set(whole(now.bytes));
        self.queue_bytes_capacity.set(whole(now.bytes_max));
        self.queue_oldest_age.set(now.oldest_age);
        self.queue_time_to_full.set(seconds(now.time_to_full));
        self.drain_eta.set(seconds(now.drain_eta));
        self.parked.set(whole(now.parked));
        self.dead.set(whole(now.dead));
        self.log_syncs.inner().store(now.syncs, Ordering::Relaxed);
        self.segments_with_old_keys.set(whole(now.segments_with_old_keys));
        self.last_success.set(now.last_success_unix);
        self.accepting.set(i64::from(now.accepting));
        for state in LANES {
            self.lane.get_or_create(&StateLabel { state }).set(i64::from(state == now.lane));
        }
        for state in LOGS {
            self.log.get_or_create(&StateLabel { state }).set(i64::from(state == now.log));
        }
        for (fate, value) in [
            ("accepted", now.accepted),
            ("applied", now.applied),
            ("pending", now.pending),
            ("parked", now.parked),
            ("dead", now.dead),
            ("discarded", now.discarded),
        ] {
            self.accounting.get_or_create(&FateLabel { fate }).set(whole(value));
        }
        let mut out = String::with_capacity(16 << 10);
        if text::encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner)).is_err() {
            let _ = write!(out, "# the metrics could not be written");
        }
        out
    }
}
