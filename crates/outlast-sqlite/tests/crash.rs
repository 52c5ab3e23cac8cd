//! Promise: a batch is there wholly with its position, or not at all - after kill -9 at any moment, and when the disk is full.
//!
//! The writing happens in a child process: this test binary again, told by an environment variable what to be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{create, put, statement};
use outlast::database::{ApplyError, Database, DatabaseError, Item, LaneId, Position, Sequence64};
use outlast::{Sequence, Write, WriteId};
use outlast_sqlite::{Sqlite, SqliteOptions};
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

const PATH: &str = "OUTLAST_TEST_CHILD_PATH";
const COUNT: &str =
    "UPDATE counters SET data = json_set(data, '$.n', json_extract(data, '$.n') + 1) WHERE id = 'c'";

fn lane() -> LaneId {
    LaneId::new("crash", 0)
}

/// The path that the parent gave; `None` when this process is no child.
fn child_path() -> Option<PathBuf> {
    std::env::var_os(PATH).map(PathBuf::from)
}

fn child(role: &str, path: &Path, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn taken_over(database: &Sqlite) -> Position {
    database.probe().await.unwrap();
    let seen = database.position(&lane()).await.unwrap();
    database.take_over(&lane(), seen.as_ref(), "owner").await.unwrap()
}

/// The batch that moves the lane to `number`: a record of that name, and one more on the counter.
fn batch(number: u64, padding: usize) -> Vec<Item> {
    let text = format!("{{\"n\":{number},\"padding\":\"{}\"}}", "x".repeat(padding));
    let writes: [Write; 3] =
        [create("a", &number.to_string(), &text), statement(COUNT, json!({})), put("a", "last", &text)];
    writes
        .into_iter()
        .enumerate()
        .map(|(n, write)| {
            let keyed = write.with_idempotency_key(&format!("{number}-{n}")).unwrap();
            Item { id: WriteId(Sequence::from_u64(number * 3 + n as u64).unwrap()), write: keyed.into() }
        })
        .collect()
}

async fn with_counter(path: &Path) {
    let database = Sqlite::open(path, SqliteOptions::default()).unwrap();
    let position = taken_over(&database).await;
    let item = Item {
        id: WriteId(Sequence::from_u64(1).unwrap()),
        write: create("counters", "c", "{\"n\":0}").into(),
    };
    database.apply(&lane(), &position, Sequence::START, &[item]).await.unwrap();
    database.close().await;
}

fn sequence(connection: &Connection) -> u64 {
    let found: Option<i64> = connection
        .query_row("SELECT sequence FROM outlast_position", [], |row| row.get(0))
        .optional()
        .unwrap();
    u64::try_from(found.unwrap_or(0)).unwrap()
}

/// Everything in the database tells of the same number of batches; returns it.
fn audit(path: &Path) -> u64 {
    let connection = common::other(path);
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let batches = sequence(&connection);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
    assert_eq!(
        number("SELECT json_extract(data, '$.n') FROM counters WHERE id = 'c'"),
        batches,
        "each batch counted once"
    );
    if batches > 0 {
        assert_eq!(
            number("SELECT count(*) FROM a WHERE id <> 'last'"),
            batches,
            "each batch left its record"
        );
        assert_eq!(number("SELECT json_extract(data, '$.n') FROM a WHERE id = 'last'"), batches);
        assert_eq!(
            number("SELECT count(*) FROM outlast_keys"),
            batches * 3,
            "keys are stored with their writes"
        );
    }
    batches
}

/// Applies batches as fast as it can until it is killed.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(path) = child_path() else { return };
    let database = Sqlite::open(path, SqliteOptions::default()).unwrap();
    let mut position = taken_over(&database).await;
    loop {
        let number = position.sequence.0.as_u64() + 1;
        let next = Sequence::from_u64(number).unwrap();
        database.apply(&lane(), &position, next, &batch(number, 100)).await.unwrap();
        position.sequence = Sequence64(next);
    }
}

#[tokio::test]
async fn after_kill_9_every_batch_is_there_wholly_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("database.db");
    with_counter(&path).await;
    let mut before = 0;
    for round in 0..8 {
        let mut child = child("child_that_writes_until_it_is_killed", &path, "");
        let watcher = common::other(&path);
        let deadline = Instant::now() + Duration::from_mins(1);
        while sequence(&watcher) < before + 20 + fastrand::u64(..200) {
            assert!(Instant::now() < deadline, "the child makes no progress");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(watcher);
        let now = audit(&path);
        assert!(now > before, "round {round}");
        before = now;
    }
    // And Outlast goes on from there.
    let database = Sqlite::open(&path, SqliteOptions::default()).unwrap();
    let position = taken_over(&database).await;
    assert_eq!(position.sequence.0.as_u64(), before);
    database
        .apply(&lane(), &position, Sequence::from_u64(before + 1).unwrap(), &batch(before + 1, 100))
        .await
        .unwrap();
    database.close().await;
    assert_eq!(audit(&path), before + 1);
}

/// Applies batches until nothing can be written any more, and checks every answer on the way.
#[tokio::test]
async fn child_that_fills_its_disk() {
    let Some(path) = child_path() else { return };
    let database = Sqlite::open(path, SqliteOptions::default()).unwrap();
    let mut position = taken_over(&database).await;
    for failures in 0.. {
        assert!(failures < 1_000, "a full disk stays full");
        let failure = loop {
            let number = position.sequence.0.as_u64() + 1;
            let next = Sequence::from_u64(number).unwrap();
            match database.apply(&lane(), &position, next, &batch(number, 20_000)).await {
                Ok(_) => position.sequence = Sequence64(next),
                Err(error) => break error,
            }
        };
        let probe = database.probe().await;
        // Reading may work on a full disk; where it does, it tells whether the batch is there.
        if let Ok(stored) = database.position(&lane()).await {
            let stored = stored.unwrap();
            match failure {
                ApplyError::Unavailable(_) => assert_eq!(stored, position, "certainly not committed"),
                ApplyError::Unknown(_) => {}
                other => panic!("a full disk is an outage: {other}"),
            }
            position = stored;
        }
        match probe {
            // Closing made room: the log went into the database file.
            Ok(()) => {}
            Err(DatabaseError::Unavailable(_)) => std::process::exit(42),
            Err(other) => panic!("a full disk is an outage: {other}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_an_outage_and_no_batch_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("database.db");
    with_counter(&path).await;
    // No file may grow beyond some megabytes. Without the trap the first such write would kill the child.
    let status = child("child_that_fills_its_disk", &path, "trap '' XFSZ; ulimit -f 6000;").wait().unwrap();
    assert_eq!(status.code(), Some(42), "the child saw its disk full and every answer was true");
    let batches = audit(&path);
    assert!(batches > 10, "{batches}");
    // With room again it goes on.
    let database = Sqlite::open(&path, SqliteOptions::default()).unwrap();
    let position = taken_over(&database).await;
    database
        .apply(&lane(), &position, Sequence::from_u64(batches + 1).unwrap(), &batch(batches + 1, 20_000))
        .await
        .unwrap();
    database.close().await;
    assert_eq!(audit(&path), batches + 1);
}
