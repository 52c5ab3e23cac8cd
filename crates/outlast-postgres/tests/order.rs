//! When order between records is not kept, alike operations go in one statement. Each record and each write keeps its own.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Fixture, after, collection, create, delete, items, patch, put, statement};
use outlast::database::{Database, ListQuery};
use outlast::{Operation, Write};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::seeds;

/// Counts the statements that insert into it.
const COUNTED: &str = "CREATE TABLE statements (name text);
    CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO statements VALUES (TG_TABLE_NAME); RETURN NULL; END$$;
    CREATE TABLE a (id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL);
    CREATE TABLE b (id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL);
    CREATE TRIGGER count AFTER INSERT ON a FOR EACH STATEMENT EXECUTE FUNCTION note_statement();
    CREATE TRIGGER count AFTER INSERT ON b FOR EACH STATEMENT EXECUTE FUNCTION note_statement()";

async fn fixture(keeps_order: bool) -> Fixture {
    let fixture = Fixture::new().await;
    let options = PostgresOptions { keeps_order, ..PostgresOptions::default() };
    let database = Postgres::from_url(&fixture.server.url(&fixture.name), options).unwrap();
    Fixture { database, ..fixture }
}

#[tokio::test(flavor = "multi_thread")]
async fn alike_operations_go_in_one_statement_whatever_stands_between_them() {
    for (keeps_order, expected) in [(true, "a|20\nb|20"), (false, "a|1\nb|1")] {
        let db = fixture(keeps_order).await;
        db.query(COUNTED);
        let both = |id: u32| [create("a", &id.to_string(), "{}"), create("b", &id.to_string(), "{}")];
        db.apply((0..20).flat_map(both).collect()).await.unwrap();
        let counts = "SELECT name, count(*) FROM statements GROUP BY name ORDER BY name";
        assert_eq!(db.query(counts), expected, "keeps order: {keeps_order}");
    }
}

/// The second child would go with the first one, before its own parent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_its_order_alone_is_sent_in_order() {
    let db = fixture(false).await;
    db.query(
        "CREATE TABLE parent (id text PRIMARY KEY);
         CREATE TABLE child (id text PRIMARY KEY, parent text REFERENCES parent)",
    );
    db.apply(vec![
        create("child", "1", "{}"),
        create("parent", "2", "{}"),
        create("child", "2", r#"{"parent":"2"}"#),
    ])
    .await
    .unwrap();
    assert_eq!(db.query("SELECT id, parent FROM child ORDER BY id"), "1|\n2|2");
    // What is refused in any order is still told with its place.
    let refused = db
        .refused(vec![
            create("child", "3", "{}"),
            create("parent", "4", "{}"),
            create("child", "5", r#"{"parent":"nobody"}"#),
        ])
        .await;
    assert_eq!(refused.index, 2, "{refused:?}");
}

/// Its own operations keep their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_not_taken_apart() {
    let db = fixture(false).await;
    db.query(
        "CREATE TABLE parent (id text PRIMARY KEY);
         CREATE TABLE child (id text PRIMARY KEY, parent text REFERENCES parent);
         CREATE TABLE statements (name text);
         CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO statements VALUES (TG_TABLE_NAME); RETURN NULL; END$$;
         CREATE TRIGGER count AFTER INSERT ON child FOR EACH STATEMENT EXECUTE FUNCTION note_statement()",
    );
    let family = |id: &str| {
        let parent = create("parent", id, "{}").operations().to_vec();
        let child = create("child", id, &format!(r#"{{"parent":"{id}"}}"#)).operations().to_vec();
        Write::new([parent, child].concat()).unwrap()
    };
    db.apply(vec![family("1"), family("2"), family("3")]).await.unwrap();
    assert_eq!(db.query("SELECT count(*) FROM child"), "3");
    assert_eq!(db.query("SELECT count(*) FROM statements"), "1", "sent at once, without a second try");
}

type Records = BTreeMap<(&'static str, String), String>;

async fn everything(db: &Fixture) -> Records {
    let mut all = Records::new();
    for table in ["a", "b"] {
        let query =
            ListQuery { collection: collection(table), filters: Vec::new(), limit: 1000, after: None };
        let listed = db.database.list(&query).await.unwrap();
        all.extend(listed.into_iter().map(|(id, data)| ((table, id.to_string()), data.as_str().to_owned())));
    }
    all
}

/// Writes to few records, so that their order shows.
fn writes(seed: u64) -> Vec<Write> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writes = Vec::new();
    for number in 0..random.usize(2..60) {
        let mut operations: Vec<Operation> = Vec::new();
        for _ in 0..random.usize(1..4) {
            let (table, id) = (if random.bool() { "a" } else { "b" }, random.u8(0..5).to_string());
            let json = format!(r#"{{"n{}":{number}}}"#, random.u8(0..3));
            let write = match random.u8(0..8) {
                0..4 => put(table, &id, &json),
                4..6 => delete(table, &id),
                6 => statement(
                    &format!(
                        "UPDATE {table} SET data = data || jsonb_build_object('s', :n::int) WHERE id = :id"
                    ),
                    &serde_json::json!({ "n": number, "id": id }).to_string(),
                ),
                // It must be there.
                _ => Write::new([put(table, &id, "{}"), patch(table, &id, &json)].iter().map(one).collect())
                    .unwrap(),
            };
            operations.extend(write.operations().iter().cloned());
        }
        writes.push(Write::new(operations).unwrap());
    }
    writes
}

fn one(write: &Write) -> Operation {
    write.operations()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_ends_as_it_would_in_order() {
    let (kept, free) = (fixture(true).await, fixture(false).await);
    for db in [&kept, &free] {
        db.apply(vec![put("a", "seed", "{}"), put("b", "seed", "{}")]).await.unwrap();
    }
    for seed in seeds(60) {
        for db in [&kept, &free] {
            let position = db.take_over().await;
            let batch = items(&position, writes(seed));
            let next = after(&position, batch.len() as u64);
            db.database.apply(&db.lane, &position, next, &batch).await.unwrap();
        }
        let (kept, free) = (everything(&kept).await, everything(&free).await);
        assert_eq!(kept, free, "replay with OUTLAST_SEED={seed}");
    }
}
