//! The whole system in virtual time: library, log on a simulated disk, and a database with a temper, while clients write,
//! operators interfere, processes die and machines lose their power. One seed is one life of a queue; at its end nothing
//! goes wrong any more, everything drains, and the conservation law has to hold (`verdict.rs`).
//!
//! `cargo xtask simulate` runs many seeds, or one of them with all that happened:
//! `cargo xtask simulate --seed 17`.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests stop where they fail")]

mod clients;
mod drain;
mod faults;
mod life;
mod machine;
mod operators;
mod outage;
mod story;
mod verdict;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use life::{Outcome, simulate};

/// Lives in one run.
const SEEDS: u64 = 200;
/// Lives that are lived twice, and once more in another process.
const SEEDS_TWICE: u64 = 20;
/// Makes this program print the hashes of the lives that begin with this seed.
const HASHES_FROM: &str = "OUTLAST_HASHES_FROM";
/// What has to be seen in so many lives.
const FAULTS: [&str; 28] = [
    "answer lost",
    "arrived late",
    "batches at once",
    "cancelled",
    "conflict",
    "dead letter discarded",
    "dead letter edited",
    "dead letter retried",
    "dead letters retried together",
    "disk full",
    "down",
    "duplicate keys",
    "fenced",
    "halted at a gap",
    "hung up",
    "kill -9",
    "no answer in time",
    "old backup restored",
    "paused",
    "power loss",
    "read-only",
    "refused",
    "refused, may pass",
    "request lost",
    "sent ahead",
    "several lanes",
    "sync failed",
    "went back in time",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// The longest that a life may take in real time. It takes less than a second; one that turns in circles never ends.
const PATIENCE: Duration = Duration::from_mins(2);

/// What the life of this seed came to, and every broken promise as a sentence. One that does not end breaks one, too:
/// the run goes on without it, and names its seed.
fn live(seed: u64) -> (Option<Outcome>, Vec<String>) {
    let (told, heard) = mpsc::channel();
    std::thread::spawn(move || told.send(live_through(seed, false)));
    let ended = heard.recv_timeout(PATIENCE);
    ended.unwrap_or_else(|_| (None, vec![format!("it had not ended after {PATIENCE:?}")]))
}

fn live_through(seed: u64, aloud: bool) -> (Option<Outcome>, Vec<String>) {
    match catch_unwind(AssertUnwindSafe(|| simulate(seed, aloud))) {
        Ok(outcome) => {
            let violations = outcome.violations.clone();
            (Some(outcome), violations)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            (None, vec![format!("panic: {}", text.unwrap_or_default())])
        }
    }
}

/// What many lives came to.
#[derive(Default)]
struct Sum {
    happened: BTreeMap<&'static str, u64>,
    writes: u64,
    seconds: f64,
    failed: BTreeMap<u64, Vec<String>>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Option<Outcome>, violations: Vec<String>) {
        if let Some(outcome) = outcome {
            for (what, times) in outcome.happened {
                *self.happened.entry(what).or_default() += times;
            }
            self.writes += outcome.writes;
            self.seconds += outcome.lasted.as_secs_f64();
        }
        if !violations.is_empty() {
            self.failed.insert(seed, violations);
        }
    }

    fn text(&self) -> String {
        let happened: Vec<String> =
            self.happened.iter().map(|(what, times)| format!("{what} {times}")).collect();
        let hours = self.seconds / 3600.0;
        format!("{} writes acknowledged, {hours:.1} hours, {}", self.writes, happened.join(", "))
    }
}

fn live_all(first: u64, seeds: u64) -> Sum {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                return;
            }
            let seed = first + number;
            let (outcome, violations) = live(seed);
            sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome, violations);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn in_no_life_of_a_queue_is_anything_lost_doubled_reordered_or_invented() {
    if let Some(seed) = number("OUTLAST_SEED") {
        if std::env::var_os("RUST_LOG").is_some() {
            // The library's own words between the lines of the trace.
            let words = tracing_subscriber::fmt().without_time().with_writer(std::io::stdout);
            words.with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
        }
        let (_, violations) = live_through(seed, true);
        assert!(violations.is_empty(), "seed {seed} breaks {} promises: {}", violations.len(), violations[0]);
        return;
    }
    let seeds = number("OUTLAST_SEEDS").unwrap_or(SEEDS);
    let first = number("OUTLAST_FIRST_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48));
    println!("simulation: {seeds} seeds from OUTLAST_FIRST_SEED={first}");
    let sum = live_all(first, seeds);
    for (seed, violations) in &sum.failed {
        println!("OUTLAST_SEED={seed} breaks {} promises: {}", violations.len(), violations[0]);
    }
    println!("simulated lives of a queue: {seeds}, wrong {} ({})", sum.failed.len(), sum.text());
    let failed: Vec<_> = sum.failed.keys().collect();
    assert!(
        failed.is_empty(),
        "{} of {seeds} lives break a promise; OUTLAST_SEED one of {failed:?}",
        failed.len()
    );
    let missing: Vec<_> = FAULTS.iter().filter(|fault| !sum.happened.contains_key(*fault)).collect();
    assert!(missing.is_empty() || seeds < SEEDS, "these never happened: {missing:?}");
}

fn hashes(first: u64) -> Vec<String> {
    (first..first + SEEDS_TWICE)
        .map(|seed| match live(seed) {
            (Some(outcome), _) => format!("seed {seed}: {:016x}, {} lines", outcome.hash, outcome.lines),
            (None, violations) => format!("seed {seed}: {violations:?}"),
        })
        .collect()
}

/// All that happened, and every byte on the disk in the end: twice in this process, and once in another.
#[test]
fn one_seed_is_one_life_bit_for_bit() {
    if let Some(first) = number(HASHES_FROM) {
        for line in hashes(first) {
            println!("{line}");
        }
        return;
    }
    let first = number("OUTLAST_FIRST_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48));
    println!("determinism: {SEEDS_TWICE} seeds from OUTLAST_FIRST_SEED={first}");
    let once = hashes(first);
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len(), "other seeds, other lives");
    assert_eq!(once, hashes(first));
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "one_seed_is_one_life_bit_for_bit", "--nocapture"]);
    let output = other.env(HASHES_FROM, first.to_string()).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let there: Vec<&str> = output.lines().filter(|line| line.contains(" lines")).collect();
    assert_eq!(once, there);
    println!("seeds lived three times, in two processes: {SEEDS_TWICE}; every promise held");
}
