//! One operation of a write, inside the batch's transaction.

use outlast::{Collection, Document, Operation, RecordId, RecordName, RefusalKind};
use rusqlite::{Connection, OptionalExtension, ffi};
use serde_json::{Map, Value};

use crate::connection::Open;
use crate::failure::{self, Failure};
use crate::shape::Shape;
use crate::statement;

/// Takes effect, or not at all.
pub(crate) fn run(open: &mut Open, operation: &Operation) -> Result<(), Failure> {
    match operation {
        Operation::Create { record, data } => create(open, record, data),
        Operation::Put { record, data } => put(open, record, data),
        Operation::Patch { record, data } => patch(open, record, data),
        Operation::Delete { record } => delete(open, record),
        Operation::Statement { text, parameters, .. } => statement::run(open, text, parameters),
    }
}

fn create(open: &mut Open, record: &RecordName, data: &Document) -> Result<(), Failure> {
    let collection = &record.collection;
    open.shapes.for_writing(&open.connection, collection, open.create_collections)?;
    let sql = format!("INSERT INTO \"{collection}\" (id, data) VALUES (?1, ?2)");
    let error = match execute(&open.connection, &sql, &[record.id.as_str(), data.as_str()]) {
        Ok(changed) => return one_row(changed),
        Err(error) => error,
    };
    // Which constraint failed first is SQLite's choice: a record that exists is told as such.
    let duplicate = matches!(
        failure::code(&error),
        Some(
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_ROWID
        )
    );
    if duplicate && exists(&open.connection, collection, &record.id)? {
        return Err(Failure::refused(
            RefusalKind::Exists,
            format!("the record \"{}\" of \"{collection}\" exists already", record.id),
        ));
    }
    Err(of_record(error))
}

fn put(open: &mut Open, record: &RecordName, data: &Document) -> Result<(), Failure> {
    let collection = &record.collection;
    open.shapes.for_writing(&open.connection, collection, open.create_collections)?;
    // Not REPLACE: that deletes the row first, and with it what refers to it.
    let sql = format!(
        "INSERT INTO \"{collection}\" (id, data) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET data = excluded.data"
    );
    one_row(execute(&open.connection, &sql, &[record.id.as_str(), data.as_str()]).map_err(of_record)?)
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
