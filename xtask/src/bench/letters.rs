//! A hundred thousand dead letters: how long an operator waits for the first page of them, and for all to be retried.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Settings;
use super::http::{binary, start, wait_until_connected};
use super::load::Load;
use super::place::{Kind, Place};
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use crate::Result;
use crate::process::run;
use crate::server::Server;

const LETTERS: usize = 100_000;
/// Each of their operations puts one of so many records.
const RECORDS: usize = 1000;
/// Of a page, for somebody who waits for it.
const GOAL_MS: f64 = 200.0;
/// What the dashboard asks for first.
const PAGE: &str = "/v1/dead-letters?limit=50";
const FILTERED: &str = "/v1/dead-letters?kind=constraint&limit=50";
/// How long retrying all of them may take.
const LIMIT: Duration = Duration::from_mins(10);

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let binary = binary()?;
    let directory = settings.directory.join("letters");
    std::fs::create_dir_all(&directory)?;
    let place = Place::start(Kind::Sqlite, &directory);
    let url = place.make("letters");
    // It makes the queue into which they are imported.
    drop(start(&binary, &directory, &url)?);
    let file = directory.join("letters.jsonl");
    export(&file)?;
    run(Command::new(&binary)
        .args(["log", "import"])
        .args([&file, &directory.join("queue")])
        .stdout(Stdio::null()))?;
    let server = start(&binary, &directory, &url)?;
    wait_until_connected(&server)?;

    let [page, filtered] = [PAGE, FILTERED].map(|path| Load::get(server.address(), path, 1));
    let contenders = vec![
        Contender::new(format!("GET {PAGE}"), |time| page.run(time)),
        Contender::new(format!("GET {FILTERED}"), |time| filtered.run(time)),
        Contender::new("outlast dead list", |time| command(&binary, &server, &["dead", "list"], time)),
        Contender::new("outlast dead groups", |time| command(&binary, &server, &["dead", "groups"], time)),
    ];
    let series = interleave(contenders, settings.rounds, settings.time)?;
    let retried = retry_all(&binary, &server)?;
    Ok(Section {
        title: format!("{LETTERS} dead letters, of two reasons"),
        tables: vec![Table::compare(
            "The first page of them, one after the other",
            &series,
            0,
            Compare::Median,
        )],
        goals: series.iter().filter_map(goal).collect(),
        notes: vec![format!(
            "After that `outlast dead retry --all` took {:.1} s, until all of them were queued again.",
            retried.as_secs_f64()
        )],
    })
}

/// Letters as an export has them.
fn export(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let accounting = json!({
        "accepted": LETTERS, "applied": 0, "pending": 0, "parked": 0, "dead": LETTERS, "discarded": 0
    });
    let last = format!("1-{LETTERS}");
    let header = json!({
        "outlast_export": 1, "queue": "another", "exported_at": "2026-11-30T00:00:00Z", "watermark": last,
        "watermark_from": "cursor", "last": last, "accounting": accounting
    });
    writeln!(file, "{header}")?;
    for number in 1..=LETTERS {
        let id = format!("1-{number}");
        let record = (number % RECORDS).to_string();
        let reason = if number % 3 == 0 {
            json!({ "kind": "constraint", "message": "no such parent" })
        } else {
            json!({ "kind": "other", "message": format!("record \"{record}\" is locked") })
        };
        let operation =
            json!({ "op": "put", "collection": "bench", "id": record, "data": { "number": number } });
        let line = json!({
            "id": id, "sequence": id, "status": "dead", "accepted_at": "2026-11-30T00:00:00Z",
            "accepted_ms": 1_796_000_000_000_u64, "died_ms": 1_796_000_000_000_u64, "attempts": 1,
            "reason": reason, "operations": [operation]
        });
        writeln!(file, "{line}")?;
    }
    writeln!(file, "{}", json!({ "outlast_export_end": LETTERS }))?;
    file.flush()?;
    Ok(())
}

/// A command again and again, each a process that asks the server.
fn command(binary: &Path, server: &Server, arguments: &[&str], time: Duration) -> Result<Sample> {
    let started = Instant::now();
    let mut nanos = Vec::new();
    while started.elapsed() < time {
        let before = Instant::now();
        run(outlast(binary, server).args(arguments).stdout(Stdio::null()))?;
        nanos.push(before.elapsed().as_nanos() as u64);
    }
    Sample::of_calls(nanos, started.elapsed())
}

fn outlast(binary: &Path, server: &Server) -> Command {
    let mut command = Command::new(binary);
    command.env("OUTLAST_URL", format!("http://{}", server.address())).stdin(Stdio::null());
    command
}

fn goal(series: &Series) -> Option<Goal> {
    let slowest = series.samples.iter().filter_map(|sample| Some(sample.p99_us? / 1000.0));
    Some(Goal {
        what: format!("{}: 99 of 100 within", series.name),
        bound: Bound::AtMost(GOAL_MS),
        measured: Spread::of(slowest)?,
        unit: " ms",
    })
}

/// Until none is dead any more.
fn retry_all(binary: &Path, server: &Server) -> Result<Duration> {
    let started = Instant::now();
    run(outlast(binary, server).args(["dead", "retry", "--all", "--yes"]).stdout(Stdio::null()))?;
    loop {
        let answer = server.get("/v1/queue")?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let status: Value = serde_json::from_str(body)?;
        if status["accounting"]["dead"] == 0 {
            return Ok(started.elapsed());
        }
        if started.elapsed() > LIMIT {
            return Err(format!("not all were retried within {LIMIT:?}: {}", status["accounting"]).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
