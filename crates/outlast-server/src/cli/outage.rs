//! `outlast outage`: what happened, and what became of the writes.

use serde_json::Value;

use super::arguments::OutageCommand;
use super::client::Client;
use super::output::{Failure, grouped, print, print_json, safe, span, table};
use super::queue::text;

pub(super) async fn run(client: &Client, command: &OutageCommand) -> Result<(), Failure> {
    match command {
        OutageCommand::List => {
            let answer = client.get("/v1/outages", &[]).await?;
            if client.json {
                print_json(&answer);
            } else {
                print(&list(&answer));
            }
        }
        OutageCommand::Show { id } => {
            let outage = client.get(&path(client, *id).await?, &[]).await?;
            if client.json {
                print_json(&outage);
            } else {
                print(&in_words(&outage));
            }
        }
        OutageCommand::Report { id } => {
            let path = path(client, *id).await?;
            if client.json {
                print_json(&client.get(&path, &[]).await?);
                return Ok(());
            }
            let mut report = Vec::new();
            let keep = |piece: &[u8]| {
                report.extend_from_slice(piece);
                true
            };
            client.stream(&format!("{path}/report"), &[], keep).await?;
            print(&String::from_utf8_lossy(&report));
        }
    }
    Ok(())
}

/// Of the outage that is named, or of the last one.
async fn path(client: &Client, id: Option<u64>) -> Result<String, Failure> {
    let id = if let Some(id) = id {
        id
    } else {
        let answer = client.get("/v1/outages", &[]).await?;
        let last = answer.pointer("/outages/0/id").and_then(Value::as_u64);
        last.ok_or_else(|| Failure::failed("there was no outage yet"))?
    };
    Ok(format!("/v1/outages/{id}"))
}

fn number(outage: &Value, member: &str) -> String {
    grouped(outage[member].as_u64().unwrap_or_default())
}

fn length(outage: &Value) -> String {
    span(outage["duration_seconds"].as_f64().unwrap_or_default())
}

/// How far it is.
fn state(outage: &Value) -> String {
    match (outage["drained_at"].as_str(), outage["reconnected_at"].as_str()) {
        (Some(at), _) => format!("drained {}", safe(at, 40)),
        (None, Some(_)) => "draining".to_owned(),
        (None, None) => "LASTS".to_owned(),
    }
}

fn list(answer: &Value) -> String {
    let outages = answer["outages"].as_array().map(Vec::as_slice).unwrap_or_default();
    if outages.is_empty() {
        return "no outage yet".to_owned();
    }
    let rows: Vec<Vec<String>> = outages
        .iter()
        .map(|outage| {
            vec![
                number(outage, "id"),
                text(outage, "started_at"),
                length(outage),
                number(outage, "writes_queued"),
                number(outage, "dead"),
                number(outage, "lost"),
                state(outage),
                safe(outage["reason"].as_str().unwrap_or_default(), 60),
            ]
        })
        .collect();
    table(&["NO", "BEGAN", "AWAY", "QUEUED", "DEAD", "LOST", "STATE", "REASON"], &rows)
}

fn in_words(outage: &Value) -> String {
    let mut lines = vec![
        format!("Outage {}: {}", number(outage, "id"), state(outage)),
        format!("Began:     {}, noticed by a {}", text(outage, "started_at"), text(outage, "detected_by")),
        format!("Reason:    {}", safe(outage["reason"].as_str().unwrap_or_default(), 300)),
        format!("Away:      {}", length(outage)),
        format!(
            "Writes:    {} queued, {} at once at most; reads refused: {}",
            number(outage, "writes_queued"),
            number(outage, "peak_writes"),
            number(outage, "reads_refused")
        ),
        format!(
            "Fate:      lost: {}, dead letters: {}, healed: {}",
            number(outage, "lost"),
            number(outage, "dead"),
            number(outage, "healed_writes")
        ),
    ];
    for (name, member) in [("Healed from", "healed_from"), ("Missing for good", "missing")] {
        if let Some(value) = outage[member].as_str() {
            lines.push(format!("{name}: {}", safe(value, 100)));
        }
    }
    lines.join("\n")
}
