//! What the end-to-end proofs share: the real binary, its HTTP interface, a load of clients, and the way back from the
//! database to what clients were told.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each proof uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod api;
mod drill;
mod load;
mod seen;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outlast_testkit::process::Setup;

pub use api::{Api, NoAnswer, Reply};
pub use drill::{flows, noticed};
pub use load::{Load, Mix, notes, write};
pub use seen::{bury_dead_letters, check, in_postgres, in_sqlite, in_surreal};

/// The longest that a state is waited for: other builds may share the machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The language of a database, as far as the load needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Surreal,
    /// That of 2.x.
    Surreal2,
    Postgres,
}

impl Dialect {
    /// Adds 1 to a ledger's counter and a token to its list, whether it is there already or not.
    pub fn note(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "INSERT INTO counters (id, data) VALUES (:id, json_object('count', 1, 'tokens', json_array(:note))) \
                 ON CONFLICT (id) DO UPDATE SET data = json_insert(\
                 json_set(data, '$.count', json_extract(data, '$.count') + 1), '$.tokens[#]', :note)"
            }
            Self::Surreal => {
                "UPSERT type::record('counters', $id) \
                 SET count = (count ?? 0) + 1, tokens = array::append(tokens ?? [], $note) RETURN NONE"
            }
            Self::Surreal2 => {
                "UPSERT type::thing('counters', $id) \
                 SET count = (count ?? 0) + 1, tokens = array::append(tokens ?? [], $note) RETURN NONE"
            }
            Self::Postgres => {
                "INSERT INTO counters AS c (id, data) \
                 VALUES (:id, jsonb_build_object('count', 1, 'tokens', jsonb_build_array(:note::text))) \
                 ON CONFLICT (id) DO UPDATE SET data = jsonb_build_object('count', (c.data ->> 'count')::bigint + 1, \
                 'tokens', c.data -> 'tokens' || jsonb_build_array(:note::text))"
            }
        }
    }
}

/// The binary under test: the one that `OUTLAST_RELEASE_BINARY` names, or the debug build beside the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("OUTLAST_RELEASE_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_outlast").into(), PathBuf::from)
}

/// The binary with settings that make faults show soon.
pub fn setup(directory: &Path, database_url: &str) -> Setup {
    Setup::new(binary(), directory, database_url)
        .with("server.allow_statements", "true")
        .with("health.probe_max_interval", "200ms")
        .with("health.read_wait", "50ms")
        .with("delivery.backoff", "50ms")
        .with("delivery.backoff_max", "500ms")
        .with("database.connect_timeout", "2s")
}

/// The URL of an SQLite database in `directory`.
pub fn sqlite_url(directory: &Path) -> String {
    format!("sqlite://{}", directory.join("database.db").display())
}

/// Waits until `state` gives something.
pub async fn until<T>(what: &str, mut state: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = state().await {
            return value;
        }
        assert!(!load::has_failed(), "a client failed while this was waited for: {what}");
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
