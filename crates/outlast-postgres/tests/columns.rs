//! Tables that were there before Outlast: members are columns, defaults hold, and nothing is changed on the way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use common::{Fixture, after, collection, create, data, delete, items, patch, put, statement};
use outlast::database::{ApplyError, Database, ListQuery, Position, Sequence64};
use outlast::{RefusalKind, Write};
use serde_json::{Value, json};

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, qty integer DEFAULT 7, \
    price numeric(10,2), ratio double precision, paid boolean NOT NULL DEFAULT false, tags text[], extra jsonb, \
    at timestamptz NOT NULL DEFAULT '2026-01-01T00:00:00Z', total numeric GENERATED ALWAYS AS (qty * price) STORED, \
    number integer GENERATED ALWAYS AS IDENTITY)";

async fn with_orders() -> Fixture {
    let db = Fixture::new().await;
    db.query(ORDERS);
    db
}

async fn ids(db: &Fixture, table: &str, filters: &[(&str, Value)], after: Option<&str>) -> Vec<String> {
    let filters = filters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let after = after.map(|id| id.parse().unwrap());
    let query = ListQuery { collection: collection(table), filters, limit: 2, after };
    db.database.list(&query).await.unwrap().into_iter().map(|(id, _)| id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_absent_take_their_columns_defaults() {
    let db = with_orders().await;
    db.apply(vec![
        create(
            "orders",
            "5",
            r#"{"customer":"Ann","price":1.25,"tags":["a","b,\"c"],"extra":{"n":18446744073709551615}}"#,
        ),
        create("orders", "6", r#"{"customer":"Bob","qty":null,"extra":"text","ratio":0.1}"#),
    ])
    .await
    .unwrap();
    assert_eq!(
        db.get("orders", "5").await.unwrap(),
        json!({ "customer": "Ann", "qty": 7, "price": 1.25, "ratio": null, "paid": false, "tags": ["a", "b,\"c"],
            "extra": { "n": u64::MAX }, "at": "2026-01-01T00:00:00+00:00", "total": 8.75, "number": 1 })
    );
    let bob = db.get("orders", "6").await.unwrap();
    assert_eq!((&bob["qty"], &bob["extra"], &bob["ratio"]), (&Value::Null, &json!("text"), &json!(0.1)));
    assert_eq!(
        db.query("SELECT id, qty IS NULL, pg_typeof(extra) FROM orders ORDER BY id"),
        "5|f|jsonb\n6|t|jsonb"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_replaces_the_whole_row_and_a_patch_only_what_it_names() {
    let db = with_orders().await;
    db.apply(vec![create(
        "orders",
        "5",
        r#"{"customer":"Ann","qty":1,"paid":true,"extra":{"a":{"b":1,"c":2}}}"#,
    )])
    .await
    .unwrap();
    db.apply(vec![
        patch("orders", "5", r#"{"qty":2,"extra":{"a":{"b":null,"d":3}}}"#),
        patch("orders", "5", r#"{"price":2.50}"#),
        patch("orders", "5", "{}"),
    ])
    .await
    .unwrap();
    let row = db.get("orders", "5").await.unwrap();
    assert_eq!((&row["qty"], &row["paid"]), (&json!(2), &json!(true)));
    assert_eq!(row["total"].to_string(), "5.00");
    assert_eq!(row["extra"], json!({ "a": { "c": 2, "d": 3 } }));
    // What the database fills in may stand in what a caller read and sends back: it is left out.
    db.apply(vec![
        put("orders", "5", r#"{"customer":"Ann","total":99,"number":99}"#),
        put("orders", "8", r#"{"customer":"Cy"}"#),
    ])
    .await
    .unwrap();
    let row = db.get("orders", "5").await.unwrap();
    assert_eq!(
        (&row["qty"], &row["paid"], &row["price"], &row["extra"]),
        (&json!(7), &json!(false), &Value::Null, &Value::Null)
    );
    assert_eq!(row["number"], 1);
    db.apply(vec![delete("orders", "5"), delete("orders", "6")]).await.unwrap();
    assert_eq!(db.query("SELECT id FROM orders"), "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_cannot_take_is_refused_with_its_reason() {
    let db = with_orders().await;
    db.query("ALTER TABLE orders ADD UNIQUE (customer), ADD CHECK (qty > 0)");
    db.apply(vec![create("orders", "1", r#"{"customer":"Ann"}"#)]).await.unwrap();
    let good = || put("orders", "2", r#"{"customer":"Bob"}"#);
    for (bad, kind, words) in [
        (create("orders", "1", r#"{"customer":"x"}"#), RefusalKind::Exists, "exists already"),
        (create("orders", "3", r#"{"customer":"Ann"}"#), RefusalKind::Constraint, "customer"),
        (create("orders", "3", r#"{"customer":"x","qty":0}"#), RefusalKind::Constraint, "check"),
        (create("orders", "3", r#"{"qty":1}"#), RefusalKind::Schema, "customer"),
        (
            create("orders", "3", r#"{"customer":"x","colour":1}"#),
            RefusalKind::Schema,
            "no column \"colour\"",
        ),
        (create("orders", "3", r#"{"customer":"x","qty":"many"}"#), RefusalKind::Schema, "many"),
        (create("orders", "3", r#"{"customer":"x","qty":3000000000}"#), RefusalKind::Schema, "3000000000"),
        (create("orders", "3", r#"{"customer":"x","price":1.255}"#), RefusalKind::Schema, "exactly"),
        (create("orders", "3", r#"{"customer":1}"#), RefusalKind::Schema, "send a string"),
        (create("orders", "three", r#"{"customer":"x"}"#), RefusalKind::Schema, "three"),
        (create("orders", "03", r#"{"customer":"x"}"#), RefusalKind::Constraint, "spelled"),
        (patch("orders", "3", r#"{"qty":1}"#), RefusalKind::NotFound, "no record"),
        (patch("orders", "01", r#"{"qty":1}"#), RefusalKind::NotFound, "no record"),
        (patch("orders", "3", "{}"), RefusalKind::NotFound, "no record"),
    ] {
        for index in [0, 1] {
            let mut writes = vec![good()];
            writes.insert(index, bad.clone());
            let refused = db.refused(writes).await;
            assert_eq!((refused.index, refused.kind), (index, kind), "{refused:?}");
            assert!(refused.message.contains(words), "{refused:?}");
        }
    }
    assert_eq!(db.query("SELECT id FROM orders"), "1", "nothing of a refused batch takes effect");
    for odd in ["two", "01", "1.0", "9999999999999999999999"] {
        assert_eq!(db.get("orders", odd).await, None, "{odd}");
    }
    // At the door, now that the table is known.
    for bad in [r#"{"price":1.255}"#, r#"{"ratio":9007199254740993}"#, r#"{"customer":[]}"#] {
        assert!(db.database.check(&patch("orders", "1", bad)).is_err(), "{bad}");
    }
    db.database.check(&patch("orders", "1", r#"{"price":1.25,"ratio":0.5}"#)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_key_columns_are_one_id() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE lines (tenant text, number integer, text text, PRIMARY KEY (tenant, number))");
    db.apply(vec![
        create("lines", "a,1", r#"{"text":"one"}"#),
        create("lines", "a,10", r#"{"text":"ten"}"#),
        put("lines", r"x\,y,1", r#"{"text":"comma"}"#),
        patch("lines", "a,1", r#"{"text":"two"}"#),
    ])
    .await
    .unwrap();
    assert_eq!(
        db.query("SELECT tenant, number, text FROM lines ORDER BY 1, 2"),
        "a|1|two\na|10|ten\nx,y|1|comma"
    );
    assert_eq!(db.get("lines", r"x\,y,1").await, Some(json!({ "text": "comma" })));
    assert_eq!(db.get("lines", "a").await, None);
    assert_eq!(ids(&db, "lines", &[], None).await, ["a,1", "a,10"]);
    assert_eq!(ids(&db, "lines", &[], Some("a,10")).await, [r"x\,y,1"]);
    for (bad, words) in [("a", "2 key columns"), ("a,1,2", "2 key columns")] {
        let refused = db.refused(vec![put("lines", bad, "{}")]).await;
        assert!(refused.kind == RefusalKind::Schema && refused.message.contains(words), "{refused:?}");
    }
    let refused = db.refused(vec![put("lines", "a,1", r#"{"tenant":"b"}"#)]).await;
    assert!(refused.message.contains("part of the record's id"), "{refused:?}");
    let exists = db.refused(vec![put("lines", "a,2", "{}"), create("lines", "a,1", "{}")]).await;
    assert_eq!((exists.index, exists.kind), (1, RefusalKind::Exists));
    db.apply(vec![delete("lines", "a,1")]).await.unwrap();
    assert_eq!(db.query("SELECT count(*) FROM lines"), "2");
}

/// Two ids that are one value would be one row, and nobody could keep them in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_which_different_texts_are_the_same_value_is_refused() {
    let db = Fixture::new().await;
    db.query("CREATE DOMAIN amount AS numeric");
    for kind in ["numeric", "double precision", "interval", "jsonb", "amount", "numeric[]"] {
        db.query(&format!("CREATE TABLE bad (k {kind} PRIMARY KEY, text text)"));
        let refused = db.refused(vec![put("bad", "1", "{}"), put("bad", "1.0", "{}")]).await;
        assert!(
            refused.kind == RefusalKind::Schema
                && refused.message.contains("different texts are the same value"),
            "{kind}: {refused:?}"
        );
        db.query("DROP TABLE bad");
    }
    db.query("CREATE TABLE good (k numeric(10,2) PRIMARY KEY, text text)");
    db.apply(vec![put("good", "1.00", r#"{"text":"one"}"#)]).await.unwrap();
    assert_eq!(db.get("good", "1.00").await, Some(json!({ "text": "one" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_columns_can_be_named_where_the_primary_key_is_another() {
    let db = Fixture::with_parameters("key.people=email").await;
    db.query("CREATE TABLE people (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE, name text)");
    db.query("CREATE TABLE keyless (a text)");
    db.apply(vec![put("people", "a@x", r#"{"name":"Ann"}"#), put("people", "b@x", r#"{"name":"Bob"}"#)])
        .await
        .unwrap();
    db.apply(vec![put("people", "a@x", r#"{"name":"Anna"}"#)]).await.unwrap();
    assert_eq!(db.query("SELECT id, email, name FROM people ORDER BY id"), "1|a@x|Anna\n2|b@x|Bob");
    assert_eq!(db.get("people", "a@x").await, Some(json!({ "name": "Anna" })));
    let exists = db.refused(vec![create("people", "a@x", "{}")]).await;
    assert_eq!(exists.kind, RefusalKind::Exists, "{exists:?}");
    let refused = db.refused(vec![put("keyless", "1", "{}")]).await;
    assert!(refused.kind == RefusalKind::Schema && refused.message.contains("key.keyless="), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_the_key_is_set_by_the_id() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)");
    db.apply(vec![
        create("things", "70", r#"{"name":"x"}"#),
        put("things", "71", "{}"),
        put("things", "70", r#"{"name":"y"}"#),
    ])
    .await
    .unwrap();
    assert_eq!(db.query("SELECT id, name FROM things ORDER BY id"), "70|y\n71|");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_by_default_takes_the_number_that_is_given_and_makes_one_where_none_is() {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE things (id text PRIMARY KEY, name text, number integer GENERATED BY DEFAULT AS IDENTITY, \
         total integer GENERATED ALWAYS AS (number * 2) STORED, turn integer GENERATED ALWAYS AS IDENTITY)",
    );
    let rows = || db.query("SELECT id, name, number, total FROM things ORDER BY id");
    db.apply(vec![
        create("things", "a", r#"{"name":"given","number":40,"total":9,"turn":9}"#),
        create("things", "b", r#"{"name":"made"}"#),
        put("things", "c", r#"{"name":"given","number":41}"#),
        put("things", "d", r#"{"name":"made"}"#),
    ])
    .await
    .unwrap();
    assert_eq!(rows(), "a|given|40|80\nb|made|1|2\nc|given|41|82\nd|made|2|4");
    assert!(!db.query("SELECT turn FROM things").lines().any(|turn| turn == "9"), "always generated");
    // What is replaced without a number keeps the one that it has.
    db.apply(vec![
        put("things", "a", r#"{"name":"put","number":50}"#),
        put("things", "b", r#"{"name":"put"}"#),
        patch("things", "c", r#"{"number":51}"#),
        patch("things", "d", r#"{"name":"patched"}"#),
    ])
    .await
    .unwrap();
    assert_eq!(rows(), "a|put|50|100\nb|put|1|2\nc|given|51|102\nd|patched|2|4");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_by_the_columns_values() {
    let db = with_orders().await;
    db.apply(vec![
        create("orders", "1", r#"{"customer":"1","qty":1}"#),
        create("orders", "2", r#"{"customer":"x","qty":1,"paid":true}"#),
        create("orders", "3", r#"{"customer":"y","qty":null}"#),
    ])
    .await
    .unwrap();
    for (filters, expected) in [
        (vec![("customer", json!("1"))], vec!["1"]),
        (vec![("customer", json!(1))], vec![]),
        (vec![("qty", json!(1)), ("paid", json!(true))], vec!["2"]),
        (vec![("qty", Value::Null)], vec!["3"]),
        (vec![("colour", json!(1))], vec![]),
    ] {
        assert_eq!(ids(&db, "orders", &filters, None).await, expected, "{filters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_of_columns_are_only_names() {
    let db = Fixture::new().await;
    db.query(r#"CREATE TABLE odd ("k""; --" text PRIMARY KEY, "it's; DROP TABLE odd; --" text, "$1" integer, " " jsonb)"#);
    let members = r#"{"it's; DROP TABLE odd; --":"'; --","$1":5," ":{"\"":1}}"#;
    db.apply(vec![create("odd", "'; --", members), patch("odd", "'; --", r#"{"$1":6}"#)]).await.unwrap();
    let mut expected: Value = serde_json::from_str(members).unwrap();
    expected["$1"] = json!(6);
    assert_eq!(db.get("odd", "'; --").await, Some(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_is_looked_at_again() {
    let db = with_orders().await;
    db.apply(vec![create("orders", "1", r#"{"customer":"x"}"#)]).await.unwrap();
    db.query("ALTER TABLE orders DROP COLUMN total; ALTER TABLE orders ADD COLUMN colour text, DROP COLUMN ratio, ALTER COLUMN qty TYPE text");
    db.apply(vec![patch("orders", "1", r#"{"colour":"red","qty":"many"}"#)]).await.unwrap();
    assert_eq!(db.get("orders", "1").await.unwrap()["colour"], "red");
    db.apply(vec![put("orders", "1", r#"{"customer":"y"}"#)]).await.unwrap();
    // Made anew as Outlast makes tables, which may then make it itself.
    db.query("DROP TABLE orders");
    assert_eq!(db.get("orders", "1").await, None);
    db.query("CREATE TABLE orders (id text PRIMARY KEY, data jsonb)");
    for _ in 0..2 {
        db.apply(vec![put("orders", "any id", r#"{"any":"thing"}"#)]).await.unwrap();
        db.query("DROP TABLE orders");
    }
    db.apply(vec![put("orders", "any id", r#"{"any":"thing"}"#)]).await.unwrap();
    db.query("DROP TABLE orders");
    db.query("CREATE TABLE orders (id text PRIMARY KEY, n integer)");
    assert_eq!(db.get("orders", "any id").await, None);
    db.apply(vec![put("orders", "any id", r#"{"n":1}"#)]).await.unwrap();
    assert_eq!(db.query("SELECT * FROM orders"), "any id|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_widened_takes_at_once_what_it_did_not_take_before() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE t (id text PRIMARY KEY, n integer, s varchar(3), p numeric(4,1) NOT NULL)");
    for (id, widening, json) in [
        ("a", "ALTER COLUMN n TYPE bigint", r#"{"n":3000000000,"p":1.5}"#),
        ("b", "ALTER COLUMN s TYPE text", r#"{"s":"long","p":1.5}"#),
        ("d", "ALTER COLUMN n TYPE text", r#"{"n":"text","p":1.5}"#),
        ("e", "ALTER COLUMN p DROP NOT NULL", r#"{"n":"text"}"#),
        ("c", "ALTER COLUMN p TYPE numeric(9,4)", r#"{"p":1.2345}"#),
    ] {
        db.refused(vec![put("t", id, json)]).await;
        db.query(&format!("ALTER TABLE t {widening}"));
        db.apply(vec![put("t", id, json)]).await.unwrap();
        let read = db.get("t", id).await.unwrap();
        for (name, value) in serde_json::from_str::<serde_json::Map<_, _>>(json).unwrap() {
            assert_eq!(read[&name], value, "{id}");
        }
    }
}

/// A migration that makes a table anew must find its name free.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_outlast_would_make_otherwise_is_waited_for_when_it_is_dropped() {
    let db = Fixture::new().await;
    for columns in [
        "id bigint PRIMARY KEY, n integer",
        "id text PRIMARY KEY, data jsonb, n integer GENERATED ALWAYS AS ((data->>'n')::integer) STORED",
    ] {
        let table = format!("CREATE TABLE orders ({columns})");
        db.query(&table);
        db.apply(vec![create("orders", "1", r#"{"n":1}"#)]).await.unwrap();
        db.query("DROP TABLE orders");
        // Known to be missing from the second time on.
        for _ in 0..2 {
            for write in [
                put("orders", "1", r#"{"n":2}"#),
                create("orders", "2", "{}"),
                patch("orders", "1", r#"{"n":2}"#),
                delete("orders", "1"),
            ] {
                let refused = db.refused(vec![put("others", "1", "{}"), write]).await;
                assert_eq!((refused.index, refused.kind, refused.retryable), (1, RefusalKind::Schema, true));
                assert!(refused.message.contains("make it again"), "{refused:?}");
            }
        }
        assert_eq!(db.get("orders", "1").await, None);
        assert_eq!(db.query("SELECT to_regclass('orders') IS NULL"), "t");
        db.query(&table);
        db.apply(vec![put("orders", "1", r#"{"n":2}"#)]).await.unwrap();
        assert_eq!(db.query("SELECT id, n FROM orders"), "1|2");
        db.query("DROP TABLE orders");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alike_operations_share_a_statement_and_order_between_records_is_kept() {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE parents (id text PRIMARY KEY); CREATE TABLE children (id text PRIMARY KEY, parent text REFERENCES parents); \
         CREATE TABLE seen (n serial, what text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen (what) VALUES (TG_ARGV[0]); RETURN NULL; END'; \
         CREATE TRIGGER s AFTER INSERT ON parents FOR EACH STATEMENT EXECUTE FUNCTION note('parents'); \
         CREATE TRIGGER s AFTER INSERT ON children FOR EACH STATEMENT EXECUTE FUNCTION note('children')",
    );
    let mut writes: Vec<Write> = (0..50).map(|n| create("parents", &n.to_string(), "{}")).collect();
    writes.extend((0..50).map(|n| create("children", &n.to_string(), &format!(r#"{{"parent":"{n}"}}"#))));
    writes.push(create("parents", "50", "{}"));
    writes.push(create("children", "50", r#"{"parent":"50"}"#));
    db.apply(writes).await.unwrap();
    assert_eq!(db.query("SELECT what FROM seen ORDER BY n"), "parents\nchildren\nparents\nchildren");
    let refused =
        db.refused(vec![create("children", "60", r#"{"parent":"60"}"#), create("parents", "60", "{}")]).await;
    assert_eq!((refused.index, refused.kind, refused.retryable), (0, RefusalKind::Constraint, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_that_are_checked_at_the_commit_name_the_write_that_breaks_them() {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE parents (id text PRIMARY KEY); CREATE TABLE children (id text PRIMARY KEY, \
         parent text REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
    );
    // The reference comes before what it refers to: that is what deferring is for.
    db.apply(vec![create("children", "1", r#"{"parent":"1"}"#), create("parents", "1", "{}")]).await.unwrap();
    let mut writes: Vec<Write> = (10..40).map(|n| create("parents", &n.to_string(), "{}")).collect();
    writes.insert(17, create("children", "2", r#"{"parent":"nobody"}"#));
    let refused = db.refused(writes).await;
    assert_eq!((refused.index, refused.kind, refused.retryable), (17, RefusalKind::Constraint, true));
    assert!(refused.message.contains("nobody"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_does_is_told() {
    let db = Fixture::new().await;
    db.query(
        "CREATE TABLE t (id text PRIMARY KEY, n integer); \
         CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.n = 1 THEN RETURN NULL; END IF; \
         IF NEW.n = 2 THEN RAISE EXCEPTION ''two is not allowed''; END IF; RETURN NEW; END'; \
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION guard()",
    );
    for (n, words) in [(1, "ignored the write"), (2, "two is not allowed")] {
        let bad = put("t", "x", &format!(r#"{{"n":{n}}}"#));
        let refused = db.refused(vec![put("t", "y", r#"{"n":3}"#), bad]).await;
        assert_eq!((refused.index, refused.kind), (1, RefusalKind::Constraint));
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_write_and_their_faults_are_theirs() {
    let db = with_orders().await;
    db.apply(vec![
        create("orders", "1", r#"{"customer":"x","qty":1}"#),
        statement("UPDATE orders SET qty = qty + :by WHERE id = $id", r#"{"by":41,"id":1}"#),
        statement(
            "WITH a AS (SELECT $d::jsonb AS d) UPDATE orders SET extra = d FROM a",
            r#"{"d":{"x":[1]}}"#,
        ),
        statement("CREATE TABLE made (a int)", "{}"),
        statement("INSERT INTO made SELECT generate_series(1, 3)", "{}"),
        statement("SELECT * FROM made", "{}"),
    ])
    .await
    .unwrap();
    assert_eq!(db.query("SELECT qty, extra FROM orders"), "42|{\"x\": [1]}");
    for (bad, kind) in [
        ("UPDATE nowhere SET a = 1", RefusalKind::Statement),
        ("UPDATE orders SET qty = 'many'", RefusalKind::Statement),
        ("SELECT 1/0", RefusalKind::Statement),
        ("INSERT INTO orders (id, customer) VALUES (1, 'x')", RefusalKind::Constraint),
        ("SELECT 1 FROM", RefusalKind::Statement),
    ] {
        let refused =
            db.refused(vec![create("orders", "2", r#"{"customer":"x"}"#), statement(bad, "{}")]).await;
        assert_eq!((refused.index, refused.kind), (1, kind), "{bad}: {refused:?}");
    }
    let write = Write::create(collection("pg_class"), "1".parse().unwrap(), data("{}"));
    assert!(db.database.check(&write).is_err(), "PostgreSQL's own tables are no collections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_statement_makes_is_used_by_what_follows_it_or_that_is_tried_again() {
    let db = Fixture::new().await;
    let made = statement("CREATE TABLE made AS SELECT '1' AS id, '{}'::jsonb AS data", "{}");
    let key = statement("ALTER TABLE made ADD PRIMARY KEY (id)", "{}");
    for late in [delete("made", "1"), patch("made", "1", r#"{"n":1}"#)] {
        let refused = db.refused(vec![made.clone(), key.clone(), late]).await;
        assert_eq!(
            (refused.index, refused.kind, refused.retryable),
            (2, RefusalKind::Schema, true),
            "{refused:?}"
        );
    }
    db.apply(vec![made, key, put("made", "2", r#"{"n":2}"#)]).await.unwrap();
    db.apply(vec![patch("made", "1", r#"{"n":1}"#), delete("made", "2")]).await.unwrap();
    assert_eq!(db.query("SELECT * FROM made"), "1|{\"n\": 1}");
    // One that has nothing to do with it changes nothing.
    let refused = db.refused(vec![statement("SELECT 1", "{}"), patch("nowhere", "1", "{}")]).await;
    assert_eq!((refused.index, refused.kind), (1, RefusalKind::NotFound));
    db.apply(vec![statement("SELECT 1", "{}"), delete("nowhere", "1")]).await.unwrap();
}

/// A batch that was sent ahead is read while the one in front of it is at work. What it looks for is looked for later.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_without_members_that_was_sent_ahead_finds_what_the_batch_in_front_of_it_makes() {
    let db = Fixture::new().await;
    db.query("CREATE TABLE t (id text PRIMARY KEY, n integer)");
    db.apply(vec![create("t", "0", "{}")]).await.unwrap();
    let mut both = 0;
    for round in 1..=30 {
        let start = db.database.position(&db.lane).await.unwrap().unwrap();
        let (middle, end) = (after(&start, 50), after(&start, 51));
        let middle = Position { sequence: Sequence64(middle), ..start.clone() };
        let front = items(&start, (0..50).map(|n| create("t", &format!("{round}-{n}"), "{}")).collect());
        let behind = items(&middle, vec![patch("t", &format!("{round}-49"), "{}")]);
        let (in_front, ahead) = tokio::join!(
            db.database.apply(&db.lane, &start, middle.sequence.0, &front),
            db.database.apply(&db.lane, &middle, end, &behind),
        );
        in_front.unwrap();
        match ahead {
            Ok(_) => both += 1,
            Err(ApplyError::Moved { .. } | ApplyError::Conflict(_)) => {}
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(both > 0, "nothing sent ahead ever waited for its turn");
}
