//! The WebSocket handshake, with or without TLS.
//!
//! TLS is rustls with the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).

use std::error::Error;
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Upgrades a connected stream.
pub(crate) async fn handshake(
    request: Request,
    stream: TcpStream,
    config: WebSocketConfig,
    tls: bool,
) -> Result<Socket, Box<dyn Error + Send + Sync>> {
    let connector = if tls { Connector::Rustls(trust()?) } else { Connector::Plain };
    let (socket, _) = client_async_tls_with_config(request, stream, Some(config), Some(connector)).await?;
    Ok(socket)
}

/// Whom to trust: read once, since the system's certificates are many.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    TRUST.get_or_init(read_trust).clone()
}

fn read_trust() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no certificate authority is trusted on this system {}: set SSL_CERT_FILE",
            reasons.join(", ")
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
