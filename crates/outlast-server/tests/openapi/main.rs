//! `/openapi.json` against the servers that serve it: schemathesis asks the real binary on a real SQLite database by every
//! route, with valid and invalid data, in every role, and in every state that a server can be in; every status, header and
//! body must be one that the document names. Needs Python; without it, it is skipped, and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "../e2e/mod.rs"]
mod e2e;
mod run;

use std::fs;
use std::path::Path;

use e2e::{Api, setup, sqlite_url};
use outlast::status::LaneState;
use outlast_server::http::{ROUTES, Route};
use outlast_testkit::process::{OutlastProcess, Setup};
use outlast_testkit::schemathesis;
use reqwest::Method;
use run::{Run, check};
use serde_json::json;
use sha2::{Digest, Sha256};

// Operations that a run may have to leave out.
/// A stream of events does not end, so that no answer of it is ever complete; `docs.rs` and `answers.rs` read it.
const EVENTS: &str = "get_events";
/// Answers 200 to whatever stands on its lines, and each of them by a line of its own, which no check understands;
/// `writes_stream.rs` reads them.
const BULK: &str = "post_bulk";
/// Pausing changes what every other route answers: a world of its own has it.
const PAUSE: &str = "post_queue_pause";
/// Needs a queue that stands still.
const RESUME: &str = "post_queue_resume";
/// Waits half a minute by default for what does not come while the database is away.
const DRAIN: &str = "post_queue_drain";
/// DELETE cancels a write, and stops a run: what became of either can be read afterwards, as it should, where the check
/// `use_after_free` expects 404.
const UNDONE: [&str; 2] = ["delete_writes_id", "delete_dead_letters_runs_id"];

const RECEIPT: &str = "/v1/writes/{id}";
const WAITING: &str = "/v1/queue/writes/{id}";

const TOKENS: [&str; 3] = ["reader", "writer", "operator"];

fn guarded(directory: &Path) -> Setup {
    let tokens = TOKENS.map(|name| format!("{name}:{name}:{:x}", Sha256::digest(name)));
    settings(directory).with("server.tokens", &tokens.join(","))
}

fn settings(directory: &Path) -> Setup {
    setup(directory, &sqlite_url(directory))
        .with("server.wait", "500ms")
        .with("delivery.storm_threshold", "1000000")
}

fn sql(directory: &Path, text: &str) {
    rusqlite::Connection::open(directory.join("database.db")).unwrap().execute_batch(text).unwrap();
}

/// A server with an outage behind it, records, and dead letters of two reasons.
async fn server(setup: Setup, directory: &Path, token: &str) -> (OutlastProcess, Api) {
    sql(
        directory,
        "CREATE TABLE person (id TEXT PRIMARY KEY, data TEXT NOT NULL \
         CHECK (coalesce(json_extract(data, '$.age'), 30) >= 18))",
    );
    let process = setup.start();
    let api = Api::bearing(process.url(), token);
    api.applies().await;
    away(directory);
    put(&api, "adult", 3, 30).await;
    api.until("the outage is noticed", |status| status.outage.is_some()).await;
    fs::rename(directory.join("away.db"), directory.join("database.db")).unwrap();
    api.drained().await;
    put(&api, "young", 60, 10).await;
    for id in 0..3 {
        let path = format!("/v1/records/person/adult{id}");
        let reply = api.send(Method::POST, &path, Some(&json!({})), Some("respond-async")).await.unwrap();
        assert_eq!(reply.status, 202, "{reply:?}");
    }
    api.until("there are dead letters", |status| status.accounting.dead == 63).await;
    let run =
        api.post("/v1/dead-letters/retry", &json!({ "filter": { "kind": "expired" }, "confirm": 0 })).await;
    assert_eq!(run.json()["id"], 1, "{run:?}");
    (process, api)
}

/// What only ever refuses shows little: each of these routes must have been answered with success as well.
async fn succeeded(api: &Api, is_meant: impl Fn(&Route) -> bool) {
    if !schemathesis::is_possible() {
        return;
    }
    let metrics = api.get("/metrics").await.text;
    for route in ROUTES.iter().filter(|route| is_meant(route)) {
        let series = format!(
            "outlast_http_requests_total{{method=\"{}\",route=\"{}\",status=\"2",
            route.method, route.path
        );
        let mut counts = metrics.lines().filter(|line| line.starts_with(&series));
        assert!(counts.any(|line| !line.ends_with(" 0")), "{} {} never succeeded", route.method, route.path);
    }
}

fn away(directory: &Path) {
    fs::rename(directory.join("database.db"), directory.join("away.db")).unwrap();
}

async fn put(api: &Api, name: &str, count: usize, age: u32) {
    for id in 0..count {
        let reply = api.put_async(&format!("/v1/records/person/{name}{id}"), &json!({ "age": age })).await;
        assert_eq!(reply.status, 202, "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_server_answers_every_role_as_its_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let (process, api) = server(guarded(directory.path()), directory.path(), "operator").await;
    let without = &[EVENTS, BULK, PAUSE];
    for token in ["reader", "writer"] {
        let run = Run { token: Some(token), phases: "examples,coverage", examples: 3, ..Run::default() };
        check(token, &process.url(), &Run { without, valid: true, ..run });
    }
    let run = Run { token: Some("operator"), examples: 8, ..Run::default() };
    check("operator", &process.url(), &Run { phases: "examples,coverage,fuzzing", without, ..run });
    let without = &[EVENTS, BULK, PAUSE, UNDONE[0], UNDONE[1]];
    check("one after the other", &process.url(), &Run { phases: "stateful", without, ..run });
    api.drained().await;
    // The others need a queue that stands still, or are left out; an edit needs the records of its letter (see hooks.py),
    // and is made by `docs.rs`.
    let others = [
        "/v1/events",
        "/v1/bulk",
        "/v1/dead-letters/{id}/edit",
        "/v1/queue/pause",
        "/v1/queue/resume",
        WAITING,
        RECEIPT,
    ];
    succeeded(&api, |route| !others.contains(&route.path) || route.path == RECEIPT && route.method == "GET")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tokens_answers_as_its_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let (process, _api) = server(settings(directory.path()), directory.path(), "none").await;
    let without = &[EVENTS, BULK, PAUSE];
    let run = Run { phases: "examples,coverage", examples: 3, without, valid: true, ..Run::default() };
    check("without tokens", &process.url(), &run);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_with_writes_in_it_answers_as_its_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let setup = guarded(directory.path()).with("server.wait", "20ms");
    let (process, api) = server(setup, directory.path(), "operator").await;
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    put(&api, "waiting", 50, 30).await;
    // Going on would end what this is about.
    let without = &[RESUME, PAUSE, DRAIN];
    let only = Some("^/v1/(queue|writes|records|transactions)|^/health$");
    let run = Run { token: Some("operator"), examples: 5, ..Run::default() };
    check("paused", &process.url(), &Run { phases: "examples,coverage,fuzzing", only, without, ..run });
    assert!(matches!(api.status().await.lane, LaneState::Paused { .. }));
    succeeded(&api, |route| [RECEIPT, WAITING].contains(&route.path)).await;

    let hand = ["/v1/queue/pause", "/v1/queue/resume"];
    let only = Some("^/v1/queue/(pause|resume|drain|throttle)$");
    check("an operator's hand", &process.url(), &Run { phases: "examples", only, ..run });
    succeeded(&api, |route| hand.contains(&route.path)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_database_is_away_answers_as_its_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let (process, api) = server(guarded(directory.path()), directory.path(), "operator").await;
    away(directory.path());
    put(&api, "waiting", 5, 30).await;
    api.until("the outage is noticed", |status| status.outage.is_some()).await;
    let without = &[EVENTS, BULK, PAUSE, DRAIN];
    let run = Run { token: Some("operator"), examples: 4, unavailable: true, ..Run::default() };
    check("away", &process.url(), &Run { phases: "examples,coverage,fuzzing", without, ..run });

    // Another database stands there: the lane halts.
    sql(directory.path(), "CREATE TABLE person (id TEXT PRIMARY KEY, data TEXT NOT NULL)");
    api.until("the lane halts", |status| matches!(status.lane, LaneState::Halted { .. })).await;
    let only = Some("^/v1/(queue|writes|dead-letters)|^/health$|^/.*z$|^/metrics$");
    check("halted", &process.url(), &Run { phases: "coverage", only, without, valid: true, ..run });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_a_storm_of_refusals_answers_as_its_document_says() {
    let directory = tempfile::tempdir().unwrap();
    // Outlast's own tables are made; from then on no table is.
    let process = guarded(directory.path()).start();
    Api::bearing(process.url(), "operator").collections().await;
    drop(process);
    let setup = guarded(directory.path())
        .with("database.create_collections", "false")
        .with("delivery.storm_threshold", "5");
    let process = setup.start();
    let api = Api::bearing(process.url(), "operator");
    api.applies().await;
    put(&api, "homeless", 20, 30).await;
    api.until("the storm is noticed", |status| matches!(status.lane, LaneState::Storm { .. })).await;
    let only = Some("^/v1/(queue|writes)|^/health$|^/.*z$|^/metrics$");
    let run = Run {
        token: Some("operator"),
        phases: "coverage",
        examples: 3,
        only,
        without: &[DRAIN, PAUSE],
        unavailable: true,
        valid: true,
    };
    check("storm", &process.url(), &run);
}
