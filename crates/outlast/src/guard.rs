//! [`Outlast::guard`] and [`GuardLayer`]: the availability check for what does not go through the queue.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::outlast::Outlast;

/// Tells failures of the database apart from its answers.
pub trait Availability {
    /// True when the error means that the database could not be reached: no connection, time out, shutting down.
    fn is_unavailable(&self) -> bool;
}

impl Availability for std::io::Error {
    fn is_unavailable(&self) -> bool {
        true
    }
}

impl Availability for crate::database::DatabaseError {
    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What a guarded operation ends with instead of its result.
#[derive(Debug, thiserror::Error)]
pub enum GuardError<E> {
    /// The database is known to be away: it was not touched. Carries the computed `retry_after`.
    #[error(transparent)]
    Unavailable(Error),
    /// The operation's own error.
    #[error(transparent)]
    Operation(E),
}

impl Outlast {
    /// Runs a database call of the embedding service unless the database is known to be away, and tells the monitor
    /// how it went.
    ///
    /// # Errors
    /// `Unavailable` at once while the database is away; otherwise the call's own error.
    pub async fn guard<T, E: Availability + std::fmt::Display>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, GuardError<E>> {
        if !self.is_healthy() {
            return Err(GuardError::Unavailable(self.unavailable()));
        }
        match operation.await {
            Ok(value) => {
                self.monitor().report_success();
                Ok(value)
            }
            Err(error) => {
                if error.is_unavailable() {
                    self.monitor().report_failure("guard", &error.to_string());
                }
                Err(GuardError::Operation(error))
            }
        }
    }
}

/// A `tower` layer that answers 503 with `Retry-After` while the database is away, for routes that cannot do without it.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    outlast: Outlast,
}

impl GuardLayer {
    /// Guards with the health of this queue's database.
    pub fn new(outlast: Outlast) -> Self {
        Self { outlast }
    }
}

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, outlast: self.outlast.clone() }
    }
}

/// The service that [`GuardLayer`] makes.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    outlast: Outlast,
}

type ResponseFuture<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, B, R> tower::Service<http::Request<B>> for Guard<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: From<String> + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if self.outlast.is_healthy() {
            return Box::pin(self.inner.call(request));
        }
        let error = self.outlast.unavailable();
        Box::pin(async move { Ok(unavailable_response(&error)) })
    }
}

fn unavailable_response<R: From<String>>(error: &Error) -> http::Response<R> {
    let seconds = match error {
        Error::ServiceUnavailable { retry_after, .. } => retry_after.as_secs().max(1),
        _ => 1,
    };
    let body = serde_json::json!({
        "type": "/problems/database-unavailable",
        "title": "The database is unavailable",
        "status": 503,
        "detail": error.to_string(),
        "retry_after_seconds": seconds,
    });
    let mut response = http::Response::new(R::from(body.to_string()));
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from(seconds));
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/problem+json"));
    response
}
