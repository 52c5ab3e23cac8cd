//! SQLite through its own library.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use outlast::{Document, RecordId};
use rusqlite::Connection;

use super::Row;
use crate::Result;

const INSERT: &str = "INSERT INTO bench (id, data) VALUES (?1, ?2)";

/// One connection behind a lock. Several connections would be slower: SQLite has one writer at a time, and whoever
/// finds it busy sleeps.
pub(crate) struct PlainSqlite(Mutex<Connection>);

impl PlainSqlite {
    /// With the same journal and the same sync as the adapter.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS bench (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL)",
            [],
        )?;
        connection.execute("CREATE TABLE IF NOT EXISTS bench_position (sequence INTEGER NOT NULL)", [])?;
        Ok(Self(Mutex::new(connection)))
    }

    /// One INSERT, committed by itself.
    pub(crate) fn insert(&self, document: &Document) -> Result<()> {
        let id = RecordId::generate();
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut insert = connection.prepare_cached(INSERT)?;
        insert.execute((id.as_str(), document.as_str()))?;
        Ok(())
    }

    /// All of them by one prepared INSERT, and the position, in one transaction.
    pub(super) fn bulk(&self, rows: &[Row], position: u64) -> Result<()> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for (id, document) in rows {
                insert.execute((id.as_str(), document.as_str()))?;
            }
            let mut advance = transaction
                .prepare_cached("INSERT OR REPLACE INTO bench_position (rowid, sequence) VALUES (1, ?1)")?;
            advance.execute([i64::try_from(position)?])?;
        }
        Ok(transaction.commit()?)
    }
}
