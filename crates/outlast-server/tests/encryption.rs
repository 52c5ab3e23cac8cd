//! An encrypted queue from end to end: what clients have written stands in no file of the queue directory, whatever
//! happens; the key is asked for by its name; it can be changed; and tools without it prove what can be proven.
//!
//! The same story is played without a key: there everything that is looked for must be found.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use e2e::{Api, Dialect, sqlite_url};
use outlast_testkit::files;
use outlast_testkit::process::{Finished, OutlastProcess, Setup};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Stand in documents, ids and statements, and in the reasons of refusals.
const SECRETS: [&str; 4] = ["plum-jam-4711", "quince-id-4712", "medlar-note-4713", "sloe-again-4714"];
const WAITING: usize = 120;

fn setup(directory: &Path, key_file: Option<&str>) -> Setup {
    let setup = e2e::setup(directory, &sqlite_url(directory))
        .with("queue.compression", "zstd")
        .with("queue.segment_bytes", "16KiB")
        .with("queue.retain", "1h")
        .with("health.probe_interval", "100ms");
    match key_file {
        Some(path) => setup.with("queue.encryption_key_file", path),
        None => setup,
    }
}

fn rename(directory: &Path, from: &str, to: &str) {
    fs::rename(directory.join(from), directory.join(to)).unwrap();
}

fn note(number: usize) -> Value {
    let note = format!("{}-{number}", SECRETS[2]);
    Api::statement(Dialect::Sqlite.note(), &format!("c{}", number % 7), &note)
}

/// Applied writes, a dead letter, writes that wait, several segments, some of them compressed; then kill -9.
async fn story(key_file: bool) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    if key_file {
        let made = setup(directory.path(), None).run(&["log", "keygen", "keys"]);
        assert_eq!(made.code, Some(0), "{made:?}");
    }
    let mut process = setup(directory.path(), key_file.then_some("keys")).start();
    let api = Api::new(process.url());
    api.collections().await;
    let there = format!("/v1/records/documents/{}", SECRETS[1]);
    assert_eq!(api.put(&there, &json!({ "text": SECRETS[0] })).await.status, 200);
    rename(directory.path(), "database.db", "away.db");
    api.until("the outage is seen", |status| !status.database.is_connected()).await;
    assert_eq!(api.post(&there, &json!({ "text": SECRETS[3] })).await.status, 202);
    rename(directory.path(), "away.db", "database.db");
    api.until("the letter is dead", |status| status.accounting.dead == 1).await;
    api.drained().await;
    rename(directory.path(), "database.db", "away.db");
    api.until("the second outage is seen", |status| !status.database.is_connected()).await;
    for number in 0..WAITING {
        assert_eq!(api.post("/v1/transactions", &note(number)).await.status, 202);
    }
    let segments = directory.path().join("queue/segments");
    e2e::until("a segment is compressed", async || {
        files(&segments).into_keys().find(|path| path.extension().is_some_and(|name| name == "zst"))
    })
    .await;
    process.kill();
    rename(directory.path(), "away.db", "database.db");
    directory
}

/// Which secrets stand in which files of the queue, compressed or not.
fn found(directory: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for (path, mut bytes) in files(&directory.join("queue")) {
        if path.extension().is_some_and(|name| name == "zst") {
            let unpacked = std::process::Command::new("zstdcat").arg(&path).output().unwrap();
            assert!(unpacked.status.success(), "{unpacked:?}");
            bytes = unpacked.stdout;
        }
        let stands = |secret: &&&str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        found.extend(SECRETS.iter().filter(stands).map(|secret| (path.clone(), *secret)));
    }
    found
}

fn log(directory: &Path, arguments: &[&str]) -> Finished {
    let all: Vec<&str> = ["log"].iter().chain(arguments).copied().collect();
    setup(directory, None).run(&all)
}

fn key_id(directory: &Path, file: &str) -> String {
    let text = fs::read_to_string(directory.join(file)).unwrap();
    text.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 16).unwrap().to_owned()
}

/// Every note that the database has, and how often.
fn notes(directory: &Path) -> BTreeMap<String, u64> {
    let database = rusqlite::Connection::open(directory.join("database.db")).unwrap();
    let mut rows = database.prepare("SELECT value FROM counters, json_each(data, '$.tokens')").unwrap();
    let mut notes = BTreeMap::new();
    for note in rows.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        *notes.entry(note.unwrap()).or_default() += 1;
    }
    notes
}

fn all_notes_once() -> BTreeMap<String, u64> {
    (0..WAITING).map(|number| (format!("{}-{number}", SECRETS[2]), 1)).collect()
}

#[tokio::test]
async fn without_a_key_what_clients_wrote_stands_in_the_files() {
    let directory = story(false).await;
    let found = found(directory.path());
    for secret in SECRETS {
        assert!(found.iter().any(|(_, other)| *other == secret), "{secret}: {found:?}");
    }
    for part in ["dead", ".index", ".zst"] {
        assert!(found.iter().any(|(path, _)| path.to_string_lossy().contains(part)), "{part}: {found:?}");
    }
}

#[tokio::test]
async fn with_a_key_nothing_that_clients_wrote_stands_in_any_file() {
    let directory = story(true).await;
    let at = directory.path();
    assert_eq!(found(at), []);
    let id = key_id(at, "keys");

    // Without the key, and with another one, nothing starts and nothing is touched.
    let before = files(&at.join("queue"));
    assert_eq!(log(at, &["keygen", "other"]).code, Some(0));
    for key_file in [None, Some("other")] {
        let refused = setup(at, key_file).run(&["serve"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains(&id) && refused.stderr.contains("nothing was changed"),
            "{refused:?}"
        );
        assert_eq!(files(&at.join("queue")), before);
    }

    // Tools without the key prove what they can, and tell nothing else.
    let verified = log(at, &["verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let report: Value = serde_json::from_str(&verified.stdout).unwrap();
    let known = log(at, &["verify", "--json", "--key-file", "keys"]);
    let known: Value = serde_json::from_str(&known.stdout).unwrap();
    for term in ["accepted", "pending", "parked", "dead", "discarded", "holds"] {
        assert_eq!(report["accounting"][term], known["accounting"][term], "{term}: {report}");
    }
    assert_eq!(report["log"]["hidden_segments"], report["log"]["segments"]);
    assert_eq!(known["log"]["hidden_segments"], 0);
    let is_note = |problem: &Value| problem["severity"] == "note";
    assert!(known["problems"].as_array().unwrap().iter().all(is_note), "{known}");
    assert!(log(at, &["verify"]).stdout.contains("as far as can be told without the key"));
    assert!(log(at, &["stat"]).stdout.contains(&id));
    for refused in [
        &["export", "--output", "export"][..],
        &["list"],
        &["show", "1-1"],
        &["repair"],
        &["repair", "--dry-run"],
    ] {
        let refused = log(at, refused);
        assert!(refused.code == Some(1) && refused.stderr.contains(&id), "{refused:?}");
    }
    assert!(!at.join("export").exists());
    assert_eq!(files(&at.join("queue")), before);
    let exported = log(at, &["export", "--json", "--key-file", "keys"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    for secret in SECRETS {
        assert!(exported.stdout.contains(secret));
    }

    // A new key in front: old segments are read with the old one, and the server says that it is needed.
    let both = [fs::read(at.join("other")).unwrap(), fs::read(at.join("keys")).unwrap()].concat();
    fs::write(at.join("both"), both).unwrap();
    fs::set_permissions(at.join("both"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut process = setup(at, Some("both")).start();
    let api = Api::new(process.url());
    api.drained().await;
    let status = api.get("/v1/queue").await.json();
    let encryption = status.pointer("/queue/encryption").unwrap_or_else(|| panic!("{status}"));
    assert_eq!(encryption["current"], key_id(at, "other"));
    assert!(encryption["keys"].as_array().unwrap().iter().any(|key| key["id"] == *id), "{encryption}");
    let words = process.cli(&["status"]);
    assert!(words.stdout.contains("needed: ") && words.stdout.contains(&id), "{words:?}");
    let metrics = api.get("/metrics").await.text;
    let old = metrics.lines().find_map(|line| line.strip_prefix("outlast_segments_with_old_keys "));
    assert!(old.unwrap().parse::<u64>().unwrap() > 0);
    assert!(process.errors().contains("this key is needed") && !process.errors().contains(SECRETS[0]));
    assert!(process.terminate().success());
    assert_eq!(found(at), []);
    assert_eq!(notes(at), all_notes_once());
    import_into_another(at).await;
}

/// What was exported comes into another queue with another key, and stands in none of its files either.
async fn import_into_another(at: &Path) {
    let exported = log(at, &["export", "--all", "--key-file", "both", "--output", "all.jsonl"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    let target = tempfile::tempdir().unwrap();
    fs::copy(at.join("all.jsonl"), target.path().join("all.jsonl")).unwrap();
    assert_eq!(log(target.path(), &["keygen", "keys"]).code, Some(0));
    let mut process: OutlastProcess = setup(target.path(), Some("keys")).start();
    Api::new(process.url()).collections().await;
    assert!(process.terminate().success());
    let imported = log(target.path(), &["import", "all.jsonl", "--applied", "--key-file", "keys"]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert_eq!(found(target.path()), []);
    process.restart();
    Api::new(process.url()).drained().await;
    assert!(process.terminate().success());
    assert_eq!(found(target.path()), []);
    assert_eq!(notes(target.path()), all_notes_once());
}

#[test]
fn keys_that_are_wrong_or_that_others_may_read_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    assert_eq!(log(at, &["keygen", "keys"]).code, Some(0));
    let mode = |path: &str| fs::metadata(at.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("keys"), 0o600);
    let again = log(at, &["keygen", "keys"]);
    assert!(again.code == Some(1) && again.stderr.contains("was left alone"), "{again:?}");
    let printed = log(at, &["keygen"]);
    let key = printed.stdout.trim().to_owned();
    assert_eq!(key.len(), 64);
    let check = |setup: Setup| setup.run(&["config", "check"]);
    for open in [0o640, 0o604, 0o620] {
        fs::set_permissions(at.join("keys"), fs::Permissions::from_mode(open)).unwrap();
        let refused = check(setup(at, Some("keys")));
        assert!(refused.code == Some(78) && refused.stderr.contains("chmod 600"), "{refused:?}");
    }
    fs::set_permissions(at.join("keys"), fs::Permissions::from_mode(0o600)).unwrap();
    let ok = check(setup(at, Some("keys")));
    assert_eq!(ok.code, Some(0), "{ok:?}");
    let secret = fs::read_to_string(at.join("keys")).unwrap();
    let secret = secret.lines().last().unwrap();
    let shown = setup(at, None).with("queue.encryption_key", secret).run(&["config", "show"]);
    assert!(
        shown.code == Some(0) && !shown.stdout.contains(secret) && shown.stdout.contains("(hidden)"),
        "{shown:?}"
    );
    let twice = format!("{key},{key}");
    for wrong in ["", "abc", &key[1..], &twice] {
        let refused = check(setup(at, None).with("queue.encryption_key", wrong));
        assert_eq!(refused.code, Some(78), "{wrong}: {refused:?}");
        assert!(wrong.is_empty() || !refused.stderr.contains(wrong), "{refused:?}");
    }
    let both = check(setup(at, Some("keys")).with("queue.encryption_key", &key));
    assert!(both.code == Some(78) && both.stderr.contains("keep one"), "{both:?}");
    let missing = check(setup(at, Some("nowhere")));
    assert!(missing.code == Some(78) && missing.stderr.contains("nowhere"), "{missing:?}");
}
