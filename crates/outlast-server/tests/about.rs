//! What a server tells of itself beside its state: samples of the last hour, and its configuration without secrets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use e2e::{Api, setup, sqlite_url, until};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_hour_is_told_in_columns_of_equal_length() {
    let directory = tempfile::tempdir().unwrap();
    let process = setup(directory.path(), &sqlite_url(directory.path())).start();
    let api = Api::new(process.url());
    api.applies().await;
    let history = until("a sample with writes", async || {
        assert_eq!(api.put("/v1/records/things/1", &json!({})).await.status, 200);
        let history = api.get("/v1/history").await.json();
        let accepted = history["accepted_per_second"].as_array().unwrap().last()?.as_f64().unwrap();
        (accepted > 0.0).then_some(history)
    })
    .await;
    let column = |name: &str| history[name].as_array().unwrap_or_else(|| panic!("{name}: {history}"));
    for name in ["writes", "bytes", "accepted_per_second", "applied_per_second", "latency_ms"] {
        assert_eq!(column(name).len(), column("at").len(), "{name}: {history}");
    }
    assert!(column("applied_per_second").last().unwrap().as_f64().unwrap() > 0.0, "{history}");
    assert!(column("latency_ms").last().unwrap().as_f64().unwrap() > 0.0, "{history}");
    let last = column("at").last().unwrap();
    let newer = api.get(&format!("/v1/history?after={last}")).await.json();
    let is_newer = |at: &Value| at.as_i64().unwrap() > last.as_i64().unwrap();
    assert!(newer["at"].as_array().unwrap().iter().all(is_newer), "{newer}");
    assert_eq!(api.get("/v1/history?after=yesterday").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_shown_with_its_sources_and_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let password = "pa55word-that-nobody-sees";
    // Nothing listens there: that is an outage, and no hindrance.
    let url = format!("surrealdb://root:{password}@127.0.0.1:1/a/b");
    let process = setup(directory.path(), &url).with("queue.max_writes", "4321").start();
    let shown = Api::new(process.url()).get("/v1/configuration").await;
    let settings = &shown.json()["settings"];
    let max_writes = json!({ "value": 4321, "source": "OUTLAST_QUEUE__MAX_WRITES" });
    assert_eq!(settings["queue.max_writes"], max_writes, "{settings}");
    assert_eq!(settings["queue.format"], json!({ "value": "json", "source": "default" }));
    assert!(!shown.text.contains(password), "{settings}");
}
