//! A server in this process (over a database with a temper), a server as a process, and a client of raw bytes.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::format_push_string)]
#![allow(unreachable_pub, reason = "each test binary uses another part of this")]

pub(crate) mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outlast::Outlast;
use outlast_server::config::{Config, ServerConfig};
use outlast_server::http::{App, serve};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_testkit::faulty::Faulty;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) outlast: Outlast,
    pub(crate) database: Arc<Faulty>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    serving: JoinHandle<usize>,
    directory: tempfile::TempDir,
}

impl Server {
    /// With defaults, on SQLite, connected.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With a changed configuration.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.outlast.directory = directory.path().join("queue");
        config.outlast.probe_interval = Duration::from_millis(100);
        config.outlast.probe_max_interval = Duration::from_secs(1);
        config.outlast.read_wait = Duration::from_millis(10);
        change(&mut config);
        let sqlite = Sqlite::open(directory.path().join("database.db"), SqliteOptions::default()).unwrap();
        let database = Faulty::new(Arc::new(sqlite));
        let outlast = Outlast::open(database.clone(), config.outlast.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::new(outlast.clone(), ServerConfig { listen: address, ..config.server });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, app.clone(), None, async {
            let _ = stopped.await;
        }));
        // The drainer answers once the position in the database is known; the second time it delivers already.
        for _ in 0..2 {
            let _ = outlast.discard_dead_letter("1-1".parse().unwrap()).await;
        }
        Self { address, app, outlast, database, stop: Some(stop), serving, directory }
    }

    /// Asks it to stop, without waiting.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stop.take();
    }

    /// Waits until it has stopped; returns the connections that were cut.
    pub(crate) async fn stopped(self) -> usize {
        drop(self.stop);
        self.serving.await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        send(self.address, method, path, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// With a JSON body.
    pub(crate) async fn json(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &[JSON], body).await
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that it is a problem of that name, in full, and returns its detail.
    pub(crate) fn problem(&self, status: u16, name: &str) -> String {
        let body = self.json();
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["type"], format!("/problems/{name}"), "{self:?}");
        assert_eq!(body["status"], status);
        assert!(!body["title"].as_str().unwrap().is_empty());
        if status == 503 {
            let seconds: u64 = self.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{self:?}");
            assert_eq!(body["retry_after_seconds"], seconds);
        }
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    raw(to, text.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Sends bytes, reads to the end of the connection, and takes the first answer apart.
pub(crate) async fn raw(to: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.ok()?;
    parse(&String::from_utf8(answer).unwrap())
}

/// The first answer in a text.
pub(crate) fn parse(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(body.len());
    let body = body.get(..length.min(body.len()))?.to_owned();
    Some(Reply { status, headers, body })
}
