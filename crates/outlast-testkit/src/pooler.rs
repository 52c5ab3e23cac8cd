//! [`Pooler`]: a real PgBouncer in transaction mode in front of a PostgreSQL server, for tests.
//!
//! The program is `$OUTLAST_PGBOUNCER`, or where Debian puts it.

// A tool of tests: it reports by panicking.
#![allow(clippy::panic)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::postgres::{Owner, PASSWORD, PostgresServer, USER, private_directory};
use crate::process::quiet_port;

/// The longest that it may take to listen.
const LIMIT: Duration = Duration::from_secs(30);

/// A running pooler: each transaction may get another of its two sessions with the server. Killed when it is dropped.
#[derive(Debug)]
pub struct Pooler {
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl Pooler {
    /// Starts one in front of a server.
    ///
    /// # Panics
    /// When there is no PgBouncer, or it does not listen in time.
    pub fn start(server: &PostgresServer) -> Self {
        let program = program().unwrap_or_else(|| panic!("there is no PgBouncer"));
        let directory = private_directory();
        let port = quiet_port();
        let users = directory.path().join("users");
        let settings = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n\
             auth_type = scram-sha-256\nauth_file = {}\nserver_round_robin = 1\n",
            server.port(),
            users.display()
        );
        let owner = Owner::of_servers();
        for (path, text) in [(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")), (&settings, text)] {
            fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            owner.give(path);
        }
        let mut command = Command::new(program);
        owner.run_as(&mut command);
        command.arg(&settings).current_dir("/");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| panic!("PgBouncer does not start: {error}"));
        let pooler = Self { process, port, _directory: directory };
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "PgBouncer does not listen within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        pooler
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Only fails when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether there is a PgBouncer to test with; prints a line that begins with `SKIPPED: ` when there is none. Where `$CI`
/// is set there must be one.
///
/// # Panics
/// When there is none and `$CI` is set.
pub fn is_installed() -> bool {
    if program().is_some() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "no PgBouncer: .ci/run installs it");
    println!("SKIPPED: no PgBouncer (apt-get install pgbouncer, or set OUTLAST_PGBOUNCER)");
    false
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("OUTLAST_PGBOUNCER").map(PathBuf::from);
    named.or_else(|| Some(Path::new("/usr/sbin/pgbouncer").to_owned()).filter(|path| path.exists()))
}
