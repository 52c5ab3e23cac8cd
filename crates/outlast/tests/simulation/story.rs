//! What everybody in one simulation shares, and what is known of each token besides the history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outlast::Sequence;
use outlast_testkit::history::History;
use outlast_testkit::simulated::{Content, SimulatedDatabase, Trace};

use crate::clients::Job;
use crate::world::elapsed;

/// So long after it was accepted, a write is in the log's file for certain. The log syncs every 200 ms.
const SYNCED_AFTER: Duration = Duration::from_secs(2);

/// The member that an operator's edit adds to a document.
pub const EDITED: &str = "edited";

#[derive(Clone)]
pub struct Story {
    pub seed: u64,
    pub trace: Trace,
    pub history: Arc<History>,
    pub database: SimulatedDatabase,
    facts: Arc<Mutex<Facts>>,
}

/// About tokens, unless it says otherwise.
#[derive(Default)]
pub struct Facts {
    /// Told *applied*, with the time.
    pub applied: BTreeMap<String, Duration>,
    pub queued: BTreeSet<String>,
    pub refused: BTreeSet<String>,
    /// Under an idempotency key, and sent more than once: there may be several entries, of which one takes effect.
    pub sent_again: BTreeSet<String>,
    /// Given up by an operator who was told so, or who was not told what became of it.
    pub discarded: BTreeSet<String>,
    pub perhaps_discarded: BTreeSet<String>,
    /// Taken back from the dead letters, at the end of the order.
    pub retried: BTreeSet<String>,
    /// Edited for certain: what they write has the member [`EDITED`].
    pub edited: BTreeSet<String>,
    /// In a crash perhaps only the database had them...
    pub only_in_database: BTreeSet<String>,
    /// ...and these the database forgot.
    pub forgotten: BTreeSet<String>,
    /// Jobs whose outcome is unknown, and that may be sent again under their key.
    pub unfinished: Vec<Job>,
    /// Every sequence that was ever acknowledged.
    pub sequences: BTreeMap<Sequence, String>,
    /// What has happened, and how often.
    pub happened: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
}

impl Story {
    pub fn begin(seed: u64, aloud: bool) -> Self {
        let trace = Trace::begin(aloud);
        let database = SimulatedDatabase::new(seed, trace.clone());
        database.temper(|temper| temper.overtakes = 0.5);
        Self { seed, trace, history: Arc::default(), database, facts: Arc::default() }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn happened(&self, what: &'static str) {
        *self.facts().happened.entry(what).or_default() += 1;
    }

    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.note(format_args!("VIOLATION: {what}"));
        self.facts().violations.push(what);
    }

    /// The database went back from `before` to what it holds now.
    pub fn database_forgot(&self, before: &Content) {
        let now: BTreeSet<String> = self.database.content().effects.into_iter().collect();
        let forgotten: Vec<String> =
            before.effects.iter().filter(|token| !now.contains(*token)).cloned().collect();
        self.trace.note(format_args!("database: went back, without {}", forgotten.join(" ")));
        self.facts().forgotten.extend(forgotten);
    }

    /// The process ended without a word. `since`: from then on the log may have synced nothing.
    pub fn log_lost_its_tail(&self, since: Duration) {
        let mut facts = self.facts();
        let from = since.min(elapsed()).saturating_sub(SYNCED_AFTER);
        let recent = facts.applied.iter().filter(|(_, at)| **at >= from);
        let recent: Vec<String> = recent.map(|(token, _)| token.clone()).collect();
        facts.only_in_database.extend(recent);
    }
}
