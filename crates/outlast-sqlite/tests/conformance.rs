//! The rules of the test kit, on SQLite.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::sync::Arc;

use async_trait::async_trait;
use outlast::{RecordName, Write};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_testkit::conformance::{Fresh, Harness};
use serde_json::{Map, Value, json};

struct Files;

fn parameters(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
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

    fn trespass(&self) -> Write {
        Write::statement("UPDATE outlast_position SET sequence = 0", Map::new(), Vec::new())
    }
}

outlast_testkit::conformance!(Files);
