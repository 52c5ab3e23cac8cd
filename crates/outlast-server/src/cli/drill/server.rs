//! [`Server`]: this same binary as a process of its own, to be killed and started again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cli::output::{Failure, safe};

pub(super) const PASSWORD: &str = "OUTLAST_DATABASE__PASSWORD";
pub(super) const PASSWORD_FILE: &str = "OUTLAST_DATABASE__PASSWORD_FILE";

/// Lines of the server's log that a failure shows.
const LINES_SHOWN: usize = 10;

/// Where the server listens at present: another port after each start.
#[derive(Clone, Default)]
pub(super) struct Address(Arc<Mutex<String>>);

impl Address {
    pub(super) fn url(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The drill's server. Killed when it is dropped.
pub(super) struct Server {
    directory: PathBuf,
    database_url: String,
    /// A variable with the database's password, or with the name of the file that has it.
    password: Option<(&'static str, OsString)>,
    child: Option<Child>,
    address: Address,
}

impl Server {
    pub(super) fn new(
        directory: &Path,
        database_url: String,
        password: Option<(&'static str, OsString)>,
    ) -> Self {
        let (directory, address) = (directory.to_owned(), Address::default());
        Self { directory, database_url, password, child: None, address }
    }

    pub(super) fn address(&self) -> Address {
        self.address.clone()
    }

    /// Starts it (again), on the same queue, and waits until it listens.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("the server could not be started: {error}"));
        let log = OpenOptions::new().create(true).append(true).open(self.log()).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // The user's settings are for another server; the password of the database is for this one, too.
        let kept = [PASSWORD, PASSWORD_FILE];
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OUTLAST_") && !kept.contains(&&*text) {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--json"])
            .current_dir(&self.directory)
            .env("OUTLAST_DATABASE__URL", &self.database_url)
            .env("OUTLAST_QUEUE__DIRECTORY", self.directory.join("queue"))
            .envs(self.password.clone())
            .envs(SETTINGS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.as_mut() {
            BufReader::new(out).read_line(&mut line).map_err(failed)?;
        }
        self.child = Some(child);
        let url = serde_json::from_str::<Value>(&line)
            .ok()
            .and_then(|said| Some(said["listening"].as_str()?.to_owned()));
        let Some(url) = url else {
            return Err(Failure::failed(format!("the server did not start:\n{}", self.last_lines())));
        };
        *self.address.0.lock().unwrap_or_else(PoisonError::into_inner) = url;
        Ok(())
    }

    /// Ends it as a crash would, and makes sure that this is what ended it.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.kill().and_then(|()| child.wait());
        match status.map(|status| status.signal()) {
            Ok(Some(9)) => Ok(()),
            Ok(_) => {
                Err(Failure::failed(format!("the server ended before it was killed:\n{}", self.last_lines())))
            }
            Err(error) => Err(Failure::failed(format!("the server could not be killed: {error}"))),
        }
    }

    /// Asks it to stop, and waits until it has, in good order.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // Only fails when it has ended already, which the next line finds out.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(Failure::failed(format!("the server ended with {status}:\n{}", self.last_lines())))
            }
            Err(error) => Err(Failure::failed(format!("the server could not be stopped: {error}"))),
        }
    }

    /// Fails when it has ended by itself.
    pub(super) fn lives(&mut self) -> Result<(), Failure> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                Err(Failure::failed(format!("the server ended by itself ({status}):\n{}", self.last_lines())))
            }
            _ => Ok(()),
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<String> = text.lines().rev().take(LINES_SHOWN).map(|line| safe(line, 300)).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// With these a fault shows soon, so that a drill takes seconds.
const SETTINGS: [(&str, &str); 8] = [
    ("OUTLAST_SERVER__LISTEN", "127.0.0.1:0"),
    ("OUTLAST_SERVER__WAIT", "2s"),
    ("OUTLAST_HEALTH__PROBE_INTERVAL", "200ms"),
    ("OUTLAST_HEALTH__PROBE_MAX_INTERVAL", "200ms"),
    ("OUTLAST_DATABASE__CONNECT_TIMEOUT", "2s"),
    ("OUTLAST_DATABASE__REQUEST_TIMEOUT", "5s"),
    ("OUTLAST_DELIVERY__BACKOFF", "100ms"),
    ("OUTLAST_DELIVERY__BACKOFF_MAX", "1s"),
];
