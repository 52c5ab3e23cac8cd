//! Signing in at each level, and what an account may not do: said with what would help, never with a secret.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Fixture, NAMESPACE, after, create, items, put, statement};
use outlast::RefusalKind;
use outlast::database::{ApplyError, Database, DatabaseError, LaneId, TakeOverError};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::surreal::{Storage, SurrealServer};

fn login(db: &Fixture, user: &str, password: &str) -> SurrealDb {
    let url = format!("surrealdb://{user}@{}/{NAMESPACE}/{}", db.server.authority(), db.name);
    let options = SurrealOptions { password: Some(password.to_owned()), ..SurrealOptions::default() };
    SurrealDb::from_url(&url, options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_every_level_can_sign_in_and_write() {
    let db = Fixture::new().await;
    db.sql(&format!(
        "DEFINE USER database_{0} ON DATABASE PASSWORD 'p/w:@' ROLES EDITOR; DEFINE USER namespace_{0} ON NAMESPACE PASSWORD 'x' ROLES EDITOR",
        db.name
    ));
    for (level, password) in [("database", "p/w:@"), ("namespace", "x")] {
        let database = login(&db, &format!("{level}_{}", db.name), password);
        database.probe().await.unwrap();
        let lane = LaneId::new(level, 0);
        let position = database.take_over(&lane, None, "me").await.unwrap();
        database
            .apply(&lane, &position, after(&position, 1), &items(&position, vec![create("a", level, "{}")]))
            .await
            .unwrap();
        assert!(db.get("a", level).await.is_some());
        let forbidden = vec![statement("DEFINE USER x ON ROOT PASSWORD 'x'", "{}")];
        let position = database.position(&lane).await.unwrap().unwrap();
        let refused =
            database.apply(&lane, &position, after(&position, 1), &items(&position, forbidden)).await;
        let Err(ApplyError::Rejected { index: 0, reason, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(reason.kind, RefusalKind::Permission);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_without_showing_it() {
    let db = Fixture::new().await;
    let database = login(&db, "root", "my-secret");
    let Err(DatabaseError::Refused(text)) = database.probe().await else { panic!("not refused") };
    assert!(text.contains("\"root\"") && !text.contains("my-secret"), "{text}");
    assert!(!database.describe().contains("my-secret"));
    let position = db.take_over().await;
    // No write of the batch is to blame.
    let applied = database
        .apply(&db.lane, &position, after(&position, 1), &items(&position, vec![put("a", "1", "{}")]))
        .await;
    assert!(matches!(applied, Err(ApplyError::Unavailable(_))), "{applied:?}");
    // Nor is who reads: it is an outage, and no refusal of what was asked.
    let read = database.get(&"a".parse().unwrap(), &"1".parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
    let key = database.find_key("k").await;
    assert!(matches!(key, Err(DatabaseError::Unavailable(_))), "{key:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_only_read_is_told_so_and_no_write_is_blamed() {
    let db = Fixture::new().await;
    db.query("DEFINE USER reader ON DATABASE PASSWORD 'x' ROLES VIEWER");
    let position = db.take_over().await;
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
    let database = login(&db, "reader", "x");
    database.probe().await.unwrap();
    let found = database.position(&db.lane).await.unwrap().unwrap();
    let batch = items(&position, vec![create("a", "2", "{}"), create("a", "1", "{}")]);
    let applied = database.apply(&db.lane, &found, after(&found, 1), &batch).await;
    let Err(ApplyError::Unavailable(text)) = applied else { panic!("{applied:?}") };
    assert!(text.contains("EDITOR"), "{text}");
    let taken = database.take_over(&db.lane, Some(&found), "reader").await;
    assert!(matches!(&taken, Err(TakeOverError::Refused(text)) if text.contains("EDITOR")), "{taken:?}");
    let taken = database.take_over(&LaneId::new("queue", 5), None, "reader").await;
    assert!(matches!(&taken, Err(TakeOverError::Refused(_))), "{taken:?}");
    assert_eq!(db.get("a", "2").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_account_may_not_make_is_named_with_the_statements_to_run() {
    let db = Fixture::new().await;
    db.sql("REMOVE TABLE outlast_keys; REMOVE TABLE outlast_position; DEFINE USER reader ON DATABASE PASSWORD 'x' ROLES VIEWER");
    let Err(DatabaseError::Refused(text)) = login(&db, "reader", "x").probe().await else {
        panic!("not refused")
    };
    for needed in
        ["DEFINE NAMESPACE", "DEFINE DATABASE", "DEFINE TABLE IF NOT EXISTS outlast_position", "outlast_keys"]
    {
        assert!(text.contains(needed), "{text}");
    }
    let url = db.server.url(NAMESPACE, &db.name);
    let options = SurrealOptions { create_collections: false, ..SurrealOptions::default() };
    let careful = SurrealDb::from_url(&url, options).unwrap();
    assert!(matches!(careful.probe().await, Err(DatabaseError::Refused(_))));
    db.database.probe().await.unwrap();
    careful.probe().await.unwrap();
    // It does not make collections either.
    let position = careful.take_over(&db.lane, None, "me").await.unwrap();
    let batch = items(&position, vec![put("a", "1", "{}")]);
    let refused = careful.apply(&db.lane, &position, after(&position, 1), &batch).await;
    assert!(
        matches!(&refused, Err(ApplyError::Rejected { index: 0, reason, .. }) if reason.kind == RefusalKind::Schema),
        "{refused:?}"
    );
    db.query("DEFINE TABLE a");
    careful.apply(&db.lane, &position, after(&position, 1), &batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_removed_is_an_outage_until_a_probe_makes_it_again() {
    let db = Fixture::new().await;
    let position = db.take_over().await;
    db.sql(&format!("REMOVE DATABASE {}", db.name));
    let applied = db
        .database
        .apply(&db.lane, &position, after(&position, 1), &items(&position, vec![put("a", "1", "{}")]))
        .await;
    assert!(
        matches!(applied, Err(ApplyError::Unavailable(_) | ApplyError::Moved { actual: None })),
        "{applied:?}"
    );
    db.database.probe().await.unwrap();
    assert_eq!(db.database.position(&db.lane).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_too_large_for_a_request_is_told_before_anything_is_sent() {
    let db = Fixture::new().await;
    let large = |megabytes: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(megabytes << 20));
    assert!(db.database.check(&put("a", "1", &large(33))).unwrap_err().to_string().contains("bytes"));
    db.database.check(&put("a", "1", &large(31))).unwrap();
    let (index, kind, _) =
        db.refused(vec![put("a", "1", "{}"), put("a", "2", &large(30)), put("a", "3", &large(31))]).await;
    assert_eq!((index, kind), (2, RefusalKind::TooLarge));
    db.apply(vec![put("a", "1", "{}"), put("a", "2", &large(30))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_begun_anew_without_an_outage() {
    let db = Fixture::new().await;
    db.query("DEFINE USER brief ON DATABASE PASSWORD 'x' ROLES EDITOR DURATION FOR TOKEN 1s, FOR SESSION 1s");
    let database = login(&db, "brief", "x");
    let mut position = database.take_over(&db.lane, None, "me").await.unwrap();
    let begun = Instant::now();
    let mut rounds = 0;
    // Over three sessions: nothing fails, and nothing happens twice.
    while begun.elapsed() < Duration::from_millis(3500) {
        let next = after(&position, 1);
        let batch = items(&position, vec![statement("UPSERT counters:a SET n += 1", "{}")]);
        database.apply(&db.lane, &position, next, &batch).await.unwrap();
        database.get(&common::collection("counters"), &"a".parse().unwrap()).await.unwrap();
        position.sequence.0 = next;
        rounds += 1;
    }
    assert_eq!(db.query("SELECT VALUE n FROM ONLY counters:a"), rounds);
}

#[test]
fn options_are_shown_without_the_password() {
    let options = SurrealOptions { password: Some("my-secret".to_owned()), ..SurrealOptions::default() };
    assert!(!format!("{options:?}").contains("my-secret"));
}

/// It is used all the same, as the release that keeps less.
#[tokio::test]
async fn a_server_that_does_not_say_which_release_it_is_gets_one_write_at_a_time() {
    let server = SurrealServer::start_with(Storage::Memory, &["--deny-rpc=version"]);
    let database = SurrealDb::from_url(&server.url("n", "d"), SurrealOptions::default()).unwrap();
    database.probe().await.unwrap();
    assert_eq!(database.batch_writes_max(), 1);
}
