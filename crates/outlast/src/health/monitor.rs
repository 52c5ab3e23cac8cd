//! [`Monitor`]: the one place that knows whether the database answers. A thin loop around the pure machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::manager::Level;
use super::state::{ConnectionState, Machine, StateChange};
use crate::database::Database;

/// Time limits and intervals of the monitor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MonitorOptions {
    pub probe_interval: Duration,
    pub probe_max_interval: Duration,
    pub probe_timeout: Duration,
    pub unavailable_timeout: Duration,
}

/// Knows whether the database answers: by one background probe and by what operations report.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

/// Told every change, and what noticed it.
type OnChange = Box<dyn Fn(&StateChange, &'static str) + Send + Sync>;

struct Shared {
    options: MonitorOptions,
    machine: Mutex<Machine>,
    state: watch::Sender<ConnectionState>,
    next_probe: Mutex<Instant>,
    wake: Notify,
    on_change: OnChange,
}

impl Monitor {
    /// `on_change` is told every change of state, with what noticed it: `probe`, `write`, `read`.
    pub(crate) fn new(
        options: MonitorOptions,
        on_change: impl Fn(&StateChange, &'static str) + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        machine.start(now);
        let (state, _) = watch::channel(machine.state.clone());
        let shared = Shared {
            options,
            machine: Mutex::new(machine),
            state,
            next_probe: Mutex::new(now),
            wake: Notify::new(),
            on_change: Box::new(on_change),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Probes until the returned future is dropped.
    pub(crate) async fn run(self, database: Arc<dyn Database>) {
        loop {
            let timeout = self.shared.options.probe_timeout;
            match tokio::time::timeout(timeout, database.probe()).await {
                Ok(Ok(())) => self.report_success_of_probe(),
                Ok(Err(error)) => self.report_failure("probe", &error.to_string()),
                Err(_) => {
                    self.report_failure("probe", &format!("no answer within {} s", timeout.as_secs_f32()));
                }
            }
            let wait = self.machine(|machine| {
                machine.next_probe(
                    self.shared.options.probe_interval,
                    self.shared.options.probe_max_interval,
                    fastrand::f64(),
                )
            });
            *self.shared.next_probe.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + wait;
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.shared.wake.notified() => {
                    // An operation has just failed: look soon, but not in a tight loop.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Something failed in a way that means the database cannot be reached.
    pub fn report_failure(&self, noticed_by: &'static str, reason: &str) {
        self.update(noticed_by, |machine, now| machine.failed(reason, now));
        if noticed_by != "probe" {
            self.shared.wake.notify_one();
        }
    }

    /// An operation succeeded: counts as a probe while connected. While not connected only the probe decides.
    pub fn report_success(&self) {
        self.update("write", |machine, now| machine.state.is_connected() && machine.succeeded(now));
    }

    fn report_success_of_probe(&self) {
        self.update("probe", Machine::succeeded);
    }

    /// The state now.
    pub fn state(&self) -> ConnectionState {
        self.shared.state.borrow().clone()
    }

    /// Whether the database answers: for readiness that demands the database.
    pub fn is_healthy(&self) -> bool {
        self.shared.state.borrow().is_connected()
    }

    /// Changes of the state.
    pub fn subscribe(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.subscribe()
    }

    /// How well the connection is, and why.
    pub fn level(&self) -> (Level, String) {
        let stale = self.shared.options.probe_interval * 2 + self.shared.options.probe_timeout;
        let timeout = self.shared.options.unavailable_timeout;
        self.machine(|machine| machine.level(timeout, stale, Instant::now()))
    }

    /// For how long the present state has lasted.
    pub fn lasted(&self) -> Duration {
        self.machine(|machine| machine.since.elapsed())
    }

    /// Whether the database has been away for longer than `unavailable_timeout`.
    pub fn is_long_outage(&self) -> bool {
        let timeout = self.shared.options.unavailable_timeout;
        self.machine(|machine| {
            matches!(machine.state, ConnectionState::Failed { .. }) && machine.since.elapsed() >= timeout
        })
    }

    /// Until the next probe.
    pub fn until_next_probe(&self) -> Duration {
        let next = *self.shared.next_probe.lock().unwrap_or_else(PoisonError::into_inner);
        next.saturating_duration_since(Instant::now())
    }

    /// The last success, as time ago.
    pub fn last_success(&self) -> Option<Duration> {
        self.machine(|machine| machine.last_success.map(|at| at.elapsed()))
    }

    /// The last changes of state, oldest first.
    pub fn history(&self) -> Vec<StateChange> {
        self.machine(|machine| machine.history.iter().cloned().collect())
    }

    pub(crate) fn stop(&self) {
        self.update("shutdown", |machine, now| {
            machine.stop(now);
            true
        });
    }

    fn machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, noticed_by: &'static str, step: impl FnOnce(&mut Machine, Instant) -> bool) {
        let change = {
            let mut machine = self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = step(&mut machine, Instant::now());
            // Under the lock, so that states are published in the order in which they were decided.
            self.shared.state.send_if_modified(|state| {
                let differs = *state != machine.state;
                if differs {
                    *state = machine.state.clone();
                }
                differs
            });
            if changed { machine.history.back().cloned() } else { None }
        };
        if let Some(change) = change {
            (self.shared.on_change)(&change, noticed_by);
        }
    }
}
