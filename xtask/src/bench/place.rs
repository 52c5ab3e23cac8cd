//! [`Place`]: where databases of one kind are made, and the two ways of writing to them through an adapter.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast::database::{Database, Item, LaneId, Position, Sequence64};
use outlast::status::Wait;
use outlast::{Options, Outcome, Outlast, Sequence, Write, WriteId};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::postgres::PostgresServer;
use outlast_testkit::surreal::{Storage, SurrealServer};

use crate::Result;

/// The namespace in SurrealDB.
pub(super) const NAMESPACE: &str = "bench";
/// What the server's own defaults are, and the tests' server has less of; and no checkpoint in the middle of a round.
const POSTGRES_SETTINGS: &str = "shared_buffers = '128MB'\nmax_wal_size = '4GB'\n";
/// The longest that a database may take to be reached, or a write to be applied.
const PATIENCE: Duration = Duration::from_mins(1);

/// Kinds of databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Embedded, write-ahead log, full sync.
    Sqlite,
    /// A server of its own, with a file store that syncs every commit.
    Surrealdb,
    /// A server of its own, `synchronous_commit = on`.
    Postgres,
}

/// Where databases are made.
pub(crate) enum Place {
    /// In this folder.
    Sqlite(PathBuf),
    /// In this server.
    SurrealDb(SurrealServer),
    /// In this server, whose files are not in the folder: its user may not be allowed there.
    Postgres(PostgresServer),
}

impl Place {
    /// A new one, with everything it keeps in `directory`.
    pub(crate) fn start(kind: Kind, directory: &Path) -> Self {
        match kind {
            Kind::Sqlite => Self::Sqlite(directory.to_owned()),
            Kind::Surrealdb => {
                Self::SurrealDb(SurrealServer::start(Storage::File(directory.join("surrealkv"))))
            }
            Kind::Postgres => Self::Postgres(PostgresServer::start_with(POSTGRES_SETTINGS)),
        }
    }

    /// For headings.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Sqlite(_) => "SQLite (write-ahead log, synchronous=FULL)".to_owned(),
            Self::SurrealDb(_) => "SurrealDB server (surrealkv file store, every commit synced)".to_owned(),
            Self::Postgres(server) => {
                format!(
                    "PostgreSQL {} (synchronous_commit=on)",
                    server.query("postgres", "SHOW server_version")
                )
            }
        }
    }

    /// The same in a word, for goals.
    pub(crate) fn short(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::SurrealDb(_) => "SurrealDB",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    /// A new database with this name: its URL. Embedded ones and those of SurrealDB are made by the first who comes.
    pub(crate) fn make(&self, name: &str) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}/{name}.db", directory.display()),
            Self::SurrealDb(server) => server.url(NAMESPACE, name),
            Self::Postgres(server) => {
                server.create_database(name);
                server.url(name)
            }
        }
    }

    /// An adapter for a database with this name, ready to be used.
    pub(crate) async fn database(&self, name: &str) -> Result<Arc<dyn Database>> {
        let database: Arc<dyn Database> = match self {
            Self::Sqlite(directory) => {
                Arc::new(Sqlite::open(directory.join(format!("{name}.db")), SqliteOptions::default())?)
            }
            Self::SurrealDb(_) => Arc::new(SurrealDb::from_url(&self.make(name), SurrealOptions::default())?),
            Self::Postgres(_) => Arc::new(Postgres::from_url(&self.make(name), PostgresOptions::default())?),
        };
        database.probe().await?;
        Ok(database)
    }
}

/// The transaction that Outlast would make, made by hand on the adapter: writes and position.
pub(crate) struct ByHand {
    database: Arc<dyn Database>,
    lane: LaneId,
    position: Position,
}

impl ByHand {
    /// Takes a lane of its own over.
    pub(crate) async fn begin(database: Arc<dyn Database>) -> Result<Self> {
        let lane = LaneId::new("by-hand", 0);
        let seen = database.position(&lane).await?;
        let position = database.take_over(&lane, seen.as_ref(), "by-hand").await?;
        Ok(Self { database, lane, position })
    }

    /// One transaction.
    pub(crate) async fn apply(&mut self, batch: &[Item]) -> Result<()> {
        let next = self.sequence_after(batch.len() as u64)?;
        self.database.apply(&self.lane, &self.position, next, batch).await?;
        self.position.sequence = Sequence64(next);
        Ok(())
    }

    /// One transaction of one write.
    pub(crate) async fn apply_one(&mut self, write: Write) -> Result<()> {
        let item = Item { id: WriteId(self.sequence_after(1)?), write: Arc::new(write) };
        self.apply(std::slice::from_ref(&item)).await
    }

    fn sequence_after(&self, writes: u64) -> Result<Sequence> {
        let next = self.position.sequence.0.as_u64() + writes;
        Ok(Sequence::from_u64(next).ok_or("more writes than a sequence can count")?)
    }
}

/// Opens the library on an adapter, with its queue in `directory`, and waits until the database is connected.
pub(crate) async fn library(database: Arc<dyn Database>, directory: &Path, lanes: u32) -> Result<Outlast> {
    let options = Options { max_writes: u64::MAX, max_bytes: u64::MAX, lanes, ..Options::new(directory) };
    let outlast = Outlast::open(database, options).await?;
    wait_until_connected(&outlast).await?;
    Ok(outlast)
}

/// Ends when the database is connected.
pub(crate) async fn wait_until_connected(outlast: &Outlast) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !outlast.is_healthy() {
        if Instant::now() >= deadline {
            return Err(format!("the database is not reached: {:?}", outlast.status().database).into());
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

/// A write through the library that must be applied.
pub(crate) async fn submit(outlast: &Outlast, write: Write) -> Result<()> {
    match outlast.submit(write, Wait::UpTo(PATIENCE)).await? {
        Outcome::Applied { .. } => Ok(()),
        Outcome::Queued(receipt) => Err(format!("the write was queued, not applied: {receipt:?}").into()),
    }
}
