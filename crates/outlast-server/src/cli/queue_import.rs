//! `outlast queue import`: the writes of an export as writes of the running server.
//!
//! Each goes in under an idempotency key: its client's own, or one that follows from its queue and id. So a file that is
//! imported twice, or again after an interruption, takes effect once.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outlast::{Operation, WriteId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Exit;
use super::ask::confirm;
use super::client::Client;
use super::log;
use super::output::{Failure, grouped, print, print_json, safe};
use super::progress::Progress;
use super::stream::{End, Source, send};
use super::write_bulk::is_accepted;

/// In order, and none overtakes one that was not accepted; the queue is enough.
const PREFER: &str = "handling=strict, respond-async";
/// Attempts in a row that bring nothing in before the command gives up.
const ATTEMPTS_MAX: u32 = 10;
/// Pause before the next attempt when the server names none.
const PAUSE: Duration = Duration::from_secs(1);
/// Refusals that are listed.
const REFUSED_MAX: usize = 100;

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// What `outlast queue export` wrote; - is standard input
    file: PathBuf,
    /// Take writes that come from this very queue: those that still wait in it take effect twice
    #[arg(long)]
    again: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
}

/// A line of an export; what else it has is not needed.
#[derive(Deserialize)]
struct Exported {
    queue: String,
    id: WriteId,
    idempotency_key: Option<String>,
    /// Values of it were hidden when it was exported.
    #[serde(default)]
    redacted: bool,
    /// As it stands there, so that its digits stay what they are.
    operations: Box<RawValue>,
}

/// What is sent for it.
#[derive(Serialize)]
struct Imports<'a> {
    idempotency_key: &'a str,
    operations: &'a RawValue,
}

fn parse(line: &[u8]) -> Result<Exported, String> {
    serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("column {}: {what}", error.column())
    })
}

/// The write as the server takes it.
fn as_write(line: &[u8]) -> Result<Vec<u8>, String> {
    let Exported { queue, id, idempotency_key, operations, .. } = parse(line)?;
    let key = idempotency_key.unwrap_or_else(|| format!("queue-import:{queue}:{id}"));
    let line = Imports { idempotency_key: &key, operations: &operations };
    serde_json::to_vec(&line).map_err(|error| error.to_string())
}

/// What a file has.
struct Checked {
    writes: u64,
    queues: HashSet<String>,
}

/// Reads all of it before anything is sent.
fn check(mut file: &File) -> Result<Checked, Failure> {
    file.seek(SeekFrom::Start(0))
        .map_err(|error| Failure::failed(format!("the file could not be read: {error}")))?;
    let (mut checked, mut ids) = (Checked { writes: 0, queues: HashSet::new() }, HashSet::new());
    let wrong = |line: usize, why: String| {
        let detail =
            format!("line {line}: {why}; nothing was imported: correct the file, or export it again");
        Failure::new(Exit::Data, detail)
    };
    for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|error| wrong(index + 1, error.to_string()))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |why| wrong(index + 1, why);
        let exported = parse(&line).map_err(wrong)?;
        if exported.redacted {
            let id = exported.id;
            return Err(wrong(format!(
                "values of write {id} are hidden (privacy.redact): export with --unredacted"
            )));
        }
        let operations: Result<Vec<Operation>, _> = serde_json::from_str(exported.operations.get());
        let operations = operations.map_err(|error| wrong(error.to_string()))?;
        outlast::Write::new(operations).map_err(|error| wrong(error.to_string()))?;
        if !ids.insert((exported.queue.clone(), exported.id)) {
            return Err(wrong(format!("write {} stands in a line before already", exported.id)));
        }
        checked.queues.insert(exported.queue);
        checked.writes += 1;
    }
    Ok(checked)
}

/// What came of it.
#[derive(Default)]
struct Imported {
    /// The last line that has a final answer.
    line: u64,
    writes: u64,
    before: u64,
    refused: Vec<Value>,
    refused_total: u64,
}

/// The first line that was not accepted.
struct Stopped {
    line: u64,
    problem: Value,
    /// Sent again as it is, it is never accepted.
    is_final: bool,
}

pub(super) async fn run(client: &Client, arguments: &ImportArguments) -> Result<(), Failure> {
    let file = log::open_to_import(&arguments.file)?;
    let checked = check(&file)?;
    let status = client.get("/v1/queue", &[]).await?;
    let own = status.pointer("/queue/id").and_then(Value::as_str).unwrap_or_default();
    if checked.queues.contains(own) && !arguments.again {
        return Err(Failure::failed(
            "this file comes from this very queue: its writes are here already. Import it into another server, or say \
             --again to take what does not wait there any more",
        ));
    }
    let from: Vec<String> = checked.queues.iter().map(|queue| safe(queue, 60)).collect();
    let what = format!(
        "import {} writes from queue {} into the queue of {}; see to it that they are not delivered from there as well",
        grouped(checked.writes),
        from.join(", "),
        client.base()
    );
    if checked.writes > 0 {
        confirm(&what, arguments.yes)?;
    }
    let progress = Progress::counts(client.json, "importing", checked.writes);
    let mut imported = Imported::default();
    let ended = import(client, &file, &progress, &mut imported).await;
    progress.end();
    tell(client, checked.writes, &imported, ended.as_ref().err().map(|failure| failure.message.as_str()));
    match ended {
        Err(failure) if client.json => Err(Failure::new(failure.exit, "")),
        Ok(()) if imported.refused_total > 0 => Err(Failure::failed("")),
        ended => ended,
    }
}

/// Until everything is in; what comes in the way is waited for a while.
async fn import(
    client: &Client,
    file: &File,
    progress: &Progress,
    imported: &mut Imported,
) -> Result<(), Failure> {
    let (mut attempts, mut reached) = (0, 0);
    loop {
        let sent = attempt(client, file, progress, imported).await;
        let (why, pause) = match sent {
            Ok(None) => return Ok(()),
            Ok(Some(Stopped { line, problem, is_final })) => {
                let detail = safe(problem["detail"].as_str().unwrap_or_default(), 300);
                let why = format!("line {line} was not accepted: {detail}");
                if is_final {
                    return Err(Failure::failed(format!(
                        "{why}; those before it are in: correct it and run this again"
                    )));
                }
                (why, problem["retry_after_seconds"].as_u64().map_or(PAUSE, Duration::from_secs))
            }
            Err(failure) if imported.line == 0 && attempts == 0 => return Err(failure),
            Err(failure) => (failure.message, PAUSE),
        };
        attempts = if imported.line > reached { 1 } else { attempts + 1 };
        reached = imported.line;
        if attempts >= ATTEMPTS_MAX {
            return Err(Failure::failed(format!("{why}; run this again: it goes on where it stopped")));
        }
        progress.say(format!("importing ({why})"));
        tokio::time::sleep(pause).await;
        progress.say("importing");
    }
}

/// One stream, from the first line that has no answer.
async fn attempt(
    client: &Client,
    file: &File,
    progress: &Progress,
    imported: &mut Imported,
) -> Result<Option<Stopped>, Failure> {
    let unreadable = |error: std::io::Error| Failure::failed(format!("the file could not be read: {error}"));
    let mut file = file.try_clone().map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut source = Source::new(Box::new(file), as_write);
    source.skip(imported.line).map_err(unreadable)?;
    let mut stopped: Option<Stopped> = None;
    let (end, unanswered) = send(client, PREFER, source, |result, sent| {
        // What follows a line that was not accepted is sent again with it: its key makes that harmless.
        if stopped.is_some() {
            return;
        }
        if is_accepted(result) {
            imported.writes += 1;
            imported.before += u64::from(result["replayed"] == true);
        } else if result["status"] == "rejected" {
            imported.refused_total += 1;
            if imported.refused.len() < REFUSED_MAX {
                imported.refused.push(json!({ "line": sent.number, "problem": result["problem"] }));
            }
        } else {
            let (problem, is_final) = (result["problem"].clone(), result["status"] == "invalid");
            stopped = Some(Stopped { line: sent.number, problem, is_final });
            return;
        }
        imported.line = sent.number;
        progress.add(1);
    })
    .await?;
    let next = unanswered.front().map_or(imported.line + 1, |sent| sent.number);
    Ok(stopped.or(match end {
        End::Complete => None,
        End::Ended(problem) => Some(Stopped { line: next, problem, is_final: false }),
        End::Broken(why) => Some(Stopped { line: next, problem: json!({ "detail": why }), is_final: false }),
    }))
}

fn tell(client: &Client, writes: u64, imported: &Imported, stopped: Option<&str>) {
    if client.json {
        print_json(&json!({
            "writes": writes,
            "imported": imported.writes,
            "before": imported.before,
            "refused": imported.refused_total,
            "refusals": imported.refused,
            "stopped": stopped,
        }));
        return;
    }
    let before = if imported.before > 0 {
        format!(" ({} of them waited there already)", grouped(imported.before))
    } else {
        String::new()
    };
    print(&format!("imported {} of {} writes{before}", grouped(imported.writes), grouped(writes)));
    for refused in &imported.refused {
        let detail = refused.pointer("/problem/detail").and_then(Value::as_str).unwrap_or_default();
        print(&format!("line {}: refused: {}", refused["line"], safe(detail, 300)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_digits_and_gets_a_key_of_its_own() {
        let line = br#"{"queue":"q","id":"1-2","sequence":"1-9","status":"pending","operations":[{"op":"put","collection":"c","id":"1","data":{"b":1.50,"a":18446744073709551616}}]}"#;
        let write = String::from_utf8(as_write(line).unwrap()).unwrap();
        assert!(write.contains(r#"{"b":1.50,"a":18446744073709551616}"#), "{write}");
        assert!(write.contains(r#""idempotency_key":"queue-import:q:1-2""#), "{write}");
        let own = String::from_utf8_lossy(line)
            .replace("\"id\":\"1-2\"", "\"id\":\"1-2\",\"idempotency_key\":\"mine\"");
        let write = String::from_utf8(as_write(own.as_bytes()).unwrap()).unwrap();
        assert!(write.contains(r#""idempotency_key":"mine""#), "{write}");
        assert!(as_write(b"{\"id\":\"1-2\",\"operations\":[]}").unwrap_err().contains("queue"));
    }
}
