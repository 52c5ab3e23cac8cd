//! What people and monitoring look at again and again: `check`, `is-ready`, `status --watch` and `tail`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cli;

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use cli::{PATIENCE, Server, json};
use serde_json::Value;

/// A command that does not end by itself. Its lines are read as they come.
struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    fn start(server: &Server, args: &[&str]) -> Self {
        let mut child = server.command(args).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    fn line(&mut self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap()
    }

    /// Reads until there is a line as wished.
    #[track_caller]
    fn until(&mut self, wished: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.out.recv_timeout(PATIENCE) {
            if wished(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("not among {seen:?}");
    }

    /// The same on standard error.
    #[track_caller]
    fn notice(&mut self, wished: &str) {
        while let Ok(line) = self.err.recv_timeout(PATIENCE) {
            if line.contains(wished) {
                return;
            }
        }
        panic!("nothing is said of {wished:?}");
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn check_is_a_monitoring_plugin() {
    let server = Server::start_with(&[("queue.max_writes", "10"), ("delivery.max_attempts", "1")]);
    let well = server.run(&["check"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert!(
        well.stdout.starts_with("OUTLAST OK - writes are accepted and applied, 0 of 10 wait"),
        "{well:?}"
    );
    assert!(well.stdout.contains(" | queue_writes=0;7;8;0;10 queue_bytes=0B;"), "{well:?}");
    assert_eq!((well.stdout.lines().count(), well.stdout.matches('|').count()), (1, 1), "{well:?}");

    server.ok(&["pause"]);
    let paused = server.run(&["check"]);
    assert_eq!(paused.code, Some(1), "{paused:?}");
    assert!(paused.stdout.starts_with("OUTLAST WARNING - lane: paused"), "{paused:?}");
    for n in 0..8 {
        server.ok(&["write", "put", &format!("a/{n}"), "{}", "--wait", "0s"]);
    }
    assert_eq!(server.run(&["check"]).code, Some(1));
    let fuller = server.run(&["check", "--warning", "50", "--critical", "80"]);
    assert_eq!(fuller.code, Some(2), "{fuller:?}");
    assert!(fuller.stdout.starts_with("OUTLAST CRITICAL - the queue holds 80 % of the writes"), "{fuller:?}");
    server.ok(&["write", "put", "a/8", "{}", "--wait", "0s"]);
    assert_eq!(server.run(&["check"]).code, Some(2), "90 % by default");
    server.ok(&["write", "patch", "a/none", "{}", "--wait", "0s"]);
    let full = server.run(&["check", "--json"]);
    let report = json(&full);
    assert_eq!((full.code, &report["status"], &report["code"]), (Some(2), &"critical".into(), &2.into()));
    let about: Vec<&Value> =
        report["findings"].as_array().unwrap().iter().map(|found| &found["about"]).collect();
    assert!(about.contains(&&"accepting".into()), "a full queue takes nothing: {report}");

    server.ok(&["resume"]);
    let dead =
        server.until("a dead letter", &["check", "--json"], |report| report["values"]["dead_letters"] == 1.0);
    assert_eq!(dead["status"], "warning", "{dead}");
    let metrics = server.run(&["check", "--format", "prometheus"]);
    assert_eq!(metrics.code, Some(1), "{metrics:?}");
    assert!(metrics.stdout.contains("\noutlast_check_status 1\n"), "{metrics:?}");
    assert!(metrics.stdout.contains("\noutlast_check_dead_letters 1\n"), "{metrics:?}");
}

#[test]
fn check_tells_a_database_that_is_away_from_a_server_that_is_away_and_from_not_knowing() {
    let mut server = Server::start();
    server.take_database_away();
    let away = server.run(&["check"]);
    assert_eq!(away.code, Some(1), "{away:?}");
    assert!(away.stdout.contains("database: failed since") && away.stdout.contains("is gone"), "{away:?}");
    server.process.kill();
    let gone = server.run(&["check"]);
    assert_eq!(gone.code, Some(2), "{gone:?}");
    assert!(gone.stdout.starts_with("OUTLAST CRITICAL - the server at"), "{gone:?}");
    assert_eq!(json(&server.run(&["check", "--json"]))["findings"][0]["about"], "server");
    for args in [
        &["check", "--warning", "95"] as &[&str],
        &["check", "--url", "ftp://x"],
        &["check", "--config", "nowhere.toml"],
    ] {
        let unknown = Command::new(env!("CARGO_BIN_EXE_outlast")).args(args).output().unwrap();
        assert_eq!(unknown.status.code(), Some(3), "{args:?}: {unknown:?}");
        let said = String::from_utf8(unknown.stdout).unwrap();
        assert!(said.starts_with("OUTLAST UNKNOWN - "), "{args:?}: {said}");
    }
    for (args, code) in [
        (&["check", "--warning", "many"] as &[&str], 3),
        (&["--config", "nowhere.toml", "check", "--wrong"], 3),
        (&["--json", "--url=http://127.0.0.1:1", "check", "--wrong"], 3),
        (&["--config", "check", "status", "--wrong"], 2),
        (&["config", "check", "--wrong"], 2),
    ] {
        let wrong = Command::new(env!("CARGO_BIN_EXE_outlast")).args(args).output().unwrap();
        assert_eq!(wrong.status.code(), Some(code), "not CRITICAL by mistake: {args:?}: {wrong:?}");
    }
    assert_eq!(server.run(&["check", "--help"]).code, Some(0));
}

#[test]
fn is_ready_waits_for_a_server_that_starts() {
    let mut server = Server::start();
    assert_eq!(server.ok(&["is-ready"]), "ready\n");
    server.process.kill();
    let away = server.run(&["is-ready"]);
    assert_eq!((away.code, away.stdout.as_str()), (Some(69), "not ready\n"), "{away:?}");
    let mut waiting = server.command(&["is-ready", "--wait", "60s", "--json"]).spawn().unwrap();
    assert_eq!(server.run(&["is-ready", "--wait", "1ms"]).code, Some(69));
    assert!(waiting.try_wait().unwrap().is_none(), "it does not wait");
    server.process.restart();
    let output = waiting.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["ready"]), (Some(0), &true.into()));
}

#[test]
fn is_ready_says_why_not() {
    let server = Server::start_with(&[("server.readiness", "database")]);
    server.take_database_away();
    let not_yet = server.run(&["is-ready"]);
    assert_eq!(not_yet.code, Some(1), "{not_yet:?}");
    assert!(not_yet.stderr.contains("the database is not connected"), "{not_yet:?}");
}

#[test]
fn status_watch_prints_a_line_per_look_and_outlasts_the_server() {
    let mut server = Server::start();
    let mut watch = Running::start(&server, &["status", "--watch", "--interval", "20ms"]);
    let line = watch.line();
    assert!(
        line.contains(" accepting writes; lost: none; database connected; delivery running; 0 wait"),
        "{line}"
    );
    server.ok(&["pause"]);
    watch.until(|line| line.contains("delivery paused"));
    server.process.kill();
    watch.until(|line| line.contains("could not be reached"));
    server.process.restart();
    watch.until(|line| line.contains("accepting writes"));

    let mut watch = Running::start(&server, &["status", "--watch", "--interval", "20ms", "--json"]);
    let status: Value = serde_json::from_str(&watch.line()).unwrap();
    assert_eq!((&status["accepting"], &status["losses"]["writes"]), (&true.into(), &0.into()));
}

#[test]
fn a_watch_ends_when_nobody_reads_it() {
    let server = Server::start();
    let mut watch = server.command(&["status", "--watch", "--interval", "1ms"]).spawn().unwrap();
    drop(watch.stdout.take());
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn tail_tells_what_happens_through_a_restart() {
    let mut server = Server::start();
    let mut tail = Running::start(&server, &["tail"]);
    let mut raw = Running::start(&server, &["tail", "--json"]);
    tail.notice("listening to http://127.0.0.1:");
    raw.notice("listening");
    server.take_database_away();
    tail.until(|line| line.contains("outage 1 began"));
    tail.until(|line| line.contains("database: connected -> failed") && line.contains("is gone"));
    raw.until(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event"] == "outage_started" && event["outage"] == 1
    });
    server.process.kill();
    tail.notice("was lost; trying again");
    server.give_database_back();
    server.process.restart();
    tail.notice("listening");
    server.ok(&["pause"]);
    let line = tail.until(|line| line.contains("delivery: "));
    assert!(line.contains("pause"), "{line}");
}

#[test]
fn tail_says_at_once_when_there_is_no_server_or_no_right_to_listen() {
    let hash = "0".repeat(64);
    let tail = |url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
        command.args(["tail", "--url", url]).stdin(Stdio::null()).output().unwrap()
    };
    assert_eq!(tail("http://127.0.0.1:9").status.code(), Some(69));
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("database.db").display());
    let process = outlast_testkit::process::Setup::new(env!("CARGO_BIN_EXE_outlast"), directory.path(), &url)
        .with("server.tokens", &format!("me:reader:{hash}"))
        .start();
    let refused = tail(&process.url());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("OUTLAST_TOKEN"), "{said}");
}
