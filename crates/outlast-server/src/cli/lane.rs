//! `outlast pause` and `outlast resume`, also as `outlast queue pause` and `resume`.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Exit;
use super::client::Client;
use super::output::{Failure, print, print_json, safe};
use crate::config::units;

#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    /// Go on by itself after this time, for example 10m
    #[arg(long = "for", value_name = "DURATION")]
    at_most: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// After a halt: apply again what the log still has, or only what was never applied
    #[arg(long, value_enum)]
    decision: Option<DecisionWord>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DecisionWord {
    Replay,
    Skip,
}

/// Queues everything from now on.
pub(super) async fn pause(client: &Client, arguments: &PauseArguments) -> Result<(), Failure> {
    let at_most = arguments.at_most.as_deref();
    if let Some(text) = at_most {
        units::parse_duration(text).map_err(|why| Failure::new(Exit::Usage, format!("--for: {why}")))?;
    }
    let status = client.post("/v1/queue/pause", at_most.map(|text| json!({ "for": text }))).await?;
    let until = status.pointer("/lane/until").and_then(Value::as_str);
    let words = match until {
        Some(until) => format!("paused until {}: writes are queued", safe(until, 40)),
        None => "paused: writes are queued until `outlast resume`".to_owned(),
    };
    tell(client, &status, &words);
    Ok(())
}

/// Goes on.
pub(super) async fn resume(client: &Client, arguments: &ResumeArguments) -> Result<(), Failure> {
    let word = arguments.decision.map(|decision| match decision {
        DecisionWord::Replay => "replay",
        DecisionWord::Skip => "skip",
    });
    let status = client.post("/v1/queue/resume", word.map(|word| json!({ "decision": word }))).await?;
    tell(client, &status, "resumed");
    Ok(())
}

fn tell(client: &Client, status: &Value, words: &str) {
    if client.json {
        print_json(status);
    } else {
        print(words);
    }
}
