//! The binary: how it starts, what it says when it cannot, how it ends, and what the command line answers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use outlast_testkit::process::copy_to_run;
use support::{JSON, send};

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");

fn command(directory: &Path) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OUTLAST_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn run(directory: &Path, args: &[&str]) -> Output {
    command(directory).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server process; killed when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    first_line: String,
}

impl Process {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let mut child = command(directory)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        let address = first_line.split("http://").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.and_then(|address| address.parse().ok());
        Self { address: address.unwrap_or_else(|| panic!("no address in {first_line:?}")), child, first_line }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end; returns the exit code and what it logged.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_serves_with_no_configuration_at_all_and_ends_cleanly_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[]);
    assert!(server.first_line.contains("queue outlast-data/queue, database sqlite outlast-data/database.db"));
    let reply = send(server.address, "PUT", "/v1/records/a/1", &[JSON], r#"{"v":1}"#).await;
    assert!([200, 202].contains(&reply.status), "{reply:?}");
    assert_eq!(send(server.address, "GET", "/startedz", &[], "").await.status, 200);
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");

    let server = Process::start(directory.path(), &[]);
    let path = format!("/v1/writes/{}?wait=30s", reply.header("write-id"));
    assert_eq!(send(server.address, "GET", &path, &[], "").await.json()["status"], "applied");
    assert_eq!(send(server.address, "GET", "/v1/records/a/1", &[], "").await.json()["v"], 1);
}

#[tokio::test]
async fn it_serves_while_the_database_is_away_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Process::start(directory.path(), &["--database-url", "surrealdb://root:canary@127.0.0.1:9/n/d"]);
    let reply = send(server.address, "PUT", "/v1/records/a/1", &[JSON], "{}").await;
    assert_eq!(reply.status, 202, "{reply:?}");
    send(server.address, "GET", "/v1/records/a/1", &[], "").await.problem(503, "database-unavailable");
    assert_eq!(send(server.address, "GET", "/readyz", &[], "").await.status, 200);
    let mut everything = server.first_line.clone();
    for path in ["/health", "/metrics", "/v1/queue", "/v1/outages", "/v1/queue/writes"] {
        everything.push_str(&send(server.address, "GET", path, &[], "").await.body);
    }
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        !everything.contains("canary") && !log.contains("canary"),
        "the password is told: {everything} {log}"
    );
}

#[test]
fn a_second_process_on_the_same_queue_directory_ends_with_75_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let _server = Process::start(directory.path(), &[]);
    let second = run(directory.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(75));
    let said = text(&second.stderr);
    assert!(said.contains("outlast-data/queue is in use by another process"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let queue = directory.path().join("queue");
    std::fs::create_dir(&queue).unwrap();
    std::fs::set_permissions(&queue, std::fs::Permissions::from_mode(0o500)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The super-user writes everywhere: then another one tries, with a copy of the binary that it can reach.
    let copy = directory.path().join("outlast");
    copy_to_run(BINARY, &copy);
    let mut command = Command::new(&copy);
    command
        .current_dir(directory.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--queue-directory"])
        .arg(&queue);
    if std::fs::write(queue.join("probe"), "").is_ok() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&queue.display().to_string()) && said.contains("cannot be written"), "{said}");
    assert!(said.contains("choose another directory"), "{said}");
}

#[test]
fn a_wrong_configuration_ends_with_78_and_names_every_mistake() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("outlast.toml"),
        "[server]\nlisten = \"x\"\n[queue]\nmax_write = 1\n",
    )
    .unwrap();
    for args in [&["serve"] as &[&str], &["config", "show"]] {
        let output = run(directory.path(), args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("outlast.toml:2") && said.contains("did you mean queue.max_writes?"), "{said}");
    }
    std::fs::remove_file(directory.path().join("outlast.toml")).unwrap();
    for args in [
        &["--listen", "0.0.0.0:0"] as &[&str],
        &["--database-url", "mysql://x"],
        &["--database-url", "surrealdb://host"],
        &["--set", "queue.max_writes=0"],
    ] {
        let output = run(directory.path(), &[&["serve"], args].concat());
        assert_eq!(output.status.code(), Some(78), "{args:?}: {}", text(&output.stderr));
        assert!(!directory.path().join("outlast-data").exists(), "{args:?} left something behind");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(directory.path(), &["serve", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&format!("cannot listen on {address}")),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &["--set", "server.body_timeout=1h"]);
    let address = server.address;
    // A body that never ends keeps its request under way.
    let waiting = tokio::spawn(async move {
        let head = "PUT /v1/records/a/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        support::raw(address, format!("{head}content-length: 9\r\n\r\n").as_bytes()).await
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    while !send(address, "GET", "/metrics", &[], "")
        .await
        .body
        .contains("outlast_http_requests_under_way 2\n")
    {
        assert!(Instant::now() < deadline, "the request never began");
    }
    server.signal("-TERM");
    let deadline = Instant::now() + Duration::from_secs(30);
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "it never stopped listening");
    }
    server.signal("-INT");
    let (code, log) = server.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("SIGINT again"), "{log}");
    waiting.abort();
}

#[test]
fn config_init_writes_a_file_once_and_config_show_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(directory.path(), &["config", "init"]).status.code(), Some(0));
    let path = directory.path().join("outlast.toml");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.contains("#listen = \"127.0.0.1:6885\""), "{written}");
    let again = run(directory.path(), &["config", "init"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("left alone"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    let shown = run(directory.path(), &["config", "show", "--json", "--set", "queue.max_writes=7"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["queue.max_writes"]["value"], 7);
    assert_eq!(shown["queue.max_writes"]["source"], "--set queue.max_writes");
    let shown = text(&run(directory.path(), &["config", "show"]).stdout);
    assert!(shown.contains("queue.max_writes = 1000000"), "{shown}");
}

#[tokio::test]
async fn the_command_line_answers_in_words_and_in_json() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[]);
    let url = server.url();
    let outlast = |args: &[&str]| run(directory.path(), &[args, &["--url", &url]].concat());
    let deadline = Instant::now() + Duration::from_secs(30);
    while !text(&outlast(&["status"]).stdout).contains("yes, and applied at once") {
        assert!(Instant::now() < deadline, "never connected");
    }
    let status = text(&outlast(&["status"]).stdout);
    assert!(
        status.contains("Lost writes:      none") && status.contains("Queue clear:      now"),
        "{status}"
    );
    let status: serde_json::Value = serde_json::from_slice(&outlast(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["accepting"], &status["losses"]["writes"]), (&true.into(), &0.into()));

    assert!(text(&outlast(&["pause", "--for", "10m"]).stdout).contains("paused until"));
    assert_eq!(outlast(&["pause", "--for", "10"]).status.code(), Some(2));
    let queued = send(server.address, "PUT", "/v1/records/a/1", &[JSON], "{}").await;
    let id = queued.header("write-id");
    let list = text(&outlast(&["queue", "list"]).stdout);
    assert!(list.contains(id) && list.contains("put a/1"), "{list}");
    assert!(text(&outlast(&["queue", "show", id]).stdout).contains("\"op\": \"put\""));
    assert!(text(&outlast(&["resume"]).stdout).contains("resumed"));
    let decided = send(server.address, "GET", &format!("/v1/writes/{id}?wait=30s"), &[], "").await;
    assert_eq!(decided.json()["status"], "applied");
    assert!(text(&outlast(&["queue", "list"]).stdout).contains("nothing waits"));
    assert!(text(&outlast(&["dead", "list"]).stdout).contains("no dead letters"));
    let missing = outlast(&["dead", "show", "1-999"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("not found"), "{}", text(&missing.stderr));
}

#[tokio::test]
async fn discarding_a_dead_letter_needs_a_yes_where_nobody_can_be_asked() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &["--set", "delivery.max_attempts=1"]);
    let url = server.url();
    let outlast = |args: &[&str]| run(directory.path(), &[args, &["--url", &url]].concat());
    let headers = [JSON, ("prefer", "respond-async")];
    let queued = send(server.address, "PATCH", "/v1/records/a/none", &headers, "{}").await;
    let id = queued.header("write-id");
    let receipt = send(server.address, "GET", &format!("/v1/writes/{id}?wait=30s"), &[], "").await.json();
    assert_eq!(receipt["status"], "dead", "{receipt}");
    let list = text(&outlast(&["dead", "list", "--kind", "not_found"]).stdout);
    assert!(
        list.starts_with("1 dead letter\n") && list.contains(id) && list.contains("patch a/none"),
        "{list}"
    );
    let asked = outlast(&["dead", "discard", id]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(text(&asked.stderr).contains("patch a/none") && text(&asked.stderr).contains("--yes"));
    assert!(text(&outlast(&["dead", "retry", id]).stdout).contains("queued again"));
    let receipt = send(server.address, "GET", &format!("/v1/writes/{id}?wait=30s"), &[], "").await.json();
    assert_eq!(receipt["status"], "dead", "{receipt}");
    assert!(text(&outlast(&["dead", "discard", id, "--yes"]).stdout).contains("discarded"));
    assert!(text(&outlast(&["dead", "list"]).stdout).contains("no dead letters"));
}

#[test]
fn a_server_that_is_not_there_and_a_wrong_command_line_have_their_own_codes() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("could not be reached"), "{}", text(&output.stderr));
    assert_eq!(run(directory.path(), &["statsu"]).status.code(), Some(2));
    assert_eq!(run(directory.path(), &["serve", "--set", "x"]).status.code(), Some(2));
    let help = run(directory.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for code in ["69", "75", "78"] {
        assert!(text(&help.stdout).contains(code));
    }
}
