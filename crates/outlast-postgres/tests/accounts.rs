//! Signing in, and what an account may not do: said with what would help, never with a secret.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use common::{Fixture, after, create, items, put, statement};
use outlast::RefusalKind;
use outlast::database::{ApplyError, Database, DatabaseError, Position, TakeOverError};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::postgres::PostgresServer;

fn login(db: &Fixture, user: &str, password: &str) -> Postgres {
    let url = format!("postgres://{user}@{}/{}", db.server.authority(), db.name);
    let options = PostgresOptions { password: Some(password.to_owned()), ..PostgresOptions::default() };
    Postgres::from_url(&url, options).unwrap()
}

/// A role of this test alone.
fn role(db: &Fixture, name: &str) -> String {
    let role = format!("{name}_{}", db.name);
    db.query(&format!("CREATE ROLE {role} LOGIN PASSWORD 'my-secret'"));
    role
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_user_or_database_is_refused_without_showing_a_secret() {
    let db = Fixture::new().await;
    for user in ["outlast", "nobody"] {
        let database = login(&db, user, "my-secret");
        let Err(DatabaseError::Refused(text)) = database.probe().await else { panic!("not refused") };
        assert!(text.contains(&format!("\"{user}\"")) && !text.contains("my-secret"), "{text}");
        assert!(!database.describe().contains("my-secret"));
        let position = db.take_over().await;
        // No write of the batch is to blame.
        let batch = items(&position, vec![put("a", "1", "{}")]);
        let applied = database.apply(&db.lane, &position, after(&position, 1), &batch).await;
        assert!(matches!(applied, Err(ApplyError::Unavailable(_))), "{applied:?}");
        // Nor is who reads: it is an outage, and no refusal of what was asked.
        let read = database.get(&"a".parse().unwrap(), &"1".parse().unwrap()).await;
        assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
        let key = database.find_key("k").await;
        assert!(matches!(key, Err(DatabaseError::Unavailable(_))), "{key:?}");
    }
    let missing = Postgres::from_url(&db.server.url("nowhere"), PostgresOptions::default()).unwrap();
    let Err(DatabaseError::Refused(text)) = missing.probe().await else { panic!("not refused") };
    assert!(text.contains("CREATE DATABASE \"nowhere\""), "{text}");
    let odd = db.server.url(&format!("{}_latin", db.name));
    db.query(&format!("CREATE DATABASE {}_latin ENCODING 'LATIN1' TEMPLATE template0", db.name));
    let latin = Postgres::from_url(&odd, PostgresOptions::default()).unwrap();
    assert!(matches!(latin.probe().await, Err(DatabaseError::Refused(text)) if text.contains("UTF8")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_account_may_not_make_is_named_with_the_statements_to_run() {
    let db = Fixture::new().await;
    let writer = role(&db, "writer");
    db.query("DROP TABLE outlast_position, outlast_keys; DROP FUNCTION outlast_expect");
    let database = login(&db, &writer, "my-secret");
    let Err(DatabaseError::Refused(text)) = database.probe().await else { panic!("not refused") };
    for needed in [
        "CREATE TABLE IF NOT EXISTS outlast_position",
        "outlast_keys",
        "outlast_expect",
        "outlast_limits",
        "outlast_advance",
        "outlast_merge",
        "GRANT",
    ] {
        assert!(text.contains(needed), "{text}");
    }
    // What the text says is what is to be run.
    let (_, statements) = text.split_once("Let an owner run: ").unwrap();
    db.query(&statements.replace("the account", &writer));
    database.probe().await.unwrap();
    let position = database.take_over(&db.lane, None, "me").await.unwrap();
    // It may not make tables: that is about the one write.
    db.query(&format!("CREATE TABLE a (id text PRIMARY KEY, data jsonb); GRANT ALL ON a TO {writer}; CREATE TABLE secret (id text PRIMARY KEY, data jsonb)"));
    for bad in [put("b", "1", "{}"), put("secret", "1", "{}"), statement("DELETE FROM secret", "{}")] {
        let batch = items(&position, vec![put("a", "1", "{}"), bad]);
        let applied = database.apply(&db.lane, &position, after(&position, 2), &batch).await;
        let Err(ApplyError::Rejected { index: 1, reason, .. }) = applied else { panic!("{applied:?}") };
        assert_eq!(reason.kind, RefusalKind::Permission, "{reason}");
    }
    let batch = items(&position, vec![put("a", "1", "{}")]);
    database.apply(&db.lane, &position, after(&position, 1), &batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_only_read_is_told_so_and_no_write_is_blamed() {
    let db = Fixture::new().await;
    let reader = role(&db, "reader");
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
    db.query(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}"));
    let database = login(&db, &reader, "my-secret");
    database.probe().await.unwrap();
    let found = database.position(&db.lane).await.unwrap().unwrap();
    let batch = items(&found, vec![create("a", "2", "{}")]);
    let applied = database.apply(&db.lane, &found, after(&found, 1), &batch).await;
    assert!(matches!(&applied, Err(ApplyError::Unavailable(text)) if text.contains("GRANT")), "{applied:?}");
    let taken = database.take_over(&db.lane, Some(&found), "reader").await;
    assert!(matches!(&taken, Err(TakeOverError::Refused(text)) if text.contains("GRANT")), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_nothing_is_made() {
    let db = Fixture::new().await;
    db.query("DROP TABLE outlast_keys");
    let options = PostgresOptions { create_collections: false, ..PostgresOptions::default() };
    let careful = Postgres::from_url(&db.server.url(&db.name), options).unwrap();
    assert!(matches!(careful.probe().await, Err(DatabaseError::Refused(_))));
    db.database.probe().await.unwrap();
    careful.probe().await.unwrap();
    let position = careful.take_over(&db.lane, None, "me").await.unwrap();
    let batch = items(&position, vec![put("a", "1", "{}")]);
    let refused = careful.apply(&db.lane, &position, after(&position, 1), &batch).await;
    assert!(
        matches!(&refused, Err(ApplyError::Rejected { index: 0, reason, .. }) if reason.kind == RefusalKind::Schema),
        "{refused:?}"
    );
    db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    careful.apply(&db.lane, &position, after(&position, 1), &batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_ours_that_are_gone_are_an_outage_until_a_probe_makes_them_again() {
    let db = Fixture::new().await;
    let position = db.take_over().await;
    let keyed = put("a", "1", "{}").with_idempotency_key("k").unwrap();
    let batch = items(&position, vec![keyed, create("b", "1", "{}")]);
    for lost in [
        "TABLE outlast_keys",
        "FUNCTION outlast_expect",
        "FUNCTION outlast_limits",
        "FUNCTION outlast_advance",
    ] {
        db.query(&format!("DROP {lost}"));
        let applied = db.database.apply(&db.lane, &position, after(&position, 1), &batch).await;
        assert!(matches!(applied, Err(ApplyError::Unavailable(_))), "{applied:?}");
        db.database.probe().await.unwrap();
    }
    db.query("DROP TABLE outlast_position");
    let applied = db.database.apply(&db.lane, &position, after(&position, 1), &batch).await;
    assert_eq!(applied, Err(ApplyError::Moved { actual: None }));
    assert_eq!(db.database.position(&db.lane).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weak_proof_is_given_only_when_asked_for() {
    let server = PostgresServer::start();
    server.query("postgres", "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'my-secret'");
    let access = |method| {
        server.set_access(&format!(
            "host all outlast 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 {method}\n"
        ));
    };
    let login = |parameters: &str| {
        let url = format!("postgres://old:my-secret@{}/postgres?{parameters}", server.authority());
        Postgres::from_url(&url, PostgresOptions { create_collections: false, ..PostgresOptions::default() })
            .unwrap()
    };
    for method in ["md5", "password"] {
        access(method);
        let Err(DatabaseError::Refused(text)) = login("").probe().await else {
            panic!("{method}: not refused")
        };
        assert!(text.contains(&format!("require_auth={method}")), "{text}");
        let Err(DatabaseError::Refused(text)) = login(&format!("require_auth={method}")).probe().await else {
            panic!("{method}: not refused")
        };
        assert!(text.contains("outlast_position"), "it was let in, and our tables are missing: {text}");
    }
    access("trust");
    let Err(DatabaseError::Refused(text)) = login("").probe().await else { panic!("not refused") };
    assert!(text.contains("outlast_position"), "{text}");
    access("reject");
    let Err(DatabaseError::Refused(text)) = login("").probe().await else { panic!("not refused") };
    assert!(text.contains("the server refused the user"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_too_large_is_told_before_it_is_accepted() {
    let db = Fixture::new().await;
    let large = |megabytes: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(megabytes << 20));
    assert!(db.database.check(&put("a", "1", &large(33))).unwrap_err().to_string().contains("bytes"));
    db.apply(vec![put("a", "1", "{}"), put("a", "2", &large(31))]).await.unwrap();
    // Ten fit into a write of their own each, but not into one transaction.
    let text = large(30);
    let refused = db.refused((0..10).map(|n| put("a", &n.to_string(), &text)).collect()).await;
    assert_eq!(refused.kind, RefusalKind::TooLarge, "{refused:?}");
}

#[test]
fn options_are_shown_without_the_password() {
    let options = PostgresOptions { password: Some("my-secret".to_owned()), ..PostgresOptions::default() };
    assert!(!format!("{options:?}").contains("my-secret"));
}

/// The server reads a batch before it looks at the position. What it finds wrong there counts only behind the position.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_already_when_it_is_read_is_refused_only_at_the_right_position() {
    let db = Fixture::new().await;
    let writer = role(&db, "reader_of_types");
    db.query(&format!(
        "CREATE SCHEMA hidden; CREATE DOMAIN hidden.amount AS integer;
         CREATE TABLE t (id text PRIMARY KEY, m integer, n hidden.amount);
         GRANT SELECT, INSERT, UPDATE, DELETE ON t, outlast_position, outlast_keys TO {writer}"
    ));
    let database = login(&db, &writer, "my-secret");
    let right = db.take_over().await;
    let batch = |at| items(at, vec![put("t", "1", r#"{"m":1}"#), create("t", "2", r#"{"n":1}"#)]);
    let refused = database.apply(&db.lane, &right, after(&right, 2), &batch(&right)).await;
    assert!(
        matches!(&refused, Err(ApplyError::Rejected { index: 1, reason, .. }) if reason.kind == RefusalKind::Permission),
        "{refused:?}"
    );
    let wrong = Position { generation: right.generation + 1, ..right.clone() };
    let moved = database.apply(&db.lane, &wrong, after(&wrong, 2), &batch(&wrong)).await;
    assert!(matches!(&moved, Err(ApplyError::Moved { actual: Some(at) }) if *at == right), "{moved:?}");
}
