//! `outlast queue`: the writes that wait.

use std::fmt::Write as _;

use serde_json::Value;

use super::arguments::QueueCommand;
use super::client::{Client, segment};
use super::output::{Failure, print, print_json, safe, table};

pub(super) async fn run(client: &Client, command: &QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::List { after, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(after.clone().map(|after| ("after", after)));
            let page = client.get("/v1/queue/writes", &query).await?;
            if client.json {
                print_json(&page);
            } else {
                print(&list(&page));
            }
        }
        QueueCommand::Show { id } => {
            print_json(&client.get(&format!("/v1/queue/writes/{}", segment(id)), &[]).await?);
        }
    }
    Ok(())
}

fn list(page: &Value) -> String {
    let writes = page["writes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if writes.is_empty() {
        return "nothing waits".to_owned();
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
    let operations = write["operations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = operations.first() else { return String::new() };
    let record = match (first["collection"].as_str(), first["id"].as_str()) {
        (Some(collection), Some(id)) => format!(" {}/{}", safe(collection, 63), safe(id, 40)),
        _ => String::new(),
    };
    let more =
        if operations.len() > 1 { format!(" and {} more", operations.len() - 1) } else { String::new() };
    format!("{}{record}{more}", text(first, "op"))
}
