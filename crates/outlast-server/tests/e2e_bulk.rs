//! A run over dead letters while the database is away: it waits, keeps others out, can be stopped, and goes on by itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use e2e::{Api, setup, sqlite_url, until};
use reqwest::Method;
use serde_json::{Value, json};

async fn run_until(api: &Api, id: &Value, state: &str) -> Value {
    until(&format!("the run is {state}"), async || {
        let run = api.get(&format!("/v1/dead-letters/runs/{id}")).await.json();
        (run["state"] == state).then_some(run)
    })
    .await
}

/// The database cannot be opened: a directory stands in its place.
fn take_away(database: &Path, aside: &Path) {
    fs::rename(database, aside).unwrap();
    fs::create_dir(database).unwrap();
}

fn bring_back(database: &Path, aside: &Path) {
    fs::remove_dir(database).unwrap();
    fs::rename(aside, database).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_the_database_keeps_others_out_and_lists_what_failed() {
    let directory = tempfile::tempdir().unwrap();
    let (database, aside) = (directory.path().join("database.db"), directory.path().join("aside.db"));
    let mut process = setup(directory.path(), &sqlite_url(directory.path())).start();
    let api = Arc::new(Api::new(process.url()));
    api.applies().await;
    for id in 0..3 {
        let path = format!("/v1/records/people/{id}");
        assert_eq!(api.put(&path, &json!({})).await.status, 200);
        let again = api.send(Method::POST, &path, Some(&json!({})), Some("respond-async")).await.unwrap();
        assert_eq!(again.status, 202);
    }
    api.until("all are dead", |status| status.accounting.dead == 3).await;
    let letters = api.get("/v1/dead-letters").await.json();
    assert_eq!(letters["groups"][0]["count"], 3, "{letters}");
    let last = letters["letters"][2]["id"].as_str().unwrap().to_owned();
    assert_eq!(process.terminate().code(), Some(0));
    take_away(&database, &aside);
    process.restart();

    let begun = api.post("/v1/dead-letters/discard", &json!({ "filter": {}, "confirm": 3 })).await.json();
    run_until(&api, &begun["id"], "waiting").await;
    let refused = api.post("/v1/dead-letters/retry", &json!({ "filter": {}, "confirm": 3 })).await;
    assert_eq!((refused.status, &refused.json()["run"]), (409, &begun["id"]), "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("(discard) is at 0 of 3"), "{refused:?}");
    let path = format!("/v1/dead-letters/runs/{}", begun["id"]);
    assert_eq!(api.send(Method::DELETE, &path, None, None).await.unwrap().status, 200);
    let stopped = run_until(&api, &begun["id"], "stopped").await;
    assert_eq!((&stopped["done"], &stopped["message"]), (&json!(0), &json!("stopped by an operator")));

    let begun = api.post("/v1/dead-letters/discard", &json!({ "filter": {}, "confirm": 3 })).await.json();
    run_until(&api, &begun["id"], "waiting").await;
    // Waits as well, behind the first letter of the run.
    let (other, path) = (Arc::clone(&api), format!("/v1/dead-letters/{last}/discard"));
    let discarding = tokio::spawn(async move { other.post(&path, &json!({})).await.status });
    until("both requests are under way", async || {
        (api.metric("outlast_http_requests_under_way").await >= 2.0).then_some(())
    })
    .await;
    bring_back(&database, &aside);
    let ended = run_until(&api, &begun["id"], "done").await;
    if discarding.await.unwrap() == 200 {
        assert_eq!((&ended["done"], &ended["failed"]), (&json!(2), &json!(1)), "{ended}");
        assert_eq!(ended["failures"][0]["id"], last.as_str(), "{ended}");
        assert!(ended["failures"][0]["detail"].as_str().unwrap().contains("not found"), "{ended}");
    } else {
        assert_eq!((&ended["done"], &ended["failed"]), (&json!(3), &json!(0)), "{ended}");
    }
    assert!(api.drained().await.accounting_holds);
}
