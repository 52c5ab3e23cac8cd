//! `outlast queue`: the writes that wait.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::arguments::{Hidden, QueueCommand, Waiting};
use super::client::Client;
use super::lane;
use super::output::{Failure, Harmless, grouped, print, print_json, print_json_text, safe, table};
use super::progress::Progress;
use super::queue_import;
use crate::config::units;
use crate::http::segment;

/// Writes on one page of an export: some MiB at most of usual ones.
const EXPORT_PAGE: usize = 500;
/// The longest that one request waits for the queue to drain: well below the time limit of the client.
const SLICE: Duration = Duration::from_secs(20);

pub(super) async fn run(client: &Client, command: &QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::List { waiting, after, limit } => {
            let page = page(client, waiting, after.clone(), usize::from(*limit)).await?;
            if client.json {
                print_json(&page);
            } else {
                print(&list(&page));
            }
        }
        QueueCommand::Show { id, hidden } => {
            let path = format!("/v1/queue/writes/{}", segment(id));
            print_json(&client.get(&path, &hidden.query()).await?);
        }
        QueueCommand::Export { waiting, output, hidden } => {
            export(client, waiting, output.as_deref(), *hidden).await?;
        }
        QueueCommand::Import(arguments) => queue_import::run(client, arguments).await?,
        QueueCommand::Throttle { rate } => throttle(client, rate.0).await?,
        QueueCommand::Drain { at_most } => drain(client, *at_most).await?,
        QueueCommand::Pause(arguments) => lane::pause(client, arguments).await?,
        QueueCommand::Resume(arguments) => lane::resume(client, arguments).await?,
    }
    Ok(())
}

impl Waiting {
    /// As parameters of a query.
    fn query(&self) -> Vec<(&'static str, String)> {
        [
            ("collection", &self.collection),
            ("record", &self.record),
            ("write", &self.write),
            ("status", &self.status),
            ("op", &self.op),
            ("older_than", &self.older_than),
            ("newer_than", &self.newer_than),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
    }
}

/// The first writes that match: the server looks at a part of the queue for each answer, so that several may be needed.
async fn page(
    client: &Client,
    waiting: &Waiting,
    mut after: Option<String>,
    limit: usize,
) -> Result<Value, Failure> {
    let mut writes = Vec::new();
    loop {
        let mut query = waiting.query();
        query.push(("limit", (limit - writes.len()).to_string()));
        query.extend(after.take().map(|after| ("after", after)));
        let mut page = client.get("/v1/queue/writes", &query).await?;
        if let Some(Value::Array(found)) = page.get_mut("writes") {
            writes.append(found);
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() || writes.len() >= limit {
            let mut page = json!({ "writes": writes });
            if let Some(next) = after {
                page["next"] = json!(next);
            }
            return Ok(page);
        }
    }
}

/// A rate of the command line: writes per second, or `none`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate(Option<u64>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => match units::parse_count(text)? {
                0 => Err("write at least 1, or none for no limit; `outlast pause` stops delivery".to_owned()),
                rate => Ok(Self(Some(rate))),
            },
        }
    }
}

async fn throttle(client: &Client, rate: Option<u64>) -> Result<(), Failure> {
    let answer = client.post("/v1/queue/throttle", Some(json!({ "writes_per_second": rate }))).await?;
    if client.json {
        print_json(&answer);
        return Ok(());
    }
    match rate {
        Some(rate) => print(&format!(
            "a backlog is drained at {} writes per second at most, until the server restarts",
            grouped(rate)
        )),
        None => print("a backlog is drained as fast as the database takes it"),
    }
    Ok(())
}

/// Waits until nothing waits; ends with 1 when the time is over first.
async fn drain(client: &Client, at_most: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    let mut progress = None;
    loop {
        let left = at_most.saturating_sub(began.elapsed());
        let wait =
            format!("{}ms", left.min(if progress.is_none() { Duration::ZERO } else { SLICE }).as_millis());
        let answer = client.post("/v1/queue/drain", Some(json!({ "for": wait }))).await?;
        let (drained, waiting) = (answer["drained"] == true, answer["writes"].as_u64().unwrap_or_default());
        let bar = progress.get_or_insert_with(|| Progress::counts(client.json, "draining", waiting));
        bar.left(waiting);
        if !drained && !left.is_zero() {
            continue;
        }
        bar.end();
        if client.json {
            print_json(&answer);
        }
        return match (drained, client.json) {
            (true, false) => {
                print("drained: nothing waits");
                Ok(())
            }
            (true, true) => Ok(()),
            (false, true) => Err(Failure::failed("")),
            (false, false) => Err(Failure::failed(format!("{} writes still wait", grouped(waiting)))),
        };
    }
}

/// Everything that waits and matches, a line each, page by page: what is applied meanwhile may be left out.
async fn export(
    client: &Client,
    waiting: &Waiting,
    output: Option<&Path>,
    hidden: Hidden,
) -> Result<(), Failure> {
    let status = client.get("/v1/queue", &[]).await?;
    let count = status.pointer("/queue/writes").and_then(Value::as_u64).unwrap_or_default();
    let queue = status.pointer("/queue/id").cloned().unwrap_or_default();
    let mut file = output.map(create).transpose()?.map(Harmless::new);
    let progress = Progress::counts(client.json, "exporting", count);
    let filter = [waiting.query(), hidden.query(), vec![("limit", EXPORT_PAGE.to_string())]].concat();
    let mut query = filter.clone();
    let (mut exported, mut redacted) = (0, 0);
    loop {
        let mut page = client.get("/v1/queue/writes", &query).await?;
        for write in page["writes"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default() {
            // An import must know where it comes from: ids are each queue's own.
            write["queue"] = queue.clone();
            let line = format!("{write}\n");
            match &mut file {
                Some(file) => file.write_all(line.as_bytes()).map_err(|error| not_written(output, &error))?,
                None if !print_json_text(&line) => return Ok(()),
                None => {}
            }
            exported += 1;
            redacted += u64::from(write["redacted"] == true);
            progress.add(1);
        }
        let Some(next) = page["next"].as_str() else { break };
        query = [filter.clone(), vec![("after", next.to_owned())]].concat();
    }
    progress.end();
    if redacted > 0 {
        eprintln!(
            "values are hidden in {} of them (privacy.redact): they are to be looked at only; --unredacted writes them out",
            grouped(redacted)
        );
    }
    let Some((file, path)) = file.zip(output) else {
        if !client.json {
            eprintln!("exported {} writes", grouped(exported));
        }
        return Ok(());
    };
    let file = file.into_inner().into_inner();
    let synced = file.map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
    synced.map_err(|error| not_written(output, &error))?;
    if client.json {
        print_json(&json!({ "written": path, "writes": exported }));
    } else {
        print(&format!("exported {} writes to {}", grouped(exported), path.display()));
    }
    Ok(())
}

/// A new file, for its owner alone: writes may hold what not everybody should see.
pub(super) fn create(path: &Path) -> Result<io::BufWriter<std::fs::File>, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map(io::BufWriter::new).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!(
            "{} exists already and was left alone; name another file with --output",
            path.display()
        )),
        _ => not_written(Some(path), &error),
    })
}

fn not_written(path: Option<&Path>, error: &io::Error) -> Failure {
    let path = path.unwrap_or(Path::new("standard output"));
    Failure::failed(format!("{} could not be written: {error}", path.display()))
}

fn list(page: &Value) -> String {
    let writes = page["writes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if writes.is_empty() {
        return match page["next"].as_str() {
            Some(next) => format!("nothing so far; more: outlast queue list --after {}", safe(next, 60)),
            None => "nothing waits".to_owned(),
        };
    }
    let rows: Vec<Vec<String>> = writes
        .iter()
        .map(|write| {
            let reason = write.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default();
            vec![
                text(write, "id"),
                text(write, "status"),
                text(write, "accepted_at"),
                what(write),
                safe(reason, 60),
            ]
        })
        .collect();
    let mut shown = table(&["ID", "STATUS", "ACCEPTED", "WHAT", "LAST REFUSAL"], &rows);
    if let Some(next) = page["next"].as_str() {
        let _ = writeln!(shown, "more: outlast queue list --after {}", safe(next, 60));
    }
    shown
}

/// A member as text that is safe to print.
pub(super) fn text(value: &Value, member: &str) -> String {
    safe(value[member].as_str().unwrap_or_default(), 60)
}

/// What a write does, in a few words: its first operation, and how many more.
pub(super) fn what(write: &Value) -> String {
    what_they_do(write["operations"].as_array().map(Vec::as_slice).unwrap_or_default())
}

/// The same of its operations.
pub(super) fn what_they_do(operations: &[Value]) -> String {
    let Some(first) = operations.first() else { return String::new() };
    let more =
        if operations.len() > 1 { format!(" and {} more", operations.len() - 1) } else { String::new() };
    format!("{}{more}", what_it_does(first))
}

/// An operation and its record.
pub(super) fn what_it_does(operation: &Value) -> String {
    let record = match (operation["collection"].as_str(), operation["id"].as_str()) {
        (Some(collection), Some(id)) => format!(" {}/{}", safe(collection, 63), safe(id, 40)),
        _ => String::new(),
    };
    format!("{}{record}", text(operation, "op"))
}
