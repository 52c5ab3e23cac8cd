//! The exporter's way out: the same as that of webhooks.

use std::time::Duration;

use http::{Request, Response};
use opentelemetry_http::{Bytes, HttpClient, HttpError};

use crate::outgoing;

#[derive(Debug)]
pub(super) struct Client {
    limit: Duration,
}

impl Client {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(outgoing::send(request, self.limit).await?)
    }
}
