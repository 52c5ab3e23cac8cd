//! Draining a backlog, in virtual time: what is estimated holds, a limit on the rate acts at once, and what is sent ahead
//! does no harm.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use outlast::status::QueueStatus;
use outlast::{Document, Options, Outcome, Outlast, Wait, Write, WriteId};
use outlast_testkit::disk::SimulatedDisk;
use outlast_testkit::simulated::{NOTE, SimulatedDatabase, Trace};
use serde_json::Map;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::machine::Machine;
use crate::world;

const WRITES: u64 = 30_000;
const BATCH: usize = 20;
/// Of each writer.
const RECORDS: u64 = 30;
/// From here on the rates that an estimate rests on are known.
const STEADY_AFTER: Duration = Duration::from_secs(4);
/// How far an estimate may be off, and the whole seconds to which it is rounded.
const TOLERANCE: f64 = 0.3;
const ROUNDING: Duration = Duration::from_secs(1);

/// A queue, and a database that is away. Later it takes so many milliseconds for a request, and for its answer.
async fn away(seed: u64, latency: Range<u64>) -> (SimulatedDatabase, Outlast) {
    away_in_batches(seed, latency, BATCH).await
}

async fn away_in_batches(seed: u64, latency: Range<u64>, batch_max: usize) -> (SimulatedDatabase, Outlast) {
    let database = SimulatedDatabase::new(seed, Trace::begin(false));
    database.temper(|temper| {
        temper.up = false;
        temper.latency = Duration::from_millis(latency.start)..Duration::from_millis(latency.end);
    });
    let options = Options {
        batch_max,
        segment_bytes: 256 << 10,
        write_bytes_max: 16 << 10,
        backoff: Duration::from_millis(50),
        ..Options::new("/nowhere/outlast-simulation")
    };
    let machine = Machine::new(SimulatedDisk::new(seed), seed);
    let outlast = Outlast::open_on(Arc::new(machine), Arc::new(database.clone()), options).await.unwrap();
    (database, outlast)
}

fn put(record: &str, document: &str) -> Write {
    Write::put("documents".parse().unwrap(), record.parse().unwrap(), Document::parse(document).unwrap())
}

async fn queued(outlast: &Outlast, write: Write) -> WriteId {
    match outlast.submit(write, Wait::No).await.unwrap() {
        Outcome::Queued(receipt) => receipt.id,
        Outcome::Applied { .. } => panic!("the database is away"),
    }
}

/// A queue with a backlog, and a database that was away and comes back.
async fn backlog(seed: u64, amount: u64) -> (SimulatedDatabase, Outlast, WriteId) {
    let (database, outlast) = away(seed, 8..12).await;
    let mut writers = JoinSet::new();
    for writer in 0..100 {
        let outlast = outlast.clone();
        writers.spawn(async move {
            let mut last = None;
            for number in 0..amount / 100 {
                // The same again and again: the simulated database copies its content for each batch.
                let write = put(&format!("{writer}-{}", number % RECORDS), "{}");
                last = last.max(Some(queued(&outlast, write).await));
            }
            last
        });
    }
    let last = writers.join_all().await.into_iter().flatten().max().unwrap();
    database.temper(|temper| temper.up = true);
    while queue(&outlast).writes == amount {
        sleep(Duration::from_millis(20)).await;
    }
    (database, outlast, last)
}

fn queue(outlast: &Outlast) -> QueueStatus {
    outlast.status().queue
}

#[test]
fn in_a_steady_drain_the_estimate_is_within_30_percent() {
    estimates_hold(1, WRITES, false);
}

#[test]
fn the_estimate_holds_also_when_the_database_refuses_most() {
    estimates_hold(4, 3000, true);
}

fn estimates_hold(seed: u64, writes: u64, refusing: bool) {
    world::run(seed, async {
        let (database, outlast, last) = backlog(seed, writes).await;
        if refusing {
            // Of ten writers nine.
            let ids = (0..100).filter(|writer| writer % 10 > 0);
            let ids = ids.flat_map(|writer| (0..RECORDS).map(move |number| format!("{writer}-{number}")));
            database.temper(|temper| temper.refuses = ids.map(|id| (id, false)).collect());
            // A rate looks back ten seconds, and it took some before.
            sleep(2 * STEADY_AFTER).await;
        }
        let mut estimates = Vec::new();
        sleep(STEADY_AFTER).await;
        while queue(&outlast).writes > 0 {
            let shown = queue(&outlast).drain_eta_seconds.unwrap();
            let receipt = outlast.receipt(last).await.unwrap().estimate_seconds;
            estimates.push((Instant::now(), shown, receipt.unwrap_or(0)));
            sleep(Duration::from_millis(500)).await;
        }
        assert!(estimates.len() > 20, "it was drained too soon to say anything: {}", estimates.len());
        let drained = Instant::now();
        for (at, shown, receipt) in estimates {
            let rest = drained - at;
            for estimate in [shown, receipt].map(Duration::from_secs) {
                let off = estimate.abs_diff(rest);
                let told = format!("{estimate:?} were left, it was said; it took {rest:?}");
                assert!(off <= rest.mul_f64(TOLERANCE) + ROUNDING, "{told}");
            }
        }
    });
}

#[test]
fn a_limit_on_the_rate_acts_at_once_and_so_does_lifting_it() {
    world::run(2, async {
        let (_database, outlast, _) = backlog(2, WRITES).await;
        let in_a_second = async || {
            let before = outlast.status().accounting.applied;
            sleep(Duration::from_secs(1)).await;
            outlast.status().accounting.applied - before
        };
        let free = in_a_second().await;
        outlast.throttle(Some(100));
        let told = outlast.status().queue.drain_eta_seconds.unwrap();
        assert!(told >= outlast.status().queue.writes / 100, "{told} s are too short at 100 a second");
        let limited = in_a_second().await;
        outlast.throttle(None);
        let again = in_a_second().await;
        // What is under way when the limit comes is one batch; a tenth of a second may be made up for.
        assert!((80..=100 + 10 + 20).contains(&limited), "{limited} instead of 100");
        assert!(free > 500 && again > 500, "{free}, then {again}");
    });
}

#[test]
fn a_batch_that_comes_early_does_not_make_those_behind_it_come_early() {
    world::run(3, async {
        let (database, outlast, _) = backlog(3, WRITES).await;
        database.temper(|temper| temper.overtakes = 0.2);
        let times = |what| database.fired().get(what).copied().unwrap_or(0);
        while times("sent ahead") < 300 {
            assert!(queue(&outlast).writes > 0, "it was drained too soon to say anything");
            sleep(Duration::from_millis(20)).await;
        }
        let early = times("fenced");
        assert!(0 < early && early < 30, "of 300 batches {early} came early, where few can overtake");
    });
}

/// It could wait for a table of which the one behind holds a lock, and that one for the position.
#[test]
fn nothing_is_sent_ahead_behind_a_statement() {
    world::run(6, async {
        let (database, outlast) = away(6, 8..12).await;
        for number in 0..10 * BATCH {
            let note = Write::statement(NOTE, Map::new(), vec![]);
            let write = if number % 2 == 0 { note } else { put(&number.to_string(), "{}") };
            queued(&outlast, write).await;
        }
        database.temper(|temper| temper.up = true);
        while queue(&outlast).writes > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(database.fired().get("sent ahead"), None);
    });
}

#[test]
fn what_is_sent_ahead_does_not_overtake_what_is_parked_in_front_of_it() {
    let mut ahead = 0;
    for seed in 1..=200 {
        ahead += world::run(seed, async {
            // Now and then what was sent ahead arrives when the one in front has been sent a second time.
            let (database, outlast) = away(seed, 1..60).await;
            for number in 0..5 * BATCH {
                let record = number % 10;
                let token = format!(r#"{{"token":"{record}-{number:02}"}}"#);
                queued(&outlast, put(&record.to_string(), &token)).await;
            }
            database.temper(|temper| {
                temper.refuses = [("3".to_owned(), true)].into();
                temper.up = true;
            });
            while outlast.status().accounting.parked == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            database.temper(|temper| temper.refuses.clear());
            while queue(&outlast).writes > 0 {
                sleep(Duration::from_millis(20)).await;
            }
            let mut effects = database.content().effects;
            assert_eq!(effects.len(), 5 * BATCH, "seed {seed}: {effects:?}");
            effects.retain(|token| token.starts_with("3-"));
            assert!(effects.is_sorted(), "seed {seed}: {effects:?}");
            database.fired().get("sent ahead").copied().unwrap_or(0)
        });
    }
    assert!(ahead > 200, "only {ahead} batches were sent ahead");
}

/// With many of them it takes minutes.
#[test]
fn removing_old_idempotency_keys_holds_no_write_up() {
    world::run(7, async {
        let (database, outlast) = away(7, 1..4).await;
        database.temper(|temper| (temper.up, temper.pruning) = (true, Duration::from_mins(15)));
        let times = |what| database.fired().get(what).copied().unwrap_or(0);
        while times("began to remove old keys") == 0 {
            sleep(Duration::from_secs(1)).await;
        }
        let began = Instant::now();
        // For longer than it takes until it is tried again.
        while began.elapsed() < Duration::from_mins(14) {
            let outcome = outlast.submit(put("a", "{}"), Wait::UpTo(Duration::from_secs(1))).await.unwrap();
            assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?} after {:?}", began.elapsed());
            sleep(Duration::from_secs(10)).await;
        }
        assert_eq!((times("removed old keys"), times("began to remove old keys")), (0, 1));
    });
}

/// A database that has just come back has enough to do: it is given little at first, and more while it keeps up.
#[test]
fn a_database_that_returns_gets_small_batches_first_and_larger_ones_then() {
    const BACKLOG: usize = 3000;
    const FIRST: usize = 16;
    const LARGEST: usize = 500;
    world::run(8, async {
        let (database, outlast) = away_in_batches(8, 1..4, LARGEST).await;
        // The second time it is known how large batches may be.
        for _ in 0..2 {
            for number in 0..BACKLOG {
                queued(&outlast, put(&(number % 30).to_string(), "{}")).await;
            }
            let before = database.sizes().len();
            database.temper(|temper| temper.up = true);
            while queue(&outlast).writes > 0 {
                sleep(Duration::from_millis(20)).await;
            }
            let sizes = database.sizes().split_off(before);
            let mut largest = FIRST / 2;
            for size in &sizes {
                assert!(*size <= 2 * largest, "{sizes:?}");
                largest = largest.max(*size);
            }
            assert_eq!(largest, LARGEST, "{sizes:?}");
            database.temper(|temper| temper.up = false);
            while outlast.is_healthy() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
}
