//! P11: a database that comes back older than it left is healed. Method: a copy of the real database file taken
//! earlier is put back; counters show that exactly the missing writes took effect again. A wiped database, a gap and
//! a foreign owner halt the lane instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::time::Duration;

use common::{PATIENT, World, counter, drained, increment, put};
use outlast::status::{Decision, Halt, LaneState};
use outlast::{Error, Outlast, Wait};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

impl common::World {
    /// Copies the database as it stands, its write-ahead log folded in.
    fn take_copy(&self) {
        let connection = rusqlite::Connection::open(self.path("database.db")).unwrap();
        connection.execute("VACUUM INTO ?1", [self.path("copy.db").to_str().unwrap()]).unwrap();
    }

    /// Puts the copy back, as an operator would: renamed over the database. The
    /// adapter sets the old write-ahead log aside, so that the two are never mixed.
    fn put_back(&self) {
        std::fs::rename(self.path("copy.db"), self.path("database.db")).unwrap();
    }
}

async fn halted(outlast: &Outlast, expected: Halt) {
    eventually(
        "halted",
        || matches!(outlast.status().lane, LaneState::Halted { halt, .. } if halt == expected),
    )
    .await;
    assert_eq!(outlast.status().health, outlast::health::Level::Critical);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_missing_writes_are_applied_again_and_the_report_says_so() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    for _ in 0..10 {
        outlast.submit(increment("a"), PATIENT).await.unwrap();
    }
    drained(&outlast).await;
    world.take_copy();
    for _ in 0..25 {
        outlast.submit(increment("a"), PATIENT).await.unwrap();
    }
    assert_eq!(world.counter("a").await, 35);
    world.put_back();
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 36);
    let outages = outlast.outages();
    assert_eq!(outages[0].healed_writes, 25, "{outages:?}");
    assert!(outages[0].healed_from.is_some());
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Found by the simulation: what the database lacked when it came back was reclaimed while it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_that_lasts_longer_than_the_retention_is_healed_all_the_same() {
    let mut world = World::new();
    (world.options.retain, world.options.probe_interval) =
        (Duration::from_secs(8), Duration::from_millis(200));
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    world.take_copy();
    // Some segments.
    let filling = format!("{{\"filling\":\"{}\"}}", "x".repeat(10_000));
    for n in 0..20 {
        outlast.submit(put("filling", &n.to_string(), &filling), Wait::No).await.unwrap();
        outlast.submit(increment("a"), PATIENT).await.unwrap();
    }
    world.database.set(Temper::Away);
    // A standby that lacks all that is promoted late; meanwhile Outlast is restarted.
    eventually("away", || !outlast.is_healthy()).await;
    let away_for = |outlast: &Outlast, time| !outlast.is_healthy() && outlast.monitor().lasted() > time;
    eventually("longer than the retention", || away_for(&outlast, Duration::from_secs(10))).await;
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    let outlast = world.open_now().await;
    eventually("again", || away_for(&outlast, Duration::from_secs(2))).await;
    world.put_back();
    world.database.set(Temper::Calm);
    eventually("connected", || outlast.is_healthy()).await;
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 21);
    assert!(world.get("filling", "19").await.is_some());
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healing_after_a_restart_works_from_the_files() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    world.take_copy();
    for _ in 0..25 {
        outlast.submit(increment("a"), PATIENT).await.unwrap();
    }
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    world.put_back();
    let outlast = world.open().await;
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 26);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_database_halts_until_an_operator_decides() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    let empty = rusqlite::Connection::open(world.path("copy.db")).unwrap();
    empty.execute("CREATE TABLE unrelated (x)", []).unwrap();
    drop(empty);
    world.put_back();
    outlast.submit(increment("a"), Wait::No).await.unwrap();
    halted(&outlast, Halt::Wiped).await;
    assert!(
        matches!(outlast.resume(None).await, Err(Error::Conflict(message)) if message.contains("--decision"))
    );
    outlast.resume(Some(Decision::Replay)).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 2);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_halts_and_skip_applies_only_what_was_never_applied() {
    let mut world = World::new();
    world.options.retain = Duration::ZERO;
    world.options.retain_bytes = 0;
    world.options.segment_bytes = 64 << 10;
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    world.take_copy();
    for _ in 0..600 {
        outlast.submit(increment("a"), Wait::No).await.unwrap();
    }
    drained(&outlast).await;
    eventually("reclaimed", || !std::fs::exists(world.path("queue/segments/00000001.jsonl")).unwrap()).await;
    world.put_back();
    outlast.submit(increment("a"), Wait::No).await.unwrap();
    halted(&outlast, Halt::Gap).await;
    assert_eq!(world.counter("a").await, 0, "nothing was touched");
    outlast.resume(Some(Decision::Skip)).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 1);
    eventually("reported", || {
        let outages = outlast.outages();
        outages.iter().any(|outage| outage.missing.as_deref() == Some("1-1 -> 1-601"))
    })
    .await;
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_queue_directory_is_fenced_and_touches_nothing() {
    let mut world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    copy(&world.path("queue"), &world.path("twin"));
    let outlast = world.open().await;
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    let original = world.options.directory.clone();
    world.options.directory = world.path("twin");
    let twin = world.open_now().await;
    twin.submit(increment("a"), Wait::No).await.unwrap();
    halted(&twin, Halt::Fenced).await;
    assert!(matches!(twin.resume(Some(Decision::Replay)).await, Err(Error::Conflict(_))));
    twin.shutdown(Duration::from_secs(5)).await.unwrap();
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    assert_eq!(world.counter("a").await, 2);
    world.options.directory = original;
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
