//! P5: an outage is not an error of the write. P6: one bad write stops only its own record. P7: a refused write is
//! never dropped silently.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{PATIENT, World, create, drained, id_of, patch, put};
use outlast::status::{DeadFilter, LaneState};
use outlast::{Error, Fate, Refusal, RefusalKind, Wait};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

fn all() -> DeadFilter {
    DeadFilter { limit: 100, ..DeadFilter::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_counts_no_attempt_and_buries_nothing() {
    let mut world = World::new();
    world.options.max_age = Some(Duration::from_secs(1));
    let outlast = world.open().await;
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let id = id_of(&outlast.submit(put("users", "1", "{}"), PATIENT).await.unwrap());
    let probes = world.database.fired("away");
    // Time in an outage does not count.
    eventually("longer than max_age", || outlast.monitor().lasted() > Duration::from_millis(1500)).await;
    eventually("several probes failed", || world.database.fired("away") > probes + 3).await;
    let receipt = outlast.receipt(id).await.unwrap();
    assert_eq!((receipt.status, receipt.attempts, receipt.estimate_seconds), (Fate::Pending, 0, None));
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Applied);
    assert_eq!(outlast.status().accounting.dead, 0);
    eventually("the outage is over", || outlast.outages()[0].drained_at.is_some()).await;
    let outages = outlast.outages();
    assert_eq!((outages.len(), outages[0].writes_queued, outages[0].lost), (1, 1, 0));
    assert!(outages[0].reason.contains("injected"), "{outages:?}");
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_caller_gets_the_refusal_and_nobody_else_is_hurt() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(create("users", "1", "{}"), PATIENT).await.unwrap();
    let (refused, applied) = tokio::join!(
        outlast.submit(create("users", "1", "{}"), PATIENT),
        outlast.submit(create("users", "2", "{}"), PATIENT)
    );
    let Err(Error::Rejected { id, reason }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason.kind, RefusalKind::Exists);
    assert!(applied.is_ok());
    let receipt = outlast.receipt(id).await.unwrap();
    assert_eq!(
        (receipt.status, receipt.reason.map(|reason| reason.kind)),
        (Fate::Rejected, Some(RefusalKind::Exists))
    );
    drained(&outlast).await;
    assert_eq!((outlast.status().accounting.accepted, outlast.status().accounting.dead), (2, 0));
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Found by the simulation: the second write was refused for what the first had done in a transaction that was rolled
/// back, and then the first was refused as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_rests_only_on_what_is_committed() {
    let world = World::new();
    world.database.set(Temper::Away);
    let outlast = world.open_now().await;
    eventually("away", || !outlast.is_healthy()).await;
    let first = id_of(&outlast.submit(create("users", "1", "{\"n\":1}"), Wait::No).await.unwrap());
    let second = id_of(&outlast.submit(create("users", "1", "{\"n\":2}"), Wait::No).await.unwrap());
    // The first is taken when it is sent for the first time, and refused from then on.
    let sent = AtomicBool::new(false);
    world.database.judge(move |write| {
        let first = write.operations() == create("users", "1", "{\"n\":1}").operations();
        (first && sent.swap(true, Ordering::SeqCst))
            .then(|| (Refusal::new(RefusalKind::Constraint, "no such parent"), false))
    });
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert_eq!(outlast.receipt(first).await.unwrap().status, Fate::Dead);
    assert_eq!(outlast.receipt(second).await.unwrap().status, Fate::Applied);
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"n\":2}");
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_whose_caller_has_left_becomes_a_dead_letter_and_can_be_retried() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(put("users", "1", "{\"n\":0}"), PATIENT).await.unwrap();
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let dead = id_of(&outlast.submit(create("users", "1", "{\"n\":1}"), PATIENT).await.unwrap());
    let after = id_of(&outlast.submit(patch("users", "1", "{\"m\":2}"), PATIENT).await.unwrap());
    let other = id_of(&outlast.submit(put("users", "2", "{}"), PATIENT).await.unwrap());
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    for id in [after, other] {
        assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Applied);
    }
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"m\":2,\"n\":0}");
    let letters = outlast.dead_letters(&all()).await.unwrap();
    assert_eq!(
        (letters.total, letters.letters[0].id, letters.letters[0].reason.kind),
        (1, dead, RefusalKind::Exists)
    );
    assert_eq!(letters.groups[0].count, 1);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);

    let outlast = world.open().await;
    assert_eq!(outlast.dead_letter(dead).await.unwrap(), letters.letters[0], "it survives a restart");
    outlast
        .submit(outlast::Write::delete("users".parse().unwrap(), "1".parse().unwrap()), PATIENT)
        .await
        .unwrap();
    outlast.retry_dead_letter(dead).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"n\":1}");
    assert_eq!(outlast.receipt(dead).await.unwrap().status, Fate::Applied);
    assert_eq!(outlast.dead_letters(&all()).await.unwrap().total, 0);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retryable_refusal_is_tried_max_attempts_times_then_dead_with_its_history() {
    let world = World::new();
    let outlast = world.open().await;
    world.database.judge(|write| {
        (write.records().any(|record| record.id.as_str() == "bad"))
            .then(|| (Refusal::new(RefusalKind::Constraint, "no such parent"), true))
    });
    let id = id_of(&outlast.submit(put("users", "bad", "{}"), Wait::No).await.unwrap());
    let receipt = outlast.wait_for(id, Duration::from_secs(20)).await.unwrap();
    assert_eq!((receipt.status, receipt.attempts), (Fate::Dead, 3));
    let letter = outlast.dead_letter(id).await.unwrap();
    assert_eq!(letter.history.len(), 3, "{letter:?}");
    outlast.discard_dead_letter(id).await.unwrap();
    drained(&outlast).await;
    let terms = outlast.status().accounting;
    assert_eq!((terms.dead, terms.discarded, terms.accepted), (0, 1, 1));
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Discarded);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    let outlast = world.open().await;
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Discarded);
    let terms = outlast.status().accounting;
    assert_eq!((terms.dead, terms.discarded, terms.accepted), (0, 1, 1));
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_record_waits_for_its_dead_letter_and_replays_in_order() {
    let mut world = World::new();
    world.options.hold_record_on_dead_letter = true;
    let outlast = world.open().await;
    outlast.submit(put("users", "1", "{\"n\":0}"), PATIENT).await.unwrap();
    let first = id_of(&outlast.submit(create("users", "1", "{\"n\":1}"), Wait::No).await.unwrap());
    eventually("dead", || outlast.status().accounting.dead == 1).await;
    let behind = id_of(&outlast.submit(put("users", "1", "{\"n\":2}"), Wait::No).await.unwrap());
    eventually("parked", || outlast.status().accounting.parked == 1).await;
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    let outlast = world.open().await;
    assert_eq!(outlast.receipt(behind).await.unwrap().status, Fate::Parked, "held across a restart");
    outlast.discard_dead_letter(first).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"n\":2}");
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_storm_pauses_the_lane_buries_no_backlog_and_ends_by_itself() {
    let world = World::new();
    let outlast = world.open().await;
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    for n in 0..200 {
        outlast.submit(put("users", &n.to_string(), "{}"), PATIENT).await.unwrap();
    }
    world
        .database
        .set(Temper::RefuseAll(Refusal::new(RefusalKind::Schema, "The table 'users' does not exist")));
    eventually("storm", || matches!(outlast.status().lane, LaneState::Storm { .. })).await;
    let status = outlast.status();
    assert_eq!(status.health, outlast::health::Level::Critical);
    assert!(status.accounting.dead < 20 && status.accounting.pending >= 180, "{:?}", status.accounting);
    assert!(status.accounting_holds);
    // It is looked at again and again, and stays one.
    let refused = world.database.fired("refused");
    eventually("two looks", || world.database.fired("refused") >= refused + 2).await;
    assert!(matches!(outlast.status().lane, LaneState::Storm { .. }), "{:?}", outlast.status().lane);
    assert_eq!(outlast.status().accounting, status.accounting, "a look decides nothing");
    world.database.set(Temper::Calm);
    eventually("running", || matches!(outlast.status().lane, LaneState::Running)).await;
    drained(&outlast).await;
    let terms = outlast.status().accounting;
    assert_eq!(terms.applied + terms.dead, 200);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_or_parked_write_can_be_cancelled_and_an_applied_one_cannot() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.pause(None).await.unwrap();
    let id = id_of(&outlast.submit(put("users", "1", "{}"), Wait::No).await.unwrap());
    assert_eq!(outlast.cancel(id).await.unwrap().status, Fate::Discarded);
    outlast.resume(None).await.unwrap();
    let applied = id_of(&outlast.submit(put("users", "2", "{}"), PATIENT).await.unwrap());
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await, None);
    assert!(matches!(outlast.cancel(applied).await, Err(Error::Conflict(_))));
    assert!(matches!(outlast.cancel("1-9999".parse().unwrap()).await, Err(Error::NotFound { .. })));
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}
