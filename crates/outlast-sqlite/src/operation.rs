//! One operation of a write, inside the batch's transaction.

use outlast::{Collection, Document, Operation, RecordId, RecordName, RefusalKind};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Statement, ffi};
use serde_json::{Map, Value};

use crate::connection::Open;
use crate::failure::{self, Failure};
use crate::shape::Shape;
use crate::statement;

/// Rows of one kind between two looks at the clock.
const ROWS_BETWEEN_LOOKS: usize = 32;

/// Rows of one kind in one statement: that costs less for each of them. What one statement changes is kept until it ends, in case
/// it fails, so they are few.
const ROWS_TOGETHER: usize = 8;

/// How rows of one kind are inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Several in one statement, which does not tell which of them is refused.
    Together,
    /// Each by itself.
    Singly,
}

/// Where it stopped, and why.
pub(crate) struct Halt {
    pub(crate) index: usize,
    pub(crate) failure: Failure,
    /// At this row or one behind it: they went together.
    pub(crate) among: bool,
}

impl Halt {
    /// At this very row.
    pub(crate) fn at(index: usize, failure: Failure) -> Self {
        Self { index, failure, among: false }
    }
}

/// Takes effect, or not at all.
pub(crate) fn run(open: &mut Open, operation: &Operation) -> Result<(), Failure> {
    match operation {
        Operation::Create { record, data } => insert(open, Insert::Create, record, data),
        Operation::Put { record, data } => insert(open, Insert::Put, record, data),
        Operation::Patch { record, data } => patch(open, record, data),
        Operation::Delete { record } => delete(open, record),
        Operation::Statement { text, parameters, .. } => statement::run(open, text, parameters),
    }
}

/// How a record gets its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insert {
    /// It must be absent.
    Create,
    /// It is made or replaced.
    Put,
}

impl Insert {
    /// What the operation inserts, if that is all it does.
    pub(crate) fn of(operation: &Operation) -> Option<(Self, &RecordName, &Document)> {
        match operation {
            Operation::Create { record, data } => Some((Self::Create, record, data)),
            Operation::Put { record, data } => Some((Self::Put, record, data)),
            _ => None,
        }
    }

    /// The rows, in order, until one fails.
    pub(crate) fn all(
        self,
        open: &mut Open,
        collection: &Collection,
        rows: &[(&RecordId, &Document)],
        manner: Manner,
    ) -> Result<(), Halt> {
        let first = |failure| Halt::at(0, failure);
        open.shapes.for_writing(&open.connection, collection, open.create_collections).map_err(first)?;
        let statement =
            |rows| self.statement(open, collection, rows).map_err(|error| first(of_record(error)));
        let (together, apart) = match manner {
            Manner::Together => rows.as_chunks::<ROWS_TOGETHER>(),
            Manner::Singly => (&[][..], rows),
        };
        if !together.is_empty() {
            let mut insert = statement(ROWS_TOGETHER)?;
            for (chunk, rows) in together.iter().enumerate() {
                // SQLite itself looks in between, too.
                if chunk % (ROWS_BETWEEN_LOOKS / ROWS_TOGETHER) == 0 && open.is_over() {
                    return Err(Halt::at(chunk * ROWS_TOGETHER, Failure::Interrupted));
                }
                let inserted = insert_rows(&mut insert, rows).map_err(of_record);
                inserted.and_then(|changed| all_rows(changed, ROWS_TOGETHER)).map_err(|failure| Halt {
                    index: chunk * ROWS_TOGETHER,
                    failure,
                    among: true,
                })?;
            }
        }
        if apart.is_empty() {
            return Ok(());
        }
        let mut insert = statement(1)?;
        for (index, row) in (rows.len() - apart.len()..).zip(apart) {
            if index % ROWS_BETWEEN_LOOKS == 0 && open.is_over() {
                return Err(Halt::at(index, Failure::Interrupted));
            }
            let inserted = match insert_rows(&mut insert, std::slice::from_ref(row)) {
                Ok(changed) => all_rows(changed, 1),
                Err(error) => Err(self.refused(open, collection, row.0, error)),
            };
            inserted.map_err(|failure| Halt::at(index, failure))?;
        }
        Ok(())
    }

    /// The prepared statement for so many rows.
    fn statement<'a>(
        self,
        open: &'a Open,
        collection: &Collection,
        rows: usize,
    ) -> rusqlite::Result<CachedStatement<'a>> {
        let values = vec!["(?, ?)"; rows].join(", ");
        let conflict = match self {
            Self::Create => "",
            // Not REPLACE: that deletes the row first, and with it what refers to it.
            Self::Put => " ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        };
        let sql = format!("INSERT INTO \"{collection}\" (id, data) VALUES {values}{conflict}");
        open.connection.prepare_cached(&sql)
    }

    /// Which constraint failed first is SQLite's choice: a record that exists is told as such.
    fn refused(self, open: &Open, collection: &Collection, id: &RecordId, error: rusqlite::Error) -> Failure {
        let duplicate = matches!(
            failure::code(&error),
            Some(
                ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                    | ffi::SQLITE_CONSTRAINT_UNIQUE
                    | ffi::SQLITE_CONSTRAINT_ROWID
            )
        );
        if self == Self::Create && duplicate {
            match exists(&open.connection, collection, id) {
                Ok(true) => {
                    let message = format!("the record \"{id}\" of \"{collection}\" exists already");
                    return Failure::refused(RefusalKind::Exists, message);
                }
                Ok(false) => {}
                Err(failure) => return failure,
            }
        }
        of_record(error)
    }
}

fn insert(open: &mut Open, insert: Insert, record: &RecordName, data: &Document) -> Result<(), Failure> {
    let row = [(&record.id, data)];
    insert.all(open, &record.collection, &row, Manner::Singly).map_err(|halt| halt.failure)
}

/// How many rows it changed.
fn insert_rows(insert: &mut Statement<'_>, rows: &[(&RecordId, &Document)]) -> rusqlite::Result<usize> {
    let values = rows.iter().flat_map(|(id, data)| [id.as_str(), data.as_str()]);
    insert.execute(rusqlite::params_from_iter(values))
}

fn patch(open: &mut Open, record: &RecordName, patch: &Document) -> Result<(), Failure> {
    let RecordName { collection, id } = record;
    let absent = || {
        Failure::refused(RefusalKind::NotFound, format!("there is no record \"{id}\" in \"{collection}\""))
    };
    if !is_there(open, collection)? {
        return Err(absent());
    }
    let stored: Option<String> = open
        .connection
        .prepare_cached(&format!("SELECT data FROM \"{collection}\" WHERE id = ?1"))
        .and_then(|mut select| select.query_row([id.as_str()], |row| row.get(0)).optional())
        .map_err(of_record)?;
    let mut data: Map<String, Value> =
        serde_json::from_str(&stored.ok_or_else(absent)?).map_err(|error| {
            Failure::refused(
                RefusalKind::Schema,
                format!("the record \"{id}\" of \"{collection}\" is not a JSON object: {error}"),
            )
        })?;
    // In Rust and not with SQLite's json_patch, which would round numbers.
    outlast::record::merge_patch(&mut data, patch.to_map());
    let data = Document::from_map(&data)
        .map_err(|error| Failure::refused(RefusalKind::TooLarge, error.to_string()))?;
    let sql = format!("UPDATE \"{collection}\" SET data = ?2 WHERE id = ?1");
    all_rows(execute(&open.connection, &sql, &[id.as_str(), data.as_str()]).map_err(of_record)?, 1)
}

fn delete(open: &mut Open, record: &RecordName) -> Result<(), Failure> {
    let collection = &record.collection;
    if !is_there(open, collection)? {
        return Ok(());
    }
    execute(&open.connection, &format!("DELETE FROM \"{collection}\" WHERE id = ?1"), &[record.id.as_str()])
        .map_err(of_record)?;
    Ok(())
}

/// True when there is a table; one that is absent is no reason to make it.
fn is_there(open: &mut Open, collection: &Collection) -> Result<bool, Failure> {
    if open.create_collections && *open.shapes.of(&open.connection, collection)? == Shape::Absent {
        return Ok(false);
    }
    open.shapes.for_writing(&open.connection, collection, false).map(|()| true)
}

fn exists(connection: &Connection, collection: &Collection, id: &RecordId) -> Result<bool, Failure> {
    Ok(connection
        .prepare_cached(&format!("SELECT 1 FROM \"{collection}\" WHERE id = ?1"))?
        .exists([id.as_str()])?)
}

fn execute(connection: &Connection, sql: &str, values: &[&str]) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values))
}

/// A trigger may skip a row with RAISE(IGNORE). Nothing is dropped silently.
fn all_rows(changed: usize, rows: usize) -> Result<(), Failure> {
    if changed == rows {
        return Ok(());
    }
    Err(Failure::refused(RefusalKind::Constraint, "a trigger of the table ignored the write"))
}

/// A text that SQLite cannot prepare is our own, so the table is to blame.
fn of_record(error: rusqlite::Error) -> Failure {
    let wrong_table = matches!(error, rusqlite::Error::SqlInputError { .. });
    match Failure::from(error) {
        Failure::Refused { refusal, retryable: false }
            if wrong_table && refusal.kind == RefusalKind::Other =>
        {
            Failure::refused(RefusalKind::Schema, refusal.message)
        }
        failure => failure,
    }
}
