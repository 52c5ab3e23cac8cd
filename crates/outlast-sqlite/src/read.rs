//! Reads.

use std::fmt::Write;

use outlast::database::ListQuery;
use outlast::record::check_name;
use outlast::{Collection, Document, Invalid, RecordId, RefusalKind};
use rusqlite::types::Value as SqlValue;
use rusqlite::{OptionalExtension, params_from_iter};
use serde_json::{Number, Value};

use crate::connection::Open;
use crate::failure::Failure;
use crate::shape::Shape;

/// Reads a record.
pub(crate) fn get(
    open: &mut Open,
    collection: &Collection,
    id: &RecordId,
) -> Result<Option<Document>, Failure> {
    if !is_readable(open, collection)? {
        return Ok(None);
    }
    let data: Option<String> = open
        .connection
        .prepare_cached(&format!("SELECT data FROM \"{collection}\" WHERE id = ?1"))?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    data.map(|data| document(collection, id, &data)).transpose()
}

/// Refuses what cannot be listed by.
pub(crate) fn check_list(query: &ListQuery) -> Result<(), Invalid> {
    for (name, value) in &query.filters {
        check_name("filter", name)?;
        if value.is_array() || value.is_object() {
            return Err(Invalid::new(format!(
                "the filter \"{name}\" compares with {value}: use a string, a number, true, false or null"
            )));
        }
    }
    if query.limit == 0 {
        return Err(Invalid::new("a list has a limit of at least 1"));
    }
    Ok(())
}

/// Lists records. The query has passed [`check_list`]. Rows whose id is no [`RecordId`] (somebody else made them)
/// are left out.
pub(crate) fn list(open: &mut Open, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, Failure> {
    if !is_readable(open, &query.collection)? {
        return Ok(Vec::new());
    }
    let mut sql = format!("SELECT id, data FROM \"{}\" WHERE id > ?1", query.collection);
    let mut values =
        vec![SqlValue::Text(query.after.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()))];
    for (name, value) in &query.filters {
        // Strings are compared by SQLite first, so that an index on the expression serves. All else is compared in
        // `matches` alone: SQLite's floats would take different large numbers for equal.
        if let Value::String(text) = value
            && name != "id"
            && !text.contains('\0')
        {
            values.push(SqlValue::Text(text.clone()));
            // Writing to a String cannot fail. The name has passed the grammar of names.
            let _ = write!(sql, " AND json_extract(data, '$.{name}') = ?{}", values.len());
        }
    }
    sql.push_str(" ORDER BY id");
    let mut statement = open.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(id) = row.get::<_, String>(0).ok().and_then(|id| id.parse::<RecordId>().ok()) else {
            continue;
        };
        let document = document(&query.collection, &id, &row.get::<_, String>(1)?)?;
        if matches(&id, &document, &query.filters) {
            found.push((id, document));
        }
        if found.len() == query.limit {
            break;
        }
    }
    Ok(found)
}

fn is_readable(open: &mut Open, collection: &Collection) -> Result<bool, Failure> {
    open.shapes.refresh(&open.connection)?;
    match open.shapes.of(&open.connection, collection)? {
        Shape::Records => Ok(true),
        Shape::Absent => Ok(false),
        Shape::Unfit(why) => Err(Failure::refused(RefusalKind::Schema, why.clone())),
    }
}

fn document(collection: &Collection, id: &RecordId, data: &str) -> Result<Document, Failure> {
    Document::parse(data).map_err(|error| {
        Failure::refused(
            RefusalKind::Schema,
            format!("the record \"{id}\" of \"{collection}\" cannot be read: {error}"),
        )
    })
}

fn matches(id: &RecordId, document: &Document, filters: &[(String, Value)]) -> bool {
    if filters.is_empty() {
        return true;
    }
    let map = document.to_map();
    filters.iter().all(|(name, wanted)| match (map.get(name), wanted) {
        (None, Value::String(wanted)) if name == "id" => wanted == id.as_str(),
        (Some(Value::Number(value)), Value::Number(wanted)) => same_number(value, wanted),
        (value, wanted) => value == Some(wanted),
    })
}

/// By value, not by spelling, and exactly: `1`, `1.0` and `10e-1` are the same number.
fn same_number(one: &Number, other: &Number) -> bool {
    one == other || normal(&one.to_string()) == normal(&other.to_string())
}

/// Sign, digits without zeros at either end, and the power of ten of the last digit.
fn normal(text: &str) -> (bool, String, i64) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let power = exponent
        .parse::<i64>()
        .unwrap_or(i64::MAX)
        .saturating_sub_unsigned(fraction.len() as u64)
        .saturating_add_unsigned((digits.len() - significant.len()) as u64);
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() { (false, String::new(), 0) } else { (negative, significant.to_owned(), power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_by_value() {
        let number = |text: &str| serde_json::from_str::<Number>(text).unwrap();
        for (one, other) in [("1", "1.0"), ("1", "10e-1"), ("0", "-0.0"), ("100", "1E+2"), ("-0.50", "-5e-1")]
        {
            assert!(same_number(&number(one), &number(other)), "{one} {other}");
        }
        for (one, other) in [
            ("1", "-1"),
            ("18446744073709551615", "18446744073709551614"),
            ("9007199254740993", "9007199254740992"),
            ("1", "10"),
        ] {
            assert!(!same_number(&number(one), &number(other)), "{one} {other}");
        }
    }
}
