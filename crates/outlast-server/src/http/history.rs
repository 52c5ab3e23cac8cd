//! `GET /v1/history`: the last hour in samples, for charts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use super::app::{Answer, App, Call, json_of, not_stored};
use super::problem::{INVALID_REQUEST, Problem};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(5);
/// An hour of them.
const SAMPLES_MAX: usize = 720;

/// How things stood at one moment, and what happened since the one before.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Unix milliseconds.
    at: i64,
    writes: u64,
    bytes: u64,
    accepted_per_second: f64,
    applied_per_second: f64,
    /// Of one transaction, on average; none when none was committed.
    latency_ms: Option<f64>,
}

/// Counters as they were.
#[derive(Debug, Clone, Copy)]
struct Totals {
    at: Instant,
    accepted: u64,
    applied: u64,
    transactions: u64,
    time: Duration,
}

/// The samples.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, sample: Sample) {
        let mut samples = self.samples();
        samples.push_back(sample);
        while samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }
}

/// Takes samples until the server stops.
pub(super) async fn keep(app: Arc<App>) {
    let mut stopped = Box::pin(app.stopped());
    let mut before = None;
    loop {
        let totals = sample(&app, before);
        before = Some(totals);
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep_until(totals.at + INTERVAL) => {}
        }
    }
}

fn sample(app: &App, before: Option<Totals>) -> Totals {
    let status = app.outlast.status();
    let (transactions, time) = app.outlast.transactions();
    let (accepted, applied) = (status.accounting.accepted, status.accounting.applied);
    let totals = Totals { at: Instant::now(), accepted, applied, transactions, time };
    if let Some(before) = before {
        let seconds = totals.at.duration_since(before.at).as_secs_f64().max(0.001);
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let committed = transactions.saturating_sub(before.transactions);
        let spent = time.saturating_sub(before.time).as_secs_f64() * 1000.0;
        app.history.note(Sample {
            at: jiff::Timestamp::now().as_millisecond(),
            writes: status.queue.writes,
            bytes: status.queue.bytes,
            accepted_per_second: per_second(accepted, before.accepted),
            applied_per_second: per_second(applied, before.applied),
            latency_ms: (committed > 0).then(|| spent / committed as f64),
        });
    }
    totals
}

/// The samples as columns, oldest first; with `after` only newer ones.
///
/// # Errors
/// 400 for a time that is none.
pub(super) async fn history(call: Call) -> Answer {
    let [after] = call.known_query(["after"])?;
    let after: Option<i64> = after.map(|text| text.parse()).transpose().map_err(|_| {
        Problem::new(INVALID_REQUEST, "\"after\" must be Unix milliseconds, as the member at has them")
    })?;
    let samples: Vec<Sample> = call
        .app
        .history
        .samples()
        .iter()
        .filter(|sample| after.is_none_or(|after| sample.at > after))
        .copied()
        .collect();
    let whole = |of: fn(&Sample) -> u64| samples.iter().map(of).collect::<Vec<_>>();
    let rounded = |of: fn(&Sample) -> f64| samples.iter().map(|sample| round(of(sample))).collect::<Vec<_>>();
    let body = json!({
        "interval_seconds": INTERVAL.as_secs(),
        "at": samples.iter().map(|sample| sample.at).collect::<Vec<_>>(),
        "writes": whole(|sample| sample.writes),
        "bytes": whole(|sample| sample.bytes),
        "accepted_per_second": rounded(|sample| sample.accepted_per_second),
        "applied_per_second": rounded(|sample| sample.applied_per_second),
        "latency_ms": samples.iter().map(|sample| sample.latency_ms.map(round)).collect::<Vec<_>>(),
    });
    Ok(not_stored(json_of(StatusCode::OK, &body)?))
}

/// Three decimal places say all that there is to say.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
