//! The outage, on a real SurrealDB server and on the engine of 2.x (`tools/surreal2`): killed with -9 and restarted while
//! 64 clients write to 500 records.
//! Method: every answer is recorded; counters, lists of tokens and the last states in the database must agree with what
//! clients were told, and the metrics, the status and the reports of outages with both.
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use e2e::{Api, Dialect, Load, Mix, bury_dead_letters, check, in_surreal, setup};
use outlast_testkit::seeds;
use outlast_testkit::surreal::{Release, Storage, SurrealServer};
use reqwest::Method;
use serde_json::json;

const KILLS_MIN: u64 = 6;
const KILLS_MAX: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_under_load_loses_doubles_and_reorders_nothing_and_everybody_is_told_the_truth() {
    outage(Release::Three, Dialect::Surreal, 1).await;
}

/// Their transactions run beside each other, and meet in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_under_load_loses_doubles_and_reorders_nothing_over_four_lanes() {
    outage(Release::Three, Dialect::Surreal, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_surrealdb_2_loses_doubles_and_reorders_nothing() {
    outage(Release::Two, Dialect::Surreal2, 1).await;
}

async fn outage(release: Release, dialect: Dialect, lanes: u64) {
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let mut server = SurrealServer::start_release(release, Storage::File(directory.path().join("surreal")));
    let process = setup(directory.path(), &server.url("proof", "outage"))
        .with("delivery.lanes", &lanes.to_string())
        .start();
    let api = Arc::new(Api::new(process.url()));
    let mut load = Load::start(api.clone(), &Mix::new(dialect, seed)).await;

    let mut kills = 0;
    let in_flight = r#"outlast_apply_attempts_total{result="unknown"}"#;
    while kills < KILLS_MIN || (api.metric(in_flight).await < 2.0 && kills < KILLS_MAX) {
        let applied = api.status().await.accounting.applied;
        api.until("writes are applied", |status| status.accounting.applied > applied + 200).await;
        server.kill();
        kills += 1;
        api.until("the outage is noticed", |status| !status.database.is_connected()).await;
        what_clients_see_in_an_outage(&api).await;
        server.restart();
        if kills % 2 == 0 {
            // Once more, while the backlog drains.
            let applied = api.status().await.accounting.applied;
            api.until("draining", |status| status.accounting.applied > applied).await;
            server.kill();
            kills += 1;
            api.until("the outage is noticed", |status| !status.database.is_connected()).await;
            server.restart();
        }
        api.until("the outage is over, under load", |status| status.outage.is_none()).await;
    }
    load.stop().await;

    let status = api.drained().await;
    let dead = bury_dead_letters(&api, &load.history).await;
    let told = check(&load.history, &in_surreal(&server, "proof", "outage"));
    assert_eq!(status.queue.lanes, lanes);
    println!("{kills} kills, {told:?}, {dead} dead letters, {:?}", status.accounting);
    assert!(api.metric(in_flight).await >= 1.0, "no kill hit a commit in {kills}");
    assert_eq!(told.unknown, 0, "Outlast was there all the time");
    assert!(told.queued > 500, "the outages were under load: {told:?}");

    let (applied, queued) = (api.applied.load(Ordering::SeqCst), api.queued.load(Ordering::SeqCst));
    assert_eq!(api.metric(r#"outlast_writes_accepted_total{status="applied"}"#).await, applied as f64);
    assert_eq!(api.metric(r#"outlast_writes_accepted_total{status="queued"}"#).await, queued as f64);
    assert_eq!(status.accounting.accepted, applied + queued);
    assert_eq!((status.accounting.dead, status.accounting.discarded), (dead, 0));
    assert_eq!(api.metric("outlast_writes_lost_total").await, 0.0);

    let outages = api.outages().await;
    assert!(outages.len() >= 3, "one for each time that the backlog was drained: {outages:#?}");
    for outage in &outages {
        assert!(outage.lost == 0 && outage.healed_writes == 0, "{outage:?}");
        assert!(outage.reconnected_at.is_some() && outage.drained_at.is_some(), "{outage:?}");
    }
    assert!(outages.iter().map(|outage| outage.dead).sum::<u64>() <= dead);
    assert!(outages.iter().map(|outage| outage.writes_queued).sum::<u64>() <= queued);
    let refused: u64 = outages.iter().map(|outage| outage.reads_refused).sum();
    assert!(refused >= load.reads_refused.load(Ordering::SeqCst), "{refused}");
}

async fn what_clients_see_in_an_outage(api: &Api) {
    let body = json!({ "operations": [{ "op": "delete", "collection": "documents", "id": "nobody" }] });
    let write = api.post("/v1/transactions", &body).await;
    assert_eq!(write.status, 202, "{write:?}");
    let receipt = api.get(write.header("location")).await;
    assert_eq!((receipt.status, &receipt.json()["status"]), (200, &json!("pending")), "{receipt:?}");
    assert_eq!(receipt.json()["durability"], "log");

    for path in ["/v1/records/counters/c1", "/v1/records/counters?limit=3"] {
        let read = api.send(Method::GET, path, None, None).await.unwrap();
        assert_eq!((read.status, read.problem().as_str()), (503, "database-unavailable"), "{read:?}");
        read.retry_after();
    }
    let health = api.get("/health").await;
    let database = &health.json()["checks"]["database"][0];
    assert!(["warn", "fail"].contains(&database["status"].as_str().unwrap()), "{health:?}");
    let reason = database["output"].as_str().unwrap().to_lowercase();
    assert!(reason.contains("refused") || reason.contains("closed") || reason.contains("reset"), "{reason}");
    assert_eq!(api.get("/readyz").await.status, 200, "writes are taken");
    assert_eq!(api.get("/livez").await.status, 200);
}
