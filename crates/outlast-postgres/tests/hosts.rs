//! Several servers: the one that takes writes is found, also after another one has taken over.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use common::{after, create, items};
use outlast::database::{ApplyError, Database, DatabaseError, LaneId};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::eventually;
use outlast_testkit::postgres::{PostgresServer, url};

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_takes_writes_is_found_and_left_when_it_does_not_any_more() {
    let mut first = PostgresServer::start();
    let second = first.standby();
    let open = |hosts: &str| Postgres::from_url(&url(hosts, "postgres"), PostgresOptions::default()).unwrap();
    // A standby alone is an outage, not an error of anybody.
    let Err(DatabaseError::Unavailable(reason)) = open(&second.authority()).probe().await else {
        panic!("served")
    };
    assert!(reason.contains("takes reads only"), "{reason}");

    let database = open(&format!("127.0.0.1:1,{},{}", second.authority(), first.authority()));
    database.probe().await.unwrap();
    let lane = LaneId::new("queue", 0);
    let mut position = database.take_over(&lane, None, "me").await.unwrap();
    let next = after(&position, 1);
    database.apply(&lane, &position, next, &items(&position, vec![create("a", "1", "{}")])).await.unwrap();
    position.sequence.0 = next;

    // The first is demoted while our connections to it are open: the next batch meets 25006, and the one after it finds
    // the second.
    first.query("postgres", "ALTER SYSTEM SET default_transaction_read_only = on");
    first.query("postgres", "SELECT pg_reload_conf()");
    let caught_up =
        || second.query("postgres", "SELECT count(*) FROM outlast_position WHERE sequence > 0") == "1";
    eventually("the standby has it", caught_up).await;
    let next = after(&position, 1);
    let batch = items(&position, vec![create("a", "2", "{}")]);
    eventually("sessions are read-only", || {
        first.query("postgres", "SHOW default_transaction_read_only") == "on"
    })
    .await;
    let refused = database.apply(&lane, &position, next, &batch).await;
    let Err(ApplyError::Unavailable(reason)) = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("in a read-only transaction"), "another fault than 25006: {reason}");
    assert!(matches!(database.probe().await, Err(DatabaseError::Unavailable(_))));
    second.promote();
    let found = database.position(&lane).await.unwrap().unwrap();
    assert_eq!(found, position);
    let taken = database.take_over(&lane, Some(&found), "me").await.unwrap();
    database.apply(&lane, &taken, next, &batch).await.unwrap();
    assert_eq!(second.query("postgres", "SELECT count(*) FROM a"), "2");
    assert_eq!(first.query("postgres", "SELECT count(*) FROM a"), "1");

    first.kill();
    database.close().await;
    database.probe().await.unwrap();
}
