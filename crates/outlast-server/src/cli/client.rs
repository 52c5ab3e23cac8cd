//! Talks HTTP to the running server.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::Exit;
use super::arguments::{Global, inputs};
use super::output::Failure;
use crate::{config, outgoing};

/// Longer than any request of the command line may take on the server.
const TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    /// Whether to print JSON.
    pub(super) json: bool,
}

/// Runs a command that needs the server.
pub(super) fn with<F>(global: &Global, command: impl FnOnce(Client) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the runtime could not be started: {error}")))?;
    let client = Client::new(global)?;
    runtime.block_on(command(client))
}

impl Client {
    fn new(global: &Global) -> Result<Self, Failure> {
        let base = if let Some(url) = &global.url {
            url.trim_end_matches('/').to_owned()
        } else {
            let server = config::load(&inputs(global, None))?.config.server;
            let mut listen = server.listen;
            if listen.ip().is_unspecified() {
                let loopback: std::net::IpAddr = if listen.is_ipv4() {
                    [127, 0, 0, 1].into()
                } else {
                    std::net::Ipv6Addr::LOCALHOST.into()
                };
                listen.set_ip(loopback);
            }
            let scheme = if server.tls_certificate.is_some() { "https" } else { "http" };
            format!("{scheme}://{listen}")
        };
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        let http = if base.starts_with("https://") {
            http.tls_backend_preconfigured(outgoing::client_config().map_err(Failure::failed)?)
        } else if base.starts_with("http://") {
            http
        } else {
            let detail = format!("--url must begin with http:// or https://, not {base}");
            return Err(Failure::new(Exit::Usage, detail));
        };
        let http = http.build().map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self { http, base, token: global.token.clone(), json: global.json })
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.request(Method::GET, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.request(Method::POST, path, &[], body).await
    }

    /// Text that is no JSON, piece by piece.
    pub(super) async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        let mut response = self.send(Method::GET, path, query, None).await?;
        if !response.status().is_success() {
            return self.read(response).await.map(|_| ());
        }
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            take(&piece);
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let response = self.send(method, path, query, body).await?;
        self.read(response).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
    ) -> Result<reqwest::Response, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).query(query);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    async fn read(&self, response: reqwest::Response) -> Result<Value, Failure> {
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        let value: Value = serde_json::from_str(&text).map_err(|_| {
            Failure::failed(format!("{} answered {status} with something that is not JSON", self.base))
        })?;
        if status.is_success() {
            return Ok(value);
        }
        let part = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let hint = if status.as_u16() == 401 { " (set OUTLAST_TOKEN)" } else { "" };
        Err(Failure::failed(format!("{} {}{hint}", part("title"), part("detail")).trim().to_owned()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut reason = String::new();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(error) = cause {
            reason = error.to_string();
            cause = error.source();
        }
        if error.is_timeout() {
            "it did not answer in time".clone_into(&mut reason);
        }
        let base = &self.base;
        Failure::new(
            Exit::Unreachable,
            format!("the server at {base} could not be reached: {reason}; is `outlast serve` running?"),
        )
    }
}

/// An id as a segment of a path.
pub(super) fn segment(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}
