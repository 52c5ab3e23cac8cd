//! The command line against a real server on SQLite, whose database can be taken away.
#![allow(dead_code, reason = "each test binary uses another part of this")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outlast_testkit::process::{Finished, OutlastProcess, Setup};
use serde_json::Value;

/// The longest that a test waits for a state.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub struct Server {
    pub process: OutlastProcess,
    pub directory: tempfile::TempDir,
}

impl Server {
    /// Connected, with settings that make faults show soon.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("database.db").display());
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_outlast"), directory.path(), &url)
            .with("health.probe_interval", "100ms")
            .with("health.probe_max_interval", "100ms")
            .with("health.read_wait", "10ms")
            .with("delivery.backoff", "50ms");
        for (key, value) in settings {
            setup = setup.with(key, value);
        }
        let server = Self { process: setup.start(), directory };
        // The first write makes the collection.
        server.until("the database is connected", &["write", "delete", "a/nobody", "--json"], |reply| {
            reply["status"] == "applied"
        });
        server
    }

    pub fn run(&self, args: &[&str]) -> Finished {
        self.process.cli(args)
    }

    /// What is printed when it succeeds.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, Some(0), "{args:?}: {finished:?}");
        finished.stdout
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        json(&self.run(args))
    }

    /// As `outlast ARGS` with its standard input; the server is found by its URL.
    pub fn with_stdin(&self, args: &[&str], input: &str) -> Finished {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Its output is read through pipes.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
        command
            .args(args)
            .args(["--url", &self.process.url()])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Repeats a command until its JSON is as wished.
    #[track_caller]
    pub fn until(&self, what: &str, args: &[&str], wished: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let finished = self.run(args);
            if let Ok(value) = serde_json::from_str(&finished.stdout)
                && wished(&value)
            {
                return value;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain: {what}: {finished:?}");
        }
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("database.db")
    }

    /// Takes the database away, and waits until that is noticed.
    pub fn take_database_away(&self) {
        std::fs::rename(self.database(), self.directory.path().join("away.db")).unwrap();
        self.until("the outage is noticed", &["status", "--json"], |status| {
            status["database"]["state"] == "failed"
        });
    }

    pub fn give_database_back(&self) {
        std::fs::rename(self.directory.path().join("away.db"), self.database()).unwrap();
    }
}

#[track_caller]
pub fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}
