//! PostgreSQL through the client that most Rust services use.

use std::fmt::Write as _;
use std::pin::pin;

use futures_util::future::try_join4;
use futures_util::{SinkExt, TryFutureExt};
use outlast::{Document, RecordId};
use tokio_postgres::{Client, NoTls, Statement};

use super::Row;
use crate::Result;

/// A connection for each caller.
pub(crate) struct PlainPostgres(Vec<Connection>);

struct Connection {
    client: Client,
    insert: Statement,
    bulk: Statement,
    advance: Statement,
}

impl PlainPostgres {
    /// So many connections to the database at this URL.
    pub(super) async fn open(url: &str, connections: usize) -> Result<Self> {
        let mut all = Vec::with_capacity(connections);
        for _ in 0..connections {
            all.push(Connection::open(url, all.is_empty()).await?);
        }
        Ok(Self(all))
    }

    /// One prepared INSERT, committed by itself.
    pub(crate) async fn insert(&self, caller: usize, document: &Document) -> Result<()> {
        let Connection { client, insert, .. } = &self.0[caller];
        client.execute(insert, &[&RecordId::generate().as_str(), &document.as_str()]).await?;
        Ok(())
    }

    /// All of them by one INSERT from an array of JSON, and the position, in one transaction that is one flight.
    pub(super) async fn bulk(&self, rows: &[Row], position: u64) -> Result<()> {
        let Connection { client, bulk, advance, .. } = &self.0[0];
        let array = array_of(rows)?;
        let position = i64::try_from(position)?;
        try_join4(
            client.batch_execute("BEGIN"),
            client.execute(bulk, &[&array]).map_ok(drop),
            client.execute(advance, &[&position]).map_ok(drop),
            client.batch_execute("COMMIT"),
        )
        .await?;
        Ok(())
    }

    /// All of them in one transaction, by an INSERT for each so many.
    pub(super) async fn transaction(&self, rows: &[Row], at_once: usize) -> Result<()> {
        let Connection { client, bulk, advance, .. } = &self.0[0];
        client.batch_execute("BEGIN").await?;
        for rows in rows.chunks(at_once) {
            client.execute(bulk, &[&array_of(rows)?]).await?;
        }
        client.execute(advance, &[&0_i64]).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// All of them by one COPY.
    pub(super) async fn copy(&self, rows: &[Row]) -> Result<()> {
        /// What is sent at once.
        const CHUNK_BYTES: usize = 256 << 10;
        let Connection { client, .. } = &self.0[0];
        let mut sink = pin!(client.copy_in("COPY bench (id, data) FROM STDIN").await?);
        let mut chunk = String::with_capacity(CHUNK_BYTES + 1024);
        for (id, document) in rows {
            // The text format of COPY: a backslash begins an escape.
            writeln!(chunk, "{id}\t{}", document.as_str().replace('\\', "\\\\"))?;
            if chunk.len() >= CHUNK_BYTES {
                sink.send(std::mem::take(&mut chunk).into()).await?;
            }
        }
        sink.send(bytes::Bytes::from(chunk)).await?;
        sink.finish().await?;
        Ok(())
    }
}

impl Connection {
    async fn open(url: &str, is_first: bool) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // Ends with the client; an error shows in the client's calls.
        tokio::spawn(connection);
        if is_first {
            client
                .batch_execute(
                    "CREATE TABLE IF NOT EXISTS bench (id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL); \
                     CREATE TABLE IF NOT EXISTS bench_position (lane text PRIMARY KEY, sequence bigint NOT NULL)",
                )
                .await?;
        }
        let insert = client.prepare("INSERT INTO bench (id, data) VALUES ($1, $2::text::jsonb)").await?;
        let bulk = "INSERT INTO bench (id, data) \
             SELECT r.id, r.data FROM jsonb_to_recordset($1::text::jsonb) AS r (id text, data jsonb)";
        let bulk = client.prepare(bulk).await?;
        let advance = "INSERT INTO bench_position (lane, sequence) VALUES ('bulk', $1) \
             ON CONFLICT (lane) DO UPDATE SET sequence = EXCLUDED.sequence";
        let advance = client.prepare(advance).await?;
        Ok(Self { client, insert, bulk, advance })
    }
}

fn array_of(rows: &[Row]) -> Result<String> {
    let mut array = String::from("[");
    for (id, document) in rows {
        let comma = if array.len() > 1 { "," } else { "" };
        write!(array, "{comma}{{\"id\":\"{id}\",\"data\":{}}}", document.as_str())?;
    }
    array.push(']');
    Ok(array)
}
