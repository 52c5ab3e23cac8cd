//! A database that comes back older than it left is healed; what cannot be healed halts with a clear message.
//! Method: copies of real database files and of the queue's directory are put back while Outlast runs; counters and lists
//! of tokens in the database show what was applied, and how often.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use e2e::{
    Api, Dialect, Load, Mix, bury_dead_letters, check, in_sqlite, in_surreal, notes, setup, sqlite_url,
};
use outlast::status::{Halt, LaneState};
use outlast_testkit::history::{History, Seen};
use outlast_testkit::process::OutlastProcess;
use outlast_testkit::seeds;
use outlast_testkit::surreal::{Storage, SurrealServer};
use serde_json::json;

/// A complete copy of a database that is in use.
fn copy_sqlite(database: &Path, copy: &Path) {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the command line says about a lane that has halted, and that writes are taken all the same.
async fn halted(process: &OutlastProcess, api: &Api, expected: Halt, words: &[&str]) {
    let status =
        api.until("the lane has halted", |status| matches!(status.lane, LaneState::Halted { .. })).await;
    let LaneState::Halted { halt, message } = &status.lane else { unreachable!() };
    assert_eq!(*halt, expected, "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
    let write = api.put("/v1/records/documents/meanwhile", &json!({ "by": "nobody" })).await;
    assert_eq!(write.status, 202, "{write:?}");
    let health = api.get("/health").await;
    assert_eq!(
        (health.status, &health.json()["checks"]["lane"][0]["status"]),
        (503, &json!("fail")),
        "{health:?}"
    );
    assert_eq!(api.get("/readyz").await.status, 200, "writes are taken");

    let said = process.cli(&["status"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("HALTED") && said.stdout.contains(words[0]), "{}", said.stdout);
    let said = process.cli(&["resume"]);
    assert_eq!(said.code, Some(1), "not without a decision: {said:?}");
    assert!(said.stderr.contains(words[0]), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_sqlite_file_put_back_while_outlast_runs_gets_exactly_the_missing_writes() {
    let directory = tempfile::tempdir().unwrap();
    let (database, copy) = (directory.path().join("database.db"), directory.path().join("copy.db"));
    let process = setup(directory.path(), &sqlite_url(directory.path())).start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    notes(&api, &history, Dialect::Sqlite, 120).await;
    copy_sqlite(&database, &copy);
    notes(&api, &history, Dialect::Sqlite, 250).await;
    fs::rename(&copy, &database).unwrap();
    notes(&api, &history, Dialect::Sqlite, 30).await;
    api.until("the outage is over", |status| status.outage.is_none()).await;
    api.drained().await;

    let told = check(&history, &in_sqlite(&database));
    assert_eq!((told.refused, told.unknown), (0, 0), "{told:?}");
    let outages = api.outages().await;
    assert_eq!(outages.iter().map(|outage| outage.healed_writes).sum::<u64>(), 250, "{outages:#?}");
    assert!(outages.iter().any(|outage| outage.healed_from.is_some()), "{outages:#?}");
    assert!(outages.iter().all(|outage| outage.lost == 0), "{outages:#?}");
    assert_eq!(api.metric("outlast_writes_healed_total").await.round() as u64, 250);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_surrealdb_store_put_back_under_load_gets_exactly_the_missing_writes() {
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let (store, copy) = (directory.path().join("surreal"), directory.path().join("copy"));
    let mut server = SurrealServer::start(Storage::File(store.clone()));
    let process = setup(directory.path(), &server.url("proof", "healing")).start();
    let api = Arc::new(Api::new(process.url()));
    let mix = Mix { clients: 16, ledgers: 20, documents: 30, ..Mix::new(Dialect::Surreal, seed) };
    let mut load = Load::start(api.clone(), &mix).await;
    let applied_more = async || {
        let applied = api.status().await.accounting.applied;
        api.until("writes are applied", |status| status.accounting.applied > applied + 150).await;
    };
    applied_more().await;
    server.kill();
    copy_directory(&store, &copy);
    server.restart();
    applied_more().await;
    server.kill();
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&copy, &store).unwrap();
    server.restart();
    api.until("it is healed", |status| status.database.is_connected() && status.outage.is_none()).await;
    load.stop().await;
    api.drained().await;

    bury_dead_letters(&api, &load.history).await;
    let told = check(&load.history, &in_surreal(&server, "proof", "healing"));
    let outages = api.outages().await;
    let healed: u64 = outages.iter().map(|outage| outage.healed_writes).sum();
    println!("{healed} writes healed, {told:?}");
    assert!(healed >= 100, "{outages:#?}");
    assert!(outages.iter().all(|outage| outage.lost == 0), "{outages:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_sqlite_file_halts_and_replay_brings_everything_retained_back() {
    let directory = tempfile::tempdir().unwrap();
    let (database, empty) = (directory.path().join("database.db"), directory.path().join("empty.db"));
    let process = setup(directory.path(), &sqlite_url(directory.path())).start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    notes(&api, &history, Dialect::Sqlite, 200).await;
    fs::File::create(&empty).unwrap();
    fs::rename(&empty, &database).unwrap();
    notes(&api, &history, Dialect::Sqlite, 20).await;
    halted(&process, &api, Halt::Wiped, &["wiped", "--decision replay", "database.url"]).await;

    let said = process.cli(&["resume", "--decision", "replay"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    let waiting = api.status().await.queue.writes;
    for part in ["apply again everything", "wiped", &format!("{waiting} writes wait"), "with --yes"] {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    assert_eq!(process.cli(&["resume"]).code, Some(1), "nothing is decided");
    let said = process.cli(&["resume", "--decision", "replay", "--yes"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    api.drained().await;
    assert_eq!(check_notes(&history, &in_sqlite(&database)), 220);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_surrealdb_store_halts_and_replay_brings_everything_retained_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("surreal");
    let mut server = SurrealServer::start(Storage::File(store.clone()));
    let process = setup(directory.path(), &server.url("proof", "wiped")).start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    notes(&api, &history, Dialect::Surreal, 200).await;
    server.kill();
    fs::remove_dir_all(&store).unwrap();
    notes(&api, &history, Dialect::Surreal, 20).await;
    server.restart();
    halted(&process, &api, Halt::Wiped, &["wiped", "--decision replay", "database.url"]).await;

    let said = process.cli(&["resume", "--decision", "replay", "--yes"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    api.drained().await;
    assert_eq!(check_notes(&history, &in_surreal(&server, "proof", "wiped")), 220);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_queue_directory_is_fenced_and_touches_nothing() {
    copied_queue(0).await;
}

/// The sequences of its own are then beyond those in the database: only the owner tells that these are another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_queue_directory_is_fenced_also_when_it_was_started_more_often() {
    copied_queue(3).await;
}

async fn copied_queue(starts_without_the_database: usize) {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("database.db");
    let first = setup(directory.path(), &sqlite_url(directory.path()));
    let history = Arc::new(History::default());
    let copied = directory.path().join("copied");
    fs::create_dir(&copied).unwrap();
    let second = setup(&copied, &sqlite_url(directory.path()));

    let mut process = first.clone().start();
    let api = Arc::new(Api::new(process.url()));
    api.collections().await;
    notes(&api, &history, Dialect::Sqlite, 50).await;
    assert_eq!(process.terminate().code(), Some(0));
    copy_directory(&directory.path().join("queue"), &copied.join("queue"));
    process.restart();
    api.applies().await;
    notes(&api, &history, Dialect::Sqlite, 20).await;
    assert_eq!(process.terminate().code(), Some(0));

    for _ in 0..starts_without_the_database {
        let mut process =
            second.clone().with("database.url", "surrealdb://root:root@127.0.0.1:1/a/b").start();
        assert_eq!(process.terminate().code(), Some(0));
    }
    let mut foreign = second.start();
    let foreign_api = Arc::new(Api::new(foreign.url()));
    halted(&foreign, &foreign_api, Halt::Fenced, &["somebody else", "copy of this queue directory"]).await;
    let said = foreign.cli(&["resume", "--decision", "replay"]);
    assert_eq!(said.code, Some(1), "no decision lifts a fence: {said:?}");
    notes(&foreign_api, &Arc::default(), Dialect::Sqlite, 10).await;
    assert_eq!(foreign.terminate().code(), Some(0));
    assert_eq!(check_notes(&history, &in_sqlite(&database)), 70);

    process.restart();
    api.applies().await;
    notes(&api, &history, Dialect::Sqlite, 10).await;
    assert_eq!(check_notes(&history, &in_sqlite(&database)), 80, "the owner goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_older_than_the_log_reaches_back_halts_with_the_range_that_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (database, copy) = (directory.path().join("database.db"), directory.path().join("copy.db"));
    let process = setup(directory.path(), &sqlite_url(directory.path()))
        .with("queue.retain", "0s")
        .with("queue.segment_bytes", "32KiB")
        .with("queue.write_bytes_max", "16KiB")
        .start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::new(History::default()));
    api.collections().await;
    notes(&api, &history, Dialect::Sqlite, 30).await;
    copy_sqlite(&database, &copy);
    let segments = || names(&directory.path().join("queue/segments"));
    let before = segments();
    notes(&api, &history, Dialect::Sqlite, 400).await;
    e2e::until("the log lets go of what it had", async || {
        segments().iter().all(|name| !before.contains(name)).then_some(())
    })
    .await;
    fs::rename(&copy, &database).unwrap();
    notes(&api, &history, Dialect::Sqlite, 20).await;
    halted(&process, &api, Halt::Gap, &["the log begins after", "--decision replay", "--decision skip"])
        .await;
    assert_eq!(count(&in_sqlite(&database)), 30, "nothing was applied to it");

    let said = process.cli(&["resume", "--decision", "replay", "--yes"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    api.drained().await;
    let applied = count(&in_sqlite(&database));
    assert!(
        (50..450).contains(&applied),
        "{applied}: what the log had is applied, what it had not cannot be"
    );
    let violations = history.check(&ledgers(in_sqlite(&database))).unwrap_err();
    let lost = |violation: &_| matches!(violation, outlast_testkit::history::Violation::Lost(_));
    assert!(violations.iter().all(lost), "nothing is doubled or out of order: {violations:?}");
    assert_eq!(violations.len() as u64, 450 - applied);
}

fn names(directory: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !name.contains("spare")).collect()
}

type Found = std::collections::BTreeMap<String, Seen>;

fn count(seen: &Found) -> u64 {
    seen.values().map(|seen| if let Seen::Ledger { count, .. } = seen { *count } else { 0 }).sum()
}

/// The documents that a test wrote beside its notes do not count.
fn ledgers(mut seen: Found) -> Found {
    seen.retain(|name, _| name.starts_with("counters/"));
    seen
}

/// The history must hold; returns the number of notes.
#[track_caller]
fn check_notes(history: &History, seen: &Found) -> u64 {
    check(history, &ledgers(seen.clone()));
    count(seen)
}
