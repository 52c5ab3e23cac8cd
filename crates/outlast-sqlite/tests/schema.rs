//! What users may do with their tables, and how refusals of their indexes, checks, references and triggers are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod common;

use common::{World, create, delete, patch, put, statement};
use outlast::RefusalKind;
use outlast::database::{Database, DatabaseError, ListQuery};
use outlast_sqlite::SqliteOptions;
use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

#[tokio::test]
async fn a_unique_index_over_a_member_refuses_with_its_index_in_the_batch() {
    let mut world = World::new().await;
    world.apply(&[create("users", "1", r#"{"email":"a@b"}"#)]).await;
    world.sql("CREATE UNIQUE INDEX email ON users (json_extract(data, '$.email'))");
    for bad in [create("users", "2", r#"{"email":"a@b"}"#), put("users", "2", r#"{"email":"a@b"}"#)] {
        let reason = world.refused_as(&[put("users", "3", "{}"), bad], 1, RefusalKind::Constraint).await;
        assert!(reason.message.contains("UNIQUE"), "{reason}");
    }
    world
        .refused_as(
            &[create("users", "2", "{}"), patch("users", "2", r#"{"email":"a@b"}"#)],
            1,
            RefusalKind::Constraint,
        )
        .await;
    // The record exists, and its e-mail is taken: that it exists says more.
    world.refused_as(&[create("users", "1", r#"{"email":"a@b"}"#)], 0, RefusalKind::Exists).await;
    assert_eq!(world.text("users", "3").await, None);
    // The index serves lists, too.
    let query = ListQuery {
        collection: "users".parse().unwrap(),
        filters: vec![("email".into(), Value::from("a@b"))],
        limit: 5,
        after: None,
    };
    assert_eq!(world.database.list(&query).await.unwrap().len(), 1);
}

#[tokio::test]
async fn checks_and_triggers_refuse_with_their_own_words() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE adults (id TEXT PRIMARY KEY, data TEXT NOT NULL CHECK (json_extract(data, '$.age') >= 18), seen INTEGER DEFAULT 7);
         CREATE TABLE guarded (id TEXT PRIMARY KEY, data TEXT NOT NULL);
         CREATE TRIGGER no_bobs BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Bob'
             BEGIN SELECT raise(ABORT, 'no Bobs, please'); END;
         CREATE TRIGGER harsh BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Eve'
             BEGIN SELECT raise(ROLLBACK, 'all is off'); END;
         CREATE TRIGGER sly BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Sly'
             BEGIN SELECT raise(IGNORE); END;",
    );
    world.refused_as(&[put("adults", "1", r#"{"age":17}"#)], 0, RefusalKind::Constraint).await;
    world.apply(&[put("adults", "1", r#"{"age":18}"#), create("guarded", "a", r#"{"name":"Ann"}"#)]).await;
    for name in ["Bob", "Eve", "Sly"] {
        let bad = create("guarded", "b", &format!(r#"{{"name":"{name}"}}"#));
        let reason =
            world.refused_as(&[put("adults", "2", r#"{"age":20}"#), bad], 1, RefusalKind::Constraint).await;
        assert_eq!(world.text("adults", "2").await, None, "{reason}");
    }
    let reason =
        world.refused_as(&[create("guarded", "b", r#"{"name":"Bob"}"#)], 0, RefusalKind::Constraint).await;
    assert_eq!(reason.message, "no Bobs, please");
    // The connection is as good as before.
    world.apply(&[create("guarded", "c", "{}")]).await;
}

/// Rows of one kind share statements; which one is refused is told all the same.
#[tokio::test]
async fn a_row_among_many_of_its_kind_is_refused_by_itself() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE guarded (id TEXT PRIMARY KEY, data TEXT NOT NULL CHECK (json_extract(data, '$.name') <> 'Max'));
         CREATE UNIQUE INDEX names ON guarded (json_extract(data, '$.name'));
         CREATE TRIGGER no_bobs BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Bob'
             BEGIN SELECT raise(ABORT, 'no Bobs, please'); END;
         CREATE TRIGGER harsh BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Eve'
             BEGIN SELECT raise(ROLLBACK, 'all is off'); END;
         CREATE TRIGGER sly BEFORE INSERT ON guarded WHEN json_extract(new.data, '$.name') = 'Sly'
             BEGIN SELECT raise(IGNORE); END;",
    );
    world.apply(&[create("guarded", "there", r#"{"name":"Ann"}"#)]).await;
    let good = |n: usize| create("guarded", &format!("g{n}"), &format!(r#"{{"name":"{n}"}}"#));
    let bad = [
        (create("guarded", "there", r#"{"name":"x"}"#), RefusalKind::Exists),
        (create("guarded", "b", r#"{"name":"Ann"}"#), RefusalKind::Constraint),
        (create("guarded", "b", r#"{"name":"Max"}"#), RefusalKind::Constraint),
        (create("guarded", "b", r#"{"name":"Bob"}"#), RefusalKind::Constraint),
        (create("guarded", "b", r#"{"name":"Eve"}"#), RefusalKind::Constraint),
        (create("guarded", "b", r#"{"name":"Sly"}"#), RefusalKind::Constraint),
        (put("guarded", "there", r#"{"name":"Sly"}"#), RefusalKind::Constraint),
    ];
    for (bad, kind) in &bad {
        for place in 0..20 {
            let mut batch: Vec<_> = (0..20).map(good).collect();
            batch[place] = bad.clone();
            world.refused_as(&batch, place, *kind).await;
            assert_eq!(world.text("guarded", "g7").await, None);
        }
    }
    // One record several times among them: in order.
    let mut batch: Vec<_> =
        (0..20).map(|n| put("guarded", &n.to_string(), &format!("{{\"name\":\"{n}\"}}"))).collect();
    batch.insert(5, put("guarded", "3", r#"{"name":"three"}"#));
    batch.insert(6, put("guarded", "3", r#"{"name":"third"}"#));
    world.apply(&batch).await;
    assert_eq!(world.text("guarded", "3").await.as_deref(), Some(r#"{"name":"third"}"#));
    assert_eq!(world.text("guarded", "19").await.as_deref(), Some(r#"{"name":"19"}"#));
    assert_eq!(world.text("guarded", "there").await.as_deref(), Some(r#"{"name":"Ann"}"#));
}

/// Rows that refer to each other pass together and not one by one, and another reference is checked at the commit: somebody is
/// blamed all the same, and the queue goes on.
#[tokio::test]
async fn references_within_one_statement_do_not_hide_one_that_is_broken_at_the_commit() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE offices (id TEXT PRIMARY KEY, data TEXT NOT NULL);
         CREATE TABLE staff (id TEXT PRIMARY KEY, data TEXT NOT NULL,
             boss AS (json_extract(data, '$.boss')) STORED REFERENCES staff,
             office AS (json_extract(data, '$.office')) STORED REFERENCES offices DEFERRABLE INITIALLY DEFERRED)",
    );
    let mut batch: Vec<_> = (0..8).map(|n| create("staff", &n.to_string(), "{}")).collect();
    batch[0] = create("staff", "0", r#"{"boss":"1"}"#);
    batch[5] = create("staff", "5", r#"{"office":"nowhere"}"#);
    world.refused_as(&batch, 0, RefusalKind::Constraint).await;
    batch.remove(0);
    world.refused_as(&batch, 4, RefusalKind::Constraint).await;
    batch.remove(4);
    world.apply(&batch).await;
}

#[tokio::test]
async fn a_broken_reference_is_retryable_and_passes_once_the_record_is_there() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE parents (id TEXT PRIMARY KEY, data TEXT NOT NULL);
         CREATE TABLE children (id TEXT PRIMARY KEY, data TEXT NOT NULL,
             parent TEXT AS (json_extract(data, '$.parent')) STORED REFERENCES parents (id));",
    );
    let child = create("children", "c", r#"{"parent":"p"}"#);
    let (index, reason, retryable) = world.refused(&[create("parents", "x", "{}"), child.clone()]).await;
    assert_eq!((index, reason.kind, retryable), (1, RefusalKind::Constraint, true));
    world.apply(&[create("parents", "p", "{}"), child]).await;
    let (index, _, retryable) = world.refused(&[delete("parents", "p")]).await;
    assert_eq!((index, retryable), (0, true));
}

#[tokio::test]
async fn a_reference_checked_at_the_commit_is_told_with_the_write_that_broke_it() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE parents (id TEXT PRIMARY KEY, data TEXT NOT NULL);
         CREATE TABLE children (id TEXT PRIMARY KEY, data TEXT NOT NULL,
             parent TEXT AS (json_extract(data, '$.parent')) STORED REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);",
    );
    let orphan = create("children", "orphan", r#"{"parent":"nobody"}"#).with_idempotency_key("k").unwrap();
    for at in [0, 1, 17, 39] {
        let mut batch: Vec<_> = (0..39).map(|n| create("parents", &format!("{n}"), "{}")).collect();
        batch.insert(at, orphan.clone());
        let (index, reason, retryable) = world.refused(&batch).await;
        assert_eq!((index, reason.kind, retryable), (at, RefusalKind::Constraint, true), "{reason}");
        assert_eq!(world.text("parents", "3").await, None);
        assert_eq!(world.text("children", "orphan").await, None);
    }
    world.refused(std::slice::from_ref(&orphan)).await;
    assert_eq!(world.database.find_key("k").await.unwrap(), None);
    // The order within a batch does not matter to such a reference.
    world.apply(&[create("children", "c", r#"{"parent":"p"}"#), create("parents", "p", "{}")]).await;
    // Two orphans: one after the other is found, and the rest passes.
    let mut batch: Vec<_> = (0..20).map(|n| create("parents", &format!("{n}"), "{}")).collect();
    batch.insert(4, orphan);
    batch.insert(9, create("children", "second", r#"{"parent":"nobody"}"#));
    let mut found = Vec::new();
    for _ in 0..2 {
        let (index, _, _) = world.refused(&batch).await;
        found.push(batch.remove(index).records().next().unwrap().id.to_string());
    }
    found.sort();
    assert_eq!(found, ["orphan", "second"]);
    world.apply(&batch).await;
}

#[tokio::test]
async fn without_the_right_to_make_tables_a_missing_one_is_a_refusal() {
    let mut world =
        World::with(SqliteOptions { create_collections: false, ..SqliteOptions::default() }).await;
    for write in [create("a", "1", "{}"), put("a", "1", "{}"), patch("a", "1", "{}"), delete("a", "1")] {
        world.refused_as(&[write], 0, RefusalKind::Schema).await;
    }
    assert_eq!(world.text("a", "1").await, None);
    world.sql("CREATE TABLE a (id TEXT PRIMARY KEY, data TEXT NOT NULL)");
    world.apply(&[create("a", "1", "{}"), patch("a", "1", r#"{"n":1}"#)]).await;
    assert_eq!(world.text("a", "1").await.as_deref(), Some(r#"{"n":1}"#));
}

#[tokio::test]
async fn a_table_that_cannot_hold_records_is_refused_in_words_and_left_alone() {
    let mut world = World::new().await;
    world.sql(
        "CREATE TABLE people (number INTEGER PRIMARY KEY, name TEXT); INSERT INTO people VALUES (1, 'Ann');
         CREATE TABLE numbered (id INTEGER PRIMARY KEY, data TEXT);
         CREATE VIEW seen AS SELECT 'x' AS id, '{}' AS data;",
    );
    for name in ["people", "numbered", "seen"] {
        for write in
            [create(name, "1", "{}"), put(name, "1", "{}"), patch(name, "1", "{}"), delete(name, "1")]
        {
            let reason = world.refused_as(&[write], 0, RefusalKind::Schema).await;
            assert!(reason.message.contains(name), "{reason}");
        }
        let read = world.database.get(&name.parse().unwrap(), &"1".parse().unwrap()).await;
        assert!(matches!(read, Err(DatabaseError::Refused(_))), "{read:?}");
    }
    let kept: String = world.other().query_row("SELECT name FROM people", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, "Ann");
}

#[tokio::test]
async fn tables_that_others_drop_or_change_are_looked_at_again() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    assert!(world.text("a", "1").await.is_some());
    world.sql("DROP TABLE a");
    assert_eq!(world.text("a", "1").await, None);
    world.apply(&[create("a", "1", "{}")]).await;
    world.sql("DROP TABLE a; CREATE TABLE a (id INTEGER PRIMARY KEY, data TEXT)");
    world.refused_as(&[create("a", "2", "{}")], 0, RefusalKind::Schema).await;
    world.sql("DROP TABLE a");
    // A table made in a batch that is refused is gone again, and the next batch makes it anew.
    world.refused_as(&[create("a", "1", "{}"), patch("a", "absent", "{}")], 1, RefusalKind::NotFound).await;
    world.apply(&[create("b", "1", "{}"), create("a", "1", "{}")]).await;
    assert!(world.text("a", "1").await.is_some());
    // That one of Outlast's own tables is gone is nothing that a write is to blame for.
    world.sql("DROP TABLE outlast_keys");
    let keyed = create("a", "2", "{}").with_idempotency_key("k").unwrap();
    let result = world.try_apply(std::slice::from_ref(&keyed)).await;
    assert!(matches!(result, Err(outlast::database::ApplyError::Unavailable(_))), "{result:?}");
    world.apply(&[keyed]).await;
    // Outlast's own tables come back with the next probe.
    world.sql("DROP TABLE outlast_keys; DROP TABLE outlast_probe");
    world.database.probe().await.unwrap();
    assert_eq!(world.database.find_key("k").await.unwrap(), None);
    world.sql("DROP TABLE outlast_position");
    let result = world.try_apply(&[]).await;
    assert!(matches!(result, Err(outlast::database::ApplyError::Unavailable(_))), "{result:?}");
    assert_eq!(world.stored().await, None, "as if the database were another one: not for us to repair");
}

#[tokio::test]
async fn rows_of_others_that_are_no_records_do_no_harm() {
    let mut world = World::new().await;
    world.apply(&[create("a", "b", "{}")]).await;
    world.sql("DROP TABLE a; CREATE TABLE a (id TEXT PRIMARY KEY, data)");
    world.apply(&[create("a", "b", "{\"n\":1}")]).await;
    world.sql(
        "INSERT INTO a VALUES ('', '{}'), (NULL, '{}'), (x'00ff', '{}'), ('a' || char(7), '{}'), ('spaced', ' { \"x\" : 1 } ')",
    );
    let query = ListQuery { collection: "a".parse().unwrap(), filters: Vec::new(), limit: 50, after: None };
    let ids: Vec<String> =
        world.database.list(&query).await.unwrap().iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(ids, ["b", "spaced"]);
    assert_eq!(world.text("a", "spaced").await.as_deref(), Some("{\"x\":1}"));
    world.sql("INSERT INTO a VALUES ('broken', '[1]')");
    let read = world.database.get(&"a".parse().unwrap(), &"broken".parse().unwrap()).await;
    assert!(matches!(&read, Err(DatabaseError::Refused(why)) if why.contains("broken")), "{read:?}");
    world.refused_as(&[patch("a", "broken", "{}")], 0, RefusalKind::Schema).await;
}

#[tokio::test]
async fn names_that_sqlite_reserves_are_refused_at_the_door() {
    let world = World::new().await;
    for name in ["sqlite_schema", "SQLITE_x", "sqlite_"] {
        assert!(world.database.check(&create(name, "1", "{}")).is_err(), "{name}");
        assert_eq!(world.text(name, "1").await, None);
    }
    assert!(world.database.check(&create("sqlite", "1", "{}")).is_ok());
}

#[tokio::test]
async fn a_statement_reaches_records_and_nothing_else() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", r#"{"n":1}"#)]).await;
    world.sql("CREATE VIEW spy AS SELECT * FROM outlast_keys");
    for (text, kind) in [
        ("BEGIN", RefusalKind::Permission),
        ("COMMIT", RefusalKind::Permission),
        ("ROLLBACK", RefusalKind::Permission),
        ("SAVEPOINT s", RefusalKind::Permission),
        ("ATTACH 'x.db' AS x", RefusalKind::Permission),
        ("PRAGMA foreign_keys = OFF", RefusalKind::Permission),
        ("PRAGMA writable_schema = ON", RefusalKind::Permission),
        ("SELECT * FROM pragma_table_info('a')", RefusalKind::Permission),
        ("DELETE FROM outlast_position", RefusalKind::Permission),
        ("DELETE FROM main.\"OUTLAST_position\"", RefusalKind::Permission),
        ("DELETE FROM a WHERE id IN (SELECT key FROM outlast_keys)", RefusalKind::Permission),
        ("INSERT INTO a SELECT key, '{}' FROM spy", RefusalKind::Permission),
        ("DROP TABLE outlast_keys", RefusalKind::Permission),
        ("ALTER TABLE outlast_keys RENAME TO stolen", RefusalKind::Permission),
        ("CREATE INDEX i ON outlast_keys (fingerprint)", RefusalKind::Permission),
        ("CREATE TABLE outlast_mine (x)", RefusalKind::Permission),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM outlast_position; END",
            RefusalKind::Permission,
        ),
        ("CREATE TEMP TABLE a (id, data)", RefusalKind::Permission),
        ("CREATE VIRTUAL TABLE v USING fts5(x)", RefusalKind::Permission),
        ("VACUUM", RefusalKind::Statement),
        ("DELETE FROM a; DELETE FROM a", RefusalKind::Statement),
        ("DELETE FROM nowhere", RefusalKind::Statement),
        ("DELETE FROM a WHERE id = :nobody_gave_this", RefusalKind::Statement),
        ("DELETE FROM a WHERE id = ?", RefusalKind::Statement),
        ("DELETE FROM a WHERE id = ?1", RefusalKind::Statement),
        ("SELECT json_extract('not json', '$')", RefusalKind::Statement),
        ("-- nothing", RefusalKind::Statement),
        ("INSERT INTO a (id, data) VALUES ('1', '{}')", RefusalKind::Constraint),
        ("INSERT OR ROLLBACK INTO a (id, data) VALUES ('1', '{}')", RefusalKind::Constraint),
    ] {
        let reason = world.refused_as(&[put("a", "2", "{}"), statement(text, json!({}))], 1, kind).await;
        assert!(!reason.message.is_empty());
        assert_eq!(world.text("a", "2").await, None, "{text}");
        assert!(world.text("a", "1").await.is_some(), "{text}");
    }
    for text in [
        "UPDATE a SET data = json_set(data, '$.n', 5) WHERE id = '1' RETURNING data -- and a comment",
        "WITH x AS (SELECT id FROM a) UPDATE a SET data = data WHERE id IN x;",
        "SELECT 1",
        "CREATE INDEX n ON a (json_extract(data, '$.n'))",
        "CREATE TABLE b (id TEXT PRIMARY KEY, data TEXT)",
        "ALTER TABLE b ADD COLUMN more TEXT",
        "DROP TABLE b",
    ] {
        world.apply(&[statement(text, json!({})), put("c", "1", "{}")]).await;
    }
    assert_eq!(world.text("a", "1").await.as_deref(), Some(r#"{"n":5}"#));
    // A statement of ours with the same text was prepared with our rights; that of a caller never gets them.
    world.apply(&[put("a", "3", "{}").with_idempotency_key("k").unwrap()]).await;
    world.database.find_key("k").await.unwrap();
    let ours = "SELECT sequence, generation, owner FROM outlast_position WHERE lane = ?1";
    world.refused_as(&[statement(ours, json!({}))], 0, RefusalKind::Permission).await;
}

#[tokio::test]
async fn parameters_keep_their_type_and_value() {
    let mut world = World::new().await;
    world.sql("CREATE TABLE t (name TEXT, v ANY) STRICT");
    let given = json!({
        "null": null, "yes": true, "no": false, "small": 7, "least": i64::MIN, "most": i64::MAX, "float": 0.1, "whole": 2.0, "tiny": 5e-324,
        "text": "7", "nul": "a\u{0}b", "list": [1, "x"], "object": {"a": null}
    });
    for name in given.as_object().unwrap().keys() {
        let text = format!("INSERT INTO t VALUES ('{name}', ${name})");
        world.apply(&[statement(&text, given.clone())]).await;
    }
    let connection = world.other();
    let mut select = connection.prepare("SELECT typeof(v), CASE typeof(v) WHEN 'text' THEN json_quote(v) ELSE v END FROM t WHERE name = ?1").unwrap();
    let mut of = |name: &str| -> (String, Sql) {
        select.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    for (name, kind, value) in [
        ("null", "null", Sql::Null),
        ("yes", "integer", Sql::Integer(1)),
        ("no", "integer", Sql::Integer(0)),
        ("small", "integer", Sql::Integer(7)),
        ("least", "integer", Sql::Integer(i64::MIN)),
        ("most", "integer", Sql::Integer(i64::MAX)),
        ("float", "real", Sql::Real(0.1)),
        ("whole", "real", Sql::Real(2.0)),
        ("tiny", "real", Sql::Real(5e-324)),
        ("text", "text", Sql::Text("\"7\"".into())),
        ("list", "text", Sql::Text("\"[1,\\\"x\\\"]\"".into())),
        ("object", "text", Sql::Text("\"{\\\"a\\\":null}\"".into())),
    ] {
        assert_eq!(of(name), (kind.to_owned(), value), "{name}");
    }
    let bytes: Vec<u8> = connection
        .query_row("SELECT CAST(v AS BLOB) FROM t WHERE name = 'nul'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(bytes, b"a\0b");
}
