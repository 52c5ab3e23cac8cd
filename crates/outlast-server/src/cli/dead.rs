//! `outlast dead`: the writes that the database refused.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use outlast::error::RefusalKind;
use serde_json::{Value, json};

use super::Exit;
use super::arguments::DeadCommand;
use super::bulk::{self, Action};
use super::client::Client;
use super::edit;
use super::output::{Failure, dead_letters, grouped, print, print_json, safe, table};
use super::queue::{text, what};
use super::runs;
use super::suggest::suggestion;
use crate::http::segment;

pub(super) async fn run(client: &Client, command: &DeadCommand) -> Result<(), Failure> {
    match command {
        DeadCommand::Groups(matching) => {
            let mut query = matching.query();
            query.push(("limit", "1".to_owned()));
            let mut page = client.get("/v1/dead-letters", &query).await?;
            if client.json {
                let groups = page["groups"].take();
                print_json(
                    &json!({ "total": page["total"], "groups_total": page["groups_total"], "groups": groups }),
                );
            } else {
                print(&groups(&page));
            }
        }
        DeadCommand::List { matching, after, limit } => {
            let mut query = matching.query();
            query.push(("limit", limit.to_string()));
            query.extend(after.clone().map(|after| ("after", after)));
            let page = client.get("/v1/dead-letters", &query).await?;
            if client.json {
                print_json(&page);
            } else {
                print(&list(&page));
            }
        }
        DeadCommand::Show { id, hidden } => print_json(&letter(client, id, &hidden.query()).await?),
        DeadCommand::Retry(which) => match &which.id {
            Some(id) => done(client, "queued again", &act(client, id, "retry").await?),
            None => bulk::run(client, Action::Retry, which).await?,
        },
        DeadCommand::Edit { id, file, yes } => edit::run(client, id, file.as_deref(), *yes).await?,
        DeadCommand::Discard(which) => match &which.id {
            Some(id) => {
                let letter = letter(client, id, &[]).await?;
                if !which.yes {
                    confirm_one(&letter)?;
                }
                done(client, "discarded", &act(client, id, "discard").await?);
            }
            None => bulk::run(client, Action::Discard, which).await?,
        },
        DeadCommand::Runs { command } => runs::run(client, command.as_ref()).await?,
        DeadCommand::Export { matching, hidden } => bulk::export(client, matching, *hidden).await?,
    }
    Ok(())
}

pub(super) async fn letter(client: &Client, id: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
    client.get(&format!("/v1/dead-letters/{}", segment(id)), query).await
}

async fn act(client: &Client, id: &str, verb: &str) -> Result<Value, Failure> {
    client.post(&format!("/v1/dead-letters/{}/{verb}", segment(id)), None).await
}

pub(super) fn done(client: &Client, what: &str, receipt: &Value) {
    if client.json {
        print_json(receipt);
    } else {
        print(&format!("{} {what}", text(receipt, "id")));
    }
}

/// Shows what would be given up, and asks.
fn confirm_one(letter: &Value) -> Result<(), Failure> {
    let about = format!("discard {} ({}), refused: {}", text(letter, "id"), what(letter), reason(letter));
    confirm(&about, "It is then given up for good.")
}

/// Asks, where somebody can be asked.
pub(super) fn confirm(about: &str, consequence: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            format!("this would {about}\nnobody can be asked here: repeat it with --yes"),
        ));
    }
    eprint!("This would {about}. {consequence}\nType yes to go on: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" { Ok(()) } else { Err(Failure::failed("nothing was done")) }
}

pub(super) fn reason(letter: &Value) -> String {
    safe(letter.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default(), 80)
}

fn table_of_groups(page: &Value) -> String {
    let rows: Vec<Vec<String>> = page["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|group| {
            let kind = group.pointer("/reason/kind").and_then(Value::as_str).unwrap_or_default();
            let message = group.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default();
            vec![grouped(group["count"].as_u64().unwrap_or_default()), safe(kind, 20), safe(message, 200)]
        })
        .collect();
    let mut shown = table(&["COUNT", "KIND", "REASON"], &rows);
    let all = page["groups_total"].as_u64().unwrap_or_default();
    if all > rows.len() as u64 {
        let _ = writeln!(shown, "and {} smaller groups", grouped(all - rows.len() as u64));
    }
    shown
}

fn groups(page: &Value) -> String {
    let total = page["total"].as_u64().unwrap_or_default();
    if total == 0 {
        return "no dead letters".to_owned();
    }
    format!(
        "{}\n\n{}\n{}\nWhen the cause is mended: outlast dead retry --kind KIND --message REASON, or --all\nTo give up: outlast dead discard, with the same filters\n",
        dead_letters(total),
        table_of_groups(page),
        suggestions(page)
    )
}

/// What usually helps, once for each kind.
fn suggestions(page: &Value) -> String {
    let groups = page["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_group = |kind: RefusalKind| {
        groups
            .iter()
            .any(|group| group.pointer("/reason/kind").and_then(Value::as_str) == Some(kind.as_str()))
    };
    RefusalKind::ALL
        .into_iter()
        .filter(|kind| of_group(*kind))
        .fold(String::new(), |text, kind| format!("{text}{}: {}\n", kind.as_str(), suggestion(kind)))
}

fn list(page: &Value) -> String {
    let letters = page["letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let total = page["total"].as_u64().unwrap_or_default();
    if total == 0 {
        return "no dead letters".to_owned();
    }
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| vec![text(letter, "id"), text(letter, "died_at"), what(letter), reason(letter)])
        .collect();
    let mut shown = format!("{}\n\n{}\n", dead_letters(total), table_of_groups(page));
    shown.push_str(&table(&["ID", "DIED", "WHAT", "REASON"], &rows));
    if let Some(next) = page["next"].as_str() {
        let _ = writeln!(shown, "more: outlast dead list --after {}", safe(next, 60));
    }
    shown
}
