//! What the tests of this crate share: a database of its own for each test, and short ways to write batches.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use outlast::database::{Applied, ApplyError, Database, Item, LaneId, Position};
use outlast::{Collection, Document, RecordName, RefusalKind, Sequence, Write, WriteId};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::conformance::{Fresh, Guarded, Harness};
use outlast_testkit::proxy::Proxy;
use outlast_testkit::surreal::{self, SurrealServer};
use serde_json::{Value, json};

pub const NAMESPACE: &str = "tests";

/// A database of the shared server.
pub struct Fixture {
    pub server: Arc<SurrealServer>,
    pub name: String,
    pub database: SurrealDb,
    pub lane: LaneId,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::on(SurrealServer::shared()).await
    }

    pub async fn on(server: Arc<SurrealServer>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("d{}", NEXT.fetch_add(1, Ordering::SeqCst));
        server.sql(NAMESPACE, &name, &format!("DEFINE NAMESPACE IF NOT EXISTS {NAMESPACE}; USE NS {NAMESPACE}; REMOVE DATABASE IF EXISTS {name}"));
        let database = SurrealDb::from_url(&server.url(NAMESPACE, &name), SurrealOptions::default()).unwrap();
        database.probe().await.unwrap();
        Self { server, name, database, lane: LaneId::new("queue", 0) }
    }

    /// Runs statements beside the client under test.
    pub fn sql(&self, statements: &str) -> Vec<Value> {
        self.server.sql(NAMESPACE, &self.name, statements)
    }

    pub fn query(&self, statement: &str) -> Value {
        self.server.query(NAMESPACE, &self.name, statement)
    }

    pub async fn take_over(&self) -> Position {
        let seen = self.database.position(&self.lane).await.unwrap();
        self.database.take_over(&self.lane, seen.as_ref(), "me").await.unwrap()
    }

    /// Applies a batch at the position that stands there.
    pub async fn apply(&self, writes: Vec<Write>) -> Result<Applied, ApplyError> {
        let position = match self.database.position(&self.lane).await.unwrap() {
            Some(position) => position,
            None => self.take_over().await,
        };
        let next = after(&position, writes.len() as u64);
        self.database.apply(&self.lane, &position, next, &items(&position, writes)).await
    }

    /// Applies a batch that must be refused, and nothing of it may have happened.
    pub async fn refused(&self, writes: Vec<Write>) -> (usize, outlast::RefusalKind, String) {
        let before = match self.database.position(&self.lane).await.unwrap() {
            Some(position) => position,
            None => self.take_over().await,
        };
        let Err(ApplyError::Rejected { index, reason, .. }) = self.apply(writes).await else {
            panic!("the batch was not refused");
        };
        let after = self.database.position(&self.lane).await.unwrap();
        assert_eq!(Some(before), after, "the position moved with a refused batch");
        (index, reason.kind, reason.message)
    }

    pub async fn get(&self, table: &str, id: &str) -> Option<Value> {
        let document = self.database.get(&collection(table), &id.parse().unwrap()).await.unwrap();
        document.map(|document| serde_json::from_str(document.as_str()).unwrap())
    }
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

/// A server, and what has to be kept as long as it runs.
pub type Running = (Arc<SurrealServer>, Box<dyn Any + Send + Sync>);

/// Where the rules of the test kit run.
#[async_trait]
pub trait Place: Send + Sync {
    async fn fresh(&self) -> Fresh;

    /// Its server, if it is one.
    fn server(&self) -> Option<Running> {
        None
    }

    /// What makes a record id from a table and a key.
    fn record(&self) -> &'static str {
        "type::record"
    }

    /// See [`Harness::isolates`] and [`Harness::keeps_second_changes`].
    fn is_sound(&self) -> bool {
        true
    }
}

/// The rules' statements in SurrealDB's language.
pub struct Rules<P>(pub P);

#[async_trait]
impl<P: Place> Harness for Rules<P> {
    async fn fresh(&self) -> Fresh {
        self.0.fresh().await
    }

    async fn behind_proxy(&self) -> Option<(Fresh, Proxy)> {
        let (server, keep) = self.0.server()?;
        let Fixture { server, name, .. } = Fixture::on(server).await;
        let proxy = Proxy::start(server.authority().parse().unwrap()).await.unwrap();
        let url = surreal::url(&proxy.address().to_string(), NAMESPACE, &name);
        let database = SurrealDb::from_url(&url, SurrealOptions::default()).unwrap();
        Some((Fresh { database: Arc::new(database), keep: Box::new((server, keep)) }, proxy))
    }

    fn increment(&self, record: &RecordName, by: i64) -> Write {
        let parameters = json!({ "table": record.collection, "id": record.id, "by": by });
        touching(record, &format!("UPDATE {}($table, $id) SET n += $by", self.0.record()), &parameters)
    }

    fn set_text(&self, record: &RecordName, text: &str) -> Write {
        let parameters = json!({ "table": record.collection, "id": record.id, "text": text });
        touching(record, &format!("UPDATE {}($table, $id) SET text = $text", self.0.record()), &parameters)
    }

    fn nonsense(&self) -> Write {
        // Most words in a row are expressions to SurrealDB.
        statement("UPDATE WHERE FROM =", "{}")
    }

    fn isolates(&self) -> bool {
        self.0.is_sound()
    }

    fn keeps_second_changes(&self) -> bool {
        self.0.is_sound()
    }

    fn guarded(&self) -> Vec<Guarded> {
        let guarded = |ground: &[&str], write, kind, retryable| Guarded {
            ground: ground.iter().map(|text| statement(text, "{}")).collect(),
            write,
            kind,
            retryable,
        };
        let exists = format!(
            "DEFINE FIELD parent ON children ASSERT record::exists({}('parents', $value))",
            self.0.record()
        );
        vec![
            guarded(
                &[
                    "DEFINE TABLE users SCHEMALESS",
                    "DEFINE INDEX email ON users FIELDS email UNIQUE",
                    "CREATE users:1 SET email = 'x'",
                ],
                put("users", "2", "{\"email\":\"x\"}"),
                RefusalKind::Constraint,
                false,
            ),
            guarded(
                &["DEFINE TABLE children SCHEMALESS", &exists],
                put("children", "1", "{\"parent\":\"nobody\"}"),
                RefusalKind::Constraint,
                true,
            ),
            guarded(
                &["DEFINE TABLE narrow SCHEMAFULL", "DEFINE FIELD n ON narrow TYPE int"],
                put("narrow", "1", "{\"n\":\"text\"}"),
                RefusalKind::Schema,
                false,
            ),
        ]
    }

    fn trespass(&self) -> Write {
        statement("UPDATE outlast_position SET sequence = 0", "{}")
    }
}

fn touching(record: &RecordName, text: &str, parameters: &Value) -> Write {
    Write::statement(text, parameters.as_object().cloned().unwrap(), vec![record.clone()])
}
