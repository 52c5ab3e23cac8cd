//! The rules of the test kit, on SQLite.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::sync::Arc;

use async_trait::async_trait;
use outlast::{Document, RecordName, RefusalKind, Write};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_testkit::conformance::{Fresh, Guarded, Harness};
use serde_json::{Map, Value, json};

struct Files;

fn parameters(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn statement(text: &str) -> Write {
    Write::statement(text, Map::new(), Vec::new())
}

#[async_trait]
impl Harness for Files {
    async fn fresh(&self) -> Fresh {
        let directory = tempfile::tempdir().unwrap();
        let database =
            Sqlite::open(directory.path().join("new/database.db"), SqliteOptions::default()).unwrap();
        Fresh { database: Arc::new(database), keep: Box::new(directory) }
    }

    fn increment(&self, record: &RecordName, by: i64) -> Write {
        let text = format!(
            "UPDATE \"{}\" SET data = json_set(data, '$.n', json_extract(data, '$.n') + :by) WHERE id = :id",
            record.collection
        );
        Write::statement(text, parameters(json!({ "id": record.id, "by": by })), vec![record.clone()])
    }

    fn set_text(&self, record: &RecordName, text: &str) -> Write {
        let statement = format!(
            "UPDATE \"{}\" SET data = json_set(data, '$.text', $text) WHERE id = @id",
            record.collection
        );
        Write::statement(
            statement,
            parameters(json!({ "id": record.id, "text": text })),
            vec![record.clone()],
        )
    }

    fn guarded(&self) -> Vec<Guarded> {
        let table = |name: &str, more: &str| {
            statement(&format!(
                "CREATE TABLE {name} (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL{more})"
            ))
        };
        let put = |collection: &str, id: &str, data: &str| {
            Write::put(collection.parse().unwrap(), id.parse().unwrap(), Document::parse(data).unwrap())
        };
        let parent = ", parent AS (json_extract(data, '$.parent')) STORED REFERENCES parents";
        let guarded = |ground, write, kind, retryable| Guarded { ground, write, kind, retryable };
        vec![
            guarded(
                vec![
                    table("users", ""),
                    statement("CREATE UNIQUE INDEX email ON users (json_extract(data, '$.email'))"),
                    put("users", "1", "{\"email\":\"x\"}"),
                ],
                put("users", "2", "{\"email\":\"x\"}"),
                RefusalKind::Constraint,
                false,
            ),
            guarded(
                vec![table("parents", ""), table("children", parent)],
                put("children", "1", "{\"parent\":\"nobody\"}"),
                RefusalKind::Constraint,
                true,
            ),
            guarded(
                vec![statement(
                    "CREATE TABLE narrow (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL, \
                     n INTEGER AS (json_extract(data, '$.n')) STORED) STRICT",
                )],
                put("narrow", "1", "{\"n\":\"text\"}"),
                RefusalKind::Schema,
                false,
            ),
        ]
    }

    fn trespass(&self) -> Write {
        statement("UPDATE outlast_position SET sequence = 0")
    }
}

outlast_testkit::conformance!(Files);
