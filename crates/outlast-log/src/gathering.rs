//! Whether the committer waits a moment for those it has just woken. A pure decision: no clock, no lock.
//!
//! Callers that append, wait and append again come back right after a sync. Without a moment's patience the first of
//! them starts the next sync, which the others just miss, so that each waits for two. With it one sync serves all. It
//! must not cost anything where callers do not come back: then it is tried more and more seldom.

use std::time::Duration;

/// However slow the disk is, nobody waits longer than this for others.
const PATIENCE_MAX: Duration = Duration::from_micros(500);
/// After so many rounds at most it is tried again.
const PAUSE_MAX: u32 = 64;

#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// How many were woken by the last sync, and how long it took.
    woken: u64,
    took: Duration,
    /// Rounds in which it is not tried, and how many these were the last time.
    pause: u32,
    last_pause: u32,
}

impl Gathering {
    /// A sync that took so long has woken so many.
    pub(crate) fn woken(&mut self, count: u64, took: Duration) {
        (self.woken, self.took) = (count, took);
    }

    /// Whether there is anybody to wait for.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.woken >= 2
    }

    /// How many to wait for and how long at most, if it is worth it. A lone caller waits for nobody.
    pub(crate) fn begin(&mut self) -> Option<(u64, Duration)> {
        if !self.is_worth_it() {
            return None;
        }
        let woken = std::mem::take(&mut self.woken);
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        // Not for the very last: one that does not come back must not hold up all others.
        Some((woken - woken / 8, self.took.min(PATIENCE_MAX)))
    }

    /// So many came of those that were waited for.
    pub(crate) fn end(&mut self, came: u64, wanted: u64) {
        let next = if came * 3 >= wanted { 0 } else { (self.last_pause * 2).clamp(1, PAUSE_MAX) };
        (self.pause, self.last_pause) = (next, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(120);

    fn round(gathering: &mut Gathering, woken: u64, come_back: bool) -> bool {
        gathering.woken(woken, SYNC);
        let Some((wanted, patience)) = gathering.begin() else { return false };
        assert!(wanted <= woken && patience <= SYNC);
        gathering.end(if come_back { wanted } else { 0 }, wanted);
        true
    }

    #[test]
    fn a_lone_caller_waits_for_nobody() {
        assert!(!round(&mut Gathering::default(), 1, true));
    }

    #[test]
    fn those_who_come_back_are_waited_for_every_time() {
        let mut gathering = Gathering::default();
        assert!((0..100).all(|_| round(&mut gathering, 64, true)));
    }

    #[test]
    fn those_who_do_not_come_back_are_hardly_waited_for() {
        let mut gathering = Gathering::default();
        let waited = (0..1000).filter(|_| round(&mut gathering, 64, false)).count();
        assert!(waited < 30, "{waited}");
        // But when they do again, it is noticed.
        let waited = (0..200).filter(|_| round(&mut gathering, 64, true)).count();
        assert!(waited > 100, "{waited}");
    }
}
