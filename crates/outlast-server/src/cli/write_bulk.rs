//! `outlast write bulk`: a file of writes, one on each line.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::output::{Failure, grouped, print, print_json, safe};
use super::progress::Progress;
use super::queue::create;
use super::stream::{End, Sent, Source, send};
use crate::config::units;

/// Failures that are printed; `--json` has more, `--failures` writes the lines of all.
const FAILURES_SHOWN: usize = 10;
const FAILURES_LISTED: usize = 1000;
/// In the order in which they are told.
const STATUSES: [&str; 6] = ["applied", "queued", "rejected", "invalid", "unavailable", "unknown"];

/// What is sent, and how.
#[derive(Debug, Args)]
pub(super) struct BulkArguments {
    /// A file with a write on each line; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Wait at most so long for the database to have each of them [default: server.wait]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    wait: Option<Duration>,
    /// Stop at the first line that is not accepted, so that none overtakes it
    #[arg(long)]
    strict: bool,
    /// Write the lines that were not accepted to this file, to be corrected and sent again; a file that exists is left alone
    #[arg(long, value_name = "FILE")]
    failures: Option<PathBuf>,
}

/// What came of the lines.
#[derive(Default)]
struct Counted {
    counts: [u64; STATUSES.len()],
    replayed: u64,
    failures: Vec<Value>,
}

impl Counted {
    fn take(&mut self, result: &Value, line: u64) {
        let status = result["status"].as_str().unwrap_or_default();
        if let Some(place) = STATUSES.iter().position(|known| *known == status) {
            self.counts[place] += 1;
        }
        self.replayed += u64::from(result["replayed"] == true);
        if !is_accepted(result) && self.failures.len() < FAILURES_LISTED {
            let mut failure = result.clone();
            // Of the source: blank lines are not sent.
            failure["line"] = json!(line);
            self.failures.push(failure);
        }
    }

    fn lines(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn failed(&self) -> u64 {
        self.counts.iter().skip(2).sum()
    }
}

pub(super) fn is_accepted(result: &Value) -> bool {
    result["status"] == "applied" || result["status"] == "queued"
}

pub(super) async fn run(client: &Client, arguments: &BulkArguments) -> Result<(), Failure> {
    let (reader, bytes): (Box<dyn io::Read + Send>, u64) = if arguments.file == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let cannot = |error: io::Error| {
            Failure::failed(format!("{} could not be read: {error}", arguments.file.display()))
        };
        let file = File::open(&arguments.file).map_err(cannot)?;
        let bytes = file.metadata().map_err(cannot)?.len();
        (Box::new(file), bytes)
    };
    let mut kept =
        arguments.failures.as_deref().map(|path| Ok::<_, Failure>((create(path)?, path))).transpose()?;
    let mut not_kept = None;
    let progress = Progress::bytes(client.json || bytes == 0, "sending", bytes);
    let mut counted = Counted::default();
    let source = Source::new(reader, |line| Ok(line.to_vec()));
    let (end, unanswered) = send(client, &prefer(arguments), source, |result, sent: Sent| {
        counted.take(result, sent.number);
        progress.add(sent.text.len() as u64);
        if !is_accepted(result)
            && let Some((file, _)) = &mut kept
        {
            not_kept = not_kept.take().or(file.write_all(&sent.text).err());
        }
    })
    .await?;
    progress.end();
    if let Some((file, path)) = kept {
        let synced =
            file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        if let Some(error) = not_kept.or(synced.err()) {
            eprintln!("{} is not whole: {error}", path.display());
        }
    }
    let (why, next) = why(&end, unanswered.front().map(|sent| sent.number));
    if client.json {
        print_json(&summary(&counted, why.as_deref(), next));
    } else {
        print(&words(&counted));
    }
    match (why, counted.failed()) {
        (None, 0) => Ok(()),
        (None, _) => Err(Failure::failed(if client.json { "" } else { "not all of them: see above" })),
        (Some(why), _) => Err(Failure::failed(why)),
    }
}

fn prefer(arguments: &BulkArguments) -> String {
    let mut preferences = Vec::new();
    preferences.extend(arguments.wait.map(|wait| format!("wait={}", wait.as_secs())));
    preferences.extend(arguments.strict.then(|| "handling=strict".to_owned()));
    preferences.join(", ")
}

/// Why the stream did not come to its end, and the first line that has no result.
fn why(end: &End, next: Option<u64>) -> (Option<String>, Option<u64>) {
    let from = next.map_or_else(String::new, |next| format!(" from line {next} on"));
    match end {
        End::Complete => (None, None),
        End::Ended(problem) => {
            let detail = safe(problem["detail"].as_str().unwrap_or_default(), 300);
            (
                Some(format!(
                    "the server took no more lines: {detail}; nothing{from} was taken: send that again"
                )),
                next,
            )
        }
        End::Broken(why) => {
            (Some(format!("{why}; lines{from} have no answer, the first of them may have been taken")), next)
        }
    }
}

fn summary(counted: &Counted, why: Option<&str>, next: Option<u64>) -> Value {
    let mut summary = Map::new();
    summary.insert("lines".into(), json!(counted.lines()));
    for (status, count) in STATUSES.iter().zip(counted.counts) {
        summary.insert((*status).to_owned(), json!(count));
    }
    summary.insert("replayed".into(), json!(counted.replayed));
    summary.insert("failures".into(), json!(counted.failures));
    if let Some(why) = why {
        summary.insert("ended".into(), json!(why));
        summary.insert("first_unanswered".into(), json!(next));
    }
    Value::Object(summary)
}

fn words(counted: &Counted) -> String {
    let mut parts: Vec<String> = STATUSES
        .iter()
        .zip(counted.counts)
        .filter(|(_, count)| *count > 0)
        .map(|(status, count)| format!("{} {status}", grouped(count)))
        .collect();
    if counted.replayed > 0 {
        parts.push(format!("{} of them had been sent before", grouped(counted.replayed)));
    }
    let mut text = format!("{} lines answered", grouped(counted.lines()));
    if !parts.is_empty() {
        let _ = write!(text, ": {}", parts.join(", "));
    }
    for failure in counted.failures.iter().take(FAILURES_SHOWN) {
        let detail = failure.pointer("/problem/detail").and_then(Value::as_str).unwrap_or_default();
        let status = failure["status"].as_str().unwrap_or_default();
        let _ = write!(text, "\nline {}: {status}: {}", failure["line"], safe(detail, 300));
    }
    if counted.failed() > FAILURES_SHOWN as u64 {
        let _ = write!(text, "\n{} failed in all: --json lists them", grouped(counted.failed()));
    }
    text
}
