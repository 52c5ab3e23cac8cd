//! A queue on a real SQLite database behind a temper.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outlast::database::Database;
use outlast::{Document, Options, Outcome, Outlast, RecordName, Wait, Write, WriteId};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Faulty;

pub const PATIENT: Wait = Wait::UpTo(Duration::from_secs(20));

pub struct World {
    pub directory: tempfile::TempDir,
    pub database: Arc<Faulty>,
    pub sqlite: Arc<Sqlite>,
    pub options: Options,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sqlite =
            Arc::new(Sqlite::open(directory.path().join("database.db"), SqliteOptions::default()).unwrap());
        let mut options = Options::new(directory.path().join("queue"));
        options.segment_bytes = 64 << 10;
        options.write_bytes_max = 16 << 10;
        options.probe_max_interval = Duration::from_millis(50);
        options.backoff = Duration::from_millis(20);
        options.backoff_max = Duration::from_millis(100);
        Self { database: Faulty::new(sqlite.clone()), sqlite, directory, options }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens the queue and waits until the database answers.
    pub async fn open(&self) -> Outlast {
        let outlast = self.open_now().await;
        eventually("connected", || outlast.is_healthy()).await;
        outlast
    }

    pub async fn open_now(&self) -> Outlast {
        Outlast::open(self.database.clone(), self.options.clone()).await.unwrap()
    }

    /// Whether nobody holds the queue directory.
    pub fn try_lock(&self) -> bool {
        let lock = std::fs::File::open(self.options.directory.join("lock")).unwrap();
        lock.try_lock().is_ok()
    }

    /// The content of a record in the real database.
    pub async fn get(&self, collection: &str, id: &str) -> Option<String> {
        let found = self.sqlite.get(&collection.parse().unwrap(), &id.parse().unwrap()).await.unwrap();
        found.map(|document| document.as_str().to_owned())
    }

    pub async fn counter(&self, id: &str) -> u64 {
        let text = self.get("counters", id).await.unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["n"].as_u64().unwrap()
    }
}

pub fn put(collection: &str, id: &str, data: &str) -> Write {
    Write::put(collection.parse().unwrap(), id.parse().unwrap(), Document::parse(data).unwrap())
}

pub fn create(collection: &str, id: &str, data: &str) -> Write {
    Write::create(collection.parse().unwrap(), id.parse().unwrap(), Document::parse(data).unwrap())
}

pub fn patch(collection: &str, id: &str, data: &str) -> Write {
    Write::patch(collection.parse().unwrap(), id.parse().unwrap(), Document::parse(data).unwrap())
}

pub fn counter(id: &str) -> Write {
    put("counters", id, "{\"n\":0}")
}

/// Not idempotent: shows in the counter how often it took effect.
pub fn increment(id: &str) -> Write {
    let text =
        "UPDATE counters SET data = json_set(data, '$.n', json_extract(data, '$.n') + 1) WHERE id = :id";
    let record = RecordName { collection: "counters".parse().unwrap(), id: id.parse().unwrap() };
    let parameters = serde_json::json!({ "id": id }).as_object().unwrap().clone();
    Write::statement(text, parameters, vec![record])
}

/// Appends a number to a list in the record: shows the order in which writes took effect.
pub fn note(id: &str, number: u64) -> Write {
    let text = "INSERT INTO notes (id, data) VALUES (:id, json_object('list', json_array(:number))) \
                ON CONFLICT (id) DO UPDATE SET data = json_insert(data, '$.list[#]', :number)";
    let record = RecordName { collection: "notes".parse().unwrap(), id: id.parse().unwrap() };
    let parameters = serde_json::json!({ "id": id, "number": number }).as_object().unwrap().clone();
    Write::statement(text, parameters, vec![record])
}

pub fn id_of(outcome: &Outcome) -> WriteId {
    match outcome {
        Outcome::Applied { id, .. } => *id,
        Outcome::Queued(receipt) => receipt.id,
    }
}

pub async fn drained(outlast: &Outlast) {
    assert!(outlast.drain(Duration::from_secs(30)).await.unwrap(), "not drained: {:#?}", outlast.status());
    let status = outlast.status();
    assert!(status.accounting_holds, "{:?}", status.accounting);
}
