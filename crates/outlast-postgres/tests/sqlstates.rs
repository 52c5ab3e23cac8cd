//! What each SQLSTATE becomes: raised by the real server, in a statement and at the commit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use common::{Fixture, create, put, statement};
use outlast::RefusalKind;
use outlast::database::{ApplyError, Database};

/// The words of an answer that a drainer acts on.
fn word(error: &ApplyError) -> String {
    match error {
        ApplyError::Unavailable(_) => "unavailable".to_owned(),
        ApplyError::Conflict(_) => "conflict".to_owned(),
        ApplyError::Unknown(_) => "unknown".to_owned(),
        ApplyError::Moved { .. } => "moved".to_owned(),
        ApplyError::Rejected { index, reason, retryable } => {
            format!("{index} {}{}", reason.kind.as_str(), if *retryable { " retryable" } else { "" })
        }
    }
}

async fn with_raiser() -> Fixture {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE late (id text PRIMARY KEY, code text); \
         CREATE FUNCTION raise_it(code text) RETURNS void LANGUAGE plpgsql AS \
         'BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = ''raised '' || code; END'; \
         CREATE FUNCTION raise_late() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM raise_it(NEW.code); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise_late()",
    );
    db.apply(vec![put("a", "0", "{}")]).await.unwrap();
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_statement() {
    let db = with_raiser().await;
    for (code, expected) in [
        ("53100", "unavailable"),
        ("53200", "unavailable"),
        ("53300", "unavailable"),
        ("57P01", "unavailable"),
        ("57P03", "unavailable"),
        ("58030", "unavailable"),
        ("25006", "unavailable"),
        ("28000", "unavailable"),
        ("40001", "conflict"),
        ("40P01", "conflict"),
        ("55P03", "conflict"),
        ("26000", "conflict"),
        ("42P05", "conflict"),
        ("25P02", "conflict"),
        ("08006", "unknown"),
        ("40003", "unknown"),
        ("23503", "1 constraint retryable"),
        ("23505", "1 constraint"),
        ("23514", "1 constraint"),
        ("42501", "1 permission"),
        ("42P01", "1 statement retryable"),
        ("42601", "1 statement"),
        ("22P02", "1 statement"),
        ("21000", "1 statement"),
        ("0A000", "1 statement"),
        ("P0001", "1 statement"),
        ("54000", "1 too_large"),
        ("57014", "1 statement"),
        ("XX000", "1 statement retryable"),
    ] {
        let parameters = format!("{{\"code\":\"{code}\"}}");
        let batch = vec![
            create("a", "1", "{}"),
            statement("SELECT raise_it(:code)", &parameters),
            put("a", "2", "{}"),
        ];
        let before = db.database.position(&db.lane).await.unwrap();
        let error = db.apply(batch).await.unwrap_err();
        assert_eq!(word(&error), expected, "{code}: {error}");
        assert!(error.to_string().contains("raised"), "{error}");
        assert_eq!(db.database.position(&db.lane).await.unwrap(), before, "{code}");
        assert_eq!(db.get("a", "1").await, None, "{code}");
    }
    // The connections are fit for more.
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_commit() {
    let db = with_raiser().await;
    for (code, expected) in [
        ("53100", "unavailable"),
        ("40001", "conflict"),
        ("40003", "unknown"),
        ("08006", "unknown"),
        // Not every relative of PostgreSQL rolls back what fails in this way.
        ("XX000", "unknown"),
        ("23503", "1 constraint retryable"),
        ("23514", "1 constraint"),
        ("P0001", "1 constraint"),
    ] {
        let late = put("late", code, &format!("{{\"code\":\"{code}\"}}"));
        let before = db.database.position(&db.lane).await.unwrap();
        let error = db.apply(vec![create("a", "1", "{}"), late, put("a", "2", "{}")]).await.unwrap_err();
        assert_eq!(word(&error), expected, "{code}: {error}");
        assert_eq!(db.database.position(&db.lane).await.unwrap(), before, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_the_session_cannot_grow_stale() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE t (id text PRIMARY KEY, n integer)");
    let write = |n: u32| vec![put("t", "1", &format!("{{\"n\":{n}}}")), statement("SELECT * FROM t", "{}")];
    // The same statements on the same connection, more often than a session needs to keep their plans.
    for n in 0..10 {
        db.apply(write(n)).await.unwrap();
        db.get("t", "1").await.unwrap();
    }
    db.query("ALTER TABLE t ALTER COLUMN n TYPE bigint, ADD COLUMN more text DEFAULT 'x'");
    db.apply(write(10)).await.unwrap();
    assert_eq!(db.get("t", "1").await.unwrap(), serde_json::json!({ "n": 10, "more": "x" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_is_on_disk_and_floats_are_whole_whatever_the_database_is_set_to() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE floats (id text PRIMARY KEY, n float)");
    for (set, expected) in [("off", "on"), ("local", "local"), ("on", "on")] {
        db.query(&format!("ALTER DATABASE {} SET synchronous_commit = {set}", db.name));
        db.query(&format!("ALTER DATABASE {} SET extra_float_digits = 0", db.name));
        db.database.close().await;
        let text = "CREATE TABLE IF NOT EXISTS told (value text)";
        let note = "INSERT INTO told SELECT current_setting('synchronous_commit')";
        db.apply(vec![statement(text, "{}"), statement("DELETE FROM told", "{}"), statement(note, "{}")])
            .await
            .unwrap();
        assert_eq!(db.query("SELECT value FROM told"), expected);
        db.apply(vec![put("floats", "1", r#"{"n":0.30000000000000004}"#)]).await.unwrap();
        assert_eq!(db.get("floats", "1").await.unwrap()["n"].to_string(), "0.30000000000000004");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_is_named_with_its_kind() {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE t (id text PRIMARY KEY, n integer UNIQUE, m integer CHECK (m > 0), EXCLUDE (m WITH =))",
    );
    db.apply(vec![create("t", "1", r#"{"n":1,"m":1}"#)]).await.unwrap();
    for (bad, kind) in [
        (create("t", "1", r#"{"n":2}"#), RefusalKind::Exists),
        (create("t", "2", r#"{"n":1}"#), RefusalKind::Constraint),
        (create("t", "2", r#"{"m":1}"#), RefusalKind::Constraint),
        (create("t", "2", r#"{"m":-1}"#), RefusalKind::Constraint),
        (create("t", "2", r#"{"n":"x"}"#), RefusalKind::Schema),
    ] {
        let refused = db.refused(vec![put("t", "3", "{}"), bad, put("t", "4", "{}")]).await;
        assert_eq!((refused.index, refused.kind), (1, kind), "{refused:?}");
    }
}
