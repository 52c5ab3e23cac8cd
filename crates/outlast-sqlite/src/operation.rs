//! One operation of a write, inside the batch's transaction.

use outlast::{Collection, Document, Operation, RecordId, RecordName, RefusalKind};
use rusqlite::{Connection, OptionalExtension, ffi};
use serde_json::{Map, Value};

use crate::connection::Open;
use crate::failure::{self, Failure};
use crate::shape::Shape;
use crate::statement;

/// Rows of one kind between two looks at the clock: some tens of microseconds.
const ROWS_BETWEEN_LOOKS: usize = 32;

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

    /// The rows, in order, until one fails: then with its index. Many of one kind cost less together.
    pub(crate) fn all<'a>(
        self,
        open: &mut Open,
        collection: &Collection,
        rows: impl IntoIterator<Item = (&'a RecordId, &'a Document)>,
    ) -> Result<(), (usize, Failure)> {
        let first = |failure| (0, failure);
        open.shapes.for_writing(&open.connection, collection, open.create_collections).map_err(first)?;
        let conflict = match self {
            Self::Create => "",
            // Not REPLACE: that deletes the row first, and with it what refers to it.
            Self::Put => " ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        };
        let sql = format!("INSERT INTO \"{collection}\" (id, data) VALUES (?1, ?2){conflict}");
        let insert = open.connection.prepare_cached(&sql);
        let mut insert = insert.map_err(|error| first(of_record(error)))?;
        for (index, (id, data)) in rows.into_iter().enumerate() {
            // SQLite itself looks in between, too.
            if index % ROWS_BETWEEN_LOOKS == 0 && open.is_over() {
                return Err((index, Failure::Interrupted));
            }
            let inserted = match insert.execute([id.as_str(), data.as_str()]) {
                Ok(changed) => one_row(changed),
                Err(error) => Err(self.refused(open, collection, id, error)),
            };
            inserted.map_err(|failure| (index, failure))?;
        }
        Ok(())
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
    insert.all(open, &record.collection, [(&record.id, data)]).map_err(|(_, failure)| failure)
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
    one_row(execute(&open.connection, &sql, &[id.as_str(), data.as_str()]).map_err(of_record)?)
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
fn one_row(changed: usize) -> Result<(), Failure> {
    if changed == 1 {
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
