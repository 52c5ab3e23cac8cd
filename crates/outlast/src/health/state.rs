//! The connection's state as a pure machine: (state, what happened, now) -> state.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::manager::Level;
use crate::clock::rfc3339_now;

/// Changes kept in the history.
const HISTORY_MAX: usize = 100;
/// A failure within this time after the connection came back is flapping...
const FLAP_WINDOW: Duration = Duration::from_secs(10);
/// ...and makes one more good probe necessary, up to this many.
const FLAP_PENALTY_MAX: u32 = 3;

/// The connection to the database. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ConnectionState {
    /// Never tried.
    Disconnected,
    /// The first connection is being made.
    Connecting {
        /// Since when.
        since: String,
    },
    /// The database answers.
    Connected {
        /// Since when.
        since: String,
    },
    /// The database does not answer, or refuses us.
    Failed {
        /// The first failure.
        since: String,
        /// What failed last.
        reason: String,
    },
}

impl ConnectionState {
    /// The word for it in metrics and documents.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting { .. } => "connecting",
            Self::Connected { .. } => "connected",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether the database answers.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// A change of state, as the history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// When (RFC 3339).
    pub at: String,
    /// From which state.
    pub from: String,
    /// To which.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// Decides about the state; owned by the monitor alone.
#[derive(Debug)]
pub(crate) struct Machine {
    pub state: ConnectionState,
    /// When the present state began.
    pub since: Instant,
    pub last_success: Option<Instant>,
    pub history: VecDeque<StateChange>,
    failures: u32,
    /// Good probes still needed before the state is Connected.
    needed: u32,
    penalty: u32,
}

impl Machine {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: ConnectionState::Disconnected,
            since: now,
            last_success: None,
            history: VecDeque::new(),
            failures: 0,
            needed: 1,
            penalty: 0,
        }
    }

    /// The monitor begins to try.
    pub(crate) fn start(&mut self, now: Instant) {
        self.change(ConnectionState::Connecting { since: rfc3339_now() }, "starting", now);
    }

    /// The monitor stops.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.change(ConnectionState::Disconnected, "shutting down", now);
    }

    /// Something failed. Returns true when the state changed.
    pub(crate) fn failed(&mut self, reason: &str, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if let ConnectionState::Failed { reason: last, .. } = &mut self.state {
            reason.clone_into(last);
            self.needed = 1 + self.penalty;
            return false;
        }
        if self.state.is_connected() && now.duration_since(self.since) < FLAP_WINDOW {
            self.penalty = (self.penalty + 1).min(FLAP_PENALTY_MAX);
        } else {
            self.penalty = 0;
        }
        self.needed = 1 + self.penalty;
        self.change(ConnectionState::Failed { since: rfc3339_now(), reason: reason.to_owned() }, reason, now)
    }

    /// A probe succeeded, or an operation did while connected. Returns true when the state changed.
    pub(crate) fn succeeded(&mut self, now: Instant) -> bool {
        self.last_success = Some(now);
        if self.state.is_connected() {
            return false;
        }
        self.needed = self.needed.saturating_sub(1);
        if self.needed > 0 {
            return false;
        }
        self.failures = 0;
        self.change(ConnectionState::Connected { since: rfc3339_now() }, "the database answers", now)
    }

    /// Until the next probe: `interval` while connected; else from one second, doubled by each failure, at most
    /// `max`, half of it random. A connection that has to prove itself again is asked quickly.
    pub(crate) fn next_probe(&self, interval: Duration, max: Duration, random: f64) -> Duration {
        if self.state.is_connected() {
            return interval;
        }
        if self.last_success.is_some_and(|at| at > self.since) {
            return Duration::from_millis(200).min(max);
        }
        let doubled =
            Duration::from_secs(1).saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(max);
        doubled.mul_f64(0.5 + random / 2.0)
    }

    /// How well the connection is. A last success that is older than two intervals is *unknown*, never healthy.
    pub(crate) fn level(
        &self,
        unavailable_timeout: Duration,
        stale_after: Duration,
        now: Instant,
    ) -> (Level, String) {
        match &self.state {
            ConnectionState::Disconnected => (Level::Critical, "never connected".into()),
            ConnectionState::Connecting { .. } => (Level::Warning, "connecting for the first time".into()),
            ConnectionState::Connected { .. } => match self.last_success.map(|at| now.duration_since(at)) {
                Some(age) if age <= stale_after => (Level::Healthy, "connected".into()),
                _ => (Level::Warning, "unknown: no answer was seen for a while".into()),
            },
            ConnectionState::Failed { since, reason } => {
                let lasted = now.duration_since(self.since);
                let level = if lasted < unavailable_timeout { Level::Warning } else { Level::Critical };
                (level, format!("failed since {since} ({} s): {reason}", lasted.as_secs()))
            }
        }
    }

    fn change(&mut self, to: ConnectionState, reason: &str, now: Instant) -> bool {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(StateChange {
            at: rfc3339_now(),
            from: self.state.name().into(),
            to: to.name().into(),
            reason: reason.into(),
        });
        self.state = to;
        self.since = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_counts_at_once_and_a_good_probe_brings_it_back() {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        machine.start(now);
        assert_eq!(machine.level(SECOND * 30, SECOND * 25, now).0, Level::Warning);
        assert!(machine.succeeded(now));
        assert!(machine.failed("refused", now + SECOND * 60));
        assert!(!machine.failed("refused again", now + SECOND * 61), "no second change");
        assert_eq!(machine.level(SECOND * 30, SECOND * 25, now + SECOND * 89).0, Level::Warning);
        assert_eq!(machine.level(SECOND * 30, SECOND * 25, now + SECOND * 90).0, Level::Critical);
        assert!(machine.succeeded(now + SECOND * 91));
        assert_eq!(machine.history.len(), 4);
    }

    #[test]
    fn a_flapping_connection_has_to_prove_itself() {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        machine.start(now);
        assert!(machine.succeeded(now));
        machine.failed("reset", now + SECOND);
        assert!(!machine.succeeded(now + SECOND * 2), "one good probe is not enough after a flap");
        assert!(machine.succeeded(now + SECOND * 3));
    }

    #[test]
    fn probes_back_off_up_to_the_limit_and_never_wait_longer() {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        machine.start(now);
        for _ in 0..100 {
            machine.failed("refused", now);
            let wait = machine.next_probe(SECOND * 10, SECOND * 5, 0.999);
            assert!(wait >= SECOND / 2 && wait <= SECOND * 5, "{wait:?}");
        }
        machine.succeeded(now + SECOND);
        assert_eq!(machine.next_probe(SECOND * 10, SECOND * 5, 0.0), SECOND * 10);
    }

    #[test]
    fn a_stale_success_is_unknown_and_not_healthy() {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        machine.start(now);
        machine.succeeded(now);
        assert_eq!(machine.level(SECOND * 30, SECOND * 25, now + SECOND * 26).0, Level::Warning);
    }
}
