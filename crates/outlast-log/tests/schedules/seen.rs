//! Counts over all schedules: what never happened was not tested.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! seen {
    ($($name:ident => $words:literal),* $(,)?) => {
        /// What happens in some schedules.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Seen { $($name),* }

        const ALL: &[(Seen, &str)] = &[$((Seen::$name, $words)),*];
        static COUNTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];
    };
}

seen! {
    Told => "told durable",
    Verified => "puts known to be durable found again after a power loss",
    GaveUp => "gave up waiting",
    Latched => "logs failed",
    FailedSyncs => "syncs failed",
    FailedCalls => "other calls failed",
    NoSpace => "refused for want of space",
    ClosedEarly => "closed under load",
    Rotations => "segments begun",
    Reclaimed => "segments reclaimed",
    PowerLosses => "power losses that took something",
}

pub(crate) fn count(what: Seen, times: u64) {
    COUNTS[what as usize].fetch_add(times, Ordering::Relaxed);
}

/// All of it in one line, and whether there is anything that never happened.
pub(crate) fn report() -> (String, bool) {
    let counted = ALL.iter().map(|(what, words)| (COUNTS[*what as usize].load(Ordering::Relaxed), words));
    let words: Vec<_> = counted.clone().map(|(count, words)| format!("{count} {words}")).collect();
    (words.join(", "), counted.clone().all(|(count, _)| count > 0))
}
