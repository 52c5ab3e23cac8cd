//! Outlast itself killed with -9 at random moments under the same load: while healthy, during an outage, and while the
//! backlog drains.
//! Method: seeded; a client whose connection is lost after sending counts its write as unknown; in the end the database
//! must agree with what clients were told, whichever process told them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use e2e::{
    Api, Dialect, Load, Mix, PATIENCE, bury_dead_letters, check, in_sqlite, in_surreal, setup, sqlite_url,
};
use outlast_testkit::history::Seen;
use outlast_testkit::process::OutlastProcess;
use outlast_testkit::seeds;
use outlast_testkit::surreal::{Storage, SurrealServer};

/// Each kills three times: 15 kills with SQLite and 15 with SurrealDB.
const ROUNDS: u32 = 5;

/// A database that can be taken away and given back.
enum Base {
    /// Away while somebody else keeps it locked.
    Sqlite {
        path: PathBuf,
        lock: Option<rusqlite::Connection>,
    },
    Surreal(SurrealServer),
}

impl Base {
    fn take_away(&mut self) {
        match self {
            Self::Sqlite { path, lock } => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(PATIENCE).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                *lock = Some(connection);
            }
            Self::Surreal(server) => server.kill(),
        }
    }

    fn give_back(&mut self) {
        match self {
            Self::Sqlite { lock, .. } => *lock = None,
            Self::Surreal(server) => server.restart(),
        }
    }

    fn seen(&self) -> BTreeMap<String, Seen> {
        match self {
            Self::Sqlite { path, .. } => in_sqlite(path),
            Self::Surreal(server) => in_surreal(server, "proof", "kill"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outlast_killed_at_random_moments_keeps_its_promises_with_surrealdb() {
    let directory = tempfile::tempdir().unwrap();
    let server = SurrealServer::start(Storage::File(directory.path().join("surreal")));
    let url = server.url("proof", "kill");
    killed_at_random(directory.path(), &url, Base::Surreal(server), Dialect::Surreal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outlast_killed_at_random_moments_keeps_its_promises_with_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let base = Base::Sqlite { path: directory.path().join("database.db"), lock: None };
    killed_at_random(directory.path(), &sqlite_url(directory.path()), base, Dialect::Sqlite).await;
}

async fn killed_at_random(directory: &Path, url: &str, mut base: Base, dialect: Dialect) {
    let seed = seeds(1)[0];
    println!("{dialect:?}: OUTLAST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut process = setup(directory, url)
        .with("database.request_timeout", "1s")
        // A database that is locked by somebody else is noticed by the probe.
        .with("health.probe_interval", "500ms")
        // Of both databases one is served from encrypted files.
        .with("queue.encryption_key", &"5a".repeat(32))
        .with("queue.encrypt", if dialect == Dialect::Sqlite { "true" } else { "false" })
        .start();
    let api = Arc::new(Api::new(process.url()));
    let mut load = Load::start(api.clone(), &Mix::new(dialect, random.u64(..))).await;
    let mut kills = 0;
    for _ in 0..ROUNDS {
        api.applies().await;
        kills += kill(&mut process, &mut random).await;

        api.applies().await;
        base.take_away();
        let status = api.until("the outage is noticed", |status| !status.database.is_connected()).await;
        let before = status.queue.writes;
        api.until("writes are queued", |status| status.queue.writes > before + 50).await;
        kills += kill(&mut process, &mut random).await;

        let before = api.status().await.queue.writes;
        api.until("writes are queued again", |status| status.queue.writes > before + 50).await;
        base.give_back();
        let applied = api.status().await.accounting.applied;
        api.until("the backlog drains", |status| status.accounting.applied > applied).await;
        kills += kill(&mut process, &mut random).await;
    }
    load.stop().await;
    api.drained().await;
    bury_dead_letters(&api, &load.history).await;
    let told = check(&load.history, &base.seen());
    println!("{dialect:?}: {kills} kills, {told:?}");
    assert!(kills >= 15 && told.unknown > 0, "{kills} kills, {told:?}");
    assert!(told.applied > 100 && told.queued > 500, "{told:?}");
    for outage in api.outages().await {
        assert_eq!((outage.lost, outage.healed_writes), (0, 0), "{outage:?}");
    }
    assert_eq!(process.terminate().code(), Some(0));
}

/// At a random moment from now on.
async fn kill(process: &mut OutlastProcess, random: &mut fastrand::Rng) -> u32 {
    // The moment is the point: nothing is waited for.
    tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
    tokio::task::block_in_place(|| process.restart());
    1
}
