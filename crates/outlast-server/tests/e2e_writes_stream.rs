//! A stream of writes against the real binary, which is killed in the middle of it, loses its database in the middle of it,
//! and takes more than fits into its memory.
//! Method: every write adds a token of its own to a record's list, so that one that is missing or there twice is seen; the
//! order in the list must be that of the lines. The kernel tells the memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;
// Its own client: reqwest would hide when what is sent.
#[path = "support/stream.rs"]
mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use e2e::{Api, Dialect, PATIENCE, in_sqlite, setup, sqlite_url};
use outlast_testkit::history::Seen;
use outlast_testkit::seeds;
use serde_json::{Value, json};
use stream::Stream;

/// Records that tokens are spread over.
const RECORDS: u64 = 5;

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn line(token: u64) -> String {
    // Neighbours are of one record mostly.
    let record = format!("r{}", token / 7 % RECORDS);
    let mut line = json!({
        "op": "statement",
        "statement": Dialect::Sqlite.note(),
        "parameters": { "id": record, "note": token.to_string() },
        "touches": [{ "collection": "counters", "id": record }],
    })
    .to_string();
    line.push('\n');
    line
}

/// What was told of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Accepted,
    /// No result came: it may be there.
    Nothing,
}

/// Sends lines until the connection breaks or `end` resolves; tells what was said about each token from `first` on.
async fn pour(to: SocketAddr, first: u64, end: impl Future<Output = ()>) -> Vec<(u64, Told)> {
    let stream = Stream::open(to, &[], None).await;
    let (mut reading, mut writing) = (stream.reading, stream.writing);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while writing.send(&line(first + sent)).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let reading = async {
        let mut told = 0;
        if reading.head_or_end().await {
            while let Some(result) = reading.next_or_end().await {
                assert_eq!(result["line"], told + 1, "{result}");
                let status = result["status"].as_str().unwrap();
                assert!(status == "applied" || status == "queued", "{result}");
                told += 1;
            }
        }
        told
    };
    let (told, ()) = tokio::join!(reading, end);
    let sent = sending.await.unwrap();
    assert!(told <= sent);
    (0..sent).map(|n| (first + n, if n < told { Told::Accepted } else { Told::Nothing })).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_there_once_and_in_order_although_the_server_is_killed_and_the_database_goes() {
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut process = setup(directory.path(), &sqlite_url(directory.path()))
        .with("database.request_timeout", "500ms")
        .with("health.probe_interval", "500ms")
        .start();
    let api = Api::new(process.url());
    api.collections().await;
    let path = directory.path().join("database.db");
    let mut told: HashMap<u64, Told> = HashMap::new();
    let mut next = 0;
    for round in 0..6 {
        api.applies().await;
        let lock = (round % 2 == 1).then(|| locked(&path));
        if lock.is_some() {
            api.until("the outage is noticed", |status| !status.database.is_connected()).await;
        }
        let to = address(&process.url());
        let before = api.status().await.accounting.accepted;
        let kill = async {
            api.until("lines come in", |status| status.accounting.accepted > before + 100).await;
            // The moment is the point: nothing is waited for.
            tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
            tokio::task::block_in_place(|| process.kill());
        };
        let poured = pour(to, next, kill).await;
        drop(lock);
        next += poured.len() as u64;
        told.extend(poured);
        tokio::task::block_in_place(|| process.restart());
    }
    api.drained().await;
    let accepted = told.values().filter(|told| **told == Told::Accepted).count();
    println!("{accepted} of {} lines had a result", told.len());
    assert!(accepted > 600, "{accepted}");
    let mut found: HashMap<u64, u32> = HashMap::new();
    for (record, seen) in in_sqlite(&path) {
        let Seen::Ledger { count, tokens } = seen else { continue };
        let tokens: Vec<u64> = tokens.iter().map(|token| token.parse().unwrap()).collect();
        assert_eq!(count, tokens.len() as u64, "{record}");
        assert!(tokens.is_sorted(), "{record} is not in the order of lines: {tokens:?}");
        for token in tokens {
            *found.entry(token).or_default() += 1;
        }
    }
    for (token, told) in &told {
        match (told, found.get(token)) {
            (Told::Accepted, Some(1)) | (Told::Nothing, None | Some(1)) => {}
            (told, found) => panic!("token {token}: told {told:?}, there {found:?} times"),
        }
    }
    assert!(found.keys().all(|token| told.contains_key(token)));
}

fn locked(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_larger_than_memory_goes_through() {
    const LINES: u64 = 6000;
    const BYTES: usize = 40_000;
    const MEMORY_MAX: u64 = 128 << 20;
    let directory = tempfile::tempdir().unwrap();
    let process =
        setup(directory.path(), &sqlite_url(directory.path())).with("queue.max_bytes", "4GiB").start();
    let api = Api::new(process.url());
    api.collections().await;
    let stream = Stream::open(address(&process.url()), &[], None).await;
    let (mut reading, mut writing) = (stream.reading, stream.writing);
    let sending = tokio::spawn(async move {
        let text = "x".repeat(BYTES);
        for n in 0..LINES {
            let id = (n % 50).to_string();
            let data = json!({ "n": n, "text": text });
            let line = json!({ "op": "put", "collection": "documents", "id": id, "data": data });
            writing.send(&format!("{line}\n")).await.unwrap();
        }
        writing.end().await.unwrap();
        // Closing one half of the connection would end it.
        writing
    });
    reading.head().await;
    for line in 1..=LINES {
        let result = reading.next().await.unwrap();
        assert_eq!((&result["line"], &result["status"]), (&line.into(), &"applied".into()), "{result}");
    }
    drop(sending.await.unwrap());
    let (_, highest) = process.memory();
    println!("{} MB went through, at most {} MiB resident", LINES * BYTES as u64 / 1_000_000, highest >> 20);
    assert!(highest < MEMORY_MAX, "{highest} bytes");
    let last: Value = api.get("/v1/records/documents/49").await.json();
    assert_eq!(last["n"], LINES - 1);
}
