//! What somebody without Outlast would write: calls of the database's own client.

mod postgres;
mod sqlite;
mod surrealdb;

use std::sync::Arc;

use outlast::{Document, RecordId};

use self::postgres::PlainPostgres;
use self::sqlite::PlainSqlite;
use self::surrealdb::PlainSurreal;
use super::drain::BATCH;
use super::place::Place;
use crate::Result;

/// A record to be made.
pub(crate) type Row = (RecordId, Document);

/// A client of its own for a database.
pub(crate) enum Plain {
    /// An INSERT outside any transaction.
    Sqlite(PlainSqlite),
    /// A CREATE in a request of its own.
    SurrealDb(Arc<PlainSurreal>),
    /// An INSERT outside any transaction.
    Postgres(Arc<PlainPostgres>),
}

impl Plain {
    /// For a database with this name, and for so many callers.
    pub(crate) async fn open(place: &Place, name: &str, callers: usize) -> Result<Self> {
        Ok(match place {
            Place::Sqlite(directory) => {
                Self::Sqlite(PlainSqlite::open(&directory.join(format!("{name}.db")))?)
            }
            Place::SurrealDb(server) => {
                Self::SurrealDb(Arc::new(PlainSurreal::open(server.port(), name, callers).await?))
            }
            Place::Postgres(_) => {
                Self::Postgres(Arc::new(PlainPostgres::open(&place.make(name), callers).await?))
            }
        })
    }

    /// One call for each write, for the table.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "plain: one INSERT each, no transaction around it, one connection",
            Self::SurrealDb(_) => "plain: one CREATE each, a connection for each caller",
            Self::Postgres(_) => "plain: one prepared INSERT each, a connection for each caller",
        }
    }

    /// All of these rows and a position in one transaction.
    pub(crate) async fn bulk(&self, rows: &[Row], position: u64) -> Result<()> {
        match self {
            Self::Sqlite(plain) => plain.bulk(rows, position),
            Self::SurrealDb(plain) => plain.bulk(rows, position).await,
            Self::Postgres(plain) => plain.bulk(rows, position).await,
        }
    }

    /// The same for the table.
    pub(crate) fn describe_bulk(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "one prepared INSERT again and again",
            Self::SurrealDb(_) => "one INSERT of an array",
            Self::Postgres(_) => "one INSERT from jsonb_to_recordset",
        }
    }

    /// All of these rows in one of the [`Plain::ways_at_once`].
    pub(crate) async fn at_once(&self, way: AtOnce, rows: &[Row]) -> Result<()> {
        match (self, way) {
            (Self::Postgres(plain), AtOnce::Copy) => plain.copy(rows).await,
            (Self::Postgres(plain), AtOnce::Transaction) => plain.transaction(rows, BATCH).await,
            (Self::Sqlite(_) | Self::SurrealDb(_), _) => self.bulk(rows, 0).await,
        }
    }

    /// Ways of bringing any number of rows there together.
    pub(crate) fn ways_at_once(&self) -> &'static [AtOnce] {
        match self {
            Self::Postgres(_) => &[AtOnce::Transaction, AtOnce::Copy],
            Self::Sqlite(_) => &[AtOnce::Transaction],
            // A request that large is more than the server takes.
            Self::SurrealDb(_) => &[],
        }
    }
}

/// How all rows are brought there together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AtOnce {
    /// In one transaction, with a position.
    Transaction,
    /// By one COPY, without a position.
    Copy,
}

impl AtOnce {
    /// For the table.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Transaction => "all of them in one transaction",
            Self::Copy => "one COPY of them all, no position",
        }
    }
}
