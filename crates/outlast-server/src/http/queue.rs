//! The queue: how it stands, what waits in it, and an operator's hand on it.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use outlast::status::{Decision, QueueFilter};
use outlast::write::VERBS;
use outlast::{Fate, WriteId};
use serde::Deserialize;
use serde_json::json;

use super::app::{Answer, Call, duration, json, json_of, limit, not_stored, whole_or_null};
use super::prefer::WAIT_MAX;
use super::problem::{INVALID_REQUEST, Problem};
use super::redact::View;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// The longest that a queue may be paused with an end; longer is said by leaving the end out.
const PAUSE_MAX: Duration = Duration::from_hours(24 * 30);

/// `GET /v1/queue`: the whole picture.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn status(call: Call) -> Answer {
    call.known_query([])?;
    status_now(&call)
}

fn status_now(call: &Call) -> Answer {
    Ok(not_stored(json_of(StatusCode::OK, &call.app.outlast.status())?))
}

/// `GET /v1/queue/writes`: what waits and matches, in order.
///
/// # Errors
/// 400 for a wrong filter, limit or id.
pub(super) async fn list(call: Call) -> Answer {
    let (filter, view) = asked(&call)?;
    let mut page = call.app.outlast.queue_list(&filter).await?;
    page.writes = page.writes.into_iter().map(|write| view.queued(write)).collect();
    Ok(not_stored(json_of(StatusCode::OK, &page)?))
}

fn asked(call: &Call) -> Result<(QueueFilter, View), Problem> {
    let [collection, record, write, status, op, older_than, newer_than, after, limit_text, redact] = call
        .known_query([
            "collection",
            "record",
            "write",
            "status",
            "op",
            "older_than",
            "newer_than",
            "after",
            "limit",
            "redact",
        ])?;
    let view = View::of(call, redact.as_deref())?;
    let wrong = |name: &str, why: String| Problem::new(INVALID_REQUEST, format!("\"{name}\": {why}"));
    let status = match status.as_deref() {
        None => None,
        Some("pending") => Some(Fate::Pending),
        Some("parked") => Some(Fate::Parked),
        Some(_) => return Err(wrong("status", "what waits is pending or parked".into())),
    };
    let write = write.map(|id| id.parse().map_err(|error| wrong("write", format!("{error}"))));
    let verb = op.map(|op| {
        let known = VERBS.into_iter().find(|verb| *verb == op);
        known.ok_or_else(|| wrong("op", format!("use one of {}", VERBS.join(", "))))
    });
    let ago = |name: &str, text: Option<String>| {
        let age = text.map(|text| duration(name, &text, Duration::MAX)).transpose()?;
        Ok::<_, Problem>(age.map(|age| unix_ms().saturating_sub(age.as_millis() as u64)))
    };
    let filter = QueueFilter {
        collection: collection.map(|name| name.parse()).transpose()?,
        record: record.map(|id| id.parse()).transpose()?,
        write: write.transpose()?,
        status,
        verb: verb.transpose()?,
        accepted_until_ms: ago("older_than", older_than)?,
        accepted_from_ms: ago("newer_than", newer_than)?,
        after: write_id(after)?,
        limit: limit(limit_text.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?,
    };
    Ok((filter, view))
}

fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// A write id of the query.
///
/// # Errors
/// 400 with its form.
pub(super) fn write_id(text: Option<String>) -> Result<Option<WriteId>, Problem> {
    text.map(|text| {
        text.parse().map_err(|error| Problem::new(INVALID_REQUEST, format!("\"after\": {error}")))
    })
    .transpose()
}

/// `GET /v1/queue/writes/{id}`: one that waits, with what it does.
///
/// # Errors
/// 404 when it does not wait (any more).
pub(super) async fn show(call: Call) -> Answer {
    let [redact] = call.known_query(["redact"])?;
    let view = View::of(&call, redact.as_deref())?;
    let write = call.app.outlast.queue_show(call.write_id()?).await?;
    Ok(not_stored(json_of(StatusCode::OK, &view.queued(write))?))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForBody {
    #[serde(rename = "for")]
    at_most: Option<String>,
}

impl ForBody {
    fn at_most(&self, most: Duration) -> Result<Option<Duration>, Problem> {
        self.at_most.as_deref().map(|text| duration("for", text, most)).transpose()
    }
}

/// `POST /v1/queue/pause`: finishes what is under way, then queues everything.
///
/// # Errors
/// 400 for a duration that is not one.
pub(super) async fn pause(call: Call) -> Answer {
    call.known_query([])?;
    let body: ForBody = call.json_or_default()?;
    call.app.outlast.pause(body.at_most(PAUSE_MAX)?).await?;
    status_now(&call)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeBody {
    decision: Option<Decision>,
}

/// `POST /v1/queue/resume`: goes on, after a halt with the operator's decision.
///
/// # Errors
/// 409 when a halt needs a decision, or none helps. To resume a queue that runs is no error.
pub(super) async fn resume(call: Call) -> Answer {
    call.known_query([])?;
    let body: ResumeBody = call.json_or_default()?;
    call.app.outlast.resume(body.decision).await?;
    status_now(&call)
}

/// `POST /v1/queue/drain`: waits until nothing waits, or the time is over.
///
/// # Errors
/// 400 for a duration that is not one, 409 when the queue stands still.
pub(super) async fn drain(call: Call) -> Answer {
    call.known_query([])?;
    let body: ForBody = call.json_or_default()?;
    let at_most = body.at_most(WAIT_MAX)?.unwrap_or(Duration::from_secs(30));
    let drained = tokio::select! {
        drained = call.app.outlast.drain(at_most) => drained?,
        () = call.app.stopped() => call.app.outlast.drain(Duration::ZERO).await?,
    };
    let waiting = call.app.outlast.status().queue.writes;
    Ok(answer(&json!({ "drained": drained, "writes": waiting })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThrottleBody {
    // A member that is missing is not the same as null, which lifts the limit.
    #[serde(deserialize_with = "whole_or_null")]
    writes_per_second: Option<u64>,
}

/// `POST /v1/queue/throttle`: limits the rate at which a backlog is drained, or lifts the limit.
///
/// # Errors
/// 400 for anything but a positive number or null.
pub(super) async fn throttle(call: Call) -> Answer {
    call.known_query([])?;
    let body: ThrottleBody = call.json()?;
    if body.writes_per_second == Some(0) {
        let detail =
            "\"writes_per_second\" must be at least 1, or null for no limit; to stop, pause the queue";
        return Err(Problem::new(INVALID_REQUEST, detail));
    }
    call.app.outlast.throttle(body.writes_per_second);
    Ok(answer(&json!({ "writes_per_second": body.writes_per_second })))
}

fn answer(body: &serde_json::Value) -> Response {
    not_stored(json(StatusCode::OK, body.to_string()))
}
