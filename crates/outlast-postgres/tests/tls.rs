//! TLS: spoken to a server whose certificate is trusted, and to no other; the login is bound to it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{after, create, items};
use outlast::database::{Database, DatabaseError, LaneId};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::postgres::{PostgresServer, url};

const URL: &str = "OUTLAST_TEST_TLS_URL";

fn database(url: &str) -> Postgres {
    Postgres::from_url(url, PostgresOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_server_is_spoken_to() {
    let server = PostgresServer::start();
    let url = format!("{}?sslmode=verify-full", url(&format!("localhost:{}", server.port()), "postgres"));
    let plain = database(&url).probe().await;
    assert!(
        matches!(&plain, Err(DatabaseError::Refused(text)) if text.contains("does not speak TLS")),
        "{plain:?}"
    );

    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for (name, file) in [("server.crt", "server.pem"), ("server.key", "server.key")] {
        server.put_file(name, &std::fs::read(files.join(file)).unwrap());
    }
    server.query("postgres", "ALTER SYSTEM SET ssl = on");
    server.set_access("hostssl all all all scram-sha-256\nhost all outlast 127.0.0.1/32 scram-sha-256\n");
    let stranger = database(&url).probe().await;
    assert!(matches!(stranger, Err(DatabaseError::Unavailable(_))), "{stranger:?}");
    // Whom to trust is read from the environment, once in a process: so trusting needs a process of its own.
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "writes_through_tls", "--ignored"]).env(URL, &url);
    child.env("SSL_CERT_FILE", files.join("authority.pem"));
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.query("postgres", "SELECT id FROM a"), "through tls");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above, in a process that trusts its server"]
async fn writes_through_tls() {
    let database = database(&std::env::var(URL).unwrap());
    database.probe().await.unwrap();
    let lane = LaneId::new("queue", 0);
    let position = database.take_over(&lane, None, "me").await.unwrap();
    let seen = "CREATE TABLE seen AS SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let batch = items(&position, vec![create("a", "through tls", "{}"), common::statement(seen, "{}")]);
    database.apply(&lane, &position, after(&position, 2), &batch).await.unwrap();
    // Idle connections are used again, also through TLS.
    database.probe().await.unwrap();
}
