//! The dashboard in a real browser: healthy, an outage, draining, dead letters in two groups, one edited, all done away with
//! in bulk, reports, settings; and as a reader, under a prefix. Needs `node`, `npm` and `chromium`; without them it is skipped, and
//! says so. With `OUTLAST_WRITE_DOCS=1` it writes the pictures of `docs/images/` anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use e2e::{Api, setup, sqlite_url, until};
use outlast_testkit::browser;
use outlast_testkit::process::OutlastProcess;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Letters of the first group, and of the second.
const GROUPS: (u64, u64) = (12, 5);
/// Writes during the outage.
const WRITES: u64 = 40;
/// Stands for what must never be shown.
const SECRET: &str = "s3cret-t0ken-of-the-night-shift";

/// The browser and what drives it.
struct Walk {
    node: Child,
    /// None once the walk is over.
    steps: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where the browser keeps what it remembers.
    _profile: tempfile::TempDir,
}

impl Walk {
    /// `None` where something is missing that the walk needs.
    fn begin() -> Option<Self> {
        if !browser::is_installed() {
            return None;
        }
        let chromium = browser::chromium()?;
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        // Beside what is built, so that the sources stay clean.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
        fs::create_dir_all(&place).unwrap();
        for name in ["package.json", "package-lock.json", "walk.mjs"] {
            fs::copy(scripts.join(name), place.join(name)).unwrap();
        }
        let installed = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"])
            .current_dir(&place)
            .output()
            .unwrap();
        assert!(installed.status.success(), "npm ci: {}", String::from_utf8_lossy(&installed.stderr));
        let profile = tempfile::tempdir().unwrap();
        let mut node = Command::new("node");
        node.arg(place.join("walk.mjs")).arg(chromium).arg(profile.path());
        if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
            let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images");
            fs::create_dir_all(&images).unwrap();
            node.arg(images);
        }
        let mut node = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (steps, answers) = (node.stdin.take(), BufReader::new(node.stdout.take().unwrap()));
        Some(Self { node, steps, answers, _profile: profile })
    }

    /// Takes a step, and fails with what the page showed when it did not go as it should.
    fn step(&mut self, name: &str, mut given: Value) {
        given["step"] = json!(name);
        writeln!(self.steps.as_mut().unwrap(), "{given}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{name}: {error}: {answer:?}"));
        assert!(answer["ok"] == true, "{name}: {}", answer["error"].as_str().unwrap_or_default());
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // The end of its input is the end of the walk, and of the browser.
        self.steps.take();
        let _ = self.node.wait();
    }
}

fn sql(database: &Path, text: &str) {
    rusqlite::Connection::open(database).unwrap().execute_batch(text).unwrap();
}

/// Sent by somebody who does not wait.
async fn send_and_leave(api: &Api, method: Method, path: &str, body: &Value) {
    let reply = api.send(method, path, Some(body), Some("respond-async")).await.unwrap();
    assert_eq!(reply.status, 202, "{reply:?}");
}

/// Two groups: one that a check of the table refuses, and one for records that exist.
async fn bury(api: &Api) {
    let (first, second) = GROUPS;
    for id in 0..first {
        send_and_leave(
            api,
            Method::PUT,
            &format!("/v1/records/people/young{id}"),
            &json!({ "age": 10 + id }),
        )
        .await;
    }
    for id in 0..second {
        let path = format!("/v1/records/people/w{id}");
        send_and_leave(api, Method::POST, &path, &json!({ "age": 30 })).await;
    }
    api.until("all of them are dead", |status| status.accounting.dead == first + second).await;
}

fn people(database: &Path, check: &str) {
    sql(
        database,
        &format!(
            "CREATE TABLE new_people (id TEXT PRIMARY KEY, data TEXT NOT NULL {check});
             INSERT INTO new_people SELECT id, data FROM people; DROP TABLE people; ALTER TABLE new_people RENAME TO people;"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_walks_through_an_incident() {
    let Some(mut walk) = Walk::begin() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (database, aside) = (directory.path().join("database.db"), directory.path().join("aside.db"));
    sql(&database, "CREATE TABLE people (id TEXT PRIMARY KEY, data TEXT NOT NULL)");
    people(&database, "CHECK (json_extract(data, '$.age') >= 25)");
    let process = setup(directory.path(), &sqlite_url(directory.path()))
        .with("delivery.storm_threshold", "1000")
        .start();
    let api = Arc::new(Api::new(process.url()));
    api.applies().await;
    until("there is a sample for the charts", async || {
        let history = api.get("/v1/history").await.json();
        (!history["at"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    walk.step("healthy", json!({ "url": format!("{}/", process.url()) }));

    fs::rename(&database, &aside).unwrap();
    for id in 0..WRITES {
        let body = serde_json::from_str(&format!(r#"{{"age":30,"exact":1.50,"id":"w{id}"}}"#)).unwrap();
        send_and_leave(&api, Method::PUT, &format!("/v1/records/people/w{id}"), &body).await;
    }
    walk.step("outage", json!({ "writes": WRITES }));
    // So slowly that it can be looked at.
    let slowly = json!({ "writes_per_second": 1 });
    assert_eq!(api.post("/v1/queue/throttle", &slowly).await.status, 200);
    fs::rename(&aside, &database).unwrap();
    walk.step("draining", json!({}));
    assert_eq!(api.post("/v1/queue/throttle", &json!({ "writes_per_second": null })).await.status, 200);
    api.drained().await;
    walk.step("drained", json!({}));

    bury(&api).await;
    let (first, second) = GROUPS;
    walk.step("dead", json!({ "first": first, "second": second }));
    walk.step("edit", json!({ "first": first, "second": second }));
    until("the edited one is applied", async || {
        let reply = api.get("/v1/records/people/young0").await;
        reply.text.contains("1.50").then_some(())
    })
    .await;
    let first = first - 1;
    people(&database, "");
    walk.step("bulk", json!({ "first": first, "second": second }));
    let status = api.drained().await;
    let accounting = status.accounting;
    // One was cancelled while it waited.
    assert_eq!((accounting.dead, accounting.discarded, status.accounting_holds), (0, second + 1, true));
    walk.step("pause", json!({}));
    walk.step("settings", json!({ "secret": SECRET }));

    let other = tempfile::tempdir().unwrap();
    let mut broken = wronged(other.path()).await;
    walk.step("lost", json!({ "url": broken.url() }));
    broken.kill();
    let hash = format!("{:x}", Sha256::digest(SECRET));
    let guarded = setup(other.path(), &sqlite_url(other.path()))
        .with("delivery.backoff", "1h")
        .with("delivery.backoff_max", "1h")
        .with("server.tokens", &format!("night shift:reader:{hash}"))
        .start();
    walk.step("reader", json!({ "url": guarded.url(), "token": SECRET, "secret": hash }));
}

/// A server with a dead letter, a parked write, and one that has rotted while it waited.
async fn wronged(directory: &Path) -> OutlastProcess {
    sql(
        &directory.join("database.db"),
        "CREATE TABLE parents (data TEXT PRIMARY KEY);
         CREATE TABLE people (id TEXT PRIMARY KEY, data TEXT NOT NULL);
         CREATE TABLE children (id TEXT PRIMARY KEY, data TEXT NOT NULL REFERENCES parents (data));",
    );
    let mut process = setup(directory, &sqlite_url(directory))
        .with("delivery.backoff", "1h")
        .with("delivery.backoff_max", "1h")
        .start();
    let api = Api::new(process.url());
    api.applies().await;
    assert_eq!(api.put("/v1/records/people/ann", &json!({})).await.status, 200);
    send_and_leave(&api, Method::POST, "/v1/records/people/ann", &json!({})).await;
    send_and_leave(&api, Method::PUT, "/v1/records/children/bob", &json!({})).await;
    // It waits behind that one.
    send_and_leave(&api, Method::PUT, "/v1/records/children/bob", &json!({})).await;
    api.until("one is dead, two parked", |status| {
        (status.accounting.dead, status.accounting.parked) == (1, 2)
    })
    .await;
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    for id in 0..3 {
        let path = format!("/v1/records/people/paper{id}");
        send_and_leave(&api, Method::PUT, &path, &json!({ "ink": format!("faint{id}") })).await;
    }
    process.kill();
    let segments = fs::read_dir(directory.join("queue/segments")).unwrap().map(|entry| entry.unwrap().path());
    let mut rotted = 0;
    for segment in segments {
        let mut bytes = fs::read(&segment).unwrap();
        if let Some(at) = bytes.windows(6).position(|found| found == b"faint1") {
            bytes[at] = b'F';
            fs::write(&segment, bytes).unwrap();
            rotted += 1;
        }
    }
    assert_eq!(rotted, 1);
    process.restart();
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    api.until("the loss is found", |status| (status.losses.writes, status.accounting.pending) == (1, 0))
        .await;
    process
}
