//! [`PostgresServer`]: a real PostgreSQL server as a process of its own, for tests.
//!
//! Its programs are looked for in `$OUTLAST_POSTGRES`, a directory with `initdb` and `postgres` in it, and otherwise
//! where Debian puts them (the newest version below `/usr/lib/postgresql`). PostgreSQL refuses to run as root: then it
//! runs as the user `postgres`, or `nobody`.

// A tool of tests: it reports by panicking.
#![allow(clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::quiet_port;

/// The longest that a server may take to answer after it was started, to stop or to be promoted.
const LIMIT: Duration = Duration::from_mins(1);
/// The user of every test server, a superuser.
pub const USER: &str = "outlast";
/// Its password. It needs quoting in a URL.
pub const PASSWORD: &str = "p/w:@ö";
/// The same in a URL.
const PASSWORD_IN_URL: &str = "p%2Fw%3A%40%C3%B6";
/// The database that is there from the start.
const FIRST_DATABASE: &str = "postgres";
/// What differs from the defaults: an address of our own, and little memory. Syncing stays on.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nshared_buffers = '32MB'\n\
    max_connections = 200\nwal_level = 'replica'\nmax_wal_senders = 5\nhot_standby = on\n\
    autovacuum_naptime = '1min'\nlog_min_messages = 'fatal'\n";

/// A running server. Killed when it is dropped, and its files removed.
#[derive(Debug)]
pub struct PostgresServer {
    directory: TempDir,
    process: Option<Child>,
    port: u16,
}

impl PostgresServer {
    /// Makes a database cluster in a directory of its own and starts it on a free port of the loopback interface. Its
    /// superuser is [`USER`], whose password is asked for by SCRAM-SHA-256.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// [`PostgresServer::start`] with more lines of `postgresql.conf`.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn start_with(settings: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// The same with its files in this directory, which the server's user must be able to enter.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn start_in(place: &Path, settings: &str) -> Self {
        let directory = private_directory_in(place);
        let password = directory.path().join("password");
        fs::write(&password, PASSWORD).unwrap_or_else(|error| panic!("{}: {error}", password.display()));
        let owner = Owner::of_servers();
        owner.give(&password);
        let mut initdb = command("initdb");
        initdb.args(["--username", USER, "--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        initdb.args(["--auth", "scram-sha-256"]).arg("--pwfile").arg(&password);
        succeed(initdb.arg("--pgdata").arg(directory.path().join("data")));
        let mut server = Self { directory, process: None, port: quiet_port() };
        server.configure(&format!("{SETTINGS}port = {}\n{settings}\n", server.port));
        server.restart();
        server
    }

    /// A server that all tests of this process share: started by the first that asks, and killed when the last one has
    /// dropped it. Each test uses a database of its own.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        // A test that failed to start it must not fail the others with a poisoned lock.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A second server that follows this one: a copy, kept up by streaming, that takes reads only.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn standby(&self) -> Self {
        self.standby_at(quiet_port())
    }

    /// The same, listening on this port.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn standby_at(&self, port: u16) -> Self {
        let directory = private_directory();
        self.copy_to(&directory.path().join("data"), &["--write-recovery-conf"]);
        let mut standby = Self { directory, process: None, port };
        // The last line of a setting counts.
        standby.configure(&format!("port = {port}\n"));
        standby.restart();
        standby
    }

    /// Ends the stream to a standby: it has what it has, and gets nothing more.
    ///
    /// # Panics
    /// When it goes on.
    pub fn cut_off(&self) {
        self.query(FIRST_DATABASE, "ALTER SYSTEM SET primary_conninfo = ''");
        self.query(FIRST_DATABASE, "SELECT pg_reload_conf()");
        let deadline = Instant::now() + LIMIT;
        while self.query(FIRST_DATABASE, "SELECT count(*) FROM pg_stat_wal_receiver") != "0" {
            assert!(Instant::now() < deadline, "the standby still follows after {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A base backup: a complete copy of its data, made while it runs.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn backup(&self) -> TempDir {
        let directory = private_directory();
        self.copy_to(&directory.path().join("data"), &[]);
        directory
    }

    /// Puts a backup in the place of its data, and starts it with that.
    ///
    /// # Panics
    /// When it cannot.
    pub fn restore(&mut self, backup: TempDir) {
        self.kill();
        self.directory = backup;
        self.restart();
    }

    fn copy_to(&self, data: &Path, more: &[&str]) {
        let mut copy = command("pg_basebackup");
        copy.args(["--checkpoint", "fast", "--no-sync"]).args(more).arg("--dbname");
        copy.arg(format!("postgres://{USER}:{PASSWORD_IN_URL}@{}/", self.authority()));
        succeed(copy.arg("--pgdata").arg(data));
    }

    /// Makes a standby a server of its own, and waits until it takes writes.
    ///
    /// # Panics
    /// When it does not.
    pub fn promote(&self) {
        assert_eq!(self.query(FIRST_DATABASE, "SELECT pg_promote(true, 60)"), "t", "not promoted");
    }

    /// Ends it as a crash would: SIGKILL to the server and all its processes. Waits until they are gone, and with them
    /// their connections.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let children = children_of(process.id());
        // The first one first, so that it starts no others. Each fails only when the process has ended already.
        let _ = process.kill();
        for child in &children {
            let _ = kill_process(*child, Signal::KILL);
        }
        let _ = process.wait();
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline && children.iter().any(|child| is_alive(*child)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops all its processes where they are (SIGSTOP): connections stay open, new ones are taken by the kernel, and
    /// nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets them go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// The first process first, so that it starts no others meanwhile.
    fn signal_all(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("the server does not run"));
        kill_process(Pid::from_child(process), signal)
            .unwrap_or_else(|error| panic!("the server takes no signal: {error}"));
        for child in children_of(process.id()) {
            // Fails only when the process has ended already.
            let _ = kill_process(child, signal);
        }
    }

    /// Stops it in good order ("fast": connections are ended with an error, what was committed is on disk).
    ///
    /// # Panics
    /// When it does not run, or does not stop in time.
    pub fn stop(&mut self) {
        let process = self.process.as_mut().unwrap_or_else(|| panic!("the server does not run"));
        kill_process(Pid::from_child(process), Signal::INT)
            .unwrap_or_else(|error| panic!("the server takes no signal: {error}"));
        let deadline = Instant::now() + LIMIT;
        while process.try_wait().is_ok_and(|status| status.is_none()) {
            assert!(Instant::now() < deadline, "PostgreSQL does not stop within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process = None;
    }

    /// Starts it again on the same port and data, and waits until it serves. Kills it first if it runs.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + LIMIT;
        self.spawn();
        while !self.answers() {
            assert!(
                Instant::now() < deadline,
                "PostgreSQL does not answer within {LIMIT:?}:\n{}",
                self.log()
            );
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if ended.is_some() {
                // After a kill its last processes may still hold the shared memory for a moment.
                self.spawn();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log"));
        let log = log.unwrap_or_else(|error| panic!("no log: {error}"));
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(self.directory.path().join("data"));
        let process = postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("postgres does not start: {error}")));
    }

    fn answers(&self) -> bool {
        self.psql(FIRST_DATABASE, "SELECT 1").status.success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn configure(&self, lines: &str) {
        let path = self.directory.path().join("data/postgresql.conf");
        let before = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::write(&path, format!("{before}\n{lines}"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Replaces the rules of who may sign in how (`pg_hba.conf`). They count at once.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set_access(&self, rules: &str) {
        fs::write(self.directory.path().join("data/pg_hba.conf"), rules)
            .unwrap_or_else(|error| panic!("pg_hba.conf: {error}"));
        self.query(FIRST_DATABASE, "SELECT pg_reload_conf()");
    }

    /// The directory of its data, which a test may put files into: a certificate, say.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Puts a file beside the data, owned by the server's user and closed to others.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put_file(&self, name: &str, content: &[u8]) {
        let path = self.data().join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Owner::of_servers().give(&path);
    }

    /// The port that it listens on. The same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a database, with the superuser.
    pub fn url(&self, database: &str) -> String {
        url(&self.authority(), database)
    }

    /// Makes a database. One of that name is dropped first.
    ///
    /// # Panics
    /// When it cannot.
    pub fn create_database(&self, database: &str) {
        self.query(FIRST_DATABASE, &format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)"));
        self.query(FIRST_DATABASE, &format!("CREATE DATABASE \"{database}\""));
    }

    /// Runs statements as the superuser through `psql`, beside the client under test, and returns the values of their
    /// rows: columns apart by `|`, rows by newlines.
    ///
    /// # Panics
    /// When one fails.
    pub fn query(&self, database: &str, statements: &str) -> String {
        let output = self.psql(database, statements);
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn psql(&self, database: &str, statements: &str) -> Output {
        let mut psql = Command::new(programs().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", USER]);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", statements]);
        psql.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "10").stdin(Stdio::null());
        psql.output().unwrap_or_else(|error| panic!("psql does not start: {error}"))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- what PostgreSQL wrote ---\n{}", self.log());
        }
    }
}

/// The URL of a database at `HOST:PORT`, with the user of the test servers.
pub fn url(authority: &str, database: &str) -> String {
    format!("postgres://{USER}:{PASSWORD_IN_URL}@{authority}/{database}")
}

/// Whether there is a PostgreSQL to test with; prints a line that begins with `SKIPPED: ` when there is none. Where
/// `$CI` is set there must be one.
///
/// # Panics
/// When there is none and `$CI` is set.
pub fn is_installed() -> bool {
    if find_programs().is_some() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "no PostgreSQL: .ci/run installs it");
    println!("SKIPPED: no PostgreSQL (apt-get install postgresql, or set OUTLAST_POSTGRES)");
    false
}

/// The directory of PostgreSQL's programs.
fn programs() -> PathBuf {
    find_programs().unwrap_or_else(|| {
        panic!(
            "there is no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql, or let \
             OUTLAST_POSTGRES name a directory with initdb and postgres"
        )
    })
}

fn find_programs() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("OUTLAST_POSTGRES") {
        return Some(path.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let programs = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let programs = version.path().join("bin");
        programs.join("initdb").exists().then_some((number, programs))
    });
    programs.max().map(|(_, programs)| programs)
}

/// A program of PostgreSQL, run by the user of servers.
fn command(program: &str) -> Command {
    let mut command = Command::new(programs().join(program));
    // Messages in English, whatever the machine speaks.
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    Owner::of_servers().run_as(&mut command);
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Who servers run as.
pub(crate) enum Owner {
    /// Whoever runs the tests.
    Ourselves,
    /// Another user, since PostgreSQL does not run as root.
    Other { user: u32, group: u32 },
}

impl Owner {
    pub(crate) fn of_servers() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Ourselves;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = ["postgres", "nobody"].into_iter().find_map(|name| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut numbers = line.split(':').skip(2).map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        let (user, group) = found.unwrap_or_else(|| panic!("there is neither a user postgres nor nobody"));
        Self::Other { user, group }
    }

    pub(crate) fn run_as(&self, command: &mut Command) {
        if let Self::Other { user, group } = self {
            command.uid(*user).gid(*group);
        }
    }

    pub(crate) fn give(&self, path: &Path) {
        if let Self::Other { user, group } = self {
            chown(path, Some(*user), Some(*group))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

pub(crate) fn private_directory() -> TempDir {
    private_directory_in(&std::env::temp_dir())
}

fn private_directory_in(place: &Path) -> TempDir {
    let directory = tempfile::tempdir_in(place).unwrap_or_else(|error| panic!("no directory: {error}"));
    Owner::of_servers().give(directory.path());
    directory
}

/// A process that has ended but was not waited for (by whoever is the parent now) has no connections any more.
fn is_alive(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn children_of(parent: u32) -> Vec<Pid> {
    let tasks = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    tasks.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_what_it_committed_through_a_kill_and_a_standby_can_take_over() {
        if !is_installed() {
            return;
        }
        let mut server = PostgresServer::start();
        server.create_database("d");
        server.query("d", "CREATE TABLE t AS SELECT 7 AS n");
        server.kill();
        assert!(!server.answers(), "it was killed");
        server.restart();
        assert_eq!(server.query("d", "SELECT n FROM t"), "7");
        let standby = server.standby();
        assert_eq!(standby.query("d", "SELECT n, pg_is_in_recovery() FROM t"), "7|t");
        server.stop();
        standby.promote();
        standby.query("d", "INSERT INTO t VALUES (8)");
        assert_eq!(standby.query("d", "SELECT count(*) FROM t"), "2");
    }
}
