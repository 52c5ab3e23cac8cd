//! P8: every limit is explicit. P9: health tells the truth.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::time::Duration;

use common::{PATIENT, World, drained, id_of, put};
use outlast::database::ListQuery;
use outlast::health::Level;
use outlast::status::LaneState;
use outlast::{AfterTimeout, Error, Outcome, Wait};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so_and_harms_nothing_already_accepted() {
    let mut world = World::new();
    world.options.max_writes = 10;
    world.database.set(Temper::Away);
    let outlast = world.open_now().await;
    for n in 0..10 {
        outlast.submit(put("users", &n.to_string(), "{}"), Wait::No).await.unwrap();
    }
    let full = outlast.submit(put("users", "10", "{}"), Wait::No).await.unwrap_err();
    let Error::QueueFull { retry_after, writes: 10, writes_max: 10, .. } = full else { panic!("{full:?}") };
    assert!((1..=60).contains(&retry_after.as_secs()));
    assert!(outlast.ready().is_err());
    assert_eq!(outlast.status().health, Level::Critical);
    // Operators' actions work when it is full.
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert_eq!(outlast.status().accounting.applied, 10);
    assert!(outlast.ready().is_ok());
    outlast.submit(put("users", "10", "{}"), PATIENT).await.unwrap();
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_can_make_callers_wait_for_room() {
    let mut world = World::new();
    world.options.max_writes = 1;
    world.options.block_when_full = Duration::from_secs(20);
    let outlast = world.open().await;
    outlast.pause(None).await.unwrap();
    outlast.submit(put("users", "1", "{}"), Wait::No).await.unwrap();
    let waiting = tokio::spawn({
        let outlast = outlast.clone();
        async move { outlast.submit(put("users", "2", "{}"), PATIENT).await }
    });
    outlast.resume(None).await.unwrap();
    waiting.await.unwrap().unwrap();
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_too_large_is_refused_before_it_is_accepted() {
    let world = World::new();
    let outlast = world.open().await;
    let big = format!("{{\"x\":\"{}\"}}", "a".repeat(20_000));
    let error = outlast.submit(put("users", "1", &big), PATIENT).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { bytes_max: 16_384, .. }), "{error:?}");
    assert!(error.to_string().contains("queue.write_bytes_max"), "{error}");
    assert_eq!(outlast.status().accounting.accepted, 0);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_get_a_computed_time_to_come_back_and_writes_are_queued() {
    let mut world = World::new();
    world.options.unavailable_timeout = Duration::from_millis(300);
    world.options.read_wait = Duration::from_millis(50);
    let outlast = world.open().await;
    assert_eq!(outlast.status().health, Level::Healthy);
    world.database.set(Temper::Away);
    let query = ListQuery { collection: "users".parse().unwrap(), filters: vec![], limit: 1, after: None };
    let error = outlast.list(&query).await.unwrap_err();
    let Error::ServiceUnavailable { retry_after, reason } = error else { panic!("{error:?}") };
    assert!(
        (1..=60).contains(&retry_after.as_secs()) && reason.contains("injected"),
        "{retry_after:?} {reason}"
    );
    assert_eq!(outlast.status().health, Level::Warning);
    assert!(outlast.ready().is_ok(), "writes are accepted");
    eventually("critical", || outlast.status().health == Level::Critical).await;
    assert!(matches!(outlast.submit(put("users", "1", "{}"), PATIENT).await, Ok(Outcome::Queued(_))));
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert!(outlast.list(&query).await.is_ok());
    assert_eq!(outlast.outages()[0].reads_refused, 1);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_a_little_for_a_database_that_has_only_just_gone() {
    let mut world = World::new();
    world.options.read_wait = Duration::from_secs(20);
    let outlast = world.open().await;
    world.database.set(Temper::Away);
    eventually("away", || {
        outlast.monitor().report_failure("read", "gone (test)");
        !outlast.is_healthy()
    })
    .await;
    let reading = tokio::spawn({
        let outlast = outlast.clone();
        async move { outlast.get(&"users".parse().unwrap(), &"1".parse().unwrap()).await }
    });
    world.database.set(Temper::Calm);
    assert_eq!(reading.await.unwrap().unwrap(), None);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_rejects_writes_when_told_so() {
    let mut world = World::new();
    world.options.unavailable_timeout = Duration::ZERO;
    world.options.after_timeout = AfterTimeout::Reject;
    let outlast = world.open().await;
    world.database.set(Temper::Away);
    outlast.monitor().report_failure("write", "gone (test)");
    let error = outlast.submit(put("users", "1", "{}"), PATIENT).await.unwrap_err();
    assert!(matches!(error, Error::ServiceUnavailable { .. }), "{error:?}");
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(matches!(outlast.submit(put("users", "1", "{}"), PATIENT).await, Err(Error::ShuttingDown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_does_not_touch_a_database_known_to_be_away() {
    let world = World::new();
    let outlast = world.open().await;
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(outlast.guard(async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
    world.database.set(Temper::Away);
    outlast.guard(async { Err::<(), _>(refused()) }).await.unwrap_err();
    assert!(!outlast.is_healthy(), "its failure told the monitor");
    let untouched = outlast.guard(async { panic!("the operation ran") as Result<(), std::io::Error> }).await;
    assert!(matches!(untouched, Err(outlast::GuardError::Unavailable(Error::ServiceUnavailable { .. }))));
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_lane_queues_and_goes_on_by_itself_at_the_given_time() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.pause(Some(Duration::from_millis(200))).await.unwrap();
    let outcome = outlast.submit(put("users", "1", "{}"), PATIENT).await.unwrap();
    assert!(matches!(outcome, Outcome::Queued(_)), "{outcome:?}");
    let receipt = outlast.wait_for(id_of(&outcome), Duration::from_secs(10)).await.unwrap();
    assert_eq!(receipt.status, outlast::Fate::Applied);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Bytes run out long before the number of writes does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_forecast_of_a_full_queue_looks_at_bytes_too() {
    let mut world = World::new();
    world.options.max_bytes = 4 << 20;
    let outlast = world.open().await;
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(10_000));
    // By their number it would take days.
    let soon = |outlast: &outlast::Outlast| {
        outlast.status().queue.time_to_full_seconds.is_some_and(|seconds| seconds < 3600)
    };
    let mut writes = 0;
    while !soon(&outlast) {
        assert!(writes < 400, "{:?}", outlast.status().queue);
        outlast.submit(put("users", &writes.to_string(), &text), Wait::No).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        writes += 1;
    }
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_write_that_was_cancelled_is_free() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(common::counter("a"), PATIENT).await.unwrap();
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let keyed = || common::increment("a").with_idempotency_key("order-1").unwrap();
    let cancelled = id_of(&outlast.submit(keyed(), Wait::No).await.unwrap());
    outlast.cancel(cancelled).await.unwrap();
    world.database.set(Temper::Calm);
    eventually("back", || outlast.is_healthy()).await;
    let again = outlast.submit(keyed(), PATIENT).await.unwrap();
    assert!(matches!(again, Outcome::Applied { id, duplicate_of: None } if id != cancelled), "{again:?}");
    assert_eq!(world.counter("a").await, 1);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_survives_a_restart_and_so_does_its_end() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.pause(None).await.unwrap();
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    let outlast = world.open().await;
    let outcome = outlast.submit(put("users", "1", "{}"), PATIENT).await.unwrap();
    assert!(matches!(outcome, Outcome::Queued(_)), "{outcome:?}");
    assert_eq!(outlast.status().lane, LaneState::Paused { until: None });
    outlast.resume(None).await.unwrap();
    outlast.pause(Some(Duration::from_secs(2))).await.unwrap();
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    let outlast = world.open().await;
    let receipt = outlast.wait_for(id_of(&outcome), Duration::from_secs(30)).await.unwrap();
    assert_eq!(receipt.status, outlast::Fate::Applied);
    eventually("running", || outlast.status().lane == LaneState::Running).await;
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    let outlast = world.open().await;
    assert_eq!(outlast.status().lane, LaneState::Running);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_makes_sending_again_harmless() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(common::counter("a"), PATIENT).await.unwrap();
    let keyed = || common::increment("a").with_idempotency_key("order-17").unwrap();
    let first = id_of(&outlast.submit(keyed(), PATIENT).await.unwrap());
    let again = outlast.submit(keyed(), PATIENT).await.unwrap();
    assert!(matches!(again, Outcome::Applied { duplicate_of: Some(of), .. } if of == first), "{again:?}");
    let other = common::increment("b").with_idempotency_key("order-17").unwrap();
    let error = outlast.submit(other.clone(), PATIENT).await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected { reason, .. } if reason.kind == outlast::RefusalKind::KeyReused),
        "{error:?}"
    );
    world.database.set(Temper::Away);
    outlast.monitor().report_failure("write", "gone (test)");
    let pending = || common::increment("a").with_idempotency_key("order-18").unwrap();
    let queued = id_of(&outlast.submit(pending(), PATIENT).await.unwrap());
    assert_eq!(id_of(&outlast.submit(pending(), PATIENT).await.unwrap()), queued, "the first receipt again");
    let clash = common::increment("b").with_idempotency_key("order-18").unwrap();
    assert!(matches!(outlast.submit(clash, PATIENT).await, Err(Error::KeyReused)));
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 2);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}
