//! Operations as clients send them: in a transaction, or on a line of a stream.

use outlast::write::VERBS;
use outlast::{Collection, Document, Operation, RecordId, RecordName, Write};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::app::{Object, given};
use super::problem::{INVALID_REQUEST, Problem};

/// An operation as clients send it. Unknown members are refused: one that is misspelt would be lost silently. So is null
/// where there is nothing to say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationBody {
    pub(super) op: String,
    #[serde(default, deserialize_with = "given")]
    pub(super) collection: Option<Collection>,
    #[serde(default, deserialize_with = "given")]
    pub(super) id: Option<RecordId>,
    #[serde(default, deserialize_with = "given")]
    pub(super) data: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) statement: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) parameters: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) touches: Option<Vec<Object<Name>>>,
}

/// A record that a statement writes to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    collection: Collection,
    id: RecordId,
}

/// A write of several operations.
///
/// # Errors
/// 400 with the index of the first operation that is wrong.
pub(super) fn write_of(operations: Vec<Object<OperationBody>>, statements: bool) -> Result<Write, Problem> {
    Ok(Write::new(operations_of(operations, statements)?)?)
}

/// Its operations.
///
/// # Errors
/// 400 with the index of the first one that is wrong.
pub(super) fn operations_of(
    operations: Vec<Object<OperationBody>>,
    statements: bool,
) -> Result<Vec<Operation>, Problem> {
    operations
        .into_iter()
        .enumerate()
        .map(|(index, Object(body))| {
            operation(body, statements).map_err(|why| {
                Problem::new(INVALID_REQUEST, format!("operation {index}: {why}")).with("index", index)
            })
        })
        .collect()
}

/// One operation.
///
/// # Errors
/// What is wrong with it.
pub(super) fn operation(body: OperationBody, allow_statements: bool) -> Result<Operation, String> {
    if body.op == "statement" {
        return statement(body, allow_statements);
    }
    if body.statement.is_some() || body.parameters.is_some() || body.touches.is_some() {
        return Err(format!("\"{}\" takes no statement, parameters or touches", body.op.escape_debug()));
    }
    let need = |what: &str| format!("\"{}\" needs \"{what}\"", body.op.escape_debug());
    if !VERBS.contains(&body.op.as_str()) {
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
    let parameters = body.parameters.unwrap_or_default();
    let touches = body.touches.unwrap_or_default().into_iter();
    let touches = touches.map(|Object(Name { collection, id })| RecordName { collection, id }).collect();
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
