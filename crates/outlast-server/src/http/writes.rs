//! Handing a write to the library, and turning its outcome into an answer.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use outlast::status::{Outcome, Receipt};
use outlast::{RecordName, Write, WriteId};
use serde::Serialize;

use super::app::{Answer, Call, duration, json, json_of, not_stored};
use super::prefer::{PREFERENCE_APPLIED, Preferences, WAIT_MAX, idempotency_key};
use super::problem::Problem;

const WRITE_ID: HeaderName = HeaderName::from_static("write-id");
const WRITE_STATUS: HeaderName = HeaderName::from_static("write-status");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is answered when the write was applied.
pub(super) struct Done {
    /// The status.
    pub status: StatusCode,
    /// The body, JSON.
    pub body: Option<String>,
    /// Where the record is now.
    pub location: Option<String>,
}

impl Done {
    /// 204.
    pub(super) fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, location: None }
    }
}

/// What is answered when the write was queued.
#[derive(Serialize)]
struct Queued {
    #[serde(flatten)]
    receipt: Receipt,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<RecordName>,
}

/// Submits the write as the request's headers ask, and answers: `done` when it was applied, 202 when it was queued.
///
/// # Errors
/// What the library refused, as a problem.
pub(super) async fn submit<D, F>(call: &Call, write: Write, done: D) -> Answer
where
    D: FnOnce(Preferences, WriteId) -> F,
    F: Future<Output = Done>,
{
    submit_new(call, write, None, done).await
}

/// As [`submit`], for a record that has its id from the server: an answer that the write was queued names it.
///
/// # Errors
/// As [`submit`].
pub(super) async fn submit_new<D, F>(
    call: &Call,
    mut write: Write,
    record: Option<RecordName>,
    done: D,
) -> Answer
where
    D: FnOnce(Preferences, WriteId) -> F,
    F: Future<Output = Done>,
{
    let preferences = Preferences::of(call.headers());
    if let Some(key) = idempotency_key(call.headers())? {
        write = write.with_idempotency_key(key)?;
    }
    let write = write.with_trace(call.trace.clone());
    let wait = preferences.wait(call.app.server.wait);
    let mut response = match call.app.outlast.submit(write, wait).await? {
        Outcome::Applied { id, duplicate_of } => {
            // A replayed write has the name of the one that took effect: its receipt is the one that means something.
            let mut response = applied(done(preferences, duplicate_of.unwrap_or(id)).await)?;
            mark(&mut response, duplicate_of.unwrap_or(id), "applied")?;
            if duplicate_of.is_some() {
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            }
            response
        }
        Outcome::Queued(receipt) => {
            let id = receipt.id;
            let mut response = json_of(StatusCode::ACCEPTED, &Queued { receipt, record })?;
            let location = HeaderValue::try_from(format!("/v1/writes/{id}")).map_err(not_a_header)?;
            response.headers_mut().insert(header::LOCATION, location);
            mark(&mut response, id, "queued")?;
            response
        }
    };
    if let Some(followed) = preferences.applied() {
        response.headers_mut().insert(PREFERENCE_APPLIED, followed);
    }
    Ok(response)
}

fn applied(done: Done) -> Answer {
    let mut response = if let Some(body) = done.body {
        json(done.status, body)
    } else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = done.status;
        response
    };
    if let Some(location) = done.location {
        let location = HeaderValue::try_from(location).map_err(not_a_header)?;
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn mark(response: &mut Response, id: WriteId, status: &'static str) -> Result<(), Problem> {
    let headers = response.headers_mut();
    headers.insert(WRITE_ID, HeaderValue::try_from(id.to_string()).map_err(not_a_header)?);
    headers.insert(WRITE_STATUS, HeaderValue::from_static(status));
    Ok(())
}

fn not_a_header(error: impl std::fmt::Display) -> Problem {
    Problem::new(super::problem::INTERNAL, format!("a response header could not be written: {error}"))
}

/// `GET /v1/writes/{id}`: the receipt, at once or when the write is decided.
///
/// # Errors
/// 404 for a write that is not known (any more).
pub(super) async fn receipt(call: Call) -> Answer {
    let [wait] = call.known_query(["wait"])?;
    let id = call.write_id()?;
    let receipt = match wait {
        Some(wait) => {
            let at_most = duration("wait", &wait, WAIT_MAX)?;
            tokio::select! {
                receipt = call.app.outlast.wait_for(id, at_most) => receipt?,
                // The end of the server need not wait for it: the receipt can be asked for again.
                () = call.app.stopped() => call.app.outlast.receipt(id).await?,
            }
        }
        None => call.app.outlast.receipt(id).await?,
    };
    Ok(not_stored(json_of(StatusCode::OK, &receipt)?))
}

/// `DELETE /v1/writes/{id}`: cancels a write that is still pending.
///
/// # Errors
/// 409 when it is applied or under way.
pub(super) async fn cancel(call: Call) -> Answer {
    call.known_query([])?;
    let receipt = call.app.outlast.cancel(call.write_id()?).await?;
    Ok(not_stored(json_of(StatusCode::OK, &receipt)?))
}
