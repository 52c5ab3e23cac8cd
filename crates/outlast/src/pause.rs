//! A pause of delivery: it lasts until its time is over or somebody resumes, over restarts too.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{now_ms, rfc3339};
use crate::core::Core;
use crate::kept::Pause;
use crate::status::LaneState;

impl Core {
    pub(crate) fn pause(self: &Arc<Self>, at_most: Option<Duration>) {
        let until_ms = at_most.map(|at_most| now_ms().saturating_add(at_most.as_millis() as u64));
        self.keep_paused(Some(Pause { until_ms }));
        self.stand(until_ms);
    }

    /// Delivery goes on.
    pub(crate) fn end_pause(&self) {
        self.keep_paused(None);
        self.set_lane_state(&LaneState::Running);
    }

    /// As it was when the last run ended.
    pub(crate) fn stand_as_before(self: &Arc<Self>) {
        match self.kept.paused() {
            Some(Pause { until_ms: Some(until) }) if until <= now_ms() => self.keep_paused(None),
            Some(Pause { until_ms }) => self.stand(until_ms),
            None => {}
        }
    }

    /// What delivery does when nothing is wrong any more.
    pub(crate) fn wanted_state(&self) -> LaneState {
        match self.kept.paused() {
            Some(Pause { until_ms: Some(until) }) if until <= now_ms() => LaneState::Running,
            Some(pause) => paused(pause.until_ms),
            None => LaneState::Running,
        }
    }

    fn stand(self: &Arc<Self>, until_ms: Option<u64>) {
        let state = paused(until_ms);
        self.set_lane_state(&state);
        let Some(until) = until_ms else { return };
        let core = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(until.saturating_sub(now_ms()))).await;
            if let Some(core) = core.upgrade().filter(|core| *core.lane_state.borrow() == state) {
                core.end_pause();
            }
        });
    }

    fn keep_paused(&self, pause: Option<Pause>) {
        if let Err(error) = self.kept.set_paused(pause) {
            let what = if pause.is_some() { "a restart ends the pause" } else { "a restart pauses again" };
            tracing::warn!(%error, "the state of delivery was not saved: {what}");
        }
    }
}

fn paused(until_ms: Option<u64>) -> LaneState {
    LaneState::Paused { until: until_ms.map(rfc3339) }
}
