//! 100,000 dead letters are retried together: with progress, exactly once, and in the order of each record, also when the
//! server is killed in the middle.
//! Method: the letters are imported into a queue before its server starts. Each adds a number to the list of one of 1,000
//! records, so that the lists show what took effect, how often, and in which order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use e2e::{Api, Dialect, in_sqlite, setup, sqlite_url, until};
use outlast_testkit::history::Seen;
use serde_json::{Value, json};

const LETTERS: u64 = 100_000;
const RECORDS: u64 = 1_000;
/// The run is behind this one when the server is killed.
const KILLED_AFTER: u64 = 20_000;

/// Letters of two reasons, as an export has them.
fn export(path: &Path) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let accounting = json!({
        "accepted": LETTERS, "applied": 0, "pending": 0, "parked": 0, "dead": LETTERS, "discarded": 0
    });
    let header = json!({
        "outlast_export": 1, "queue": "another", "exported_at": "2026-11-30T00:00:00Z", "watermark": format!("1-{LETTERS}"),
        "watermark_from": "cursor", "last": format!("1-{LETTERS}"), "accounting": accounting
    });
    writeln!(file, "{header}").unwrap();
    for number in 1..=LETTERS {
        let record = (number % RECORDS).to_string();
        let operations = Api::statement(Dialect::Sqlite.note(), &record, &number.to_string());
        let reason = if number % 3 == 0 {
            json!({ "kind": "constraint", "message": "no such parent" })
        } else {
            json!({ "kind": "other", "message": format!("record \"{record}\" is locked") })
        };
        let line = json!({
            "id": format!("1-{number}"), "sequence": format!("1-{number}"), "status": "dead",
            "accepted_at": "2026-11-30T00:00:00Z", "accepted_ms": 1_796_000_000_000_u64, "died_ms": 1_796_000_000_000_u64,
            "attempts": 1, "reason": reason, "operations": operations["operations"]
        });
        writeln!(file, "{line}").unwrap();
    }
    writeln!(file, "{}", json!({ "outlast_export_end": LETTERS })).unwrap();
    file.flush().unwrap();
}

async fn begin(api: &Api) -> Value {
    let plan = api.post("/v1/dead-letters/retry", &json!({ "filter": {}, "plan": true })).await.json();
    api.post("/v1/dead-letters/retry", &json!({ "filter": {}, "token": plan["token"] })).await.json()
}

/// Waits until the run is so far; returns it as it is then.
async fn run_at(api: &Api, run: &Value, done: u64) -> Value {
    let path = format!("/v1/dead-letters/runs/{}", run["id"]);
    until(&format!("{done} are queued again"), async || {
        let run = api.get(&path).await.json();
        (run["done"].as_u64() >= Some(done)).then_some(run)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_letters_are_retried_once_and_in_order_through_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = setup(directory.path(), &sqlite_url(directory.path())).start();
    let api = Api::new(process.url());
    api.collections().await;
    assert_eq!(process.terminate().code(), Some(0));
    let file = directory.path().join("letters.jsonl");
    export(&file);
    let queue = directory.path().join("queue");
    let imported = process.cli(&["log", "import", file.to_str().unwrap(), queue.to_str().unwrap()]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    process.spawn();
    process.wait_until("/startedz");

    let page = api.get("/v1/dead-letters").await.json();
    assert_eq!((&page["total"], &page["groups_total"]), (&json!(LETTERS), &json!(2)));
    assert_eq!(page["letters"].as_array().unwrap().len(), 100);
    let begun = begin(&api).await;
    assert_eq!(begun["total"], LETTERS);
    let half = run_at(&api, &begun, KILLED_AFTER).await;
    assert_eq!((&half["state"], &half["failed"]), (&json!("running"), &json!(0)), "{half}");
    process.kill();

    process.spawn();
    process.wait_until("/startedz");
    let before = api.status().await.accounting;
    assert!(before.dead <= LETTERS - KILLED_AFTER && before.dead > 0, "{before:?}");
    let begun = begin(&api).await;
    assert_eq!(begun["total"], before.dead);
    // In parts, each of which is waited for by itself: other builds may share the machine.
    for part in 1..=10 {
        run_at(&api, &begun, before.dead * part / 10).await;
    }
    let ended = run_at(&api, &begun, before.dead).await;
    assert_eq!((&ended["done"], &ended["failed"]), (&json!(before.dead), &json!(0)), "{ended}");
    for part in 1..=10 {
        api.until("they are applied", |status| status.accounting.applied >= LETTERS * part / 10).await;
    }
    let accounting = api.drained().await.accounting;
    assert_eq!((accounting.dead, accounting.pending), (0, 0), "{accounting:?}");
    assert_eq!(process.terminate().code(), Some(0));

    let seen = in_sqlite(&directory.path().join("database.db"));
    for record in 0..RECORDS {
        let wanted: Vec<String> = (1..=LETTERS)
            .filter(|number| number % RECORDS == record)
            .map(|number| number.to_string())
            .collect();
        let Some(Seen::Ledger { count, tokens }) = seen.get(&format!("counters/{record}")) else {
            panic!("{record}")
        };
        assert_eq!((*count, tokens), (wanted.len() as u64, &wanted), "record {record}");
    }
}
