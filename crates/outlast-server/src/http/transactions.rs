//! `POST /v1/transactions`: several operations as one write.

use http::StatusCode;
use outlast::{Operation, Write};
use serde::Deserialize;
use serde_json::json;

use super::app::{Answer, Call, Object};
use super::operations::{OperationBody, operations_of};
use super::prefer::Preferences;
use super::problem::Problem;
use super::writes::{Done, submit};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    operations: Vec<Object<OperationBody>>,
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
    operations_of(body.operations, call.app.server.allow_statements)
}
