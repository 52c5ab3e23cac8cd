//! Estimates: `Retry-After`, drain time, time to full. Pure functions, and then what this queue puts into them.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Core;
use crate::error::Error;
use crate::status::LaneState;

/// What an estimate of `Retry-After` rests on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RetryInputs {
    /// Until the next probe.
    pub next_probe: Duration,
    /// The usual length of past outages, if there were any, less what this one has lasted.
    pub usual_rest: Option<Duration>,
    /// Until the backlog is drained (or there is room again), if that can be told.
    pub drain: Option<Duration>,
}

/// The largest of what is known, with up to 20 % of jitter so that callers do not come back all at once; between one
/// second and `max`. `random` is in 0..1.
pub(crate) fn retry_after(inputs: RetryInputs, max: Duration, random: f64) -> Duration {
    let base =
        inputs.next_probe.max(inputs.usual_rest.unwrap_or_default()).max(inputs.drain.unwrap_or_default());
    let jittered = base.max(Duration::from_secs(1)).min(max).mul_f64(1.0 + 0.2 * random);
    Duration::from_secs(jittered.as_secs_f64().ceil() as u64)
        .clamp(Duration::from_secs(1), max.max(Duration::from_secs(1)))
}

/// The median of past outages' lengths less what this one has lasted; zero once it is over the usual length.
pub(crate) fn usual_rest(past: &[Duration], lasted: Duration) -> Option<Duration> {
    let mut past = past.to_vec();
    past.sort_unstable();
    past.get(past.len() / 2).map(|usual| usual.saturating_sub(lasted))
}

/// Events per second over the last seconds, from samples of a counter. One that is smaller than before, as when dead
/// letters are queued again, counts as standing still.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

/// How far back a rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(10);

impl Rate {
    /// Notes the counter's value.
    fn note(&mut self, total: u64, now: Instant) {
        self.samples.push_back((now, total));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Per second; 0 with fewer than two samples.
    fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((start, from)), Some((end, to))) if end > start => {
                to.saturating_sub(*from) as f64 / end.duration_since(*start).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// How fast the queue fills and empties. After an outage it begins again.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    accepted: Rate,
    /// What was accepted and is pending no more, whatever became of it.
    settled: Rate,
    noted: Option<Instant>,
}

/// Whoever asks for the rates may note the counters as well: no more often than this.
const NOTED_EVERY: Duration = Duration::from_millis(500);

impl Rates {
    /// Notes the counters, if that was not just done.
    pub(crate) fn note(&mut self, accepted: u64, pending: u64, now: Instant) {
        if self.noted.is_some_and(|at| now.duration_since(at) < NOTED_EVERY) {
            return;
        }
        self.noted = Some(now);
        self.accepted.note(accepted, now);
        self.settled.note(accepted.saturating_sub(pending), now);
    }

    /// Writes per second that leave the queue.
    pub(crate) fn drain(&self) -> f64 {
        self.settled.per_second()
    }

    /// Writes per second by which the queue grows (negative: shrinks).
    pub(crate) fn growth(&self) -> f64 {
        self.accepted.per_second() - self.settled.per_second()
    }
}

/// Seconds for `amount` at `per_second`, rounded up; `None` when there is no rate.
pub(crate) fn seconds(amount: u64, per_second: f64) -> Option<u64> {
    if amount == 0 {
        return Some(0);
    }
    (per_second > 0.01).then(|| (amount as f64 / per_second).ceil() as u64)
}

impl Core {
    pub(crate) fn rates(&self) -> MutexGuard<'_, Rates> {
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
        // Room for a tenth of what waits is worth coming back for.
        let drain = self.estimate((writes / 10).max(1)).map(Duration::from_secs);
        Error::QueueFull {
            retry_after: self.retry_after(drain),
            writes,
            writes_max: self.options.max_writes,
            bytes,
            bytes_max: self.options.max_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_never_zero_and_never_above_the_maximum() {
        let max = Duration::from_mins(1);
        for (probe, usual, drain) in
            [(0, None, None), (5, Some(20), None), (1, Some(500), Some(3)), (0, Some(0), Some(10_000))]
        {
            let inputs = RetryInputs {
                next_probe: Duration::from_secs(probe),
                usual_rest: usual.map(Duration::from_secs),
                drain: drain.map(Duration::from_secs),
            };
            for random in [0.0, 0.5, 0.999] {
                let after = retry_after(inputs, max, random);
                assert!(after >= Duration::from_secs(1) && after <= max, "{after:?}");
                assert!(
                    after >= Duration::from_secs(usual.unwrap_or(0).min(60)),
                    "{after:?} is shorter than what is known"
                );
            }
        }
    }

    #[test]
    fn the_usual_outage_is_the_median_less_what_has_passed() {
        let past = [5, 30, 600].map(Duration::from_secs);
        assert_eq!(usual_rest(&past, Duration::from_secs(10)), Some(Duration::from_secs(20)));
        assert_eq!(usual_rest(&past, Duration::from_secs(100)), Some(Duration::ZERO));
        assert_eq!(usual_rest(&[], Duration::ZERO), None);
    }

    #[test]
    fn a_rate_is_a_difference_over_time() {
        let now = Instant::now();
        let mut rate = Rate::default();
        rate.note(100, now);
        assert!(rate.per_second().abs() < f64::EPSILON);
        rate.note(300, now + Duration::from_secs(2));
        assert!((rate.per_second() - 100.0).abs() < 0.01);
        assert_eq!(seconds(1000, rate.per_second()), Some(10));
        assert_eq!(seconds(1000, 0.0), None);
    }

    #[test]
    fn the_queue_grows_by_what_is_accepted_and_not_settled() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.note(1000, 1000, start);
        rates.note(9_999_999, 0, start + NOTED_EVERY / 2);
        assert!(
            rates.drain().abs() < f64::EPSILON && rates.growth().abs() < f64::EPSILON,
            "too early to tell"
        );
        rates.note(1300, 1100, start + Duration::from_secs(2));
        assert!((rates.drain() - 100.0).abs() < 0.01, "{rates:?}");
        assert!((rates.growth() - 50.0).abs() < 0.01, "{rates:?}");
    }
}
