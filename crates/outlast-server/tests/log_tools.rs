//! `outlast log` on real queue directories: what is wrong is named, a repair loses nothing valid, and what is exported
//! and imported again is delivered exactly once.
//!
//! A real server makes the directory: writes that are applied, an outage of its SQLite database, a dead letter, writes
//! that wait; counted statements show every delivery. Tests copy the directory, change bytes of the copy, and run the
//! binary on it as an operator would.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::{Api, Dialect, sqlite_url};
use outlast_testkit::files;
use outlast_testkit::process::{Finished, OutlastProcess, Setup, copy_to_run};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");
/// Notes that wait in the directory that the tests copy.
const WAITING: usize = 80;

fn setup(directory: &Path, format: &str) -> Setup {
    e2e::setup(directory, &sqlite_url(directory))
        .with("queue.format", format)
        .with("queue.segment_bytes", "16KiB")
        .with("queue.retain", "1h")
        .with("health.probe_interval", "100ms")
}

/// The server in `directory`, and its client.
fn start(directory: &Path, format: &str) -> (OutlastProcess, Api) {
    let process = setup(directory, format).start();
    let api = Api::new(process.url());
    (process, api)
}

async fn note(api: &Api, number: usize) -> String {
    let (id, note) = (format!("c{}", number % 7), format!("note-{number}"));
    let reply = api.post("/v1/transactions", &Api::statement(Dialect::Sqlite.note(), &id, &note)).await;
    assert!([200, 202].contains(&reply.status), "{reply:?}");
    reply.header("write-id").to_owned()
}

fn take_database_away(directory: &Path) {
    fs::rename(directory.join("database.db"), directory.join("away.db")).unwrap();
}

fn bring_database_back(directory: &Path) {
    fs::rename(directory.join("away.db"), directory.join("database.db")).unwrap();
}

/// A queue with everything in it and the database away, as a server that was stopped (or killed) has left it.
async fn make(format: &str, killed: bool) -> (TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    let (mut process, api) = start(directory.path(), format);
    api.collections().await;
    for number in 0..20 {
        note(&api, 1000 + number).await;
    }
    assert_eq!(api.put("/v1/records/documents/there", &json!({ "text": "ä 🦀" })).await.status, 200);
    take_database_away(directory.path());
    api.until("the outage is seen", |status| !status.database.is_connected()).await;
    // Refused when the database is back: a dead letter.
    let create = api.post("/v1/records/documents/there", &json!({ "text": "again" })).await;
    assert_eq!(create.status, 202, "{create:?}");
    bring_database_back(directory.path());
    api.until("the letter is dead", |status| status.accounting.dead == 1).await;
    api.drained().await;
    take_database_away(directory.path());
    api.until("the second outage is seen", |status| !status.database.is_connected()).await;
    for number in 0..WAITING {
        note(&api, number).await;
    }
    let status = api.get("/v1/queue").await.json();
    if killed {
        process.kill();
    } else {
        assert!(process.terminate().success());
    }
    bring_database_back(directory.path());
    (directory, status)
}

async fn stopped() -> &'static (TempDir, Value) {
    static MADE: OnceCell<(TempDir, Value)> = OnceCell::const_new();
    MADE.get_or_init(|| make("json", false)).await
}

/// A copy of the queue (and its database) that a test may change.
async fn copied() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(stopped().await.0.path(), directory.path());
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn run(directory: &Path, arguments: &[&str]) -> Finished {
    let all: Vec<&str> = ["log"].iter().chain(arguments).copied().collect();
    setup(directory, "json").run(&all)
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The segment file and the place in it where this text stands.
fn find(directory: &Path, text: &str) -> (PathBuf, usize) {
    files(&directory.join("queue/segments"))
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "jsonl"))
        .find_map(|(path, bytes)| {
            let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
            Some((path, at))
        })
        .unwrap_or_else(|| panic!("{text} is nowhere"))
}

/// Every note that the database has, and how often.
fn notes(database: &Path) -> BTreeMap<String, u64> {
    let database = rusqlite::Connection::open(database).unwrap();
    let mut rows = database.prepare("SELECT value FROM counters, json_each(data, '$.tokens')").unwrap();
    let mut notes = BTreeMap::new();
    for note in rows.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        *notes.entry(note.unwrap()).or_default() += 1;
    }
    notes
}

fn each_once(numbers: impl IntoIterator<Item = usize>) -> BTreeMap<String, u64> {
    numbers.into_iter().chain(1000..1020).map(|number| (format!("note-{number}"), 1)).collect()
}

#[tokio::test]
async fn a_healthy_queue_is_clean_and_its_books_are_those_of_the_server() {
    let (directory, status) = stopped().await;
    let before = files(directory.path());
    let verified = run(directory.path(), &["verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let report = json_of(&verified);
    assert_eq!(report["verdict"], "clean");
    for (term, value) in status["accounting"].as_object().unwrap() {
        assert_eq!(&report["accounting"][term], value, "{term}");
    }
    assert_eq!(report["accounting"]["holds"], true);
    assert_eq!(report["accounting"]["pending"], WAITING);
    assert_eq!(report["accounting"]["dead"], 1);
    assert!(report["log"]["segments"].as_u64().unwrap() > 2, "{report}");
    for check in report["accounting"]["checks"].as_array().unwrap() {
        assert_eq!(check["holds"], true, "{check}");
    }
    let words = run(directory.path(), &["verify"]);
    assert!(
        words.stdout.contains("clean: every byte was read") && words.stdout.contains(": holds"),
        "{words:?}"
    );
    assert!(words.stdout.contains("only its table outlast_position knows"), "{words:?}");
    assert!(words.stderr.is_empty(), "no bar where nobody looks: {words:?}");
    let stat = json_of(&run(directory.path(), &["stat", "--json"]));
    assert_eq!(stat["log"], report["log"]);
    assert_eq!(stat["accounting"]["applied"], report["accounting"]["applied"]);
    let exported = run(directory.path(), &["export", "--json"]);
    assert_eq!(exported.code, Some(0));
    let listed = run(directory.path(), &["list", "--limit", "3"]);
    assert!(listed.stdout.contains("more: outlast log list --after"), "{listed:?}");
    let dead = run(directory.path(), &["list", "--dead", "--json"]);
    let id = json_of(&dead)["writes"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(json_of(&run(directory.path(), &["show", &id]))["status"], "dead");
    assert_eq!(files(directory.path()), before, "looking has changed something");
}

#[tokio::test]
async fn a_killed_and_torn_queue_is_told_from_a_damaged_one_and_loses_nothing_acknowledged() {
    let (directory, _) = make("bincode", true).await;
    let verified = run(directory.path(), &["verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    // How far the database is was last noted some time before the kill; the database itself knows.
    let report = json_of(&verified);
    assert!(report["accounting"]["pending"].as_u64().unwrap() >= WAITING as u64, "{report}");
    let certainty = report["accounting"]["certainty"].as_str().unwrap();
    assert!(certainty.contains("only its table outlast_position knows"), "{certainty}");
    let database = rusqlite::Connection::open(directory.path().join("database.db")).unwrap();
    let watermark: i64 =
        database.query_row("SELECT sequence FROM outlast_position", [], |row| row.get(0)).unwrap();
    let exported =
        run(directory.path(), &["export", "--pending", "--json", "--watermark", &watermark.to_string()]);
    assert_eq!(lines(&exported.stdout).len(), WAITING + 2, "{exported:?}");
    // A write that was on its way when the power went: half a frame behind the last one.
    let path =
        fs::read_dir(directory.path().join("queue/segments")).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().parse::<u64>().is_ok();
    let path =
        path.filter(|path| path.extension().is_some_and(|e| e == "bin") && is_segment(path)).max().unwrap();
    change(&path, |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes.resize(bytes.len().max(end + 100), 0);
        bytes[end + 1..end + 40].fill(b'x');
    });
    let torn = run(directory.path(), &["verify"]);
    assert_eq!(torn.code, Some(3), "{torn:?}");
    assert!(torn.stdout.contains("nothing acknowledged was in it"), "{torn:?}");
    let repaired = run(directory.path(), &["repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    assert!(repaired.stdout.contains("cut the torn end off segment"), "{repaired:?}");
    assert_eq!(run(directory.path(), &["verify"]).code, Some(0));
    let (mut process, api) = start(directory.path(), "bincode");
    api.drained().await;
    assert!(process.terminate().success());
    assert_eq!(notes(&directory.path().join("database.db")), each_once(0..WAITING));
}

#[tokio::test]
async fn a_flipped_bit_costs_the_write_that_it_hit_and_a_repair_names_it() {
    let directory = copied().await;
    let (path, at) = find(directory.path(), "note-3\"");
    let line_start = |bytes: &[u8]| bytes[..at].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let mut offset = 0;
    change(&path, |bytes| {
        offset = line_start(bytes);
        bytes[at + 5] ^= 4;
    });
    let damaged = run(directory.path(), &["verify", "--json"]);
    assert_eq!(damaged.code, Some(65), "{damaged:?}");
    let report = json_of(&damaged);
    let problem =
        report["problems"].as_array().unwrap().iter().find(|problem| problem["severity"] == "damaged");
    let problem = problem.unwrap();
    assert_eq!(problem["offset"], offset, "{problem}");
    let lost = problem["lost"][0].as_str().unwrap();
    assert_eq!(problem["lost"][1], lost);
    assert_eq!(report["accounting"]["lost"], 1);
    let before = files(directory.path());
    let planned = run(directory.path(), &["repair", "--dry-run", "--json"]);
    assert_eq!(planned.code, Some(65));
    assert_eq!(files(directory.path()), before, "a dry run has changed something");
    let repaired = run(directory.path(), &["repair", "--json"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    assert_eq!(json_of(&repaired)["actions"], json_of(&planned)["actions"]);
    let after = run(directory.path(), &["verify"]);
    assert_eq!(after.code, Some(0), "{after:?}");
    assert!(after.stdout.contains(&format!("lost: {lost} (reported before)")), "{after:?}");
    let kept = fs::read_to_string(
        directory
            .path()
            .join(format!("queue/damaged/{}-{offset}.bin", path.file_stem().unwrap().to_string_lossy())),
    );
    assert!(kept.unwrap().contains("UPDATE SET data"), "the damaged line can still be read by a person");
    let exported = lines(&run(directory.path(), &["export", "--pending", "--json"]).stdout);
    assert_eq!(exported[0]["lost"], json!([[lost, lost]]));
    assert_eq!(exported.len(), WAITING - 1 + 2);
    let (mut process, _) = start(directory.path(), "json");
    e2e::until("everything else is there", async || {
        (notes(&directory.path().join("database.db")).len() >= WAITING - 1 + 20).then_some(())
    })
    .await;
    assert!(process.terminate().success());
    let expected = each_once((0..WAITING).filter(|number| *number != 3));
    assert_eq!(notes(&directory.path().join("database.db")), expected);
}

#[tokio::test]
async fn a_missing_segment_is_named_and_everything_around_it_is_delivered() {
    let directory = copied().await;
    let (path, _) = find(directory.path(), "note-40\"");
    let text = fs::read_to_string(&path).unwrap();
    let gone: BTreeSet<usize> =
        (0..WAITING).filter(|number| text.contains(&format!("\"note-{number}\""))).collect();
    assert!(!gone.is_empty() && gone.len() < WAITING);
    fs::remove_file(&path).unwrap();
    let damaged = run(directory.path(), &["verify"]);
    assert_eq!(damaged.code, Some(65), "{damaged:?}");
    assert!(damaged.stdout.contains("is missing; lost: "), "{damaged:?}");
    assert!(damaged.stdout.contains("see `outlast log repair --dry-run"), "{damaged:?}");
    let repaired = run(directory.path(), &["repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    let (mut process, _) = start(directory.path(), "json");
    e2e::until("everything else is there", async || {
        (notes(&directory.path().join("database.db")).len() >= WAITING - gone.len() + 20).then_some(())
    })
    .await;
    assert!(process.terminate().success());
    let expected = each_once((0..WAITING).filter(|number| !gone.contains(number)));
    assert_eq!(notes(&directory.path().join("database.db")), expected);
}

#[tokio::test]
async fn what_is_exported_and_imported_is_delivered_exactly_once() {
    let directory = copied().await;
    let at = |name: &str| directory.path().join(name).display().to_string();
    let file = at("waiting.ndjson");
    let exported = run(directory.path(), &["export", "--output", &file]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(
        exported.stdout.contains("outlast_position"),
        "it says what only the database knows: {exported:?}"
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(directory.path(), &["export", "--output", &file]);
    assert!(again.code == Some(1) && again.stderr.contains("was left alone"), "{again:?}");
    let into_itself = run(directory.path(), &["import", &file]);
    assert!(into_itself.stderr.contains("comes from this very queue"), "{into_itself:?}");
    assert_eq!(into_itself.code, Some(1));

    let imported = run(directory.path(), &["import", &file, &at("other"), "--json"]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let mapped = lines(&imported.stdout);
    let summary = &mapped[mapped.len() - 1]["imported"];
    assert_eq!((&summary["waiting"], &summary["dead"]), (&json!(WAITING), &json!(1)), "{summary}");
    let exported = lines(&fs::read_to_string(&file).unwrap());
    let waiting: Vec<&Value> = exported.iter().filter(|line| line["status"] == "pending").collect();
    let from: Vec<&Value> =
        mapped.iter().filter(|line| line["status"] == "pending").map(|line| &line["from"]).collect();
    assert_eq!(from, waiting.iter().map(|line| &line["id"]).collect::<Vec<_>>(), "in order");
    assert_eq!(run(directory.path(), &["verify", &at("other")]).code, Some(0));
    let twice = run(directory.path(), &["import", &file, &at("other")]);
    assert!(
        twice.code == Some(1) && twice.stderr.contains("was imported into this queue already"),
        "{twice:?}"
    );

    // The other queue brings everything to the same database, the dead letter stays dead.
    let mut process = setup(directory.path(), "json").with("queue.directory", &at("other")).start();
    let api = Api::new(process.url());
    let status = api.drained().await;
    assert_eq!(status.accounting.dead, 1);
    let new_id = mapped[0]["to"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/writes/{new_id}")).await.json()["status"], "applied");
    let letter = process.cli(&["dead", "list", "--json"]);
    let letter = json_of(&letter)["letters"][0].clone();
    assert_eq!(letter["reason"]["kind"], "exists", "{letter}");
    assert_eq!(letter["history"].as_array().unwrap().len(), 1);
    assert!(process.terminate().success());
    assert_eq!(notes(&directory.path().join("database.db")), each_once(0..WAITING));
    assert_eq!(run(directory.path(), &["verify", &at("other")]).code, Some(0));
}

#[tokio::test]
async fn an_import_that_was_killed_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.ndjson");
    let (waiting, dead) = (2500, 2000);
    fs::write(&file, made_up(waiting, dead)).unwrap();
    let (file, other) = (file.display().to_string(), directory.path().join("queue").display().to_string());
    // Before, between and after the dead letters begin. Nobody reads what it says behind that: it cannot end.
    for lines_read in [1, 1500, 2600] {
        let mut child = Command::new(BINARY)
            .args(["--json", "log", "import", &file, &other])
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        for _ in 0..lines_read {
            line.clear();
            out.read_line(&mut line).unwrap();
        }
        assert!(line.contains("\"from\""), "{line}");
        child.kill().unwrap();
        child.wait().unwrap();
        let server = setup(directory.path(), "json").run(&["serve"]);
        assert_eq!(server.code, Some(1), "{server:?}");
        assert!(server.stderr.contains("run the same `outlast log import` again"), "{server:?}");
    }
    let verified = run(directory.path(), &["verify"]);
    assert!(verified.stdout.contains("an import into this queue directory was interrupted"), "{verified:?}");
    let finished = run(directory.path(), &["import", &file, &other, "--json"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let mapped = lines(&finished.stdout);
    assert!(mapped[mapped.len() - 1]["imported"]["resumed_at"].as_u64().unwrap() >= 2600);
    let to: BTreeSet<&str> = mapped.iter().filter_map(|line| line["to"].as_str()).collect();
    assert_eq!(to.len(), waiting + dead, "every write has one new id");
    let report = json_of(&run(directory.path(), &["verify", "--json"]));
    assert_eq!(report["verdict"], "clean", "{report}");
    assert_eq!(report["accounting"]["pending"], waiting);
    assert_eq!(report["accounting"]["dead"], dead);
    // What the new queue holds is what the file said, once each, with the same ids as were told.
    let exported = run(directory.path(), &["export", "--json"]);
    let content = |lines: Vec<Value>| -> BTreeMap<String, Value> {
        let writes = lines.into_iter().filter(|line| line.get("operations").is_some());
        writes
            .map(|line| {
                (
                    line["operations"][0]["id"].as_str().unwrap().to_owned(),
                    json!([line["status"], line["accepted_ms"], line["operations"]]),
                )
            })
            .collect()
    };
    let expected = content(lines(&fs::read_to_string(&file).unwrap()));
    assert_eq!(lines(&exported.stdout).len(), waiting + dead + 2);
    assert_eq!(content(lines(&exported.stdout)), expected);
}

/// An export of this many writes that wait and dead letters.
fn made_up(waiting: usize, dead: usize) -> String {
    let accounting =
        json!({ "accepted": 0, "applied": 0, "pending": 0, "parked": 0, "dead": 0, "discarded": 0 });
    let header = json!({ "outlast_export": 1, "queue": "elsewhere", "exported_at": "", "watermark": "0-0",
        "watermark_from": "none", "last": "1-9", "accounting": accounting });
    let mut text = format!("{header}\n");
    for number in 1..=waiting + dead {
        let status = if number <= waiting { "pending" } else { "dead" };
        let mut line = json!({ "id": format!("1-{number}"), "sequence": format!("1-{number}"), "status": status,
            "accepted_at": "", "accepted_ms": number,
            "operations": [{ "op": "put", "collection": "documents", "id": number.to_string(), "data": {} }] });
        if status == "dead" {
            line["reason"] = json!({ "kind": "exists", "message": "it is there" });
            line["died_ms"] = json!(number);
        }
        writeln!(text, "{line}").unwrap();
    }
    text + &format!("{}\n", json!({ "outlast_export_end": waiting + dead }))
}

#[tokio::test]
async fn a_file_that_is_not_in_order_imports_nothing_and_names_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let good = made_up(3, 1);
    let replaced = |from: &str, to: &str| good.replacen(from, to, 1);
    let cut = good.len() - 40;
    for (text, code, said) in [
        (replaced("\"id\":\"2\"", "\"id\":2"), 65, "line 3: "),
        (replaced("\"op\":\"put\"", "\"op\":\"push\""), 65, "line 2: unknown operation"),
        (
            replaced("\"data\":{}", "\"data\":{\"a\":\"\\ud800\"}"),
            65,
            "line 2: \"data\" is not a JSON object",
        ),
        (replaced("\"data\":{}", "\"data\":{\"id\":\"7\"}"), 65, "line 2: the member \"id\" of the document"),
        (replaced("\"1-2\"", "\"1-1\""), 65, "line 3: write 1-1 stands in line 2 already"),
        (replaced("\"outlast_export\":1", "\"outlast_export\":7"), 65, "version 7, this program reads 1"),
        // White space elsewhere, but not in JSON (fuzzing found it).
        (good.split('\n').collect::<Vec<_>>().join("\u{b}\n"), 65, "line 1: "),
        (good[..cut].to_owned(), 65, "line 5: EOF"),
        (good.lines().take(4).fold(String::new(), |text, line| text + line + "\n"), 1, "it is not whole"),
        (
            good.lines()
                .enumerate()
                .filter(|(at, _)| *at != 2)
                .fold(String::new(), |text, (_, line)| text + line + "\n"),
            1,
            "4 lines were written to this file, 3 are there",
        ),
        (String::new(), 65, "the file is empty"),
        ("{}".to_owned(), 65, "line 1: this is not the first line of an export"),
    ] {
        let file = directory.path().join("file");
        fs::write(&file, &text).unwrap();
        let refused = run(directory.path(), &["import", &file.display().to_string(), "new"]);
        assert_eq!(refused.code, Some(code), "{said}: {refused:?}");
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        assert!(!directory.path().join("new").exists(), "{said}: something was made");
    }
    fs::create_dir(directory.path().join("home")).unwrap();
    fs::write(directory.path().join("home/file"), "x").unwrap();
    fs::write(directory.path().join("file"), &good).unwrap();
    let refused = run(directory.path(), &["import", "file", "home"]);
    assert!(refused.stderr.contains("neither empty nor a queue directory"), "{refused:?}");
    // In the order in which they were first accepted, wherever they stand in the file, and however it is spaced (fuzzing
    // found a carriage return within a document, with which an import began and could not go on).
    let spaced = good.replacen("\"data\":{}", "\"data\": {\r\"a\"\t: 1 }", 1);
    let mut shuffled: Vec<&str> = spaced.lines().collect();
    shuffled.swap(1, 4);
    fs::write(directory.path().join("file"), shuffled.join("\n")).unwrap();
    let retried = run(directory.path(), &["import", "file", "new", "--retry-dead", "--json"]);
    let mapped = lines(&retried.stdout);
    assert_eq!(mapped.last().unwrap()["imported"]["waiting"], 4, "{retried:?}");
    let from: Vec<&str> = mapped.iter().filter_map(|line| line["from"].as_str()).collect();
    assert_eq!(from, ["1-1", "1-2", "1-3", "1-4"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_looked_at_is_refused_with_what_to_do() {
    let directory = copied().await;
    let none = run(directory.path(), &["verify", "nowhere"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("there is no such directory; name the directory"), "{none:?}");
    let other = run(directory.path(), &["stat", "."]);
    assert!(other.code == Some(1) && other.stderr.contains("has no segments/"), "{other:?}");

    let (mut process, _) = start(directory.path(), "json");
    for arguments in [&["verify"] as &[&str], &["repair"], &["stat"], &["export"], &["list"]] {
        let locked = run(directory.path(), arguments);
        assert_eq!(locked.code, Some(75), "{locked:?}");
        assert!(
            locked.stderr.contains("in use by another process; stop")
                && locked.stderr.contains("`outlast status`"),
            "{locked:?}"
        );
    }
    fs::write(directory.path().join("file"), made_up(1, 0)).unwrap();
    assert_eq!(run(directory.path(), &["import", "file"]).code, Some(75));
    assert!(process.terminate().success());

    // The super-user reads everything: then another one tries, with a copy of the binary that it can reach.
    let queue = directory.path().join("queue");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("outlast");
    copy_to_run(BINARY, &binary);
    let mut command = Command::new(&binary);
    command.current_dir(directory.path()).args(["log", "verify"]).arg(&queue);
    fs::set_permissions(&queue, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&queue).is_ok() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(&queue, fs::Permissions::from_mode(0o700)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot be read") && said.contains("run this as the user that runs the server"),
        "{said}"
    );

    let first =
        files(&queue.join("segments")).into_keys().find(|path| path.extension().unwrap() == "jsonl").unwrap();
    change(&first, |bytes| {
        for copy in [0, 1024] {
            let line = String::from_utf8(bytes[copy..copy + 1023].to_vec()).unwrap();
            let line = line.trim_end().replacen("\"outlast\":1", "\"outlast\":3", 1);
            let (covered, _) = line.split_once("\"crc32c\"").unwrap();
            let line = format!("{covered}\"crc32c\":\"{:08x}\"}}", crc32c(covered.as_bytes()));
            bytes[copy..copy + line.len()].copy_from_slice(line.as_bytes());
        }
    });
    let unknown = run(directory.path(), &["verify"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(
        unknown.stderr.contains("version 3, this program reads 1 and 2; use the program that wrote it"),
        "{unknown:?}"
    );
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 },
        )
    })
}
