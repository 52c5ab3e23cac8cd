//! Outages as objects: from the first failure to the moment when the backlog is drained again.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::clock::{now_ms, rfc3339_now};
use crate::event::{Event, EventKind};
use crate::health::StateChange;
use crate::metrics::Metrics;

/// Reports kept, also on disk.
const REPORTS_MAX: usize = 1000;
/// How often the report of the outage that lasts is saved.
const SAVED_EVERY: Duration = Duration::from_secs(10);

/// The report of an outage. Times are RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Counts outages of this queue, from 1.
    pub id: u64,
    /// The first failure.
    pub started_at: String,
    /// What noticed it: `probe`, `write`, `read` or `position`.
    pub detected_by: String,
    /// What failed.
    pub reason: String,
    /// When the database answered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnected_at: Option<String>,
    /// When nothing waited any more: the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<String>,
    /// Seconds from the first failure to the reconnection, or until now.
    pub duration_seconds: f64,
    /// Writes acknowledged as queued.
    pub writes_queued: u64,
    /// Most writes that waited at once.
    pub peak_writes: u64,
    /// Age in seconds of the oldest waiting write at its worst.
    pub oldest_age_seconds: f64,
    /// Reads that got 503.
    pub reads_refused: u64,
    /// Writes that became dead letters while it was drained.
    pub dead: u64,
    /// Writes that were lost: anything but 0 is a broken promise.
    pub lost: u64,
    /// Writes applied again because the database came back older than it left.
    pub healed_writes: u64,
    /// From which position healing went back, if it did (`WATERMARK -> CURSOR`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed_from: Option<String>,
    /// What the database lacks for good (`AFTER -> UP TO`): an operator decided about a gap or a wiped database, and these
    /// writes are no longer in the log, or were not to be applied again. How many they are nobody can count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Every outage of a queue; the last one may be lasting. Kept in `outages.jsonl`, written when one begins and ends, now
/// and then meanwhile, and at the end of a run, so that a restart in the middle does not end it.
#[derive(Debug)]
pub(crate) struct Outages {
    path: PathBuf,
    past: VecDeque<Outage>,
    current: Option<Lasting>,
}

/// The outage that lasts.
#[derive(Debug)]
struct Lasting {
    report: Outage,
    /// How long it had lasted when this run took it up, and when that was.
    before: Duration,
    since: Instant,
    saved: Instant,
}

impl Lasting {
    fn new(report: Outage, before: Duration) -> Self {
        let now = Instant::now();
        Self { report, before, since: now, saved: now }
    }

    /// From the first failure to the reconnection, or until now.
    fn seconds(&self) -> f64 {
        if self.report.reconnected_at.is_some() {
            return self.report.duration_seconds;
        }
        (self.before + self.since.elapsed()).as_secs_f64()
    }

    fn report(&self) -> Outage {
        Outage { duration_seconds: self.seconds(), ..self.report.clone() }
    }
}

impl Outages {
    /// Reads the reports; a line that cannot be understood is left out and said.
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join("outages.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut past = VecDeque::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(outage) => past.push_back(outage),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "an outage report cannot be read");
                }
            }
        }
        let lasting = past.pop_back_if(|last: &mut Outage| last.drained_at.is_none());
        let current = lasting.map(|report| {
            let before = since(&report.started_at);
            tracing::info!(outage = report.id, "the outage of the last run is not over");
            Lasting::new(report, before)
        });
        Self { path, past, current }
    }

    /// The database failed. Returns the id when an outage begins with it.
    pub(crate) fn failed(&mut self, detected_by: &str, reason: &str) -> Option<u64> {
        if let Some(lasting) = &mut self.current {
            // It failed again before the backlog was drained: still the same outage.
            lasting.report.reconnected_at = None;
            return None;
        }
        let id = self.past.back().map_or(0, |last| last.id) + 1;
        let report = Outage {
            id,
            started_at: rfc3339_now(),
            detected_by: detected_by.to_owned(),
            reason: reason.to_owned(),
            ..Outage::default()
        };
        self.current = Some(Lasting::new(report, Duration::ZERO));
        self.save();
        Some(id)
    }

    /// The database answers again.
    pub(crate) fn reconnected(&mut self) {
        self.update(|outage| {
            outage.reconnected_at.get_or_insert_with(rfc3339_now);
        });
    }

    /// Changes the report of the outage that lasts, if one does.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Outage)) {
        if let Some(lasting) = &mut self.current {
            // For every write that is queued: nothing is copied here.
            lasting.report.duration_seconds = lasting.seconds();
            change(&mut lasting.report);
        }
    }

    /// Saves the report of the outage that lasts, if that was not done lately.
    pub(crate) fn save_now_and_then(&mut self) {
        if self.current.as_ref().is_some_and(|lasting| lasting.saved.elapsed() >= SAVED_EVERY) {
            self.save();
        }
    }

    /// The run ends: saves the report of the outage that lasts.
    pub(crate) fn close(&mut self) {
        if self.current.is_some() {
            self.save();
        }
    }

    /// Nothing waits any more: ends the outage if the database is back. Returns the report.
    pub(crate) fn drained(&mut self) -> Option<Outage> {
        let mut ended = self.current.take_if(|lasting| lasting.report.reconnected_at.is_some())?.report;
        ended.drained_at = Some(rfc3339_now());
        self.past.push_back(ended.clone());
        while self.past.len() > REPORTS_MAX {
            self.past.pop_front();
        }
        self.save();
        Some(ended)
    }

    /// Id of the outage that lasts.
    pub(crate) fn current(&self) -> Option<u64> {
        self.current.as_ref().map(|lasting| lasting.report.id)
    }

    /// All reports, newest first, with the one that lasts.
    pub(crate) fn all(&self) -> Vec<Outage> {
        let current = self.current.iter().map(Lasting::report);
        current.chain(self.past.iter().rev().cloned()).collect()
    }

    /// The lengths of past outages.
    pub(crate) fn lengths(&self) -> Vec<Duration> {
        let seconds = self.past.iter().rev().take(20).map(|outage| outage.duration_seconds);
        seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9))).collect()
    }

    fn save(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, path = %self.path.display(), "the outage report was not saved");
        }
        if let Some(lasting) = &mut self.current {
            lasting.saved = Instant::now();
        }
    }

    /// Written beside and renamed, so that a crash leaves the old or the new reports.
    fn write(&self) -> std::io::Result<()> {
        let beside = self.path.with_extension("jsonl.new");
        let mut text = String::new();
        for outage in self.past.iter().chain(self.current.as_ref().map(Lasting::report).as_ref()) {
            text.push_str(&serde_json::to_string(outage)?);
            text.push('\n');
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&beside, &self.path)
    }
}

/// How long ago this was (RFC 3339).
fn since(then: &str) -> Duration {
    let then = then.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond);
    let ago = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_sub(then);
    if then == 0 { Duration::ZERO } else { Duration::from_millis(u64::try_from(ago).unwrap_or(0)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_until_the_backlog_is_drained_and_its_report_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut outages = Outages::open(directory.path());
        assert_eq!(outages.failed("probe", "connection refused"), Some(1));
        assert_eq!(outages.failed("write", "again"), None);
        assert_eq!(outages.drained(), None, "not while the database is away");
        outages.reconnected();
        assert_eq!(outages.failed("write", "flap"), None, "still the same outage");
        outages.reconnected();
        outages.update(|outage| outage.writes_queued += 5);
        let report = outages.drained().unwrap();
        assert_eq!((report.id, report.writes_queued, report.lost), (1, 5, 0));
        let mut again = Outages::open(directory.path());
        assert_eq!(again.all(), vec![report]);
        assert_eq!(again.failed("probe", "x"), Some(2));
    }

    #[test]
    fn a_restart_does_not_end_an_outage() {
        let directory = tempfile::tempdir().unwrap();
        let mut outages = Outages::open(directory.path());
        outages.failed("probe", "connection refused");
        assert_eq!(Outages::open(directory.path()).current(), Some(1), "killed right after it began");
        outages.update(|outage| outage.writes_queued += 5);
        outages.close();
        let began = outages.all()[0].started_at.clone();
        let mut again = Outages::open(directory.path());
        assert_eq!(again.failed("probe", "still away"), None);
        again.update(|outage| outage.writes_queued += 2);
        again.reconnected();
        let report = again.drained().unwrap();
        assert_eq!((report.id, report.writes_queued, report.started_at), (1, 7, began));
        assert_eq!((report.reason.as_str(), again.all().len()), ("connection refused", 1));
    }

    #[test]
    fn the_oldest_reports_go_when_there_are_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let mut outages = Outages::open(directory.path());
        let ended =
            |id| Outage { id, drained_at: Some("2026-01-01T00:00:00Z".to_owned()), ..Outage::default() };
        outages.past = (1..REPORTS_MAX as u64).map(ended).collect();
        let end_one = |outages: &mut Outages| {
            outages.failed("probe", "connection refused");
            outages.reconnected();
            outages.drained().unwrap().id
        };
        let most = REPORTS_MAX as u64;
        let first_and_last = |outages: &Outages| {
            let all = outages.all();
            (all.last().unwrap().id, all[0].id, all.len())
        };
        assert_eq!(end_one(&mut outages), most);
        assert_eq!(first_and_last(&Outages::open(directory.path())), (1, most, REPORTS_MAX));
        assert_eq!(end_one(&mut outages), most + 1);
        let mut again = Outages::open(directory.path());
        assert_eq!(first_and_last(&again), (2, most + 1, REPORTS_MAX));
        assert_eq!(again.failed("probe", "another"), Some(most + 2), "they are counted on");
    }
}
