//! `outlast dead`: the writes that the database refused.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::Value;

use super::Exit;
use super::arguments::DeadCommand;
use super::client::{Client, segment};
use super::output::{Failure, dead_letters, grouped, print, print_json, safe, table};
use super::queue::{text, what};

pub(super) async fn run(client: &Client, command: &DeadCommand) -> Result<(), Failure> {
    match command {
        DeadCommand::List { kind, collection, after, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            let filters = [("kind", kind), ("collection", collection), ("after", after)];
            query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
            let page = client.get("/v1/dead-letters", &query).await?;
            if client.json {
                print_json(&page);
            } else {
                print(&list(&page));
            }
        }
        DeadCommand::Show { id } => print_json(&letter(client, id).await?),
        DeadCommand::Retry { id } => done(client, "queued again", &act(client, id, "retry").await?),
        DeadCommand::Discard { id, yes } => {
            let letter = letter(client, id).await?;
            if !yes {
                confirm(&letter)?;
            }
            done(client, "discarded", &act(client, id, "discard").await?);
        }
    }
    Ok(())
}

async fn letter(client: &Client, id: &str) -> Result<Value, Failure> {
    client.get(&format!("/v1/dead-letters/{}", segment(id)), &[]).await
}

async fn act(client: &Client, id: &str, verb: &str) -> Result<Value, Failure> {
    client.post(&format!("/v1/dead-letters/{}/{verb}", segment(id)), None).await
}

fn done(client: &Client, what: &str, receipt: &Value) {
    if client.json {
        print_json(receipt);
    } else {
        print(&format!("{} {what}", text(receipt, "id")));
    }
}

/// Shows what would be given up, and asks.
fn confirm(letter: &Value) -> Result<(), Failure> {
    let about = format!("{} ({}), refused: {}", text(letter, "id"), what(letter), reason(letter));
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            format!("this would discard {about}\nnobody can be asked here: repeat it with --yes"),
        ));
    }
    eprint!("Discard {about}\nIt is then given up for good. Type yes to go on: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" { Ok(()) } else { Err(Failure::failed("nothing was done")) }
}

fn reason(letter: &Value) -> String {
    safe(letter.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default(), 80)
}

fn list(page: &Value) -> String {
    let letters = page["letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let total = page["total"].as_u64().unwrap_or_default();
    if total == 0 {
        return "no dead letters".to_owned();
    }
    let groups: Vec<Vec<String>> = page["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|group| {
            let kind = group.pointer("/reason/kind").and_then(Value::as_str).unwrap_or_default();
            vec![grouped(group["count"].as_u64().unwrap_or_default()), safe(kind, 20), reason(group)]
        })
        .collect();
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| vec![text(letter, "id"), text(letter, "died_at"), what(letter), reason(letter)])
        .collect();
    let mut shown = format!("{}\n\n", dead_letters(total));
    shown.push_str(&table(&["COUNT", "KIND", "REASON"], &groups));
    shown.push('\n');
    shown.push_str(&table(&["ID", "DIED", "WHAT", "REASON"], &rows));
    if let Some(next) = page["next"].as_str() {
        let _ = writeln!(shown, "more: outlast dead list --after {}", safe(next, 60));
    }
    shown
}
