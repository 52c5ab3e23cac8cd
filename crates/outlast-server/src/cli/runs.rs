//! `outlast dead runs`: the runs over dead letters that the server has under way or has ended.

use serde_json::Value;

use super::arguments::RunsCommand;
use super::bulk::{Action, failures, result, watch};
use super::client::Client;
use super::output::{Failure, grouped, print, print_json, safe, table};
use super::queue::text;

const RUNS: &str = "/v1/dead-letters/runs";

pub(super) async fn run(client: &Client, command: Option<&RunsCommand>) -> Result<(), Failure> {
    match command {
        None => {
            let page = client.get(RUNS, &[]).await?;
            if client.json {
                print_json(&page);
            } else {
                print(&list(&page));
            }
        }
        Some(RunsCommand::Show { id }) => {
            let run = client.get(&format!("{RUNS}/{id}"), &[]).await?;
            if client.json {
                print_json(&run);
            } else {
                print(&in_words(&run));
            }
        }
        Some(RunsCommand::Stop { id }) => stop(client, *id).await?,
    }
    Ok(())
}

/// Stops it, and waits until it has ended: the step that it is at counts.
async fn stop(client: &Client, id: u64) -> Result<(), Failure> {
    let run = client.delete(&format!("{RUNS}/{id}")).await?;
    let had_ended = run["ended_at"].is_string();
    let run = watch(client, run).await?;
    if client.json {
        print_json(&run);
    } else if had_ended {
        print(&format!("run {id} had ended already: {}", result(action(&run), &run)));
    } else {
        print(&format!("run {id} has ended: {}", result(action(&run), &run)));
    }
    Ok(())
}

fn action(run: &Value) -> Action {
    if run["action"] == "discard" { Action::Discard } else { Action::Retry }
}

fn number(run: &Value, member: &str) -> String {
    grouped(run[member].as_u64().unwrap_or_default())
}

/// Which letters it is over.
fn filter(run: &Value) -> String {
    let given = run["filter"].as_object().into_iter().flatten();
    let words: Vec<String> = given
        .map(|(name, value)| format!("{} {}", safe(name, 20), safe(value.as_str().unwrap_or_default(), 100)))
        .collect();
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

fn list(page: &Value) -> String {
    let runs = page["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        return "no run since the server was started".to_owned();
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                number(run, "id"),
                text(run, "started_at"),
                text(run, "action"),
                text(run, "state"),
                number(run, "done"),
                number(run, "failed"),
                number(run, "total"),
                filter(run),
            ]
        })
        .collect();
    table(&["RUN", "BEGAN", "ACTION", "STATE", "DONE", "FAILED", "OF", "LETTERS"], &rows)
}

fn in_words(run: &Value) -> String {
    let mut lines = vec![
        format!("Run {}: {}, {}", number(run, "id"), text(run, "action"), text(run, "state")),
        format!("Began:    {}", text(run, "started_at")),
        format!("Letters:  {}", filter(run)),
        format!(
            "Done:     {} of {}, {} failed",
            number(run, "done"),
            number(run, "total"),
            number(run, "failed")
        ),
    ];
    if run["ended_at"].is_string() {
        lines.insert(2, format!("Ended:    {}", text(run, "ended_at")));
    }
    if let Some(message) = run["message"].as_str() {
        lines.push(format!("Stopped:  {}", safe(message, 300)));
    }
    lines.join("\n") + &failures(run)
}
