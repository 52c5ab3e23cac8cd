//! A batch takes effect as a whole, in order, at the expected position, or not at all; and a refusal names its write.

mod common;

use common::{Fixture, after, collection, create, delete, items, patch, put, statement};
use outlast::database::{ApplyError, Database, LaneId, TakeOverError};
use outlast::{Operation, RefusalKind, Sequence, Write};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_all_operations_takes_effect_in_order() {
    let db = Fixture::new().await;
    let writes = vec![
        create("a", "1", r#"{"n":1}"#),
        create("a", "2", r#"{"n":2}"#),
        create("b", "1", r#"{"n":3}"#),
        patch("a", "1", r#"{"m":{"x":1}}"#),
        put("a", "2", r#"{"only":true}"#),
        delete("b", "1"),
        delete("nowhere", "1"),
        create("b", "1", r#"{"again":true}"#),
        statement("UPSERT counters:a SET n += $by, nothing = $nothing", r#"{"by":2,"nothing":null}"#),
        statement("UPSERT counters:a SET n += $by -- twice", r#"{"by":3}"#),
        patch("a", "1", r#"{"m":{"y":2},"n":null}"#),
    ];
    db.apply(writes).await.unwrap();
    assert_eq!(db.get("a", "1").await, Some(json!({"m": {"x": 1, "y": 2}})));
    assert_eq!(db.get("a", "2").await, Some(json!({"only": true})));
    assert_eq!(db.get("b", "1").await, Some(json!({"again": true})));
    assert_eq!(db.query("SELECT VALUE [n, nothing] FROM ONLY counters:a"), json!([5, null]));
    let position = db.database.position(&db.lane).await.unwrap().unwrap();
    assert_eq!(position.sequence.0.as_u64() - Sequence::START.as_u64(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_write_and_undoes_the_batch() {
    let db = Fixture::new().await;
    db.sql("DEFINE TABLE s SCHEMAFULL; DEFINE FIELD n ON s TYPE int; DEFINE FIELD small ON s TYPE option<int> ASSERT $value < 10; DEFINE INDEX n ON s FIELDS n UNIQUE");
    db.apply(vec![create("a", "there", "{}"), create("s", "1", r#"{"n":1}"#)]).await.unwrap();
    let good = |id: &str| create("a", id, "{}");
    for (bad, kind) in [
        (create("a", "there", "{}"), RefusalKind::Exists),
        (patch("a", "absent", "{}"), RefusalKind::NotFound),
        (patch("nowhere", "absent", "{}"), RefusalKind::NotFound),
        (create("s", "2", r#"{"n":"text"}"#), RefusalKind::Schema),
        (create("s", "2", r#"{"n":2,"unknown":1}"#), RefusalKind::Schema),
        (put("s", "2", r#"{"n":2,"small":10}"#), RefusalKind::Constraint),
        (put("s", "2", r#"{"n":1}"#), RefusalKind::Constraint),
        (statement("THROW 'no'", "{}"), RefusalKind::Statement),
        (statement("UPDATE a SET =", "{}"), RefusalKind::Statement),
        (statement("CREATE a SET n = type::int($x)", r#"{"x":"x"}"#), RefusalKind::Statement),
    ] {
        let (index, found, message) = db.refused(vec![bad.clone()]).await;
        assert_eq!((index, found), (0, kind), "alone: {bad:?}: {message}");
        for place in [0, 1, 4] {
            let mut batch: Vec<Write> = (0..5).map(|n| good(&format!("n{n}"))).collect();
            batch[place] = bad.clone();
            let (index, found, message) = db.refused(batch).await;
            assert_eq!((index, found), (place, kind), "{bad:?}: {message}");
            assert!(!message.contains("outlast_"), "{message}");
        }
    }
    assert_eq!(db.query("SELECT VALUE id FROM a"), json!(["a:there"]));
    assert_eq!(db.query("SELECT VALUE n FROM s"), json!([1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_several_refused_writes_is_named() {
    let db = Fixture::new().await;
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
    let batch = vec![
        create("b", "1", "{}"),
        statement("THROW 'first'", "{}"),
        create("a", "1", "{}"),
        patch("a", "2", "{}"),
    ];
    let (index, kind, _) = db.refused(batch.clone()).await;
    assert!(
        index == 1 && kind == RefusalKind::Statement || index == 2 && kind == RefusalKind::Exists,
        "{index} {kind:?}"
    );
    let (index, kind, _) = db.refused(batch[2..].to_vec()).await;
    assert_eq!((index, kind), (0, RefusalKind::Exists));
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_of_one_write_are_undone_together() {
    let db = Fixture::new().await;
    let record = |id: &str| outlast::RecordName { collection: collection("a"), id: id.parse().unwrap() };
    let write = Write::new(vec![
        Operation::Put { record: record("1"), data: common::data("{}") },
        Operation::Patch { record: record("absent"), data: common::data("{}") },
    ]);
    let (index, kind, _) = db.refused(vec![put("a", "0", "{}"), write.unwrap()]).await;
    assert_eq!((index, kind), (1, RefusalKind::NotFound));
    assert_eq!(db.get("a", "0").await, None);
    assert_eq!(db.get("a", "1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_of_a_strict_database_refuses_by_its_schema() {
    let db = Fixture::new().await;
    db.sql(&format!("REMOVE DATABASE {0}; DEFINE DATABASE {0} STRICT", db.name));
    db.database.probe().await.unwrap();
    db.sql("DEFINE TABLE a; DEFINE TABLE b");
    db.apply(vec![create("a", "1", "{}"), create("b", "1", "{}")]).await.unwrap();
    db.sql("REMOVE TABLE b");
    for bad in [create("b", "2", "{}"), put("b", "2", "{}")] {
        let (index, kind, message) = db.refused(vec![put("a", "2", "{}"), bad]).await;
        assert_eq!((index, kind), (1, RefusalKind::Schema), "{message}");
    }
    assert_eq!(db.get("a", "2").await, None);
    db.apply(vec![put("a", "2", "{}"), delete("b", "2")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_needs_the_expected_position() {
    let db = Fixture::new().await;
    let first = db.take_over().await;
    let second = db.database.take_over(&db.lane, Some(&first), "other").await.unwrap();
    assert_eq!((second.generation, second.sequence), (first.generation + 1, first.sequence));
    let late = db
        .database
        .apply(&db.lane, &first, after(&first, 1), &items(&first, vec![create("a", "1", "{}")]))
        .await;
    assert_eq!(late, Err(ApplyError::Moved { actual: Some(second.clone()) }));
    let late = db.database.take_over(&db.lane, Some(&first), "late").await;
    assert_eq!(late, Err(TakeOverError::Moved { actual: Some(second.clone()) }));
    let late = db.database.take_over(&db.lane, None, "late").await;
    assert_eq!(late, Err(TakeOverError::Moved { actual: Some(second.clone()) }));
    let nobody = LaneId::new("queue", 7);
    let absent = db.database.apply(&nobody, &first, after(&first, 1), &[]).await;
    assert_eq!(absent, Err(ApplyError::Moved { actual: None }));
    let absent = db.database.take_over(&nobody, Some(&first), "late").await;
    assert_eq!(absent, Err(TakeOverError::Moved { actual: None }));
    assert_eq!(db.get("a", "1").await, None);
    db.database.apply(&db.lane, &second, after(&second, 3), &[]).await.unwrap();
    assert_eq!(db.database.position(&db.lane).await.unwrap().unwrap().sequence.0, after(&first, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_a_position_and_fences_the_old_one() {
    let db = Fixture::new().await;
    let first = db.take_over().await;
    let set =
        db.database.reset_position(&db.lane, Some(&first), after(&first, 70), "operator").await.unwrap();
    assert_eq!((set.sequence.0, set.generation), (after(&first, 70), first.generation + 1));
    assert_eq!(db.database.position(&db.lane).await.unwrap(), Some(set.clone()));
    let again = db.database.reset_position(&db.lane, Some(&first), after(&first, 1), "operator").await;
    assert_eq!(again, Err(TakeOverError::Moved { actual: Some(set) }));
    let fresh = LaneId::new("queue", 9);
    let set = db.database.reset_position(&fresh, None, after(&first, 5), "operator").await.unwrap();
    assert_eq!(db.database.position(&fresh).await.unwrap(), Some(set));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_idempotency_key_keeps_a_write_from_happening_again() {
    let db = Fixture::new().await;
    let keyed = |by: u64, key: &str| {
        statement("UPSERT counters:a SET n += $by", &format!("{{\"by\":{by}}}"))
            .with_idempotency_key(key)
            .unwrap()
    };
    db.apply(vec![create("a", "1", "{}"), keyed(1, "k 1")]).await.unwrap();
    let (id, fingerprint) = db.database.find_key("k 1").await.unwrap().unwrap();
    assert_eq!(fingerprint, keyed(1, "k 1").key().unwrap().fingerprint);
    let applied = db
        .apply(vec![keyed(1, "k 1"), create("a", "2", "{}"), keyed(5, "k 2"), keyed(5, "k 2")])
        .await
        .unwrap();
    let other = db.database.find_key("k 2").await.unwrap().unwrap().0;
    assert_eq!(applied.duplicates, [(0, id), (3, other)]);
    assert_eq!(db.query("SELECT VALUE n FROM ONLY counters:a"), json!(6));
    assert_eq!(db.get("a", "2").await, Some(json!({})));
    let (index, kind, _) = db.refused(vec![create("a", "3", "{}"), keyed(2, "k 1")]).await;
    assert_eq!((index, kind), (1, RefusalKind::KeyReused));
    assert_eq!(db.get("a", "3").await, None);
    assert_eq!(db.database.prune_keys(std::time::Duration::from_hours(1)).await.unwrap(), 0);
    assert_eq!(db.database.prune_keys(std::time::Duration::ZERO).await.unwrap(), 2);
    assert_eq!(db.database.find_key("k 1").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_cannot_end_the_batch_early() {
    let db = Fixture::new().await;
    for returns in ["IF true { RETURN 1 } ELSE { RETURN 2 }", "RETURN 5"] {
        let error = db.database.check(&statement(returns, "{}")).unwrap_err().to_string();
        assert!(error.contains("must not RETURN"), "{error}");
    }
    // What one statement names does not reach the next.
    db.apply(vec![
        statement("LET $x = 1", "{}"),
        statement("CREATE leak:1 SET x = $x, y = $y", r#"{"y":null}"#),
    ])
    .await
    .unwrap();
    assert_eq!(db.get("leak", "1").await, None);
    assert_eq!(db.query("SELECT VALUE [x, y] FROM ONLY leak:1"), json!([null, null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_is_applied_and_its_one_bad_write_is_found() {
    let db = Fixture::new().await;
    let many: Vec<Write> =
        (0..2000).map(|n| create("many", &format!("{n:05}"), &format!("{{\"n\":{n}}}"))).collect();
    db.apply(many).await.unwrap();
    assert_eq!(db.query("RETURN count(SELECT * FROM many)"), json!(2000));
    let mut puts: Vec<Write> =
        (0..500).map(|n| put("many", &format!("{n:05}"), r#"{"again":true}"#)).collect();
    puts[377] = statement("CREATE many:x SET n = type::int('x')", "{}");
    let (index, kind, _) = db.refused(puts).await;
    assert_eq!((index, kind), (377, RefusalKind::Statement));
}
