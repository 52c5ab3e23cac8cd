//! What this process asks of others: one request over HTTP or HTTPS with one time limit over all of it, and whom to trust.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Posts JSON, and returns the status of the answer. Redirections are not followed: they could lead to anywhere.
///
/// # Errors
/// Why there is no answer. The text never holds the URL, which may be a secret.
pub(crate) async fn post_json(url: &Url, body: String, limit: Duration) -> Result<StatusCode, String> {
    match tokio::time::timeout(limit, post(url, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
    }
}

async fn post(url: &Url, body: String) -> Result<StatusCode, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let request = Request::post(target)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("outlast/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| "the URL cannot be asked for")?;
    let stream = TcpStream::connect((name, port)).await.map_err(|error| error.to_string())?;
    if url.scheme() == "http" {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust()?).connect(name, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut answering = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answering => answer,
        // Its peer may close as soon as it has answered.
        _ = connection => answering.await,
    };
    answer.map(|answer| answer.status()).map_err(|error| error.to_string())
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
