//! SQLite with a write-ahead log that is synced at every commit.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rusqlite::Connection;

use crate::floor::{Records, Store};
use crate::{BATCH, Peer, Read, Result, mib};

pub(crate) struct Sqlite(Mutex<Connection>);

fn open(directory: &Path) -> Result<Connection> {
    let connection = Connection::open(directory.join("log.db"))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

impl Sqlite {
    fn write<'a>(&self, records: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO log (body) VALUES (?1)")?;
            for record in records {
                insert.execute((record,))?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Sqlite {
    fn commit(&mut self, records: &Records) -> Result<()> {
        self.write(records.iter())
    }
}

impl Peer for Sqlite {
    fn create(directory: &Path, _held: bool) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let connection = open(directory)?;
        connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, body BLOB NOT NULL)", ())?;
        Ok(Self(Mutex::new(connection)))
    }

    fn append(&self, _caller: usize, record: &[u8]) -> Result<()> {
        self.write(std::iter::once(record))
    }

    fn read(directory: &Path) -> Result<Read> {
        let started = Instant::now();
        let connection = open(directory)?;
        let mut select = connection.prepare("SELECT id, body FROM log WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let opening = started.elapsed();
        let resident_when_open = mib("VmRSS");
        let started = Instant::now();
        let (mut after, mut entries) = (0i64, 0);
        loop {
            let rows = select.query_map((after, BATCH as i64), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?;
            let batch = rows.collect::<std::result::Result<Vec<_>, _>>()?;
            let Some((last, _)) = batch.last() else { break };
            (after, entries) = (*last, entries + batch.len() as u64);
        }
        Ok(Read { entries, opening, reading: started.elapsed(), resident_when_open })
    }
}
