//! `GET /v1/events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderName, HeaderValue, header};
use outlast::event::Event;
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::app::{Answer, Call};

/// A comment at least this often keeps proxies from closing the stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Each event of the library as one frame; the stream ends when the server stops.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn stream(call: Call) -> Answer {
    call.known_query([])?;
    let stopped = call.app.stopped();
    let frames = frames(call.app.outlast.events()).take_until(stopped);
    // The first frame is sent at once, so that a client knows that it is listening.
    let hello = stream::once(async { Ok(Frame::default().comment("listening")) });
    let sse = Sse::new(hello.chain(frames)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(unbuffered(sse.into_response()))
}

fn frames(events: Receiver<Event>) -> Pin<Box<dyn Stream<Item = Result<Frame, Infallible>> + Send>> {
    Box::pin(stream::unfold(events, async |mut events| match events.recv().await {
        Ok(event) => Some((Ok(frame(&event)), events)),
        Err(RecvError::Lagged(missed)) => {
            let data = json!({ "event": "missed", "events": missed }).to_string();
            Some((Ok(Frame::default().event("missed").data(data)), events))
        }
        Err(RecvError::Closed) => None,
    }))
}

fn frame(event: &Event) -> Frame {
    let value = serde_json::to_value(event).unwrap_or(Value::Null);
    let name = value.get("event").and_then(Value::as_str).unwrap_or("event").to_owned();
    Frame::default().event(name).data(value.to_string())
}

fn unbuffered(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What nginx calls it; it is no header of ours.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
