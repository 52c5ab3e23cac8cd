//! Schedules: several threads append, mark, wait, give up waiting, read and reclaim, while the disk fails or is full
//! and somebody closes the log; shuttle decides at every lock, atomic and disk call who goes on.
//!
//! In every schedule: nobody waits for ever (shuttle sees a deadlock), closing returns, tickets and sequences grow, the
//! watermarks stay in order, after a failed sync nobody is told "durable", and no failed file is synced again. Then the
//! power is lost at one instant of the schedule: whatever somebody had been told is durable by then is found by the
//! next opening, and what it finds is a prefix of what was appended.
//!
//! `cargo test -p outlast-log --features shuttle --test schedules -- --nocapture`; `OUTLAST_EFFORT` multiplies the
//! number of schedules, `OUTLAST_SEED` replays the round that failed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod disk;
mod seen;
mod verdict;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, UncontrolledNondeterminismCheckScheduler};
use shuttle::{Config, FailurePersistence, Runner};

use world::schedule;

/// Schedules that share a seed.
const ROUND: usize = 50;
const ROUNDS: usize = 400;

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 512 * 1024;
    // The seed says the same in one line.
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config
}

/// Half of the rounds choose at every point among all threads; the others let one thread run as long as it can and
/// change their mind at a few points, which finds what needs one thread to be very late.
fn round(seed: u64) {
    if seed.is_multiple_of(2) {
        Runner::new(RandomScheduler::new_from_seed(seed, ROUND), config()).run(schedule);
    } else {
        Runner::new(PctScheduler::new_from_seed(seed, 4, ROUND), config()).run(schedule);
    }
}

fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("OUTLAST_SEED") {
        return vec![seed.parse().expect("OUTLAST_SEED is a number")];
    }
    let effort: usize =
        std::env::var("OUTLAST_EFFORT").map_or(1, |text| text.parse().expect("OUTLAST_EFFORT is a number"));
    let first = fastrand::u64(..);
    (0..(ROUNDS * effort) as u64).map(|round| first.wrapping_add(round)).collect()
}

#[test]
fn in_no_schedule_does_anybody_wait_for_ever_or_hear_durable_too_early() {
    let seeds = seeds();
    for seed in &seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(*seed))) {
            println!("schedules: replay with OUTLAST_SEED={seed}");
            resume_unwind(panic);
        }
    }
    let (seen, everything) = seen::report();
    println!("schedules: {} (seen: {seen}); every promise held", seeds.len() * ROUND);
    assert!(everything || seeds.len() < ROUNDS, "not everything that these schedules are about has happened");
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    // Runs every schedule twice and compares each choice.
    let scheduler = RandomScheduler::new_from_seed(fastrand::u64(..), ROUND);
    Runner::new(UncontrolledNondeterminismCheckScheduler::new(scheduler), config()).run(schedule);
}
