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

/// Each event of the library and of the server as one frame; the stream ends when the server stops.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn stream(call: Call) -> Answer {
    call.known_query([])?;
    let stopped = call.app.stopped();
    let events = frames(call.app.outlast.events(), frame);
    let news = frames(call.app.news(), named);
    let frames = stream::select(events, news).take_until(stopped);
    // The first frame is sent at once, so that a client knows that it is listening.
    let hello = stream::once(async { Ok(Frame::default().comment("listening")) });
    let sse = Sse::new(hello.chain(frames)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(unbuffered(sse.into_response()))
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Infallible>> + Send>>;

fn frames<E: Clone + Send + 'static>(events: Receiver<E>, frame: fn(&E) -> Frame) -> Frames {
    Box::pin(stream::unfold(events, move |mut events| async move {
        match events.recv().await {
            Ok(event) => Some((Ok(frame(&event)), events)),
            Err(RecvError::Lagged(missed)) => {
                Some((Ok(named(&json!({ "event": "missed", "events": missed }))), events))
            }
            Err(RecvError::Closed) => None,
        }
    }))
}

fn frame(event: &Event) -> Frame {
    named(&serde_json::to_value(event).unwrap_or(Value::Null))
}

fn named(value: &Value) -> Frame {
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
