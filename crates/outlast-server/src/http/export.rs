//! `GET /v1/dead-letters/export`: all that match as JSON lines, streamed.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use outlast::Error;
use outlast::status::DeadFilter;

use super::app::{Answer, App, Call, content, not_stored};
use super::dead::filter;

/// Letters that are read at once.
const CHUNK: usize = 200;

/// Each letter on a line of its own, as `GET /v1/dead-letters/{id}` shows it. A connection that breaks before the last
/// chunk means that some are missing.
///
/// # Errors
/// 400 for a wrong filter.
pub(super) async fn export(call: Call) -> Answer {
    let [kind, message, collection] = call.known_query(["kind", "message", "collection"])?;
    let first = DeadFilter { limit: CHUNK, ..filter(kind.as_deref(), message, collection)? };
    let app = Arc::clone(&call.app);
    let chunks = stream::try_unfold(Some(first), move |filter| {
        let app = Arc::clone(&app);
        async move {
            match filter {
                None => Ok::<_, Error>(None),
                Some(filter) => chunk(&app, filter).await.map(Some),
            }
        }
    });
    let mut response = content(StatusCode::OK, "application/x-ndjson", Body::from_stream(chunks));
    let name = HeaderValue::from_static("attachment; filename=\"dead-letters.ndjson\"");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    Ok(not_stored(response))
}

async fn chunk(app: &App, filter: DeadFilter) -> Result<(Bytes, Option<DeadFilter>), Error> {
    let page = app.outlast.dead_letters(&filter).await?;
    let mut lines = Vec::new();
    for letter in &page.letters {
        serde_json::to_writer(&mut lines, letter)
            .map_err(|error| Error::Conflict(format!("dead letter {}: {error}", letter.id)))?;
        lines.push(b'\n');
    }
    let next = page.next.map(|next| DeadFilter { after: Some(next), ..filter });
    Ok((lines.into(), next))
}
