//! What the handle, the drainer and the monitor share. Each mutable thing has one owner; this is where they meet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outlast_log::{Log, Sequence};
use tokio::sync::{broadcast, mpsc, watch};

use crate::clock::rfc3339_now;
use crate::database::Database;
use crate::dead::DeadLetterStore;
use crate::drainer::Command;
use crate::estimate::Rates;
use crate::event::{Event, EventKind};
use crate::feed::{Intake, Pending};
use crate::health::{HealthManager, Monitor, lane_message};
use crate::kept::Kept;
use crate::lanes::{Progress, place_of};
use crate::ledger::{Decided, Ledger};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::outage::Outages;
use crate::status::{Accounting, LaneState};
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
    pub kept: Kept,
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
    pub rates: Mutex<Rates>,
}

/// What [`Core::new`] is made of.
pub(crate) struct Parts {
    pub options: Options,
    pub database: Arc<dyn Database>,
    pub log: Log,
    pub dead: DeadLetterStore,
    pub monitor: Monitor,
    pub outages: Arc<Mutex<Outages>>,
    pub kept: Kept,
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
            kept: parts.kept,
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

    /// How many are configured, if that is another number: it comes into use when nothing waits.
    pub(crate) fn lanes_configured(&self) -> Option<u64> {
        let wanted = usize::from(self.options.wanted_lanes());
        (wanted != self.lanes()).then_some(wanted as u64)
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

    /// Forgets the keys of writes that the positions have decided: nobody was told of them one by one.
    pub(crate) fn forget_decided_keys(&self) {
        let (cursor, ledger) = (self.cursor(), self.ledger());
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (_, id)| {
            let present = ledger.present(*id);
            present > cursor || ledger.fate(present).is_some_and(|fated| fated.decided == Decided::Parked)
        });
    }

    /// The write is decided, and what its key was is not at hand.
    pub(crate) fn forget_key_of(&self, id: WriteId) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (_, other)| *other != id);
    }

    /// The write is decided: its key is the database's to remember now. Another write's entry stays.
    pub(crate) fn forget_key(&self, key: Option<&IdempotencyKey>, id: WriteId) {
        let Some(key) = key else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.get(&key.key).is_some_and(|(_, other)| *other == id) {
            keys.remove(&key.key);
        }
    }
}
