//! Talks HTTP to the running server.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::Exit;
use super::arguments::{Global, inputs};
use super::output::{Failure, safe};
use crate::{config, outgoing};

/// Longer than any request of the command line may take on the server.
const TIMEOUT: Duration = Duration::from_mins(1);
/// For a stream, which is watched for silence instead.
const ENDLESS: Duration = Duration::from_hours(24 * 365);
/// A stream that brings nothing for so long has died; one that brings something may take as long as it needs.
const SILENCE: Duration = TIMEOUT;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of what the server says about a problem.
const SAID_MAX: usize = 2000;

/// A running server.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    /// Whether to print JSON.
    pub(super) json: bool,
}

/// What the server answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) text: String,
    from: String,
}

impl Answer {
    /// A header, empty when it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text).map_err(|_| {
            let (from, status) = (&self.from, self.status);
            Failure::failed(format!("{from} answered {status} with something that is not JSON"))
        })
    }

    /// Itself when it is a success, and otherwise what the problem says.
    pub(super) fn success(self) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let problem = self.json()?;
        let part = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let hint = if self.status == StatusCode::UNAUTHORIZED { " (set OUTLAST_TOKEN)" } else { "" };
        let (title, detail) = (part("title"), part("detail"));
        let said = match (title.trim_end_matches('.'), detail.as_str()) {
            ("", "") => self.status.to_string(),
            (kind, "") => kind.to_owned(),
            ("", detail) => detail.to_owned(),
            (kind, detail) => format!("{kind}: {detail}"),
        };
        Err(Failure::failed(format!("{}{hint}", safe(&said, SAID_MAX))))
    }
}

/// Runs a command that needs the server.
pub(super) fn with<F, T>(global: &Global, command: impl FnOnce(Client) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
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
        self.send(Method::GET, path, query, &[], None).await?.success()?.json()
    }

    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let body = body.map(|body| body.to_string());
        self.send(Method::POST, path, &[], &[], body).await?.success()?.json()
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, &[], &[], None).await?.success()?.json()
    }

    /// Opens a stream that has no end.
    pub(super) async fn follow(&self, path: &str) -> Result<Response, Failure> {
        let response = self.request(Method::GET, path).timeout(ENDLESS).send().await;
        self.opened(response.map_err(|error| self.unreachable(&error))?, path).await
    }

    /// Text that is no JSON, piece by piece, while it is taken.
    pub(super) async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Failure> {
        self.stream_until_silent(path, query, SILENCE, take).await
    }

    async fn stream_until_silent(
        &self,
        path: &str,
        query: &[(&str, String)],
        silence: Duration,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Failure> {
        let silent = |_| {
            let (base, seconds) = (&self.base, silence.as_secs_f64());
            Failure::new(
                Exit::Unreachable,
                format!(
                    "the server at {base} sent nothing for {seconds} s: what it had sent is not whole; try again"
                ),
            )
        };
        let response = self.request(Method::GET, path).query(query).timeout(ENDLESS).send();
        let response = timeout(silence, response).await.map_err(silent)?;
        let mut response = self.opened(response.map_err(|error| self.unreachable(&error))?, path).await?;
        loop {
            let piece = timeout(silence, response.chunk()).await.map_err(silent)?;
            match piece.map_err(|error| self.unreachable(&error))? {
                Some(piece) if take(&piece) => {}
                _ => return Ok(()),
            }
        }
    }

    /// Sends a stream of lines that may have no end; so may the answer.
    pub(super) async fn send_stream(
        &self,
        path: &str,
        prefer: &str,
        body: reqwest::Body,
    ) -> Result<Response, Failure> {
        let mut request = self.request(Method::POST, path).timeout(ENDLESS);
        if !prefer.is_empty() {
            request = request.header("prefer", prefer);
        }
        let response = request.header(CONTENT_TYPE, "application/x-ndjson").body(body).send().await;
        self.opened(response.map_err(|error| self.unreachable(&error))?, path).await
    }

    /// The answer when it is a success, and otherwise what the problem says.
    async fn opened(&self, response: Response, path: &str) -> Result<Response, Failure> {
        if response.status().is_success() {
            return Ok(response);
        }
        self.answer(response).await?.success()?;
        Err(Failure::failed(format!("{} does not stream {path}", self.base)))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Where the server is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request with these headers and this JSON, and takes the answer as it is.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        headers: &[(&str, String)],
        body: Option<String>,
    ) -> Result<Answer, Failure> {
        let mut request = self.request(method, path).query(query);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.answer(response).await
    }

    async fn answer(&self, response: Response) -> Result<Answer, Failure> {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { status, headers, text, from: self.base.clone() })
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
        let advice = if reason.contains("CaUsedAsEndEntity") {
            "its certificate is one of an authority: give it one made for a server (basicConstraints CA:FALSE)"
        } else if reason.contains("invalid peer certificate") {
            "an authority of your own is named by SSL_CERT_FILE, and the name in the URL must stand in the certificate"
        } else {
            "is `outlast serve` running?"
        };
        Failure::new(
            Exit::Unreachable,
            format!("the server at {base} could not be reached: {reason}; {advice}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_stream_may_take_as_long_as_it_brings_something_and_ends_when_it_is_silent() {
        outgoing::choose_cryptography();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await.unwrap();
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.write_all(b"x").await.unwrap();
            }
            // The ninth never comes.
            stream
        });
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(200)).build().unwrap();
        let client = Client { http, base, token: None, json: false };
        let mut taken = 0;
        let take = |piece: &[u8]| {
            taken += piece.len();
            true
        };
        let ended = client.stream_until_silent("/", &[], Duration::from_secs(2), take).await.unwrap_err();
        assert_eq!((taken, ended.exit), (8, Exit::Unreachable), "{ended:?}");
        assert!(ended.message.contains("sent nothing for 2 s"), "{ended:?}");
        drop(server);
    }
}
