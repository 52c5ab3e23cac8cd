//! `outlast write`: writes and reads of records, and what became of a write.

use std::io::Read as _;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use outlast::{Collection, RecordId};
use reqwest::Method;
use serde_json::{Value, json};

use super::ask::confirm;
use super::client::{Answer, Client};
use super::output::{Failure, grouped, print, print_json, print_json_text, safe, span};
use super::queue::{text, what};
use super::write_bulk::{self, BulkArguments};
use crate::config::units;
use crate::http::segment;

/// The longest that one request waits: well below the time limit of the client.
const SLICE: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(super) enum WriteCommand {
    /// Create or replace a record
    Put {
        /// COLLECTION/ID
        record: Record,
        #[command(flatten)]
        document: Document,
        #[command(flatten)]
        how: How,
    },
    /// Merge into a record (JSON merge patch); refused when it is absent
    Patch {
        /// COLLECTION/ID
        record: Record,
        #[command(flatten)]
        document: Document,
        #[command(flatten)]
        how: How,
    },
    /// Create a record; refused when it exists
    Create {
        /// COLLECTION/ID, or COLLECTION for an id of the server's choice
        record: Place,
        #[command(flatten)]
        document: Document,
        #[command(flatten)]
        how: How,
    },
    /// Remove a record; one that is absent is fine
    Delete {
        /// COLLECTION/ID
        record: Record,
        #[command(flatten)]
        how: How,
    },
    /// Print a record, as the database has it
    Get {
        /// COLLECTION/ID
        record: Record,
    },
    /// Send a file of writes, one on each line as JSON: {"op":"put","collection":"c","id":"1","data":{}}, or with
    /// "operations" several that take effect together; "idempotency_key" may stand beside
    Bulk(BulkArguments),
    /// Wait until a write is decided; ends with 0 only when it is applied
    Wait {
        /// The id of the write
        id: String,
        /// The longest to wait
        #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = units::parse_duration)]
        at_most: Duration,
    },
    /// Cancel a write while it is pending: it is never applied
    Cancel {
        /// The id of the write
        id: String,
        /// Do not ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
}

/// The document of a write.
#[derive(Debug, Args)]
pub(super) struct Document {
    /// A JSON object; @FILE reads it from a file, - from standard input
    document: String,
}

/// How a write is sent.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Wait at most so long for the database to have it, also through an outage [default: server.wait, and not at all while
    /// the database is away]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    wait: Option<Duration>,
    /// A name for this write: sent again under it, it takes effect once
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

fn key(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 255 visible ASCII characters".to_owned())
}

/// A record: `COLLECTION/ID`.
#[derive(Debug, Clone)]
pub(super) struct Record {
    collection: Collection,
    id: RecordId,
}

impl Record {
    fn path(&self) -> String {
        format!("/v1/records/{}/{}", self.collection, segment(self.id.as_str()))
    }

    fn name(&self) -> String {
        format!("{}/{}", self.collection, safe(self.id.as_str(), 60))
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An id may hold slashes, a collection may not.
        let (collection, id) = text.split_once('/').ok_or("write COLLECTION/ID, for example person/ann")?;
        // Whoever builds a URL takes these out of it, however they are encoded (https://url.spec.whatwg.org, 4.4).
        if matches!(id, "." | "..") {
            return Err(format!(
                "\"{id}\" cannot stand in a path: send it as a line, with `outlast write bulk`"
            ));
        }
        Ok(Self {
            collection: collection.parse().map_err(|error: outlast::Invalid| error.to_string())?,
            id: id.parse().map_err(|error: outlast::Invalid| error.to_string())?,
        })
    }
}

/// Where a record is created.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Record(Record),
    Collection(Collection),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return text.parse().map(Self::Record);
        }
        text.parse().map(Self::Collection).map_err(|error: outlast::Invalid| error.to_string())
    }
}

impl Document {
    /// The text itself: the server reads it, so that its digits stay as they were typed.
    fn read(&self) -> Result<String, Failure> {
        let failed = |name: &str, error: std::io::Error| {
            Failure::failed(format!("the document could not be read from {name}: {error}"))
        };
        if self.document == "-" {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            return read.map(|_| text).map_err(|error| failed("standard input", error));
        }
        match self.document.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).map_err(|error| failed(file, error)),
            None => Ok(self.document.clone()),
        }
    }
}

pub(super) async fn run(client: &Client, command: &WriteCommand) -> Result<(), Failure> {
    match command {
        WriteCommand::Put { record, document, how } => {
            let body = Some(document.read()?);
            submit(client, "put", Method::PUT, &record.path(), &record.name(), body, how).await
        }
        WriteCommand::Patch { record, document, how } => {
            let body = Some(document.read()?);
            submit(client, "patch", Method::PATCH, &record.path(), &record.name(), body, how).await
        }
        WriteCommand::Create { record, document, how } => {
            let (path, name) = match record {
                Place::Record(record) => (record.path(), record.name()),
                Place::Collection(collection) => {
                    (format!("/v1/records/{collection}"), collection.to_string())
                }
            };
            submit(client, "create", Method::POST, &path, &name, Some(document.read()?), how).await
        }
        WriteCommand::Delete { record, how } => {
            submit(client, "delete", Method::DELETE, &record.path(), &record.name(), None, how).await
        }
        WriteCommand::Get { record } => {
            let answer = client.send(Method::GET, &record.path(), &[], &[], None).await?.success()?;
            print_json_text(&answer.text);
            Ok(())
        }
        WriteCommand::Bulk(arguments) => write_bulk::run(client, arguments).await,
        WriteCommand::Wait { id, at_most } => wait(client, id, *at_most).await,
        WriteCommand::Cancel { id, yes } => cancel(client, id, *yes).await,
    }
}

/// Sends a write, and tells what happened to it.
async fn submit(
    client: &Client,
    operation: &str,
    method: Method,
    path: &str,
    record: &str,
    body: Option<String>,
    how: &How,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut headers = Vec::new();
    if let Some(key) = &how.idempotency_key {
        headers.push(("idempotency-key", key.clone()));
    }
    if let Some(wait) = how.wait {
        // In whole seconds; what is left is waited for afterwards.
        headers.push(("prefer", format!("wait={}", wait.min(SLICE).as_secs())));
    }
    let answer = client.send(method, path, &[], &headers, body).await?.success()?;
    let mut receipt = receipt(&answer)?;
    let new = if record.contains('/') { None } else { new_record(&answer, &receipt) };
    let record = new.unwrap_or_else(|| record.to_owned());
    if let Some(wait) = how.wait.filter(|_| waits(&receipt)) {
        receipt = decided(client, &text(&receipt, "id"), wait.saturating_sub(began.elapsed())).await?;
    }
    if client.json {
        receipt["record"] = json!(record);
        print_json(&receipt);
    } else if receipt["replayed"] == true {
        print(&format!("{operation} {record}: applied before under this key, as {}", text(&receipt, "id")));
    } else {
        let hint = if waits(&receipt) {
            format!("; `outlast write wait {}` waits for the database", text(&receipt, "id"))
        } else {
            String::new()
        };
        print(&format!("{operation} {record}: {}{hint}", in_words(&receipt)));
    }
    // Applied or queued, it is acknowledged.
    if waits(&receipt) || receipt["status"] == "applied" { Ok(()) } else { Err(Failure::failed("")) }
}

/// The record that the server chose an id for: applied it is the answer's Location, queued a member of the receipt.
fn new_record(answer: &Answer, receipt: &Value) -> Option<String> {
    let part = |name: &str| receipt.pointer(name).and_then(Value::as_str);
    match (part("/record/collection"), part("/record/id")) {
        (Some(collection), Some(id)) => Some(safe(&format!("{collection}/{id}"), 120)),
        _ => answer.header("location").strip_prefix("/v1/records/").map(|created| safe(created, 120)),
    }
}

/// The receipt of a write that was just answered, also when it is applied already.
fn receipt(answer: &Answer) -> Result<Value, Failure> {
    if answer.header("write-status") == "queued" {
        return answer.json();
    }
    let mut receipt =
        json!({ "id": answer.header("write-id"), "status": "applied", "durability": "database" });
    if answer.header("idempotency-replayed") == "true" {
        receipt["replayed"] = json!(true);
    }
    Ok(receipt)
}

fn waits(receipt: &Value) -> bool {
    receipt["status"] == "pending" || receipt["status"] == "parked"
}

/// The receipt when the write is decided, or the time is over.
async fn decided(client: &Client, id: &str, at_most: Duration) -> Result<Value, Failure> {
    let began = Instant::now();
    loop {
        let left = at_most.saturating_sub(began.elapsed());
        let wait = format!("{}ms", left.min(SLICE).as_millis());
        let receipt = client.get(&format!("/v1/writes/{}", segment(id)), &[("wait", wait)]).await?;
        if !waits(&receipt) || left.is_zero() {
            return Ok(receipt);
        }
    }
}

async fn wait(client: &Client, id: &str, at_most: Duration) -> Result<(), Failure> {
    let receipt = decided(client, id, at_most).await?;
    tell(client, &receipt);
    match receipt["status"].as_str() {
        Some("applied") => Ok(()),
        _ if waits(&receipt) && !client.json => Err(Failure::failed(format!(
            "not decided within {}; `outlast status` says what it waits for, --for waits longer",
            span(at_most.as_secs_f64())
        ))),
        _ => Err(Failure::failed("")),
    }
}

async fn cancel(client: &Client, id: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        let write = client.get(&format!("/v1/queue/writes/{}", segment(id)), &[]).await?;
        confirm(
            &format!("cancel 1 write: {} ({}), which is then never applied", safe(id, 60), what(&write)),
            yes,
        )?;
    }
    let path = format!("/v1/writes/{}", segment(id));
    let receipt = client.delete(&path).await?;
    tell(client, &receipt);
    Ok(())
}

fn tell(client: &Client, receipt: &Value) {
    if client.json {
        print_json(receipt);
    } else {
        print(&in_words(receipt));
    }
}

fn in_words(receipt: &Value) -> String {
    let id = text(receipt, "id");
    let reason = receipt.pointer("/reason/message").and_then(Value::as_str);
    let why = reason.map_or_else(String::new, |reason| format!(": {}", safe(reason, 300)));
    match receipt["status"].as_str().unwrap_or_default() {
        "applied" => format!("applied as {id}"),
        "pending" => {
            let before = match receipt["position"].as_u64() {
                Some(position @ 1..) => format!(", {} before it", grouped(position)),
                _ => String::new(),
            };
            let estimate = receipt["estimate_seconds"]
                .as_u64()
                .map_or_else(String::new, |seconds| format!(", applied in about {}", span(seconds as f64)));
            format!("queued as {id}, durable on disk{before}{estimate}")
        }
        "parked" => format!("{id} is queued and waits for its next attempt{why}"),
        "dead" => format!("{id} was refused and is a dead letter{why}; see `outlast dead show {id}`"),
        "discarded" => format!("{id} is discarded: it is never applied"),
        "rejected" => format!("{id} was refused{why}"),
        other => format!("{id}: {}", safe(other, 40)),
    }
}
