//! What somebody without Outlast would write: calls of the database's own client.

mod postgres;
mod sqlite;
mod surrealdb;

use std::sync::Arc;

use outlast::{Document, RecordId};

use self::postgres::PlainPostgres;
use self::sqlite::PlainSqlite;
use self::surrealdb::PlainSurreal;
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

    /// All of these rows in the fastest way that the client knows, without a position.
    pub(crate) async fn fastest(&self, rows: &[Row]) -> Result<()> {
        match self {
            Self::Postgres(plain) => plain.copy(rows).await,
            Self::Sqlite(_) | Self::SurrealDb(_) => self.bulk(rows, 0).await,
        }
    }

    /// The same for the table; `None` where nothing is faster than a transaction of many rows.
    pub(crate) fn describe_fastest(&self) -> Option<&'static str> {
        match self {
            Self::Postgres(_) => Some("one COPY of them all, no position"),
            Self::Sqlite(_) => Some("all of them in one transaction"),
            Self::SurrealDb(_) => None,
        }
    }
}
