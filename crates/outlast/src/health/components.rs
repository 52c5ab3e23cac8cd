//! The components of the health report, and what each says of itself.

use std::sync::Arc;

use outlast_log::LogState;

use super::{Check, Level};
use crate::core::Core;
use crate::status::LaneState;

impl Core {
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
                    "{lost} acknowledged writes cannot be read back, found since the server was started: see damaged/ \
                     in the queue directory"
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
