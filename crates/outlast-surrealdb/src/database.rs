//! [`SurrealDb`]: the contract of [`Database`], over pools of connections.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ciborium::Value as Cbor;
use outlast::database::{
    Applied, ApplyError, Database, DatabaseError, Item, LaneId, ListQuery, Position, TakeOverError,
};
use outlast::error::{Invalid, Refusal, RefusalKind};
use outlast::record::check_name;
use outlast::{Collection, Document, Operation, RecordId, Sequence, Write, WriteId};
use tokio::time::Instant;

use crate::address::Address;
use crate::apply::{Attempt, now_millis, size, worst};
use crate::batch::{KEYS, POSITIONS, Target};
use crate::connection::{ConnectError, Connection, RequestError};
use crate::fault::Meaning;
use crate::pool::{Pool, Pooled};
use crate::turns::Turns;
use crate::value::{from_json, integer, member, record, records_from, text_key, to_map};
use crate::{position, statement};

/// Connections for writes: more than there are lanes.
const WRITE_CONNECTIONS_MAX: usize = 32;
/// Connections for reads, so that a slow batch does not hold them up.
const READ_CONNECTIONS_MAX: usize = 8;
/// Largest write, so that it fits into a request with others.
const WRITE_BYTES_MAX: usize = 32 << 20;
/// A namespace, a database and two tables can be missing, one after the other.
const DEFINE_ROUNDS: usize = 5;

/// How to use a server.
#[derive(Clone)]
pub struct SurrealOptions {
    /// The longest that a call may take, with connecting. Default: 30 s.
    pub request_timeout: Duration,
    /// The longest that making a connection may take, with signing in. Default: 5 s.
    pub connect_timeout: Duration,
    /// Let what is missing be made: namespace, database and Outlast's tables by `probe`, a collection's table by the
    /// first write to it (unless the database is strict). Default: true.
    pub create_collections: bool,
    /// The password, when it is not in the URL.
    pub password: Option<String>,
}

impl fmt::Debug for SurrealOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SurrealOptions")
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("create_collections", &self.create_collections)
            .finish_non_exhaustive()
    }
}

impl Default for SurrealOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            create_collections: true,
            password: None,
        }
    }
}

/// A database of a SurrealDB server. See the crate's page for what it promises.
pub struct SurrealDb {
    address: Arc<Address>,
    request_timeout: Duration,
    create_collections: bool,
    writes: Pool,
    reads: Pool,
    turns: Turns,
    /// Which server answers, as a [`Release`].
    release: AtomicU8,
}

/// What has to be known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Release {
    /// It has not answered yet.
    Unknown,
    /// 2.x: see [`SurrealDb::batch_writes_max`].
    Two,
    /// One that keeps what this crate promises.
    Later,
}

impl SurrealDb {
    /// For the database that a URL names: `surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE`, or `surrealdbs://` for
    /// TLS. User, password and names are percent-decoded; the user may be one of the server, of the namespace or of the
    /// database. Connects when it is first needed.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn from_url(url: &str, options: SurrealOptions) -> Result<Self, Invalid> {
        let SurrealOptions { request_timeout, connect_timeout, create_collections, password } = options;
        let address = Arc::new(Address::parse(url, password.as_deref())?);
        let pool = |connections_max| Pool::new(Arc::clone(&address), connect_timeout, connections_max);
        let (writes, reads) = (pool(WRITE_CONNECTIONS_MAX), pool(READ_CONNECTIONS_MAX));
        Ok(Self {
            address,
            request_timeout,
            create_collections,
            writes,
            reads,
            turns: Turns::default(),
            release: AtomicU8::new(Release::Unknown as u8),
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// A session for what somebody reads: without one nothing was refused about that, whatever the reason.
    async fn read_connection(&self, deadline: Instant) -> Result<Pooled, DatabaseError> {
        self.reads.take(deadline).await.map_err(|error| DatabaseError::Unavailable(error.into_reason()))
    }

    fn is(&self, release: Release) -> bool {
        self.release.load(Ordering::Relaxed) == release as u8
    }

    /// Asks the server which one it is, and warns of one that cannot keep what this crate promises. Asked by every probe:
    /// another one may have taken its place. One that does not say it, since that is denied there, is taken for the one
    /// that keeps less.
    async fn look_at_server(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let (release, which) = match connection.version(deadline).await {
            Ok(None) => (Release::Later, String::new()),
            Ok(Some(version)) => {
                let number = version.trim_start_matches("surrealdb-");
                let keeps_less = number.is_empty() || number.starts_with("2.");
                (if keeps_less { Release::Two } else { Release::Later }, version)
            }
            Err(RequestError::Fault(fault)) => (Release::Two, fault.message),
            Err(error) => return Err(DatabaseError::Unavailable(error.into_message())),
        };
        let before = self.release.swap(release as u8, Ordering::Relaxed);
        if release == Release::Two && before != release as u8 {
            tracing::warn!(
                database = %self.address,
                which,
                "this is SurrealDB 2.x, or does not say that it is a later one: on the SurrealKV storage of 2.x two \
                 transactions that write one record may both commit, so that a write may take effect twice after an \
                 outage, and a record that one transaction changes twice comes back with the first change after a \
                 restart, so that every write gets a transaction of its own here; 3.x has neither"
            );
        }
        Ok(())
    }

    /// All that can be done for a batch before its turn: a connection, and the request for it.
    async fn make_ready<'a>(&self, target: Target<'a>, batch: &'a [Item]) -> Result<Attempt<'a>, ApplyError> {
        let deadline = self.deadline();
        let mut connection =
            self.writes.take(deadline).await.map_err(|error| ApplyError::Unavailable(error.into_reason()))?;
        if self.is(Release::Unknown) {
            let looked = self.look_at_server(&mut connection, deadline).await;
            looked.map_err(|error| ApplyError::Unavailable(error.to_string()))?;
        }
        if self.is(Release::Two)
            && let Some(index) = batch.iter().position(changes_a_record_twice)
        {
            let message = "SurrealDB 2.x forgets the second of two changes to one record in one transaction when it \
                           restarts: send them as two writes, or as one operation";
            let reason = Refusal::new(RefusalKind::Other, message);
            return Err(ApplyError::Rejected { index, reason, retryable: false });
        }
        Attempt::prepare(connection, target, batch)
    }

    /// Makes what is missing, one thing after the other.
    async fn define_missing(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let look =
            format!("SELECT VALUE sequence FROM {POSITIONS} LIMIT 1; SELECT VALUE at FROM {KEYS} LIMIT 1;");
        for _ in 0..DEFINE_ROUNDS {
            let fault = match connection.query(&look, Vec::new(), deadline).await {
                Ok(rows) => match worst(rows) {
                    Ok(_) => return Ok(()),
                    Err(fault) => fault,
                },
                Err(RequestError::Fault(fault)) => fault,
                Err(error) => return Err(DatabaseError::Unavailable(error.into_message())),
            };
            let definition = match fault.meaning() {
                Meaning::NamespaceMissing => {
                    format!("DEFINE NAMESPACE IF NOT EXISTS `{}`", self.address.namespace)
                }
                Meaning::DatabaseMissing => {
                    format!("DEFINE DATABASE IF NOT EXISTS `{}`", self.address.database)
                }
                Meaning::TableMissing => {
                    let table = if fault.is_about_table(KEYS) { KEYS } else { POSITIONS };
                    format!("DEFINE TABLE IF NOT EXISTS {table} SCHEMALESS")
                }
                _ => return Err(position::error(connection, fault)),
            };
            if !self.create_collections {
                return Err(self.to_be_run(&fault.message));
            }
            match connection.query(&definition, Vec::new(), deadline).await {
                Ok(rows) => match worst(rows) {
                    Ok(_) => tracing::info!(database = %self.address, definition, "defined what was missing"),
                    Err(fault) if matches!(fault.meaning(), Meaning::Refused { .. }) => {
                        return Err(self.to_be_run(&fault.message));
                    }
                    Err(fault) => return Err(position::error(connection, fault)),
                },
                Err(error) => return Err(DatabaseError::Unavailable(error.into_message())),
            }
        }
        Err(DatabaseError::Unavailable("the database's tables keep disappearing".to_owned()))
    }

    fn to_be_run(&self, reason: &str) -> DatabaseError {
        let Address { namespace, database, .. } = &*self.address;
        DatabaseError::Refused(format!(
            "{reason}. Let an owner run: DEFINE NAMESPACE IF NOT EXISTS `{namespace}`; USE NS `{namespace}`; \
             DEFINE DATABASE IF NOT EXISTS `{database}`; USE DB `{database}`; \
             DEFINE TABLE IF NOT EXISTS {POSITIONS} SCHEMALESS; DEFINE TABLE IF NOT EXISTS {KEYS} SCHEMALESS;"
        ))
    }
}

fn changes_a_record_twice(item: &Item) -> bool {
    let mut seen = HashSet::new();
    item.write.operations().iter().any(|operation| {
        // What one operation names twice it may still change once.
        let records: HashSet<_> = operation.records().iter().collect();
        records.into_iter().any(|record| !seen.insert(record))
    })
}

fn database_error(error: ConnectError) -> DatabaseError {
    match error {
        ConnectError::Unavailable(reason) => DatabaseError::Unavailable(reason),
        ConnectError::Refused(reason) => DatabaseError::Refused(reason),
    }
}

/// A row of a collection as an id and a document; `None` for records of other writers whose key is not a text.
fn document(row: Cbor) -> Result<Option<(RecordId, Document)>, DatabaseError> {
    let Some(id) = member(&row, "id").and_then(text_key).and_then(|key| key.parse::<RecordId>().ok()) else {
        return Ok(None);
    };
    let Cbor::Map(members) = row else { return Ok(None) };
    let mut map = to_map(members);
    map.remove("id");
    let raw =
        serde_json::value::to_raw_value(&map).map_err(|error| DatabaseError::Refused(error.to_string()))?;
    Ok(Some((id, Document::try_from(raw)?)))
}

#[async_trait]
impl Database for SurrealDb {
    fn describe(&self) -> String {
        self.address.to_string()
    }

    fn check(&self, write: &Write) -> Result<(), Invalid> {
        let bytes = size(write.operations());
        if bytes > WRITE_BYTES_MAX {
            return Err(Invalid::new(format!(
                "the write has {bytes} bytes, for SurrealDB it may have {WRITE_BYTES_MAX}"
            )));
        }
        for operation in write.operations() {
            match operation {
                Operation::Create { data, .. }
                | Operation::Put { data, .. }
                | Operation::Patch { data, .. } => {
                    if crate::value::is_plain(data.as_str()) {
                        continue;
                    }
                    let map = data.to_map();
                    if map.contains_key("id") {
                        return Err(Invalid::new(
                            "the member \"id\" names the record in SurrealDB and cannot be content",
                        ));
                    }
                    crate::value::from_map(&map)?;
                }
                Operation::Delete { .. } => {}
                Operation::Statement { text, parameters, .. } => {
                    statement::check(text, parameters)?;
                    crate::value::from_map(parameters)?;
                }
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        let deadline = self.deadline();
        let mut connection = self.writes.take(deadline).await.map_err(database_error)?;
        self.look_at_server(&mut connection, deadline).await?;
        self.define_missing(&mut connection, deadline).await
    }

    /// One on 2.x: a record that a transaction changes twice comes back with the first change when the server restarts
    /// (SurrealKV 0.9.3), and which records and index entries a write changes only the server knows.
    fn batch_writes_max(&self) -> usize {
        if self.is(Release::Later) { usize::MAX } else { 1 }
    }

    /// It waits here until the one in front is answered.
    fn takes_ahead(&self) -> bool {
        true
    }

    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError> {
        let deadline = self.deadline();
        let mut connection = self.writes.take(deadline).await.map_err(database_error)?;
        position::read(&mut connection, lane, deadline).await
    }

    async fn take_over(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.move_to(lane, seen, None, owner).await
    }

    async fn reset_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Sequence,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.move_to(lane, seen, Some(sequence), owner).await
    }

    async fn apply_across(
        &self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        let target = Target { rows, next, tables_must_exist: !self.create_collections };
        // Polled in this order: the turns are those of the calls.
        let (_turn, ready) = tokio::join!(biased; self.turns.take(rows), self.make_ready(target, batch));
        // Its time begins with its turn.
        ready?.run(self.deadline()).await
    }

    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError> {
        let deadline = self.deadline();
        let mut connection = self.read_connection(deadline).await?;
        let values = vec![("outlast_record".to_owned(), record(collection.as_str(), id.as_str()))];
        let results =
            position::ask(&mut connection, "SELECT * FROM $outlast_record", values, deadline).await?;
        let row = position::rows(results).into_iter().next();
        Ok(row.map(document).transpose()?.flatten().map(|(_, document)| document))
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        let deadline = self.deadline();
        let mut text = "SELECT * FROM $outlast_records".to_owned();
        let mut values = vec![
            ("outlast_records".to_owned(), records_from(&query.collection, query.after.as_ref())),
            ("outlast_limit".to_owned(), integer(query.limit as u64)),
        ];
        for (at, (name, value)) in query.filters.iter().enumerate() {
            check_name("filter", name)?;
            let word = if at == 0 { "WHERE" } else { "AND" };
            let _ = write!(text, " {word} `{name}` = $outlast_filter_{at}");
            values.push((format!("outlast_filter_{at}"), from_json(value)?));
        }
        text.push_str(" ORDER BY id LIMIT $outlast_limit");
        let mut connection = self.read_connection(deadline).await?;
        let results = position::ask(&mut connection, &text, values, deadline).await?;
        position::rows(results).into_iter().filter_map(|row| document(row).transpose()).collect()
    }

    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError> {
        let deadline = self.deadline();
        let mut connection = self.read_connection(deadline).await?;
        position::find_key(&mut connection, key, deadline).await
    }

    async fn prune_keys(&self, older_than: Duration) -> Result<u64, DatabaseError> {
        let deadline = self.deadline();
        let age = u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX);
        let before = now_millis().saturating_sub(age);
        let mut connection = self.read_connection(deadline).await?;
        let mut pruned = 0;
        loop {
            let (count, more) = position::prune_keys(&mut connection, before, deadline).await?;
            pruned += count;
            if !more {
                return Ok(pruned);
            }
        }
    }

    async fn close(&self) {
        self.writes.close_idle();
        self.reads.close_idle();
    }
}

impl SurrealDb {
    async fn move_to(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Option<Sequence>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        let deadline = self.deadline();
        let mut connection = self.writes.take(deadline).await.map_err(|error| match error {
            ConnectError::Unavailable(reason) => TakeOverError::Unavailable(reason),
            ConnectError::Refused(reason) => TakeOverError::Refused(reason),
        })?;
        if seen.is_none() {
            // The first write to a database: its tables may have to be made.
            self.define_missing(&mut connection, deadline).await.map_err(|error| match error {
                DatabaseError::Refused(reason) => TakeOverError::Refused(reason),
                error => TakeOverError::Unavailable(error.to_string()),
            })?;
        }
        position::take_over(&mut connection, lane, seen, sequence, owner, deadline).await
    }
}
