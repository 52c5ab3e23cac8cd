//! What the tests of this crate share: a database of its own for each test, and short ways to write batches.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outlast::database::{Applied, ApplyError, Database, Item, LaneId, Position};
use outlast::{Collection, Document, RefusalKind, Sequence, Write, WriteId};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::postgres::PostgresServer;
use serde_json::Value;

/// A database of the shared server.
pub struct Fixture {
    pub server: Arc<PostgresServer>,
    pub name: String,
    pub database: Postgres,
    pub lane: LaneId,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with_parameters("").await
    }

    /// With `?parameters` in the URL.
    pub async fn with_parameters(parameters: &str) -> Self {
        let (server, name) = fresh();
        let url = format!("{}?{parameters}", server.url(&name));
        let database = Postgres::from_url(&url, PostgresOptions::default()).unwrap();
        database.probe().await.unwrap();
        Self { server, name, database, lane: LaneId::new("queue", 0) }
    }

    /// Runs statements beside the client under test.
    pub fn query(&self, statements: &str) -> String {
        self.server.query(&self.name, statements)
    }

    pub async fn take_over(&self) -> Position {
        let seen = self.database.position(&self.lane).await.unwrap();
        self.database.take_over(&self.lane, seen.as_ref(), "me").await.unwrap()
    }

    async fn current(&self) -> Position {
        match self.database.position(&self.lane).await.unwrap() {
            Some(position) => position,
            None => self.take_over().await,
        }
    }

    /// Applies a batch at the position that stands there.
    pub async fn apply(&self, writes: Vec<Write>) -> Result<Applied, ApplyError> {
        let position = self.current().await;
        let next = after(&position, writes.len() as u64);
        self.database.apply(&self.lane, &position, next, &items(&position, writes)).await
    }

    /// Applies a batch that must be refused, and nothing of it may have happened.
    pub async fn refused(&self, writes: Vec<Write>) -> Refused {
        let before = self.current().await;
        let Err(ApplyError::Rejected { index, reason, retryable }) = self.apply(writes).await else {
            panic!("the batch was not refused");
        };
        let after = self.database.position(&self.lane).await.unwrap();
        assert_eq!(Some(before), after, "the position moved with a refused batch");
        Refused { index, kind: reason.kind, message: reason.message, retryable }
    }

    pub async fn get(&self, table: &str, id: &str) -> Option<Value> {
        let document = self.database.get(&collection(table), &id.parse().unwrap()).await.unwrap();
        document.map(|document| serde_json::from_str(document.as_str()).unwrap())
    }
}

/// How a batch was refused.
#[derive(Debug)]
pub struct Refused {
    pub index: usize,
    pub kind: RefusalKind,
    pub message: String,
    pub retryable: bool,
}

/// The shared server with a new, empty database.
pub fn fresh() -> (Arc<PostgresServer>, String) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = PostgresServer::shared();
    let name = format!("d{}", NEXT.fetch_add(1, Ordering::SeqCst));
    server.create_database(&name);
    (server, name)
}

/// `count` sequences after a position.
pub fn after(position: &Position, count: u64) -> Sequence {
    Sequence::from_u64(position.sequence.0.as_u64() + count).unwrap()
}

pub fn items(position: &Position, writes: Vec<Write>) -> Vec<Item> {
    let ids = (1..).map(|count| WriteId(after(position, count)));
    ids.zip(writes).map(|(id, write)| Item { id, write: Arc::new(write) }).collect()
}

pub fn collection(name: &str) -> Collection {
    name.parse().unwrap()
}

pub fn data(json: &str) -> Document {
    Document::parse(json).unwrap()
}

pub fn create(table: &str, id: &str, json: &str) -> Write {
    Write::create(collection(table), id.parse().unwrap(), data(json))
}

pub fn put(table: &str, id: &str, json: &str) -> Write {
    Write::put(collection(table), id.parse().unwrap(), data(json))
}

pub fn patch(table: &str, id: &str, json: &str) -> Write {
    Write::patch(collection(table), id.parse().unwrap(), data(json))
}

pub fn delete(table: &str, id: &str) -> Write {
    Write::delete(collection(table), id.parse().unwrap())
}

pub fn statement(text: &str, parameters: &str) -> Write {
    Write::statement(text, serde_json::from_str(parameters).unwrap(), Vec::new())
}
