//! `POST /v1/transactions`: several operations as one write.

use http::StatusCode;
use outlast::{Collection, Document, Operation, RecordId, RecordName, Write};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{Answer, Call};
use super::prefer::Preferences;
use super::problem::{INVALID_REQUEST, Problem};
use super::writes::{Done, submit};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    operations: Vec<OperationBody>,
}

/// An operation as clients send it. Unknown members are refused: one that is misspelt would be lost silently.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationBody {
    op: String,
    collection: Option<Collection>,
    id: Option<RecordId>,
    data: Option<Map<String, Value>>,
    statement: Option<String>,
    parameters: Option<Map<String, Value>>,
    touches: Option<Vec<RecordName>>,
}

/// Takes effect completely, or not at all.
///
/// # Errors
/// See the table of problems.
pub(super) async fn post(call: Call) -> Answer {
    call.known_query([])?;
    let write = Write::new(operations(&call)?)?;
    submit(&call, write, async |preferences: Preferences, id| {
        if preferences.minimal {
            return Done::empty();
        }
        let body = json!({ "id": id.to_string(), "status": "applied", "durability": "database" });
        Done { status: StatusCode::OK, body: Some(body.to_string()), location: None }
    })
    .await
}

/// The operations of the body.
///
/// # Errors
/// 400 that says which one is wrong.
pub(super) fn operations(call: &Call) -> Result<Vec<Operation>, Problem> {
    let body: Body = call.json()?;
    let statements = call.app.server.allow_statements;
    let read = |(index, body)| {
        operation(body, statements).map_err(|why| {
            Problem::new(INVALID_REQUEST, format!("operation {index}: {why}")).with("index", index)
        })
    };
    body.operations.into_iter().enumerate().map(read).collect()
}

fn operation(body: OperationBody, allow_statements: bool) -> Result<Operation, String> {
    if body.op == "statement" {
        return statement(body, allow_statements);
    }
    if body.statement.is_some() || body.parameters.is_some() || body.touches.is_some() {
        return Err(format!("\"{}\" takes no statement, parameters or touches", body.op.escape_debug()));
    }
    let need = |what: &str| format!("\"{}\" needs \"{what}\"", body.op.escape_debug());
    if !["create", "put", "patch", "delete"].contains(&body.op.as_str()) {
        return Err(format!(
            "unknown op \"{}\": use create, put, patch, delete or statement",
            body.op.escape_debug()
        ));
    }
    let collection = body.collection.ok_or_else(|| need("collection"))?;
    let record = RecordName { collection, id: body.id.ok_or_else(|| need("id"))? };
    if body.op == "delete" {
        return match body.data {
            None => Ok(Operation::Delete { record }),
            Some(_) => Err("\"delete\" takes no \"data\"".to_owned()),
        };
    }
    let map = body.data.ok_or_else(|| need("data"))?;
    let data = Document::for_record(&record.id, map).map_err(|error| error.to_string())?;
    Ok(match body.op.as_str() {
        "create" => Operation::Create { record, data },
        "put" => Operation::Put { record, data },
        _ => Operation::Patch { record, data },
    })
}

fn statement(body: OperationBody, allowed: bool) -> Result<Operation, String> {
    if !allowed {
        return Err(
            "statements are not taken: the server's configuration has server.allow_statements = false".into(),
        );
    }
    if body.collection.is_some() || body.id.is_some() || body.data.is_some() {
        return Err(
            "\"statement\" takes no collection, id or data: say in \"touches\" what it writes to".into()
        );
    }
    let text = body.statement.ok_or("\"statement\" needs \"statement\"")?;
    let (parameters, touches) = (body.parameters.unwrap_or_default(), body.touches.unwrap_or_default());
    Ok(Operation::Statement { text, parameters, touches })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, statements: bool) -> Result<Operation, String> {
        let body = serde_json::from_str(text).map_err(|error| error.to_string())?;
        operation(body, statements)
    }

    #[test]
    fn operations_are_read_with_their_digits_and_without_guessing() {
        let put = read(
            r#"{"op":"put","collection":"c","id":"1","data":{"n": 18446744073709551615, "id":"1"}}"#,
            false,
        );
        let Ok(Operation::Put { data, .. }) = put else { panic!("{put:?}") };
        assert_eq!(data.as_str(), "{\"n\":18446744073709551615}");
        for (text, why) in [
            (r#"{"op":"put","collection":"c","id":"1"}"#, "needs \"data\""),
            (r#"{"op":"patch","collection":"c","data":{}}"#, "needs \"id\""),
            (r#"{"op":"upsert","collection":"c","id":"1","data":{}}"#, "unknown op"),
            (r#"{"op":"delete","collection":"c","id":"1","data":{}}"#, "takes no \"data\""),
            (r#"{"op":"put","collection":"a-b","id":"1","data":{}}"#, "not a valid name"),
            (r#"{"op":"put","colection":"c"}"#, "unknown field"),
            (r#"{"op":"statement","statement":"DELETE FROM x"}"#, "allow_statements"),
        ] {
            let error = read(text, false).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read(r#"{"op":"statement","statement":"DELETE FROM x"}"#, true).is_ok());
    }
}
