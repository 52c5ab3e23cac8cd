//! `surrealdbs://`: spoken to a server whose certificate is trusted, and to no other.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Fixture, NAMESPACE, after, create, items};
use outlast::database::{Database, DatabaseError, LaneId};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const URL: &str = "OUTLAST_TEST_TLS_URL";

/// Takes TLS off connections and passes them on to a server.
async fn terminator(upstream: String) -> SocketAddr {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let certificate = CertificateDer::from_pem_file(files.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                // A client that does not trust us breaks off: nothing to pass on.
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

fn database(url: &str) -> SurrealDb {
    let request_timeout = Duration::from_secs(10);
    SurrealDb::from_url(url, SurrealOptions { request_timeout, ..SurrealOptions::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_server_is_spoken_to() {
    let db = Fixture::new().await;
    let port = terminator(db.server.authority()).await.port();
    let url = format!("surrealdbs://root:root@localhost:{port}/{NAMESPACE}/{}", db.name);
    let stranger = database(&url).probe().await;
    assert!(matches!(stranger, Err(DatabaseError::Unavailable(_))), "{stranger:?}");
    // Whom to trust is read from the environment, once in a process: so trusting needs a process of its own.
    let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/authority.pem");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "writes_through_tls", "--ignored"]).env(URL, url).env("SSL_CERT_FILE", authority);
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(db.get("a", "through tls").await.is_some(), "the child wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above, in a process that trusts its server"]
async fn writes_through_tls() {
    let database = database(&std::env::var(URL).unwrap());
    database.probe().await.unwrap();
    let lane = LaneId::new("queue", 0);
    let position = database.take_over(&lane, None, "me").await.unwrap();
    let batch = items(&position, vec![create("a", "through tls", "{}")]);
    database.apply(&lane, &position, after(&position, 1), &batch).await.unwrap();
}
