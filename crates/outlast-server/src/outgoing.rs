//! What this process asks of others: one request over HTTP or HTTPS with one time limit over all of it, and whom to trust.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Of an answer more is not read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Posts JSON, and returns the status of the answer. Redirections are not followed: they could lead to anywhere.
///
/// # Errors
/// Why there is no answer. The text never holds the URL, which may be a secret.
pub(crate) async fn post_json(url: &Url, body: String, limit: Duration) -> Result<StatusCode, String> {
    let request = Request::post(url.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(|_| "the URL cannot be asked for")?;
    send(request, limit).await.map(|answer| answer.status())
}

/// Sends a request to the URL that is its target, and returns the answer.
///
/// # Errors
/// As [`post_json`].
pub(crate) async fn send(request: Request<Bytes>, limit: Duration) -> Result<Response<Bytes>, String> {
    match tokio::time::timeout(limit, send_to(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
    }
}

async fn send_to(request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let url = Url::parse(&request.uri().to_string()).map_err(|_| "the URL cannot be asked for")?;
    let host = url.host_str().ok_or("the URL has no host")?;
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = request.map(Full::new);
    *request.uri_mut() = http::Uri::try_from(target).map_err(|_| "the URL cannot be asked for")?;
    let headers = request.headers_mut();
    headers
        .insert(header::HOST, HeaderValue::try_from(authority).map_err(|_| "the URL cannot be asked for")?);
    let agent = HeaderValue::from_static(concat!("outlast/", env!("CARGO_PKG_VERSION")));
    headers.insert(header::USER_AGENT, agent);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let stream = TcpStream::connect((name, port)).await.map_err(|error| error.to_string())?;
    if url.scheme() == "http" {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust()?).connect(name, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut answering = std::pin::pin!(async move {
        let (head, body) =
            sender.send_request(request).await.map_err(|error| error.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(Response::from_parts(head, body.to_bytes()))
    });
    tokio::select! {
        answer = &mut answering => answer,
        // Its peer may close as soon as it has answered.
        _ = connection => answering.await,
    }
}

/// TLS towards others, with the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).
///
/// # Errors
/// When there are none.
pub(crate) fn client_config() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 {
        return Err("no certificate authority is trusted on this system: set SSL_CERT_FILE".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// The same, read once, since the system's certificates are many.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    TRUST.get_or_init(|| client_config().map(Arc::new)).clone()
}

/// Says once for the process who does its cryptography: reqwest asks for that even where it speaks plain HTTP.
pub(crate) fn choose_cryptography() {
    // An error means that a program around this one has chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
