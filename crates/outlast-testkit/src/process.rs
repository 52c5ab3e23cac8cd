//! [`OutlastProcess`]: the real binary `outlast` as a process of its own, to be killed, restarted and asked.
#![allow(clippy::panic, reason = "a tool for tests: its panic is the message of a failed test")]

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that the server may take to answer after it was started, or to end after it was told to.
const LIMIT: Duration = Duration::from_mins(1);
/// Lines of standard error that are kept for the messages of failed tests.
const LINES_KEPT: usize = 2000;

/// How a process is to be run: the binary, its working directory and its settings.
#[derive(Debug, Clone)]
pub struct Setup {
    binary: PathBuf,
    directory: PathBuf,
    settings: BTreeMap<String, String>,
    port: u16,
    wrapper: Vec<String>,
}

impl Setup {
    /// The binary with its queue in `directory/queue`, listening on a free port. `directory` is the working directory too,
    /// so that no `outlast.toml` of somebody else is found.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn new(binary: impl Into<PathBuf>, directory: impl Into<PathBuf>, database_url: &str) -> Self {
        let (binary, directory) = (binary.into(), directory.into());
        // Tests ask the server with reqwest, which wants to know who does its cryptography. An error means that it knows.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = quiet_port();
        let setup = Self { binary, port, settings: BTreeMap::new(), directory, wrapper: Vec::new() };
        let queue = setup.directory.join("queue").display().to_string();
        setup
            .with("database.url", database_url)
            .with("queue.directory", &queue)
            .with("server.listen", &format!("127.0.0.1:{port}"))
    }

    /// With a setting, given through the environment: `("queue.retain", "0s")` is `OUTLAST_QUEUE__RETAIN=0s`.
    pub fn with(mut self, setting: &str, value: &str) -> Self {
        let name = format!("OUTLAST_{}", setting.to_ascii_uppercase().replace('.', "__"));
        self.settings.insert(name, value.to_owned());
        self
    }

    /// Starts the server as an argument of this command from now on, `strace` for example; of none when it is empty.
    /// The command must leave the server as the process that it was started as (`strace -D` does).
    pub fn run_under(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    /// The working directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the server listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up: with what it wrote to standard error.
    pub fn start(self) -> OutlastProcess {
        let mut process = OutlastProcess { setup: self, child: None, errors: Arc::default() };
        process.restart();
        process
    }

    /// Runs the binary with these arguments to its end, `serve` included when it is expected to fail.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut child = self
            .command(&[], arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let out = std::thread::spawn(move || read_all(out));
        let err = std::thread::spawn(move || read_all(err));
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match child.try_wait().expect("a child of ours") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let text = err.join().unwrap_or_default();
                    panic!("outlast {arguments:?} did not end within {LIMIT:?}:\n{text}");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        Finished {
            code: status.code(),
            stdout: out.join().unwrap_or_default(),
            stderr: err.join().unwrap_or_default(),
        }
    }

    fn command(&self, wrapper: &[String], arguments: &[&str]) -> Command {
        let binary = self.binary.as_os_str();
        let mut words = wrapper.iter().map(OsStr::new).chain([binary]);
        let mut command = Command::new(words.next().unwrap_or(binary));
        command.args(words);
        // What stands in the environment of the tests is not for this process.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OUTLAST_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).envs(&self.settings).current_dir(&self.directory).stdin(Stdio::null());
        command
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A running server. Killed when it is dropped; its last lines are printed when the test is failing.
#[derive(Debug)]
pub struct OutlastProcess {
    setup: Setup,
    child: Option<Child>,
    errors: Arc<Mutex<VecDeque<String>>>,
}

impl OutlastProcess {
    /// Where it listens: `http://127.0.0.1:PORT`. The same after a restart.
    pub fn url(&self) -> String {
        self.setup.url()
    }

    /// How it is run. Changes count from the next [`OutlastProcess::restart`] on.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Ends it as a crash would (SIGKILL), and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Only fails when the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it (again), and waits until it answers. Kills it first if it runs.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_until("/livez");
    }

    /// Starts it (again) without waiting for anything. Kills it first if it runs.
    ///
    /// # Panics
    /// When the binary cannot be run.
    pub fn spawn(&mut self) {
        self.kill();
        let mut child = self
            .setup
            .command(&self.setup.wrapper, &["serve"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.setup.binary.display()));
        if let Some(pipe) = child.stderr.take() {
            let errors = Arc::clone(&self.errors);
            std::thread::spawn(move || keep_lines(pipe, &errors));
        }
        self.child = Some(child);
    }

    /// Waits until `path` answers with 200, and returns how long that took.
    ///
    /// # Panics
    /// When it does not in time, or the process ends.
    pub fn wait_until(&mut self, path: &str) -> Duration {
        let began = Instant::now();
        while !answers(self.setup.port, path) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                panic!("outlast ended by itself ({status}):\n{}", self.errors());
            }
            assert!(
                began.elapsed() < LIMIT,
                "outlast: no 200 from {path} within {LIMIT:?}:\n{}",
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    ///
    /// # Panics
    /// When it does not run, or does not stop in time.
    pub fn terminate(&mut self) -> ExitStatus {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("a process of ours takes signals");
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "outlast did not stop within {LIMIT:?}:\n{}", self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, if it has ended by itself or by somebody else.
    ///
    /// # Panics
    /// When it was not started.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut().expect("it was started").try_wait().expect("a child of ours")?;
        self.child = None;
        Some(status)
    }

    /// Runs the same binary as a command line for this server.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub fn cli(&self, arguments: &[&str]) -> Finished {
        self.setup.run(arguments)
    }

    /// The last lines that it wrote to standard error.
    pub fn errors(&self) -> String {
        let lines = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// Resident memory in bytes: now, and at its highest since the start.
    ///
    /// # Panics
    /// When it does not run, or the kernel does not tell.
    pub fn memory(&self) -> (u64, u64) {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the kernel tells");
        let bytes = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of every process");
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number of kB") * 1024
        };
        (bytes("VmRSS:"), bytes("VmHWM:"))
    }
}

impl Drop for OutlastProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the last lines of outlast ---\n{}", self.errors());
        }
    }
}

/// Copies a program that is then run. By another process: what this one has open for writing, a test beside may hand to
/// its child for a moment, and a file that is open for writing cannot be run.
///
/// # Panics
/// When it cannot be copied.
pub fn copy_to_run(program: impl AsRef<OsStr>, to: &Path) {
    let copied = Command::new("cp").arg(program).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be written", to.display());
}

/// A port that is free now, outside the range that the kernel takes for outgoing connections: a client that calls a
/// server which is down could otherwise be given the server's own port, and keep it from coming back.
///
/// # Panics
/// When none of many is free.
pub fn quiet_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tried = (0..1000).map(|_| fastrand::u16(12_000..30_000));
    tried.find(is_free).expect("a free port between 12,000 and 30,000")
}

fn answers(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

fn keep_lines(pipe: impl Read, lines: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(line);
        if lines.len() > LINES_KEPT {
            lines.pop_front();
        }
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read until an error is still worth having.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
