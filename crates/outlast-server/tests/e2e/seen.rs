//! What the database shows in the end, read past Outlast.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use outlast::error::RefusalKind;
use outlast::status::{DeadLetter, DeadLetters};
use outlast::write::Operation;
use outlast_testkit::history::{Cause, History, Seen, Summary, Token, Violation};
use outlast_testkit::postgres::PostgresServer;
use outlast_testkit::surreal::SurrealServer;
use serde_json::Value;

use super::Api;

/// The records of an SQLite database.
pub fn in_sqlite(path: &Path) -> BTreeMap<String, Seen> {
    let connection =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(super::PATIENCE).unwrap();
    let mut seen = BTreeMap::new();
    for collection in ["counters", "documents"] {
        let mut statement = connection.prepare(&format!("SELECT id, data FROM {collection}")).unwrap();
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        for row in rows {
            let (id, data) = row.unwrap();
            insert(&mut seen, collection, &id, serde_json::from_str(&data).unwrap());
        }
    }
    seen
}

/// The records of a database of a SurrealDB server.
pub fn in_surreal(server: &SurrealServer, namespace: &str, database: &str) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    for collection in ["counters", "documents"] {
        let text = format!("SELECT *, record::id(id) AS outlast_test_id FROM {collection}");
        let rows = server.query(namespace, database, &text);
        for row in rows.as_array().unwrap() {
            let mut row = row.as_object().unwrap().clone();
            let id = row.remove("outlast_test_id").unwrap();
            row.remove("id");
            insert(&mut seen, collection, id.as_str().unwrap(), Value::Object(row));
        }
    }
    seen
}

/// The records of a database of a PostgreSQL server.
pub fn in_postgres(server: &PostgresServer, database: &str) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    for collection in ["counters", "documents"] {
        let text = format!("SELECT coalesce(jsonb_agg(jsonb_build_array(id, data)), '[]') FROM {collection}");
        let rows: Vec<(String, Value)> = serde_json::from_str(&server.query(database, &text)).unwrap();
        for (id, data) in rows {
            insert(&mut seen, collection, &id, data);
        }
    }
    seen
}

fn insert(seen: &mut BTreeMap<String, Seen>, collection: &str, id: &str, value: Value) {
    let found = if collection == "counters" {
        let tokens = value["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tokens = tokens.iter().map(|token| token.as_str().unwrap_or_default().to_owned()).collect();
        Seen::Ledger { count: value["count"].as_u64().unwrap_or_default(), tokens }
    } else {
        Seen::Document(value)
    };
    seen.insert(format!("{collection}/{id}"), found);
}

/// Tells the history which writes became dead letters; returns how many.
pub async fn bury_dead_letters(api: &Api, history: &History) -> u64 {
    let mut after = String::new();
    let mut buried = 0;
    loop {
        let page = api.get(&format!("/v1/dead-letters?limit=1000{after}")).await.json();
        let page: DeadLetters = serde_json::from_value(page).unwrap();
        for letter in &page.letters {
            let cause = match letter.reason.kind {
                RefusalKind::Exists => Cause::Exists,
                RefusalKind::NotFound => Cause::Absent,
                _ => panic!("nothing else is refused in these proofs: {letter:?}"),
            };
            history.bury(token_of(letter), cause);
            buried += 1;
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return buried,
        }
    }
}

fn token_of(letter: &DeadLetter) -> Token {
    let [Operation::Create { data, .. } | Operation::Patch { data, .. }] = letter.operations.as_slice()
    else {
        panic!("only creates and patches can be refused: {letter:?}");
    };
    let members = data.to_map();
    let token = members.get("by").or_else(|| members.get("patched")).and_then(Value::as_str);
    token.unwrap_or_default().parse().unwrap_or_else(|error| panic!("{error}: {letter:?}"))
}

/// Holds the history against what was seen, and explains what is wrong.
#[track_caller]
pub fn check(history: &History, seen: &BTreeMap<String, Seen>) -> Summary {
    history.check(seen).unwrap_or_else(|violations| {
        let mut text = format!("{} broken promises, the first are:\n", violations.len());
        for violation in violations.iter().take(5) {
            let _ = writeln!(text, "{violation:?}");
            let record = match violation {
                Violation::Unexplained(record) | Violation::Miscounted(record) => Some(record.clone()),
                Violation::Lost(token) | Violation::Doubled(token) => history.record_of(*token),
                _ => None,
            };
            if let Some(record) = record {
                let _ = writeln!(text, "{}  seen: {:?}", history.describe(&record), seen.get(&record));
            }
        }
        panic!("{text}")
    })
}
