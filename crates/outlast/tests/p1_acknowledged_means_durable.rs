//! P1: acknowledged means durable. Method: a disk that counts and fails syncs under a real queue; what is
//! acknowledged is found again after the process's state is thrown away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::time::Duration;

use common::{PATIENT, World, create, drained, id_of, put};
use outlast::{Error, Fate, Outcome, Wait};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_means_that_the_database_has_it() {
    let world = World::new();
    let outlast = world.open().await;
    let outcome = outlast.submit(put("users", "1", "{\"name\":\"Ann\"}"), PATIENT).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { duplicate_of: None, .. }));
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"name\":\"Ann\"}");
    assert_eq!(outlast.receipt(id_of(&outcome)).await.unwrap().status, Fate::Applied);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_writes_are_there_after_a_restart_and_are_applied_in_their_order() {
    let world = World::new();
    world.database.set(Temper::Away);
    let outlast = world.open_now().await;
    let mut ids = Vec::new();
    for number in 0..500 {
        let outcome =
            outlast.submit(put("users", "1", &format!("{{\"n\":{number}}}")), Wait::No).await.unwrap();
        assert!(matches!(outcome, Outcome::Queued(_)), "{outcome:?}");
        ids.push(id_of(&outcome));
    }
    // Nothing is told to stop: the handle is forgotten as a crash would do, and the log opened again by another.
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    world.database.set(Temper::Calm);
    let outlast = world.open().await;
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), "{\"n\":499}");
    for id in ids {
        assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Applied);
    }
    assert_eq!(outlast.status().accounting.applied, 500);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whose_patience_ends_is_told_queued_and_the_write_is_applied_later() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.pause(None).await.unwrap();
    let outcome =
        outlast.submit(put("users", "1", "{}"), Wait::UpTo(Duration::from_millis(30))).await.unwrap();
    let Outcome::Queued(receipt) = outcome else { panic!("{outcome:?}") };
    assert_eq!((receipt.status, receipt.position), (Fate::Pending, Some(0)));
    outlast.resume(None).await.unwrap();
    let receipt = outlast.wait_for(receipt.id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(receipt.status, Fate::Applied);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_its_caller_was_told_is_not_applied_after_a_restart() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(create("users", "1", "{\"n\":1}"), PATIENT).await.unwrap();
    let refused = outlast.submit(create("users", "1", "{\"n\":2}"), PATIENT).await.unwrap_err();
    let Error::Rejected { id, .. } = refused else { panic!("{refused:?}") };
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    // The record is gone: applied again, the refused create would now succeed.
    let sqlite = rusqlite_delete(&world);
    assert_eq!(sqlite, 1);
    let outlast = world.open().await;
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await, None);
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Rejected);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

fn rusqlite_delete(world: &World) -> usize {
    let connection = rusqlite::Connection::open(world.path("database.db")).unwrap();
    connection.execute("DELETE FROM users WHERE id = '1'", []).unwrap()
}
