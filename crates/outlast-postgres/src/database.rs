//! [`Postgres`]: the contract of [`Database`], over pools of connections.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outlast::database::{
    Applied, ApplyError, Database, DatabaseError, Item, LaneId, ListQuery, Position, TakeOverError,
};
use outlast::error::Invalid;
use outlast::record::check_name;
use outlast::{Collection, Document, Operation, RecordId, Sequence, Write, WriteId};
use tokio::time::Instant;

use crate::address::Address;
use crate::apply::{Attempt, size};
use crate::batch::{Target, members};
use crate::connection::ConnectError;
use crate::definitions::define_missing;
use crate::limits::Limits;
use crate::pool::{Pool, Pooled};
use crate::position::{self, Trouble, ask};
use crate::shape::{Shape, Shapes, Table};
use crate::{statement, value};

/// Connections for writes: more than there are lanes.
const WRITE_CONNECTIONS_MAX: usize = 32;
/// Connections for reads, so that a slow batch does not hold them up.
const READ_CONNECTIONS_MAX: usize = 8;
/// Largest write, so that it fits into a flight with others.
const WRITE_BYTES_MAX: usize = 32 << 20;
/// Names with this prefix are those of PostgreSQL's own tables, which are found before all others.
const SYSTEM_PREFIX: &str = "pg_";

/// How to use a server.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The longest that a call may take, with connecting. The server breaks off a statement a little earlier. Default:
    /// 30 s.
    pub request_timeout: Duration,
    /// The longest that making a connection may take, with signing in and trying all hosts. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long to wait for a lock that somebody else holds before the answer is *conflict*. Default: 5 s.
    pub lock_timeout: Duration,
    /// How long bytes may stay unacknowledged by the other side before the connection counts as lost (Linux only).
    /// Default: 15 s.
    pub tcp_user_timeout: Duration,
    /// Let what is missing be made: Outlast's tables and functions by `probe`, a collection's table by the first write
    /// to it. Default: true.
    pub create_collections: bool,
    /// Whether operations on different records of one batch take effect in its order. Without it alike ones are put
    /// together whatever stands between them, as long as each record and each write keeps its own order. Default: true.
    pub keeps_order: bool,
    /// The password, when it is not in the URL.
    pub password: Option<String>,
}

impl fmt::Debug for PostgresOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("tcp_user_timeout", &self.tcp_user_timeout)
            .field("create_collections", &self.create_collections)
            .field("keeps_order", &self.keeps_order)
            .finish_non_exhaustive()
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(5),
            tcp_user_timeout: Duration::from_secs(15),
            create_collections: true,
            keeps_order: true,
            password: None,
        }
    }
}

/// A database of a PostgreSQL server. See the crate's page for what it promises.
pub struct Postgres {
    address: Arc<Address>,
    request_timeout: Duration,
    lock_timeout: Duration,
    create_collections: bool,
    keeps_order: bool,
    shapes: Shapes,
    writes: Pool,
    reads: Pool,
}

impl Postgres {
    /// For the database that a URL names: `postgres://USER:PASSWORD@HOST:5432/DATABASE`, with more hosts after commas.
    /// Everything in it is percent-decoded. Parameters after `?`: `sslmode` (`disable`, the default, or `verify-full`),
    /// `require_auth` (a list of `scram-sha-256`, `md5` and `password`), `application_name`,
    /// `target_session_attrs=read-write` (always so), `lock_timeout` and `tcp_user_timeout` in milliseconds, which go before
    /// those of the options, and `key.TABLE=COLUMN,COLUMN` for the key columns of a table that
    /// are not its primary key. Connects when it is first needed.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn from_url(url: &str, options: PostgresOptions) -> Result<Self, Invalid> {
        let PostgresOptions {
            request_timeout,
            connect_timeout,
            lock_timeout,
            tcp_user_timeout,
            create_collections,
            keeps_order,
            password,
        } = options;
        let address = Arc::new(Address::parse(url, password.as_deref())?);
        let lock_timeout = address.lock_timeout.unwrap_or(lock_timeout);
        let tcp_user_timeout = address.tcp_user_timeout.unwrap_or(tcp_user_timeout);
        let pool = |connections_max| {
            Pool::new(Arc::clone(&address), connect_timeout, tcp_user_timeout, connections_max)
        };
        let (writes, reads) = (pool(WRITE_CONNECTIONS_MAX), pool(READ_CONNECTIONS_MAX));
        let shapes = Shapes::new(address.keys.clone());
        Ok(Self {
            address,
            request_timeout,
            lock_timeout,
            create_collections,
            keeps_order,
            shapes,
            writes,
            reads,
        })
    }

    fn limits(&self) -> Limits {
        Limits { deadline: Instant::now() + self.request_timeout, lock_timeout: self.lock_timeout }
    }

    async fn write_connection(&self, deadline: Instant) -> Result<Pooled, DatabaseError> {
        self.writes.take(deadline).await.map_err(database_error)
    }

    /// A session for what somebody reads: without one nothing was refused about that, whatever the reason.
    async fn read_connection(&self, deadline: Instant) -> Result<Pooled, DatabaseError> {
        self.reads.take(deadline).await.map_err(|error| DatabaseError::Unavailable(error.into_reason()))
    }

    /// The table of a collection, if there is one.
    async fn table(
        &self,
        connection: &mut Pooled,
        collection: &Collection,
        limits: Limits,
    ) -> Result<Option<Table>, DatabaseError> {
        let shapes = self.shapes.of(connection, [collection], limits).await?;
        match shapes.get(collection).map(Arc::as_ref) {
            Some(Shape::Table(table)) => Ok(Some(table.clone())),
            Some(Shape::Unfit(why)) => Err(DatabaseError::Refused(why.clone())),
            Some(Shape::Absent | Shape::Gone) | None => Ok(None),
        }
    }

    /// Rows of a collection, asked for by what `question` makes of its table. A table that turns out to have changed is
    /// looked at again, once. A value that no row can have finds none.
    async fn records(
        &self,
        collection: &Collection,
        question: impl Fn(&Table) -> Option<(String, Vec<String>)>,
    ) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        let limits = self.limits();
        let mut connection = self.read_connection(limits.deadline).await?;
        let mut looked = false;
        loop {
            let Some(table) = self.table(&mut connection, collection, limits).await? else {
                return Ok(Vec::new());
            };
            let Some((text, parameters)) = question(&table) else { return Ok(Vec::new()) };
            let parameters: Vec<Option<&str>> = parameters.iter().map(|value| Some(value.as_str())).collect();
            match ask(&mut connection, &text, &parameters, limits).await {
                Ok(answer) => {
                    return answer.rows.into_iter().filter_map(|row| record(row).transpose()).collect();
                }
                Err(Trouble::Shape(_)) if !looked => {
                    looked = true;
                    self.shapes.forget([collection]);
                }
                Err(Trouble::Value(_)) => return Ok(Vec::new()),
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    async fn move_to(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Option<Sequence>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        let limits = self.limits();
        let told = |error| match error {
            DatabaseError::Refused(reason) => TakeOverError::Refused(reason),
            error => TakeOverError::Unavailable(error.to_string()),
        };
        let mut connection = self.write_connection(limits.deadline).await.map_err(told)?;
        if seen.is_none() {
            // The first write to a database: its tables may have to be made.
            let defined = define_missing(&mut connection, self.create_collections, limits).await;
            defined.map_err(told)?;
        }
        let taken = position::take_over(&mut connection, lane, seen, sequence, owner, limits).await;
        self.leave_if_demoted(&connection);
        taken
    }

    /// Another server is in charge by now: the next connection looks for it, and none to the former one is used again.
    fn leave_if_demoted(&self, connection: &Pooled) {
        if connection.is_demoted() {
            self.writes.close_idle();
            self.reads.close_idle();
        }
    }

    /// Refuses what a column would not keep as it is, where the table is known already.
    fn check_columns(&self, record: &outlast::RecordName, data: &Document) -> Result<(), Invalid> {
        let Some(shape) = self.shapes.get(&record.collection) else { return Ok(()) };
        let Shape::Table(table) = &*shape else { return Ok(()) };
        if table.document {
            return Ok(());
        }
        for (name, value) in members(data.as_str()) {
            let Some(column) = table.column(&name) else { continue };
            if let Some(why) = value::misfit(column.type_id, column.scale, &value) {
                return Err(Invalid::new(format!(
                    "the column \"{name}\" of \"{}\" {why}",
                    record.collection
                )));
            }
        }
        Ok(())
    }
}

fn database_error(error: ConnectError) -> DatabaseError {
    match error {
        ConnectError::Unavailable(reason) => DatabaseError::Unavailable(reason),
        ConnectError::Refused(reason) => DatabaseError::Refused(reason),
    }
}

/// A row as an id and a document; `None` for rows of other writers whose key is no id.
fn record(row: crate::flight::Row) -> Result<Option<(RecordId, Document)>, DatabaseError> {
    let mut values = row.into_iter().flatten();
    let (Some(id), Some(data)) = (values.next(), values.next()) else { return Ok(None) };
    let Ok(id) = id.parse::<RecordId>() else { return Ok(None) };
    let document = Document::parse(&data)
        .map_err(|error| DatabaseError::Refused(format!("the record \"{id}\" is no document: {error}")))?;
    Ok(Some((id, document)))
}

#[async_trait]
impl Database for Postgres {
    fn describe(&self) -> String {
        self.address.to_string()
    }

    fn check(&self, write: &Write) -> Result<(), Invalid> {
        let bytes = size(write.operations());
        if bytes > WRITE_BYTES_MAX {
            return Err(Invalid::new(format!(
                "the write has {bytes} bytes, for PostgreSQL it may have {WRITE_BYTES_MAX}"
            )));
        }
        for operation in write.operations() {
            for record in operation.records() {
                if record.collection.as_str().starts_with(SYSTEM_PREFIX) {
                    return Err(Invalid::new(format!(
                        "collection \"{}\" is reserved by PostgreSQL: choose another name",
                        record.collection
                    )));
                }
            }
            match operation {
                Operation::Create { data, record }
                | Operation::Put { data, record }
                | Operation::Patch { data, record } => {
                    value::check_json(data.as_str())?;
                    self.check_columns(record, data)?;
                }
                Operation::Delete { .. } => {}
                Operation::Statement { text, parameters, .. } => {
                    statement::check(text, parameters)?;
                    value::check_parameters(parameters)?;
                }
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        let limits = self.limits();
        let mut connection = self.write_connection(limits.deadline).await?;
        define_missing(&mut connection, self.create_collections, limits).await
    }

    /// It waits for the row of the lane.
    fn takes_ahead(&self) -> bool {
        true
    }

    /// As the last commit left it. What is still under way is decided by the take-over that follows, which waits for
    /// the row.
    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError> {
        let limits = self.limits();
        let mut connection = self.write_connection(limits.deadline).await?;
        position::read(&mut connection, lane, limits).await
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
        let limits = self.limits();
        let mut connection = self
            .writes
            .take(limits.deadline)
            .await
            .map_err(|error| ApplyError::Unavailable(error.into_reason()))?;
        let Self { keeps_order, create_collections, .. } = *self;
        let target = Target { rows, next, keeps_order, binds_ahead: true, create_collections, limits };
        let attempt = Attempt { connection: &mut connection, shapes: &self.shapes, target, batch };
        let applied = attempt.run().await;
        self.leave_if_demoted(&connection);
        applied
    }

    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError> {
        let question = |table: &Table| {
            let parts = table.key_of(id.as_str())?;
            let mut text = format!(
                "SELECT $1::text, {} FROM \"{collection}\" AS t WHERE {} = $1::text",
                table.document_expression(),
                table.id_expression()
            );
            let mut parameters = vec![id.as_str().to_owned()];
            // So that the key's index finds it. A single text is compared already.
            let alone = matches!(table.key.as_slice(), [key] if key.is_text());
            for (key, part) in table.key.iter().zip(parts).filter(|_| !alone) {
                parameters.push(part.into_owned());
                let _ = write!(
                    text,
                    " AND t.{} = CAST(${}::text AS {})",
                    key.quoted(),
                    parameters.len(),
                    key.type_name
                );
            }
            Some((text, parameters))
        };
        let found = self.records(collection, question).await?;
        Ok(found.into_iter().next().map(|(_, document)| document))
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        for (name, _) in &query.filters {
            check_name("filter", name)?;
        }
        let question = |table: &Table| {
            let id = table.id_expression();
            let mut text = format!(
                "SELECT {id}, {} FROM \"{}\" AS t WHERE true",
                table.document_expression(),
                query.collection
            );
            let mut parameters = Vec::new();
            for (name, value) in &query.filters {
                parameters.push(value.to_string());
                let column = if table.document {
                    format!("t.data -> '{name}'")
                } else {
                    let column = table.column(name)?;
                    format!("coalesce(to_jsonb(t.{}), 'null')", column.quoted())
                };
                let _ = write!(text, " AND {column} = ${}::text::jsonb", parameters.len());
            }
            if let Some(after) = &query.after {
                parameters.push(after.as_str().to_owned());
                let _ = write!(text, " AND ({id}) COLLATE \"C\" > ${}::text", parameters.len());
            }
            parameters.push(query.limit.to_string());
            let _ = write!(text, " ORDER BY ({id}) COLLATE \"C\" LIMIT ${}::bigint", parameters.len());
            Some((text, parameters))
        };
        self.records(&query.collection, question).await
    }

    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError> {
        let limits = self.limits();
        let mut connection = self.read_connection(limits.deadline).await?;
        position::find_key(&mut connection, key, limits).await
    }

    async fn prune_keys(&self, older_than: Duration) -> Result<u64, DatabaseError> {
        let limits = self.limits();
        let mut connection = self.read_connection(limits.deadline).await?;
        let mut pruned = 0;
        loop {
            let (count, more) = position::prune_keys(&mut connection, older_than, limits).await?;
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
