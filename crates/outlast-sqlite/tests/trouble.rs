//! Locks, time limits and abandoned calls: what the answer is, and that it is true.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod common;

use std::time::Duration;

use common::{World, create, put, statement};
use outlast::RefusalKind;
use outlast::database::{ApplyError, Database, DatabaseError, TakeOverError};
use outlast_sqlite::{Sqlite, SqliteOptions};
use serde_json::json;

/// Runs until it is broken off.
const ENDLESS: &str = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) UPDATE a SET data = '{}' WHERE (SELECT count(*) FROM c) > 0";

fn hasty() -> SqliteOptions {
    SqliteOptions {
        busy_timeout: Duration::from_millis(50),
        request_timeout: Duration::from_secs(4),
        ..SqliteOptions::default()
    }
}

#[tokio::test]
async fn a_lock_of_another_process_is_a_conflict_and_passes_with_it() {
    let mut world = World::with(hasty()).await;
    world.apply(&[create("a", "1", "{}")]).await;
    let other = world.other();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let result = world.try_apply(&[create("a", "2", "{}")]).await;
    assert!(matches!(result, Err(ApplyError::Conflict(_))), "{result:?}");
    let taken = world.database.take_over(&world.lane, Some(&world.position), "x").await;
    assert!(matches!(taken, Err(TakeOverError::Unavailable(_))), "{taken:?}");
    assert!(world.text("a", "1").await.is_some(), "reads do not wait for a lock on writing");
    other.execute_batch("COMMIT").unwrap();
    world.apply(&[create("a", "2", "{}")]).await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_refused_and_not_retried_for_ever() {
    let mut world = World::with(hasty()).await;
    world.apply(&[create("a", "1", "{\"n\":1}")]).await;
    world.refused_as(&[put("a", "1", "{}"), statement(ENDLESS, json!({}))], 1, RefusalKind::Statement).await;
    assert_eq!(world.text("a", "1").await.as_deref(), Some("{\"n\":1}"));
    world.apply(&[put("a", "1", "{\"n\":2}")]).await;
}

#[tokio::test]
async fn a_batch_whose_caller_is_gone_is_never_committed() {
    let mut world =
        World::with(SqliteOptions { request_timeout: Duration::from_mins(10), ..SqliteOptions::default() })
            .await;
    world.apply(&[create("a", "1", "{\"n\":1}")]).await;
    let before = world.stored().await;
    // Far longer than this test may take, if it were not broken off.
    let dropped = tokio::time::timeout(
        Duration::from_millis(300),
        world.try_apply(&[put("a", "2", "{}"), statement(ENDLESS, json!({}))]),
    )
    .await;
    assert!(dropped.is_err());
    assert_eq!(world.stored().await, before, "the writer is free again");
    assert_eq!(world.text("a", "2").await, None);
    world.apply(&[create("a", "2", "{}")]).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_an_outage_and_no_error_of_opening() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let database = Sqlite::open(directory.path().join("file/database.db"), SqliteOptions::default()).unwrap();
    let probe = database.probe().await;
    assert!(
        matches!(&probe, Err(DatabaseError::Unavailable(why)) if why.contains("database.db")),
        "{probe:?}"
    );
    let read = database.get(&"a".parse().unwrap(), &"1".parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
    std::fs::remove_file(directory.path().join("file")).unwrap();
    database.probe().await.unwrap();
    assert!(database.describe().starts_with("sqlite /"), "{}", database.describe());
}

/// A file that was moved away without its log would lose what only that has.
#[tokio::test]
async fn no_database_is_made_beside_a_log_that_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("database.db"), directory.path().join("database.db-wal"));
    std::fs::write(&log, "frames").unwrap();
    let database = Sqlite::open(&path, SqliteOptions::default()).unwrap();
    let probe = database.probe().await;
    assert!(
        matches!(&probe, Err(DatabaseError::Unavailable(why)) if why.contains("database.db-wal is still there")),
        "{probe:?}"
    );
    assert!(!path.exists() && std::fs::read(&log).unwrap() == b"frames");
    std::fs::remove_file(&log).unwrap();
    database.probe().await.unwrap();
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("database.db");
    common::other(&path).execute_batch("PRAGMA encoding = 'UTF-16'; CREATE TABLE x (y)").unwrap();
    let database = Sqlite::open(&path, SqliteOptions::default()).unwrap();
    let probe = database.probe().await;
    assert!(matches!(&probe, Err(DatabaseError::Refused(why)) if why.contains("UTF-8")), "{probe:?}");
}

#[tokio::test]
async fn reads_go_on_while_a_batch_is_under_way() {
    let mut world = World::with(hasty()).await;
    world.apply(&[create("a", "1", "{\"n\":1}")]).await;
    let database = world.database.clone();
    let batch = tokio::spawn(async move {
        let result = world.try_apply(&[statement(ENDLESS, json!({}))]).await;
        (world, result)
    });
    let mut reads = 0;
    while !batch.is_finished() {
        assert!(database.get(&"a".parse().unwrap(), &"1".parse().unwrap()).await.unwrap().is_some());
        reads += 1;
    }
    let (_world, result) = batch.await.unwrap();
    assert!(matches!(result, Err(ApplyError::Rejected { .. })), "{result:?}");
    // A read that waited for the batch would be the only one.
    assert!(reads > 1, "only {reads} reads while a batch took its time");
}

#[tokio::test]
async fn urls_name_databases() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/database.db");
    let database = Sqlite::from_url(&format!("sqlite://{}", path.display())).unwrap();
    database.probe().await.unwrap();
    assert!(path.exists());
    for bad in ["sqlite://", "sqlite://:memory:", "postgres://x", "x"] {
        assert!(matches!(Sqlite::from_url(bad), Err(DatabaseError::Invalid(_))), "{bad}");
    }
}

#[tokio::test]
async fn documents_are_stored_as_the_text_that_was_sent() {
    let mut world = World::new().await;
    let text = "{\"a\":1e+2,\"b\":-0.0,\"c\":18446744073709551616,\"d\":0.12345678901234567890,\"e\":1e+400,\"f\":\"\\u0000\"}";
    world.apply(&[create("a", "1", text)]).await;
    let stored: String = world.other().query_row("SELECT data FROM a", [], |row| row.get(0)).unwrap();
    assert_eq!(stored, text);
    assert_eq!(world.text("a", "1").await.as_deref(), Some(text));
    world.apply(&[common::patch("a", "1", "{\"a\":null}")]).await;
    assert_eq!(world.text("a", "1").await.unwrap(), text.replace("\"a\":1e+2,", ""));
}
