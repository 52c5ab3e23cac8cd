//! Reads the body of a request within its limits of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::problem::{BODY_INTERRUPTED, Problem, REQUEST_TIMEOUT, TOO_LARGE};

/// The whole body.
///
/// # Errors
/// 413 beyond `bytes_max`, before anything is accepted; 408 when it takes longer than `at_most`; 400 when it ends early.
pub(super) async fn read(mut body: Body, bytes_max: u64, at_most: Duration) -> Result<Bytes, Problem> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(announced, bytes_max));
    }
    match timeout(at_most, collect(&mut body, bytes_max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large(None, bytes_max)),
        Ok(Err(error)) => {
            Err(closing(Problem::new(BODY_INTERRUPTED, format!("the body could not be read: {error}"))))
        }
        Err(_) => {
            let detail =
                format!("the body did not arrive within {} s (server.body_timeout)", at_most.as_secs_f64());
            Err(closing(Problem::new(REQUEST_TIMEOUT, detail)))
        }
    }
}

/// All of it, or `None` as soon as it is larger than `bytes_max`. A body that came in one piece is not copied.
async fn collect(body: &mut Body, bytes_max: u64) -> Result<Option<Bytes>, axum::Error> {
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if (first.len() + rest.len() + data.len()) as u64 > bytes_max {
            return Ok(None);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(Some(if rest.is_empty() { first } else { rest.into() }))
}

fn too_large(bytes: Option<u64>, bytes_max: u64) -> Problem {
    let size =
        bytes.map_or_else(|| "is larger than".to_owned(), |bytes| format!("has {bytes} bytes, more than"));
    let detail = format!("the body {size} the limit of {bytes_max} bytes (server.max_body_bytes)");
    closing(
        Problem::new(TOO_LARGE, detail).with("bytes_max", bytes_max).with("setting", "server.max_body_bytes"),
    )
}

/// What is left of the body must not be taken for the next request.
fn closing(problem: Problem) -> Problem {
    problem.header(header::CONNECTION, HeaderValue::from_static("close"))
}
