//! [`SurrealServer`]: a real SurrealDB server as a process of its own, for tests.
//!
//! The binary is `$OUTLAST_SURREAL`, or the one that `tools/surreal` builds; for 2.x `$OUTLAST_SURREAL2` and
//! `tools/surreal2`. When that is missing it is built, once, however many tests ask at the same time: that takes minutes,
//! and a test never passes because there is no server.

// A tool of tests: it reports by panicking.
#![allow(clippy::panic)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The longest that a server may take to answer after it was started.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a request of [`SurrealServer::sql`] may take.
const SQL_LIMIT: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The engine and the protocol of 2.x, in a server of our own: that of 2.x cannot be built from a registry.
    Two,
    /// The server of 3.x.
    Three,
}

/// Where a server keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In memory: gone when the process ends.
    Memory,
    /// In files of a directory (SurrealKV), synced at each commit: there again after a restart.
    File(PathBuf),
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct SurrealServer {
    process: Option<Child>,
    release: Release,
    port: u16,
    storage: Storage,
    arguments: Vec<String>,
}

impl SurrealServer {
    /// Starts a server on a free port of the loopback interface and waits until it serves. Its user is `root`, with
    /// the password `root`.
    ///
    /// # Panics
    /// When it cannot be built or started.
    pub fn start(storage: Storage) -> Self {
        Self::launch(Release::Three, storage, &[])
    }

    /// [`SurrealServer::start`] for a release.
    ///
    /// # Panics
    /// When it cannot be built or started.
    pub fn start_release(release: Release, storage: Storage) -> Self {
        Self::launch(release, storage, &[])
    }

    /// [`SurrealServer::start`] with more arguments of `surreal start`.
    ///
    /// # Panics
    /// When it cannot be built or started.
    pub fn start_with(storage: Storage, arguments: &[&str]) -> Self {
        Self::launch(Release::Three, storage, arguments)
    }

    fn launch(release: Release, storage: Storage, arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { process: None, release, port, storage, arguments };
        server.restart();
        server
    }

    /// A server that all tests of this process share: started by the first that asks, and killed when the last one has
    /// dropped it. Each test uses a database of its own.
    ///
    /// # Panics
    /// When it cannot be built or started.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<SurrealServer>> = Mutex::new(Weak::new());
        // A test that failed to start it must not fail the others with a poisoned lock.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(Storage::Memory));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Ends it as a crash would (SIGKILL), and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Only fails when the process has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it where it is (SIGSTOP): connections stay open, new ones are taken by the kernel, and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("the server does not run"));
        kill_process(Pid::from_child(process), signal)
            .unwrap_or_else(|error| panic!("the server takes no signal: {error}"));
    }

    /// Starts it again on the same port and data, and waits until it serves. Kills it first if it runs.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        let binary = self.release.binary();
        let data = match &self.storage {
            Storage::Memory => "memory".to_owned(),
            Storage::File(path) => format!("surrealkv://{}", path.display()),
        };
        let process = Command::new(&binary)
            .args(["start", "--no-banner", "--user", "root", "--pass", "root", "--log", "warn"])
            .args(["--bind", &self.authority()])
            .args(&self.arguments)
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process =
            Some(process.unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display())));
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if http(self.port, "GET", "/health", &[], "").is_ok_and(|(status, _)| status == 200) {
                return;
            }
            if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
            {
                panic!("the SurrealDB server ended by itself: {status}");
            }
            assert!(Instant::now() < deadline, "the SurrealDB server does not answer within {START_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a database, with the user.
    pub fn url(&self, namespace: &str, database: &str) -> String {
        url(&self.authority(), namespace, database)
    }

    /// Runs statements as root over HTTP, beside the client under test, and returns one JSON object for each with its
    /// `status` and `result`. For preparing and for auditing: an error of a statement is part of the answer.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn sql(&self, namespace: &str, database: &str, statements: &str) -> Vec<Value> {
        // The password of root:root, in base 64.
        let headers = [
            ("Authorization", "Basic cm9vdDpyb290"),
            ("Accept", "application/json"),
            ("Surreal-NS", namespace),
            ("Surreal-DB", database),
        ];
        let (status, body) = http(self.port, "POST", "/sql", &headers, statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
        let rows = serde_json::from_str(&body).ok().filter(|_| status == 200);
        rows.unwrap_or_else(|| panic!("{statements}: {status} {body}"))
    }

    /// The result of a single statement that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn query(&self, namespace: &str, database: &str, statement: &str) -> Value {
        let mut rows = self.sql(namespace, database, statement);
        let row = rows.pop().unwrap_or_else(|| panic!("{statement}: no answer"));
        assert_eq!(row["status"], "OK", "{statement}: {row}");
        row["result"].clone()
    }
}

impl Drop for SurrealServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The URL of a database at `HOST:PORT`, with the user of the test servers.
pub fn url(authority: &str, namespace: &str, database: &str) -> String {
    format!("surrealdb://root:root@{authority}/{namespace}/{database}")
}

/// A port that was free a moment ago.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no free port: {error}"));
    listener.local_addr().unwrap_or_else(|error| panic!("no free port: {error}")).port()
}

impl Release {
    /// The tool's folder and binary, and the variable that names another binary.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Two => ("surreal2", "OUTLAST_SURREAL2"),
            Self::Three => ("surreal", "OUTLAST_SURREAL"),
        }
    }

    /// The server's binary, built if need be.
    fn binary(self) -> PathBuf {
        let (name, variable) = self.names();
        if let Some(path) = std::env::var_os(variable) {
            return path.into();
        }
        let home = std::env::var_os("HOME").unwrap_or_else(|| panic!("$HOME is not set"));
        let target = Path::new(&home).join(".cache/outlast/surreal");
        let binary = target.join("debug").join(name);
        if !binary.exists() {
            build(name, &target).unwrap_or_else(|error| panic!("tools/{name} cannot be built: {error}"));
        }
        binary
    }
}

/// Under a lock between processes, so that parallel tests build it once.
fn build(name: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let lock = File::create(target.join("outlast-testkit.lock"))?;
    lock.lock()?;
    if target.join("debug").join(name).exists() {
        return Ok(());
    }
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools").join(name);
    // With its tests, as its Cargo.toml says.
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--locked", "--no-run"]).current_dir(tool).env("CARGO_TARGET_DIR", target);
    // What cargo says of the package whose test this is: build scripts would take it for a change.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// One HTTP request on a connection of its own.
fn http(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SQL_LIMIT))?;
    let mut request =
        format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("no HTTP status"))?, body.to_owned()))
}
