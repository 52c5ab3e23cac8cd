//! A database of its own, with a lane that is taken over, and a second connection to look and to meddle.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast::database::{Applied, ApplyError, Database, Item, LaneId, Position};
use outlast::{Refusal, RefusalKind, Sequence, Write, WriteId};
use outlast_sqlite::{Sqlite, SqliteOptions};
use rusqlite::Connection;
use serde_json::{Map, Value};
use tempfile::TempDir;

pub struct World {
    pub database: Arc<Sqlite>,
    pub lane: LaneId,
    pub position: Position,
    pub directory: TempDir,
    last_id: u64,
}

impl World {
    pub async fn new() -> Self {
        Self::with(SqliteOptions::default()).await
    }

    pub async fn with(options: SqliteOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Sqlite::open(directory.path().join("database.db"), options).unwrap());
        database.probe().await.unwrap();
        let lane = LaneId::new("q", 0);
        let position = database.take_over(&lane, None, "owner").await.unwrap();
        Self { database, lane, position, directory, last_id: 0 }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("database.db")
    }

    /// A connection of somebody else.
    pub fn other(&self) -> Connection {
        other(&self.path())
    }

    pub fn sql(&self, sql: &str) {
        self.other().execute_batch(sql).unwrap();
    }

    pub async fn try_apply(&mut self, writes: &[Write]) -> Result<Applied, ApplyError> {
        let batch: Vec<Item> = writes
            .iter()
            .map(|write| {
                self.last_id += 1;
                Item { id: WriteId(Sequence::new(1, self.last_id).unwrap()), write: Arc::new(write.clone()) }
            })
            .collect();
        let next = Sequence::from_u64(self.position.sequence.0.as_u64() + 1).unwrap();
        let applied = self.database.apply(&self.lane, &self.position, next, &batch).await?;
        self.position.sequence.0 = next;
        Ok(applied)
    }

    pub async fn apply(&mut self, writes: &[Write]) {
        self.try_apply(writes).await.unwrap();
    }

    /// A batch that must be refused, without effect: the index, the refusal and whether it is worth another attempt.
    pub async fn refused(&mut self, writes: &[Write]) -> (usize, Refusal, bool) {
        let before = self.database.position(&self.lane).await.unwrap();
        let result = self.try_apply(writes).await;
        assert_eq!(self.database.position(&self.lane).await.unwrap(), before);
        match result {
            Err(ApplyError::Rejected { index, reason, retryable }) => (index, reason, retryable),
            other => panic!("expected a refusal: {other:?}"),
        }
    }

    pub async fn refused_as(&mut self, writes: &[Write], index: usize, kind: RefusalKind) -> Refusal {
        let (actual, reason, _) = self.refused(writes).await;
        assert_eq!((actual, reason.kind), (index, kind), "{reason}");
        reason
    }

    pub async fn text(&self, collection: &str, id: &str) -> Option<String> {
        let found = self.database.get(&collection.parse().unwrap(), &id.parse().unwrap()).await.unwrap();
        found.map(|document| document.as_str().to_owned())
    }

    pub async fn stored(&self) -> Option<Position> {
        self.database.position(&self.lane).await.unwrap()
    }
}

pub fn other(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection
}

fn data(text: &str) -> outlast::Document {
    outlast::Document::parse(text).unwrap()
}

pub fn create(collection: &str, id: &str, text: &str) -> Write {
    Write::create(collection.parse().unwrap(), id.parse().unwrap(), data(text))
}

pub fn put(collection: &str, id: &str, text: &str) -> Write {
    Write::put(collection.parse().unwrap(), id.parse().unwrap(), data(text))
}

pub fn patch(collection: &str, id: &str, text: &str) -> Write {
    Write::patch(collection.parse().unwrap(), id.parse().unwrap(), data(text))
}

pub fn delete(collection: &str, id: &str) -> Write {
    Write::delete(collection.parse().unwrap(), id.parse().unwrap())
}

pub fn statement(text: &str, parameters: Value) -> Write {
    let parameters = match parameters {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    Write::statement(text, parameters, Vec::new())
}
