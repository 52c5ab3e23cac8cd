//! `outlast dead retry` and `discard` for all dead letters that match, and `export`.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Exit;
use super::arguments::{Hidden, Matching, Which};
use super::client::Client;
use super::dead::confirm;
use super::output::{Failure, dead_letters, grouped, json_out, print, print_json, print_json_part, safe};

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Failures that are printed; `--json` has all that the server lists.
const FAILURES_SHOWN: usize = 10;

/// What is done to each letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Retry,
    Discard,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Retry => "queued again",
            Self::Discard => "discarded",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Retry => "They go over what later writes did to their records.",
            Self::Discard => "They are then given up for good.",
        }
    }
}

impl Matching {
    fn given(&self) -> impl Iterator<Item = (&'static str, String)> {
        [("kind", &self.kind), ("message", &self.message), ("collection", &self.collection)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
    }

    /// As parameters of a query.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        self.given().collect()
    }

    /// As the member of a body.
    fn filter(&self) -> Value {
        Value::Object(self.given().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
    }
}

/// Plans, asks, begins, and waits for the end. The run goes on if this command is interrupted.
pub(super) async fn run(client: &Client, action: Action, which: &Which) -> Result<(), Failure> {
    let path = format!("/v1/dead-letters/{}", action.verb());
    let filter = which.matching.filter();
    let plan = client.post(&path, Some(json!({ "filter": filter, "plan": true }))).await?;
    let count = plan["count"].as_u64().unwrap_or_default();
    if count > 0 && !which.yes {
        confirm(&format!("{} {}", action.verb(), dead_letters(count)), action.consequence())?;
    }
    let begun = client.post(&path, Some(json!({ "filter": filter, "token": plan["token"] }))).await?;
    let run = watch(client, begun).await?;
    if client.json {
        print_json(&run);
    } else {
        print(&result(action, &run));
    }
    let all_done = run["state"] == "done" && run["failed"] == 0;
    if all_done { Ok(()) } else { Err(Failure::failed("not all of them: see above")) }
}

/// Waits until it has ended.
pub(super) async fn watch(client: &Client, mut run: Value) -> Result<Value, Failure> {
    let path = format!("/v1/dead-letters/runs/{}", run["id"]);
    let bar = bar(client, run["total"].as_u64().unwrap_or_default());
    while run["state"] == "running" || run["state"] == "waiting" {
        bar.set_message(if run["state"] == "waiting" { "waits for the database" } else { "" });
        bar.set_position(decided(&run));
        tokio::time::sleep(ASK_EVERY).await;
        run = match client.get(&path, &[]).await {
            // After a restart the server counts its runs anew.
            Ok(now) if now["started_at"] == run["started_at"] => now,
            Ok(_) => {
                return Err(ended_unseen(&run, Exit::Failed, "the server was restarted, which ends a run"));
            }
            Err(failure) => return Err(ended_unseen(&run, failure.exit, &failure.message)),
        };
    }
    bar.finish_and_clear();
    Ok(run)
}

/// What can still be said of a run whose end was not seen.
fn ended_unseen(run: &Value, exit: Exit, why: &str) -> Failure {
    let words = format!(
        "{why}\nhow run {id} ended was not seen: {} of {} were done when it was last asked, and a server that runs on goes on with it (`outlast dead runs show {id}`, `stop {id}`). What is done stays done; `outlast dead groups` shows what is left, and the same command goes on with that",
        grouped(decided(run)),
        grouped(run["total"].as_u64().unwrap_or_default()),
        id = run["id"],
    );
    Failure::new(exit, words)
}

/// On standard error, and only where a person looks.
fn bar(client: &Client, total: u64) -> ProgressBar {
    if client.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left {msg}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn decided(run: &Value) -> u64 {
    run["done"].as_u64().unwrap_or_default() + run["failed"].as_u64().unwrap_or_default()
}

/// How many, why no more, and what failed.
pub(super) fn result(action: Action, run: &Value) -> String {
    let number = |name: &str| grouped(run[name].as_u64().unwrap_or_default());
    let mut text = format!("{} of {} {}", number("done"), number("total"), action.done());
    if let Some(message) = run["message"].as_str() {
        text = format!("{text}; {}", safe(message, 200));
    }
    text + &failures(run)
}

/// What failed, each on a line of its own behind what was said before.
pub(super) fn failures(run: &Value) -> String {
    let mut text = String::new();
    let failures = run["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    for failure in failures.iter().take(FAILURES_SHOWN) {
        let part = |name: &str| safe(failure[name].as_str().unwrap_or_default(), 200);
        text = format!("{text}\n{}: {}", part("id"), part("detail"));
    }
    let failed = run["failed"].as_u64().unwrap_or_default();
    if failed > FAILURES_SHOWN as u64 {
        text = format!("{text}\n{} failed in all: --json lists them", grouped(failed));
    }
    text
}

/// Prints all that match, as they come. Letters with hidden values say so: `"redacted":true`.
pub(super) async fn export(client: &Client, matching: &Matching, hidden: Hidden) -> Result<(), Failure> {
    let mut query = matching.query();
    query.extend(hidden.query());
    let mut out = json_out();
    client.stream("/v1/dead-letters/export", &query, |piece| print_json_part(&mut out, piece)).await
}
