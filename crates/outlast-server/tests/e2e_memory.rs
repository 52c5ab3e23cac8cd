//! Memory and the time to start do not grow with the backlog.
//! Method: a log is filled past the server with writes of 256 bytes, as a long outage would; then the real binary is
//! started on it, with the database away, and drains it when the database is back. The kernel tells the memory.
//!
//! The full size is for the release binary: `cargo test --release -p outlast-server --test e2e_memory -- --ignored`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::{Api, setup, sqlite_url};
use outlast::write::LoggedWrite;
use outlast::{Document, Write};
use outlast_log::{Log, LogOptions, NewEntry};
use outlast_testkit::process::OutlastProcess;

const MEMORY_MAX: u64 = 128 << 20;
/// The content of each write, in bytes.
const WRITE_BYTES: usize = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_200_000_writes_needs_no_memory() {
    backlog(200_000, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes and gigabytes: for the release binary"]
async fn a_backlog_of_5_000_000_writes_needs_no_memory_and_the_server_is_ready_within_a_second() {
    backlog(5_000_000, Some(Duration::from_secs(1))).await;
}

async fn backlog(writes: u64, ready_within: Option<Duration>) {
    let directory = tempfile::tempdir().unwrap();
    let mut process = setup(directory.path(), &sqlite_url(directory.path()))
        .with("queue.max_writes", "10_000_000")
        .with("queue.max_bytes", "16GiB")
        .with("database.request_timeout", "500ms")
        .start();
    let api = Api::new(process.url());
    api.collections().await;
    process.terminate();
    fill(&directory.path().join("queue"), writes);
    let lock = rusqlite::Connection::open(directory.path().join("database.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();

    start(&mut process, ready_within);
    let status = api.status().await;
    assert_eq!(status.accounting.pending, writes, "{:?}", status.accounting);
    println!("{writes} writes wait, {} MiB of log", status.queue.bytes >> 20);
    api.until("the outage is noticed", |status| status.database.name() == "failed").await;
    // What operators look at in an outage.
    assert_eq!(api.get("/v1/queue/writes?limit=1000").await.status, 200);
    assert_eq!(api.put("/v1/records/documents/more", &serde_json::json!({})).await.status, 202);
    within_bounds(&process, "with the database away");

    drop(lock);
    for part in [50, 10] {
        let wanted = writes / part;
        api.until("the backlog drains", |status| status.accounting.applied > wanted).await;
        within_bounds(&process, "while it drains");
    }
    process.kill();
    start(&mut process, ready_within);
    let before = api.status().await;
    assert!(before.accounting.pending > writes / 2, "{:?}", before.accounting);
    api.until("it drains again", |now| now.accounting.pending < before.accounting.pending - 1000).await;
    within_bounds(&process, "after a crash in the middle");
    let status = api.status().await;
    assert!(status.accounting_holds && status.accounting.dead == 0, "{:?}", status.accounting);
}

fn start(process: &mut OutlastProcess, ready_within: Option<Duration>) {
    process.spawn();
    let ready = process.wait_until("/readyz");
    println!("ready after {ready:?}");
    if let Some(limit) = ready_within {
        assert!(ready < limit, "ready after {ready:?}");
    }
}

#[track_caller]
fn within_bounds(process: &OutlastProcess, when: &str) {
    let (now, highest) = process.memory();
    println!("{when}: {} MiB resident, at most {} MiB since the start", now >> 20, highest >> 20);
    assert!(highest < MEMORY_MAX, "{when}: {highest} bytes");
}

/// Appends writes as the library would, and syncs once.
fn fill(queue: &Path, writes: u64) {
    let (log, _) = Log::open(queue, LogOptions::default()).unwrap();
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut text = String::new();
    for at in 0..writes {
        // The numbers make every write another one, of the same size.
        let start = format!("{{\"n\":{at},\"text\":\"");
        text.clone_from(&start);
        text.extend(std::iter::repeat_n('x', WRITE_BYTES - start.len() - 2));
        text.push_str("\"}");
        let id = (at % 1000).to_string().parse().unwrap();
        let write = Write::put("documents".parse().unwrap(), id, Document::parse(&text).unwrap());
        let body = serde_json::to_string(&LoggedWrite { first: None, attempts: 0, write }).unwrap();
        log.append(NewEntry { body: &body, time_ms, origin: None }).unwrap();
    }
    log.sync().wait().unwrap();
    log.close().unwrap();
}
