//! The outage, on a real PostgreSQL server: killed with -9, stopped and restarted while 64 clients write to 500 records.
//! Method: every answer is recorded; counters, lists of tokens and the last states in the database must agree with what
//! clients were told, and the accounting with both.
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use e2e::{Api, Dialect, Load, Mix, bury_dead_letters, check, in_postgres, setup};
use outlast_testkit::postgres::{PostgresServer, is_installed};
use outlast_testkit::seeds;

const OUTAGES_MIN: u64 = 5;
const OUTAGES_MAX: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_under_load_loses_doubles_and_reorders_nothing() {
    outage(1).await;
}

/// Their transactions run beside each other, and meet in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_under_load_loses_doubles_and_reorders_nothing_over_four_lanes() {
    outage(4).await;
}

async fn outage(lanes: u64) {
    if !is_installed() {
        return;
    }
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let mut server = PostgresServer::start();
    server.create_database("outage");
    let process =
        setup(directory.path(), &server.url("outage")).with("delivery.lanes", &lanes.to_string()).start();
    let api = Arc::new(Api::new(process.url()));
    let mut load = Load::start(api.clone(), &Mix::new(Dialect::Postgres, seed)).await;

    let mut outages = 0;
    let in_flight = r#"outlast_apply_attempts_total{result="unknown"}"#;
    while outages < OUTAGES_MIN || (api.metric(in_flight).await < 1.0 && outages < OUTAGES_MAX) {
        let applied = api.status().await.accounting.applied;
        api.until("writes are applied", |status| status.accounting.applied > applied + 200).await;
        // Every third time in good order: sessions end with a farewell, and what is under way is rolled back.
        if outages % 3 == 2 {
            server.stop();
        } else {
            server.kill();
        }
        outages += 1;
        api.until("the outage is noticed", |status| !status.database.is_connected()).await;
        server.restart();
        api.until("the outage is over, under load", |status| status.outage.is_none()).await;
    }
    load.stop().await;

    let status = api.drained().await;
    let dead = bury_dead_letters(&api, &load.history).await;
    let told = check(&load.history, &in_postgres(&server, "outage"));
    assert_eq!(status.queue.lanes, lanes);
    println!("{outages} outages, {told:?}, {dead} dead letters, {:?}", status.accounting);
    assert!(api.metric(in_flight).await >= 1.0, "none of {outages} outages hit a commit");
    assert_eq!(told.unknown, 0, "Outlast was there all the time");
    assert!(told.queued > 100, "the outages were under load: {told:?}");
    let (applied, queued) = (api.applied.load(Ordering::SeqCst), api.queued.load(Ordering::SeqCst));
    assert_eq!(status.accounting.accepted, applied + queued);
    assert_eq!((status.accounting.dead, status.accounting.discarded), (dead, 0));
    assert_eq!(api.metric("outlast_writes_lost_total").await, 0.0);
}
