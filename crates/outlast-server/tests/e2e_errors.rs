//! What goes wrong has a message and an exit code or a status of its own, and harms nothing that was accepted.
//! Method: the real binary, started in each of the situations.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use e2e::{Api, Dialect, check, in_sqlite, notes, setup, sqlite_url};
use outlast_testkit::history::History;
use outlast_testkit::process::Setup;
use reqwest::Method;
use serde_json::{Value, json};

fn here() -> (tempfile::TempDir, Setup) {
    let directory = tempfile::tempdir().unwrap();
    let setup = setup(directory.path(), &sqlite_url(directory.path()));
    (directory, setup)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so_with_its_numbers_and_drains_when_the_database_is_back() {
    let (directory, setup) = here();
    let process = setup.with("queue.max_writes", "20").with("database.request_timeout", "500ms").start();
    let api = Api::new(process.url());
    api.collections().await;
    let lock = rusqlite::Connection::open(directory.path().join("database.db")).unwrap();
    lock.busy_timeout(e2e::PATIENCE).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for at in 0..20 {
        let reply = api.put_async(&format!("/v1/records/documents/{at}"), &json!({ "n": at })).await;
        assert_eq!(reply.status, 202, "{reply:?}");
    }
    let full = api.put("/v1/records/documents/more", &json!({})).await;
    assert_eq!((full.status, full.problem().as_str()), (503, "queue-full"), "{full:?}");
    let seconds = full.retry_after();
    let body = full.json();
    assert_eq!((&body["writes"], &body["writes_max"]), (&json!(20), &json!(20)), "{body}");
    assert_eq!(body["retry_after_seconds"], json!(seconds), "{body}");
    assert_eq!(api.get("/readyz").await.status, 503, "a write cannot be taken now");
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200, "operators still can act");
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    drop(lock);
    let status = api.drained().await;
    assert_eq!(status.accounting.accepted, status.accounting.applied, "{:?}", status.accounting);
    assert_eq!(api.put("/v1/records/documents/more", &json!({})).await.status, 200);
    assert_eq!(
        api.get("/v1/records/documents?limit=100").await.json()["records"].as_array().unwrap().len(),
        21
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_accepted() {
    let (_directory, setup) = here();
    let process = setup.with("server.max_body_bytes", "4KiB").start();
    let api = Api::new(process.url());
    api.collections().await;
    let accepted = api.status().await.accounting.accepted;
    let send = async |path: &str, body: &Value| api.send(Method::PUT, path, Some(body), None).await.unwrap();

    let large = send("/v1/records/documents/a", &json!({ "text": "x".repeat(5000) })).await;
    assert_eq!((large.status, large.problem().as_str()), (413, "too-large"), "{large:?}");
    assert!(large.text.contains("server.max_body_bytes"), "{large:?}");
    for path in ["/v1/records/a-b/1", "/v1/records/outlast_keys/1", "/v1/records/1a/1"] {
        let reply = send(path, &json!({})).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-request"), "{path}: {reply:?}");
        let collection = path.split('/').nth(3).unwrap();
        assert!(reply.json()["detail"].as_str().unwrap().contains(collection), "{path}: {reply:?}");
    }
    let list = send("/v1/records/documents/a", &json!([1])).await;
    assert_eq!((list.status, list.problem().as_str()), (400, "invalid-request"), "{list:?}");
    let client = reqwest::Client::new();
    let request = client.put(format!("{}/v1/records/documents/a", process.url()));
    let malformed =
        request.header("content-type", "application/json").body("{\"a\":\n 1,}").send().await.unwrap();
    assert_eq!(malformed.status(), 400);
    let text = malformed.text().await.unwrap();
    assert!(text.contains("line 2"), "{text}");
    let status = api.status().await;
    assert_eq!(status.accounting.accepted, accepted, "nothing of it was accepted: {:?}", status.accounting);
}

#[test]
fn an_unknown_key_is_named_with_its_file_its_line_and_what_was_probably_meant() {
    let (directory, setup) = here();
    let file = directory.path().join("outlast.toml");
    fs::write(&file, "[queue]\nmax_writes = 5\nsync_intervall = \"1s\"\n").unwrap();
    let ended = setup.run(&["serve"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for word in ["outlast.toml:3:", "sync_intervall;", "did you mean queue.sync_interval?"] {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
    fs::remove_file(&file).unwrap();
    let ended = setup.with("queue.max_write", "5").run(&["serve"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("OUTLAST_QUEUE__MAX_WRITE") && ended.stderr.contains("MAX_WRITES"),
        "{}",
        ended.stderr
    );
    assert!(!directory.path().join("queue").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_directory_ends_and_the_first_goes_on() {
    let (directory, setup) = here();
    let process = setup.clone().start();
    let api = Api::new(process.url());
    api.collections().await;
    let second = setup.with("server.listen", "127.0.0.1:0").run(&["serve"]);
    assert_eq!(second.code, Some(75), "{second:?}");
    let queue = directory.path().join("queue").display().to_string();
    assert!(second.stderr.contains(&queue) && second.stderr.contains("another process"), "{}", second.stderr);
    assert_eq!(api.put("/v1/records/documents/a", &json!({})).await.status, 200);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let (directory, setup) = here();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // Permissions do not stop root, a file in the place of a directory does.
    let is_root = fs::write(closed.join("probe"), "").is_ok();
    let queue = if is_root {
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        file.join("queue")
    } else {
        closed.join("queue")
    };
    let ended = setup.with("queue.directory", &queue.display().to_string()).run(&["serve"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&queue.display().to_string()), "{}", ended.stderr);
    let not_logged = ended.stderr.lines().filter(|line| !line.contains(" INFO "));
    assert_eq!(not_logged.count(), 1, "a sentence and no backtrace: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_last_line_is_cut_off_and_everything_before_it_is_applied() {
    let (directory, setup) = here();
    let mut process = setup.start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    notes(&api, &history, Dialect::Sqlite, 40).await;
    process.kill();
    tear(&newest_segment(&directory.path().join("queue/segments")));
    process.restart();
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    api.drained().await;
    let told = check(&history, &in_sqlite(&directory.path().join("database.db")));
    assert_eq!(told.queued, 40, "{told:?}");
    assert!(
        process.errors().contains("cut off") || process.errors().contains("torn"),
        "{}",
        process.errors()
    );
    assert_eq!(api.metric("outlast_writes_lost_total").await.round() as u64, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_middle_of_the_log_is_reported_with_what_is_lost_and_the_neighbours_are_applied() {
    let (directory, setup) = here();
    let mut process = setup.start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    notes(&api, &history, Dialect::Sqlite, 40).await;
    process.kill();
    damage(&newest_segment(&directory.path().join("queue/segments")));
    process.restart();
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    api.drained().await;
    let violations = history.check(&in_sqlite(&directory.path().join("database.db"))).unwrap_err();
    assert!(
        matches!(violations.as_slice(), [outlast_testkit::history::Violation::Lost(_)]),
        "{violations:?}"
    );
    assert_eq!(api.metric("outlast_writes_lost_total").await.round() as u64, 1);
    let health = api.get("/health").await.json();
    assert_ne!(health["status"], "pass", "{health}");
    assert!(fs::read_dir(directory.path().join("queue/damaged")).unwrap().count() > 0, "the bytes are kept");
    let before = lost(&api, 1).await;
    process.kill();
    process.restart();
    api.drained().await;
    assert_eq!(
        lost(&api, 1).await["applied"],
        before["applied"],
        "a restart forgets no loss and counts none again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_has_rotted_is_lost_and_neither_applied_nor_discarded() {
    let (directory, setup) = here();
    let mut process = setup.start();
    let api = Api::new(process.url());
    api.collections().await;
    assert_eq!(api.put("/v1/records/documents/a", &json!({})).await.status, 200);
    assert_eq!(api.post("/v1/queue/pause", &json!({})).await.status, 200);
    for text in ["counters first", "counters second"] {
        let create = json!({ "operations": [
            { "op": "create", "collection": "documents", "id": "a", "data": { "text": text } },
        ] });
        assert_eq!(api.post("/v1/transactions", &create).await.status, 202);
    }
    assert_eq!(api.post("/v1/queue/resume", &json!({})).await.status, 200);
    api.drained().await;
    let accounts = lost(&api, 0).await;
    assert_eq!(accounts["dead"], 2, "{accounts}");
    process.kill();
    let segment = newest_segment(&directory.path().join("queue/dead/segments"));
    let mut bytes = fs::read(&segment).unwrap();
    let at = String::from_utf8_lossy(&bytes).find("counters first").unwrap();
    bytes[at] = b'C';
    fs::write(&segment, bytes).unwrap();
    for _ in 0..2 {
        process.restart();
        api.drained().await;
        let now = lost(&api, 1).await;
        assert_eq!((&now["dead"], &now["applied"]), (&json!(1), &accounts["applied"]), "{now}");
        process.kill();
    }
}

/// The accounts, which hold, with so many writes lost.
async fn lost(api: &Api, writes: u64) -> serde_json::Value {
    let status = api.get("/v1/queue").await.json();
    assert_eq!(status["losses"]["writes"], writes, "{status}");
    assert_eq!(status["accounting_holds"], true, "{status}");
    status["accounting"].clone()
}

fn newest_segment(directory: &Path) -> PathBuf {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let segments = paths.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("counters")));
    segments.max().expect("a segment with writes")
}

/// Half of another line after the last one, as a crash in the middle of a write leaves it.
fn tear(segment: &Path) {
    let text = fs::read_to_string(segment).unwrap();
    let end = text.trim_end_matches('\n').len();
    let last = text[..end].rsplit('\n').next().unwrap();
    let torn = format!("\n{}", &last[..last.len() / 2]);
    let mut file = fs::OpenOptions::new().write(true).open(segment).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(end as u64)).unwrap();
    file.write_all(torn.as_bytes()).unwrap();
}

/// One letter of a write in the middle becomes another one.
fn damage(segment: &Path) {
    let text = fs::read_to_string(segment).unwrap();
    let writes: Vec<usize> = text.match_indices("json_array").map(|(at, _)| at).collect();
    let at = writes[writes.len() / 2];
    let mut bytes = text.into_bytes();
    bytes[at] = b'J';
    fs::write(segment, bytes).unwrap();
}
