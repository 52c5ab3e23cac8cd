//! Outages that would take too long in real time: ten minutes under load, and how soon an idle queue notices one.

use std::sync::Arc;
use std::time::Duration;

use outlast::{Document, Options, Outcome, Outlast, Wait, Write};
use outlast_testkit::disk::SimulatedDisk;
use outlast_testkit::simulated::{SimulatedDatabase, Temper, Trace};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::machine::Machine;
use crate::world;

const AWAY: Duration = Duration::from_mins(10);
const WRITERS: u64 = 10;
/// Of each writer, one after another.
const WRITES: u64 = 750;
const PAUSE: Duration = Duration::from_secs(1);

async fn queue(seed: u64) -> (SimulatedDatabase, Outlast) {
    let database = SimulatedDatabase::new(seed, Trace::begin(false));
    let machine = Machine::new(SimulatedDisk::new(seed), seed);
    // A simulated disk takes its time for large files.
    let options = Options { segment_bytes: 1 << 20, ..Options::new("/nowhere/outlast-simulation") };
    let outlast = Outlast::open_on(Arc::new(machine), Arc::new(database.clone()), options).await.unwrap();
    until(|| outlast.is_healthy()).await;
    (database, outlast)
}

async fn until(state: impl Fn() -> bool) {
    while !state() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Creates records of its own, again and again; a second effect would be refused. Returns how many were queued.
async fn write(outlast: Outlast, writer: u64) -> u64 {
    let mut queued = 0;
    for number in 0..WRITES {
        let id = format!("{writer}-{number}").parse().unwrap();
        let data = Document::parse("{}").unwrap();
        let write = Write::create("documents".parse().unwrap(), id, data);
        let outcome = outlast.submit(write, Wait::UpTo(Duration::from_secs(10))).await.unwrap();
        queued += u64::from(matches!(outcome, Outcome::Queued(_)));
        sleep(PAUSE).await;
    }
    queued
}

#[test]
fn ten_minutes_away_lose_nothing_blame_nothing_and_never_look_well() {
    world::run(3, async {
        let (database, outlast) = queue(3).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(outlast.clone(), writer));
        }
        sleep(Duration::from_secs(30)).await;
        assert!(outlast.is_healthy() && outlast.outages().is_empty());
        database.temper(|temper| temper.up = false);
        let begun = Instant::now();
        until(|| !outlast.status().database.is_connected()).await;
        while begun.elapsed() < AWAY {
            assert!(!outlast.status().database.is_connected(), "after {:?}", begun.elapsed());
            outlast.ready().expect("there is room for more");
            sleep(Duration::from_secs(1)).await;
        }
        let waiting = outlast.status().queue.writes;
        database.temper(|temper| temper.up = true);
        until(|| outlast.outages().last().is_some_and(|outage| outage.drained_at.is_some())).await;
        let queued: u64 = writers.join_all().await.into_iter().sum();

        assert!(outlast.drain(Duration::from_mins(1)).await.unwrap());
        let accounting = outlast.status().accounting;
        let all = WRITERS * WRITES;
        assert_eq!((accounting.accepted, accounting.applied, accounting.dead), (all, all, 0));
        assert!(waiting > 5000, "only {waiting} waited");
        let outages = outlast.outages();
        let [outage] = &outages[..] else { panic!("one outage, and not {outages:#?}") };
        assert_eq!((outage.lost, outage.dead, outage.healed_writes), (0, 0, 0));
        assert_eq!(outage.writes_queued, queued, "what callers were told");
        assert!(outage.duration_seconds >= AWAY.as_secs_f64() - 1.0, "{outage:#?}");
        let refused = "outlast_apply_attempts_total{result=\"rejected\"} 0";
        assert!(outlast.metrics().lines().any(|line| line == refused), "{}", outlast.metrics());
    });
}

#[test]
fn an_idle_queue_notices_within_two_probe_intervals() {
    let down = Temper { up: false, ..Temper::default() };
    let deaf = Temper { request_lost: 1.0, ..Temper::default() };
    let mute = Temper { answer_lost: 1.0, ..Temper::default() };
    for away in [down, deaf, mute] {
        // At several moments between two probes.
        for moment in 0..20 {
            world::run(4, async {
                let (database, outlast) = queue(4).await;
                sleep(Duration::from_millis(500 * moment)).await;
                database.temper(|temper| temper.clone_from(&away));
                let begun = Instant::now();
                until(|| !outlast.status().database.is_connected()).await;
                let took = begun.elapsed();
                let limit = 2 * outlast.options().probe_interval;
                assert!(took <= limit, "{away:?}: noticed after {took:?}, of {limit:?} at most");
            });
        }
    }
}
