//! `GET /v1/dead-letters/export`: all that match as JSON lines, streamed.

use std::sync::Arc;
use std::vec::IntoIter;

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use outlast::{Error, WriteId};

use super::app::{Answer, App, Call, content, not_stored};
use super::dead::filter;
use super::redact::View;

/// Letters are sent together up to this size: what waits for a slow reader must not be hundreds of large ones.
const PIECE_BYTES: usize = 64 << 10;

/// Each letter on a line of its own, as `GET /v1/dead-letters/{id}` shows it. A connection that breaks before the last
/// chunk means that some are missing.
///
/// # Errors
/// 400 for a wrong filter.
pub(super) async fn export(call: Call) -> Answer {
    let [kind, message, collection, redact] =
        call.known_query(["kind", "message", "collection", "redact"])?;
    let view = View::of(&call, redact.as_deref())?;
    let filter = filter(kind.as_deref(), message, collection)?;
    let ids = call.app.outlast.select_dead_letters(&filter).ids;
    let app = Arc::clone(&call.app);
    let pieces = stream::try_unfold(ids.into_iter(), move |mut ids| {
        let (app, view) = (Arc::clone(&app), view.clone());
        async move {
            let lines = lines(&app, &view, &mut ids).await?;
            Ok::<_, Error>((!lines.is_empty()).then_some((lines, ids)))
        }
    });
    let mut response = content(StatusCode::OK, "application/x-ndjson", Body::from_stream(pieces));
    let name = HeaderValue::from_static("attachment; filename=\"dead-letters.ndjson\"");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    Ok(not_stored(response))
}

/// The next piece; empty behind the last one.
async fn lines(app: &App, view: &View, ids: &mut IntoIter<WriteId>) -> Result<Bytes, Error> {
    let mut lines = Vec::new();
    while lines.len() < PIECE_BYTES
        && let Some(id) = ids.next()
    {
        match app.outlast.dead_letter(id).await {
            Ok(letter) => {
                serde_json::to_writer(&mut lines, &view.letter(letter))
                    .map_err(|error| Error::Conflict(format!("dead letter {id}: {error}")))?;
                lines.push(b'\n');
            }
            // It was retried or discarded meanwhile.
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines.into())
}
