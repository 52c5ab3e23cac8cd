//! Statements that the server keeps for a session: read once, never in the way, and not relied upon.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use common::{Fixture, create, delete, patch, put, statement};
use outlast::database::ApplyError;
use serde_json::json;

/// What the session that serves a batch has prepared, told by that batch.
const LOOK: &str = "INSERT INTO seen (number, statement) \
     SELECT CAST(substr(name, 9) AS bigint), statement FROM pg_prepared_statements WHERE name LIKE 'outlast%'";

async fn fixture() -> Fixture {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE seen (number bigint, statement text); CREATE TABLE t (id text PRIMARY KEY, n integer)",
    );
    db
}

/// Applies a batch, and tells what its session had prepared then.
async fn seen(db: &Fixture) -> Vec<String> {
    db.query("TRUNCATE seen");
    db.apply(vec![statement(LOOK, "{}")]).await.unwrap();
    let all = db.query("SELECT string_agg(statement, chr(10) ORDER BY number) FROM seen");
    all.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_is_read_once_whatever_the_number_of_rows() {
    let db = fixture().await;
    for round in 0..5 {
        let creates = (0..=round).map(|row| create("t", &format!("{round}-{row}"), "{\"n\":1}"));
        db.apply(creates.collect()).await.unwrap();
    }
    let statements = seen(&db).await;
    assert_eq!(statements.len(), 3, "limits, position, creates: {statements:?}");
    // All five batches of creates ran the same one.
    db.query("TRUNCATE seen");
    let plans = "INSERT INTO seen (number, statement) SELECT generic_plans + custom_plans, statement FROM pg_prepared_statements";
    db.apply(vec![statement(plans, "{}")]).await.unwrap();
    assert_eq!(db.query("SELECT number FROM seen WHERE statement LIKE '%INSERT%'"), "5");
    // Alike ones in one batch are one statement, too.
    db.apply(vec![patch("t", "0-0", "{\"n\":2}"), put("t", "x", "{}"), patch("t", "1-0", "{\"n\":2}")])
        .await
        .unwrap();
    assert_eq!(seen(&db).await.len(), 5);
    assert_eq!(db.query("SELECT count(*) FROM t WHERE n = 2"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_made_anew_after_a_while_and_the_former_ones_are_forgotten() {
    let db = fixture().await;
    db.apply(vec![create("t", "first", "{}")]).await.unwrap();
    seen(&db).await;
    let newest: u64 = db.query("SELECT max(number) FROM seen").parse().unwrap();
    for round in 0..300 {
        db.apply(vec![create("t", &round.to_string(), "{}")]).await.unwrap();
    }
    let statements = seen(&db).await;
    assert_eq!(statements.len(), 3, "{statements:?}");
    let oldest: u64 = db.query("SELECT min(number) FROM seen").parse().unwrap();
    assert!(oldest > newest, "all of them were read again: {newest}, {oldest}");
    // Many kinds of operations do not pile up.
    for table in 0..150 {
        db.apply(vec![create(&format!("c{table}"), "x", "{}"), put(&format!("c{table}"), "y", "{}")])
            .await
            .unwrap();
    }
    let statements = seen(&db).await;
    assert!((3..=130).contains(&statements.len()), "{}", statements.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_change_under_them() {
    let db = fixture().await;
    let round = async |id: &str, value: &str| {
        let writes = vec![
            create("t", id, &format!("{{\"n\":{value}}}")),
            patch("t", id, &format!("{{\"n\":{value}}}")),
            put("t", "same", &format!("{{\"n\":{value}}}")),
            delete("t", "nobody"),
        ];
        db.apply(writes).await.unwrap();
    };
    for id in 0..7 {
        round(&format!("a{id}"), "1").await;
    }
    db.query("ALTER TABLE t ALTER COLUMN n TYPE text, ADD COLUMN more text DEFAULT 'x'");
    round("b", "\"text\"").await;
    db.query("DROP TABLE t; CREATE TABLE t (n jsonb, id text PRIMARY KEY)");
    round("c", "{\"deep\":[1]}").await;
    assert_eq!(db.get("t", "c").await, Some(json!({ "n": { "deep": [1] } })));
    assert_eq!(db.query("SELECT count(*) FROM t"), "2");
    // Refused as ever, with its index, and the rest passes.
    let refused = db.refused(vec![create("t", "d", "{}"), create("t", "c", "{}")]).await;
    assert_eq!((refused.index, refused.kind), (1, outlast::RefusalKind::Exists));
    round("d", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_lost_them_is_given_up_and_nothing_takes_effect_twice() {
    let db = fixture().await;
    db.query(
        "CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
    );
    db.apply(vec![create("t", "a", "{}")]).await.unwrap();
    db.apply(vec![statement("SELECT forget()", "{}")]).await.unwrap();
    let lost = db.apply(vec![create("t", "b", "{}")]).await;
    assert!(
        matches!(&lost, Err(ApplyError::Conflict(reason)) if reason.contains("prepared statement")),
        "{lost:?}"
    );
    assert_eq!(db.query("SELECT count(*) FROM t"), "1");
    db.apply(vec![create("t", "b", "{}")]).await.unwrap();
    assert_eq!(db.query("SELECT count(*) FROM t"), "2");
}
