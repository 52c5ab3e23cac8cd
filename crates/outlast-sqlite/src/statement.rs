//! A caller's own statement: one, with named parameters, kept away from transactions and from Outlast's tables.

use std::sync::atomic::Ordering;
use std::time::Instant;

use outlast::database::number_is_exact;
use outlast::record::RESERVED_PREFIX;
use outlast::{Invalid, RefusalKind};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value as SqlValue;
use rusqlite::{Error, Statement};
use serde_json::{Map, Number, Value};

use crate::connection::Open;
use crate::failure::{Failure, message};

/// A statement that alone used more than this part of the call's time limit is itself to blame when time runs out.
const OWN_SHARE: f64 = 0.45;

/// Refuses parameters that SQLite's integers and floats cannot hold exactly, and empty statements.
pub(crate) fn check(text: &str, parameters: &Map<String, Value>) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::new("the statement is empty"));
    }
    for (name, value) in parameters {
        if let Value::Number(number) = value
            && to_sql_number(number).is_none()
        {
            return Err(Invalid::new(format!(
                "the parameter \"{name}\" is {number}, which SQLite cannot hold exactly: send a 64-bit signed integer, a 64-bit float other than -0.0, or a string"
            )));
        }
    }
    Ok(())
}

/// Runs a statement. Rows that it returns are not wanted.
pub(crate) fn run(open: &mut Open, text: &str, parameters: &Map<String, Value>) -> Result<(), Failure> {
    // The flag stays on while the statement runs, too: SQLite may prepare it anew after a change of the schema.
    // Prepared statements of ours are never shared with it (`prepare`, not `prepare_cached`).
    open.guarded.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let result = run_guarded(open, text, parameters);
    open.guarded.store(false, Ordering::Relaxed);
    // It may have made or dropped tables.
    open.shapes.forget();
    result.map_err(|error| match Failure::from_statement(error) {
        // As an outage it would come back for ever and hold up everything behind it.
        Failure::Interrupted if started.elapsed() > open.request_timeout.mul_f64(OWN_SHARE) => {
            let message =
                format!("the statement was broken off after {:.1} s", started.elapsed().as_secs_f64());
            Failure::refused(RefusalKind::Statement, message)
        }
        failure => failure,
    })
}

fn run_guarded(open: &Open, text: &str, parameters: &Map<String, Value>) -> Result<(), Error> {
    let mut statement = open.connection.prepare(text)?;
    bind(&mut statement, parameters)?;
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

fn bind(statement: &mut Statement<'_>, parameters: &Map<String, Value>) -> Result<(), Error> {
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or("?").to_owned();
        let Some(bare) = name.strip_prefix([':', '$', '@']) else {
            return Err(Error::InvalidParameterName(format!("{name} (use named parameters such as :name)")));
        };
        // SQLite would take a parameter that nobody gave for NULL.
        let value = parameters
            .get(bare)
            .ok_or_else(|| Error::InvalidParameterName(format!("{name} (no value was given)")))?;
        statement.raw_bind_parameter(index, to_sql(value))?;
    }
    Ok(())
}

fn to_sql(value: &Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Bool(value) => SqlValue::Integer(i64::from(*value)),
        // `check` refused numbers that do not fit before the write was accepted; should one come here all the same
        // it stays exact as text.
        Value::Number(number) => to_sql_number(number).unwrap_or_else(|| SqlValue::Text(number.to_string())),
        Value::String(text) => SqlValue::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => SqlValue::Text(value.to_string()),
    }
}

fn to_sql_number(number: &Number) -> Option<SqlValue> {
    let text = number.to_string();
    let integer = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if integer && text != "-0" {
        return text.parse().ok().map(SqlValue::Integer);
    }
    let float: f64 = text.parse().ok().filter(|_| number_is_exact(&text))?;
    // SQLite stores -0.0 as 0.
    (float != 0.0 || float.is_sign_positive()).then_some(SqlValue::Real(float))
}

impl Failure {
    /// Of a caller's statement: whatever is wrong with its text is the statement's own fault.
    fn from_statement(error: Error) -> Self {
        let from_sqlite = error.sqlite_error().is_some();
        let text = message(&error);
        match Self::from(error) {
            Self::Refused { refusal, retryable } if from_sqlite && refusal.kind != RefusalKind::Other => {
                Self::Refused { refusal, retryable }
            }
            Self::Refused { .. } => Self::refused(RefusalKind::Statement, text),
            other => other,
        }
    }
}

/// SQLite asks for every action while it prepares. What is not `guarded` is Outlast's own and may do anything.
pub(crate) fn authorize(guarded: bool, context: &AuthContext<'_>) -> Authorization {
    if guarded && !is_allowed(&context.action) { Authorization::Deny } else { Authorization::Allow }
}

fn is_allowed(action: &AuthAction<'_>) -> bool {
    match *action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Function { .. } => true,
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Read { table_name, .. }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::Analyze { table_name } => !is_reserved(table_name),
        AuthAction::CreateIndex { index_name, table_name }
        | AuthAction::DropIndex { index_name, table_name } => {
            !is_reserved(index_name) && !is_reserved(table_name)
        }
        AuthAction::Reindex { index_name } => !is_reserved(index_name),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => !is_reserved(view_name),
        // Transactions and savepoints are ours; ATTACH, DETACH and PRAGMA reach beyond the database; a trigger would
        // later act with our rights; virtual and temporary tables could stand in for others.
        _ => false,
    }
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_held_exactly_or_refused() {
        let parameters =
            |text: &str| serde_json::from_str::<Map<String, Value>>(&format!("{{\"p\":{text}}}")).unwrap();
        for good in [
            "9223372036854775807",
            "-9223372036854775808",
            "0.1",
            "5e-324",
            "1.7976931348623157e308",
            "1.0",
            "null",
            "true",
            "\"x\"",
            "[1e400]",
        ] {
            assert!(check("SELECT :p", &parameters(good)).is_ok(), "{good}");
        }
        for bad in
            ["9223372036854775808", "18446744073709551615", "1e400", "0.12345678901234567890", "-0.0", "-0"]
        {
            assert!(check("SELECT :p", &parameters(bad)).is_err(), "{bad}");
        }
        assert!(check(" \n", &Map::new()).is_err());
    }
}
