//! Writes that a real SurrealDB server refuses: told to a caller who waits, a dead letter for one who has left, and no
//! hindrance for anybody else. A table that is gone buries nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::sync::Arc;

use e2e::{Api, Dialect, check, in_surreal, setup};
use outlast::status::{DeadLetters, LaneState};
use outlast_testkit::history::{Cause, Change, History, Told};
use outlast_testkit::process::{OutlastProcess, Setup};
use outlast_testkit::surreal::SurrealServer;
use reqwest::Method;
use serde_json::{Value, json};

/// A server that is shared by the tests of this file; each has a database of its own.
fn world(database: &str) -> (Arc<SurrealServer>, tempfile::TempDir, Setup) {
    let server = SurrealServer::shared();
    let directory = tempfile::tempdir().unwrap();
    let setup = setup(directory.path(), &server.url("refusals", database));
    (server, directory, setup)
}

/// Sends without waiting, and returns the path of the receipt.
async fn send_and_leave(api: &Api, method: Method, path: &str, body: &Value) -> String {
    let reply = api.send(method, path, Some(body), Some("respond-async")).await.unwrap();
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.header("location").to_owned()
}

/// The fate of a write, once it is decided.
async fn fate(api: &Api, receipt: &str) -> Value {
    let reply = api.get(&format!("{receipt}?wait=30s")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

async fn dead_letters(api: &Api) -> DeadLetters {
    let reply = api.get("/v1/dead-letters?limit=1000").await;
    serde_json::from_str(&reply.text).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_to_who_waits_and_is_a_dead_letter_for_who_has_left() {
    let (server, _directory, setup) = world("told");
    server.sql(
        "refusals",
        "told",
        "DEFINE NAMESPACE IF NOT EXISTS refusals; DEFINE DATABASE IF NOT EXISTS told",
    );
    let schema = "DEFINE TABLE people SCHEMAFULL; DEFINE FIELD name ON people TYPE string; \
                  DEFINE FIELD age ON people TYPE option<int>; DEFINE INDEX names ON people FIELDS name UNIQUE";
    for row in server.sql("refusals", "told", schema) {
        assert_eq!(row["status"], "OK", "{row}");
    }
    let process = setup.start();
    let api = Api::new(process.url());
    api.applies().await;
    let ann = json!({ "name": "Ann" });
    assert_eq!(api.post("/v1/records/people/1", &ann).await.status, 201);

    // (method, record, body, status, problem, kind of the dead letter)
    let cases = [
        (Method::POST, "1", json!({ "name": "Bob" }), 409, "record-exists", "exists"),
        (Method::PUT, "2", json!({ "name": 5 }), 422, "refused-schema", "schema"),
        (Method::PUT, "3", json!({ "name": "Bob", "unknown": 1 }), 422, "refused-schema", "schema"),
        (Method::PUT, "4", json!({ "name": "Ann" }), 422, "refused-constraint", "constraint"),
        (Method::PATCH, "5", json!({ "age": 1 }), 404, "record-not-found", "not_found"),
    ];
    for (method, id, body, status, problem, _) in &cases {
        let path = format!("/v1/records/people/{id}");
        let reply = api.send(method.clone(), &path, Some(body), None).await.unwrap();
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (*status, *problem),
            "{method} {body}: {reply:?}"
        );
        assert!(reply.json()["detail"].as_str().unwrap().len() > 10, "the database's words: {reply:?}");
    }
    assert_eq!(dead_letters(&api).await.total, 0, "who waited was told, and that is all");

    let mut receipts = Vec::new();
    for (method, id, body, ..) in &cases {
        receipts.push(send_and_leave(&api, method.clone(), &format!("/v1/records/people/{id}"), body).await);
        // Others go on.
        let other = json!({ "name": format!("other {id}") });
        assert_eq!(api.put(&format!("/v1/records/people/other{id}"), &other).await.status, 200);
    }
    for (receipt, (.., kind)) in receipts.iter().zip(&cases) {
        let fate = fate(&api, receipt).await;
        assert_eq!((&fate["status"], &fate["reason"]["kind"]), (&json!("dead"), &json!(kind)), "{fate}");
    }
    let letters = dead_letters(&api).await;
    assert_eq!((letters.total, letters.letters.len()), (5, 5));
    for letter in &letters.letters {
        assert!(!letter.history.is_empty() && letter.operations.len() == 1, "{letter:?}");
        assert!(!letter.reason.message.is_empty(), "{letter:?}");
    }
    let rows = server.query("refusals", "told", "SELECT VALUE name FROM people ORDER BY name");
    assert_eq!(rows, json!(["Ann", "other 1", "other 2", "other 3", "other 4", "other 5"]));
    let status = api.drained().await;
    assert_eq!((status.accounting.accepted, status.accounting.dead), (api_accepted(&api), 5));
}

fn api_accepted(api: &Api) -> u64 {
    use std::sync::atomic::Ordering::SeqCst;
    api.applied.load(SeqCst) + api.queued.load(SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_writes_to_the_record_of_a_refused_one_keep_their_order() {
    let (server, _directory, setup) = world("order");
    let process = setup.start();
    let (api, history) = (Api::new(process.url()), History::default());
    api.collections().await;
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    for at in 0..60 {
        let record = format!("c{}", at % 3);
        let (token, _) = history.begin(format!("counters/{record}"), |_| Change::Note);
        // Every fifth is refused, in the middle of the others.
        let refused = at % 5 == 2;
        let text = if refused { "THROW 'not ' + $id + $note" } else { Dialect::Surreal.note() };
        let body = Api::statement(text, &record, &token.to_string());
        send_and_leave(&api, Method::POST, "/v1/transactions", &body).await;
        history.end(token, Told::Queued);
        if refused {
            history.bury(token, Cause::Other);
        }
    }
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    let status = api.drained().await;
    assert_eq!((status.accounting.dead, &status.lane), (12, &LaneState::Running));
    check(&history, &in_surreal(&server, "refusals", "order"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_table_does_not_bury_the_backlog_and_dead_letters_can_be_retried() {
    let (server, _directory, setup) = world("storm");
    server.sql(
        "refusals",
        "x",
        "DEFINE NAMESPACE IF NOT EXISTS refusals; USE NS refusals; DEFINE DATABASE storm STRICT",
    );
    let define = "DEFINE TABLE items SCHEMALESS";
    server.query("refusals", "storm", define);
    let mut process = setup.with("delivery.storm_threshold", "5").start();
    let api = Api::new(process.url());
    api.applies().await;
    server.query("refusals", "storm", "REMOVE TABLE items");
    for at in 0..200 {
        let body = json!({ "n": at });
        send_and_leave(&api, Method::PUT, &format!("/v1/records/items/{at}"), &body).await;
    }
    let status =
        api.until("the storm is noticed", |status| matches!(status.lane, LaneState::Storm { .. })).await;
    let LaneState::Storm { reasons, .. } = &status.lane else { unreachable!() };
    assert!(reasons.iter().any(|(reason, _)| reason.contains("items")), "{reasons:?}");
    let dead = status.accounting.dead;
    assert!(dead < 5 && status.accounting.pending >= 195, "{:?}", status.accounting);
    let health = api.get("/health").await;
    assert_eq!(
        (health.status, &health.json()["checks"]["lane"][0]["status"]),
        (503, &json!("fail")),
        "{health:?}"
    );
    assert!(health.json()["checks"]["lane"][0]["output"].as_str().unwrap().contains("items"), "{health:?}");
    assert_eq!(api.put("/v1/records/items/more", &json!({})).await.status, 202, "writes are taken");
    process.restart();
    api.until("the storm is noticed again", |status| matches!(status.lane, LaneState::Storm { .. })).await;

    server.query("refusals", "storm", define);
    let status = api.drained().await;
    let dead_after = status.accounting.dead;
    assert!(dead_after < 10, "{:?}", status.accounting);
    let count =
        |server: &SurrealServer| server.query("refusals", "storm", "RETURN count(SELECT id FROM items)");
    assert_eq!(count(&server), json!(201 - dead_after));

    retry_all(&process, &api).await;
    assert_eq!(count(&server), json!(201));
    let wrong =
        "RETURN count(SELECT id FROM items WHERE <string> n != record::id(id) AND record::id(id) != 'more')";
    assert_eq!(server.query("refusals", "storm", wrong), json!(0));
}

async fn retry_all(process: &OutlastProcess, api: &Api) {
    for letter in dead_letters(api).await.letters {
        let id = letter.id.to_string();
        let said = process.cli(&["dead", "show", &id]);
        assert!(said.code == Some(0) && said.stdout.contains("items"), "{said:?}");
        let said = process.cli(&["dead", "retry", &id]);
        assert!(said.code == Some(0) && said.stdout.contains(&id), "{said:?}");
        let fate = fate(api, &format!("/v1/writes/{id}")).await;
        assert_eq!(fate["status"], "applied", "{fate}");
    }
    let status = api.drained().await;
    assert_eq!(status.accounting.dead, 0, "{:?}", status.accounting);
}
