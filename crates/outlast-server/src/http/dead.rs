//! Dead letters and outages: what went wrong, and what is done about it.

use http::StatusCode;
use outlast::outage::Outage;
use outlast::status::{DeadFilter, Durability, Fate, Receipt};
use outlast::{RefusalKind, WriteId};
use serde_json::json;

use super::app::{Answer, Call, json_of, limit, not_stored};
use super::problem::{INVALID_REQUEST, NOT_FOUND, Problem};
use super::queue::write_id;
use super::redact::View;
use super::transactions;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// `GET /v1/dead-letters`: a page, and the groups by reason of all that match.
///
/// # Errors
/// 400 for a wrong filter.
pub(super) async fn list(call: Call) -> Answer {
    let known = ["kind", "message", "collection", "after", "limit", "redact"];
    let [kind, message, collection, after, page, redact] = call.known_query(known)?;
    let view = View::of(&call, redact.as_deref())?;
    let filter = DeadFilter {
        after: write_id(after)?,
        limit: limit(page.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?,
        ..filter(kind.as_deref(), message, collection)?
    };
    let mut letters = call.app.outlast.dead_letters(&filter).await?;
    letters.letters = letters.letters.into_iter().map(|letter| view.letter(letter)).collect();
    Ok(not_stored(json_of(StatusCode::OK, &letters)?))
}

/// The filter that a query or a body names.
///
/// # Errors
/// 400 for an unknown kind, or a collection that cannot be one.
pub(super) fn filter(
    kind: Option<&str>,
    message: Option<String>,
    collection: Option<String>,
) -> Result<DeadFilter, Problem> {
    Ok(DeadFilter {
        kind: kind.map(refusal_kind).transpose()?,
        message,
        collection: collection.map(|name| name.parse()).transpose()?,
        ..DeadFilter::default()
    })
}

fn refusal_kind(text: &str) -> Result<RefusalKind, Problem> {
    RefusalKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let known: Vec<&str> = RefusalKind::ALL.iter().map(|kind| kind.as_str()).collect();
        Problem::new(INVALID_REQUEST, format!("\"kind\" must be one of: {}", known.join(", ")))
    })
}

/// `GET /v1/dead-letters/{id}`: one, with its history and what it does.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn show(call: Call) -> Answer {
    let [redact] = call.known_query(["redact"])?;
    let view = View::of(&call, redact.as_deref())?;
    let letter = call.app.outlast.dead_letter(call.write_id()?).await?;
    Ok(not_stored(json_of(StatusCode::OK, &view.letter(letter))?))
}

/// `POST /v1/dead-letters/{id}/retry`: queues it again, with fresh attempts.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn retry(call: Call) -> Answer {
    call.known_query([])?;
    let id = call.write_id()?;
    call.app.outlast.retry_dead_letter(id).await?;
    decided(&call, id, Fate::Pending).await
}

/// `POST /v1/dead-letters/{id}/edit`: queues it again with other operations on the same records, in one step.
///
/// # Errors
/// 400 for what a new write may not be either, and for other records; 404 when there is none.
pub(super) async fn edit(call: Call) -> Answer {
    call.known_query([])?;
    let id = call.write_id()?;
    call.app.outlast.edit_dead_letter(id, transactions::operations(&call)?).await?;
    decided(&call, id, Fate::Pending).await
}

/// `POST /v1/dead-letters/{id}/discard`: gives it up for good.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn discard(call: Call) -> Answer {
    call.known_query([])?;
    let id = call.write_id()?;
    call.app.outlast.discard_dead_letter(id).await?;
    decided(&call, id, Fate::Discarded).await
}

/// The receipt after a decision. It is done: a receipt that cannot be read is no error any more.
async fn decided(call: &Call, id: WriteId, status: Fate) -> Answer {
    let receipt = call.app.outlast.receipt(id).await.unwrap_or(Receipt {
        id,
        status,
        position: None,
        estimate_seconds: None,
        durability: Durability::Log,
        reason: None,
        attempts: 0,
    });
    Ok(not_stored(json_of(StatusCode::OK, &receipt)?))
}

/// `GET /v1/outages`: the reports, newest first.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn outages(call: Call) -> Answer {
    call.known_query([])?;
    Ok(not_stored(json_of(StatusCode::OK, &json!({ "outages": call.app.outlast.outages() }))?))
}

/// `GET /v1/outages/{id}`: one report.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn outage(call: Call) -> Answer {
    call.known_query([])?;
    Ok(not_stored(json_of(StatusCode::OK, &find_outage(&call)?)?))
}

/// The outage that the path names.
///
/// # Errors
/// 400 for an id that is no number, 404 when there is none.
pub(super) fn find_outage(call: &Call) -> Result<Outage, Problem> {
    let id: u64 =
        call.param("id").map_err(|_| Problem::new(INVALID_REQUEST, "an outage's id is a number"))?;
    let found = call.app.outlast.outages().into_iter().find(|outage| outage.id == id);
    found.ok_or_else(|| Problem::new(NOT_FOUND, format!("outage {id} was not found")))
}
