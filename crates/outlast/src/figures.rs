//! What the queue says of itself: figures for status and metrics, and whether it accepts writes.

use outlast_log::LogState;

use crate::core::Core;
use crate::estimate::seconds;
use crate::metrics::Snapshot;
use crate::status::{EncryptionStatus, KeyStatus, QueueStatus};

/// Seconds beyond which a queue that fills up is no news: a week.
const FORECAST_MAX: u64 = 7 * 24 * 60 * 60;

impl Core {
    /// Age of the oldest write that waits, in seconds.
    fn oldest_age(&self) -> f64 {
        let pending = self.book().terms.pending > 0;
        let pending = pending.then(|| match self.log.reader(self.cursor()).next() {
            Ok(Some(outlast_log::ReadItem::Entry(entry))) => Some(entry.time_ms),
            _ => None,
        });
        let parked = self.ledger().chains.oldest();
        let parked = parked.and_then(|sequence| Some(self.log.get(sequence).ok()??.time_ms));
        let oldest = pending.flatten().into_iter().chain(parked).min();
        oldest.map_or(0.0, |oldest| crate::clock::now_ms().saturating_sub(oldest) as f64 / 1000.0)
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
        // What arrives is taken to be as large as what waits.
        let most = self.options.max_writes.saturating_sub(writes).min(match bytes / writes.max(1) {
            0 => u64::MAX,
            each => self.options.max_bytes.saturating_sub(bytes) / each,
        });
        QueueStatus {
            id: self.log.queue_id().to_string(),
            writes,
            writes_max: self.options.max_writes,
            bytes,
            bytes_max: self.options.max_bytes,
            oldest_age_seconds: self.oldest_age(),
            drain_rate,
            drain_eta_seconds: if writes == 0 { Some(0) } else { self.estimate(writes) },
            time_to_full_seconds: seconds(most, growth).filter(|seconds| *seconds <= FORECAST_MAX),
            throttle: self.throttle(),
            lanes: self.lanes() as u64,
            lanes_configured: self.lanes_configured(),
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
}
