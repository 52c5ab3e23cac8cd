//! `outlast pause` and `outlast resume`, also as `outlast queue pause` and `resume`.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Exit;
use super::ask::confirm;
use super::client::Client;
use super::output::{Failure, grouped, print, print_json, safe};
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
    /// Do not ask about the decision; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DecisionWord {
    Replay,
    Skip,
}

impl DecisionWord {
    fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Skip => "skip",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Replay => "apply again everything that the log still has after the database's position",
            Self::Skip => "apply only what was never applied, whatever else the database lacks",
        }
    }
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

/// Goes on. Only a decision is asked about: it cannot be taken back.
pub(super) async fn resume(client: &Client, arguments: &ResumeArguments) -> Result<(), Failure> {
    let decision = match arguments.decision {
        Some(decision) if !arguments.yes => asked(client, decision).await?,
        given => given,
    };
    let body = decision.map(|decision| json!({ "decision": decision.as_str() }));
    let status = client.post("/v1/queue/resume", body).await?;
    tell(client, &status, "resumed");
    Ok(())
}

/// The decision, when somebody who has seen what it is about says yes; none where the server takes none, and says why.
async fn asked(client: &Client, decision: DecisionWord) -> Result<Option<DecisionWord>, Failure> {
    let status = client.get("/v1/queue", &[]).await?;
    let part = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if part("/lane/halt") == "fenced" {
        return Ok(None);
    }
    let state = match part("/lane/message") {
        "" => format!(
            "Delivery is not halted but {}: there is nothing to decide.",
            safe(part("/lane/state"), 20)
        ),
        message => format!("Delivery is halted: {}.", safe(message, 600)),
    };
    let waiting = match status.pointer("/queue/writes").and_then(Value::as_u64).unwrap_or_default() {
        1 => "1 write waits".to_owned(),
        count => format!("{} writes wait", grouped(count)),
    };
    let consequence = decision.consequence();
    confirm(&format!("{consequence}, which cannot be undone.\n{state}\n{waiting}."), false)?;
    Ok(Some(decision))
}

fn tell(client: &Client, status: &Value, words: &str) {
    if client.json {
        print_json(status);
    } else {
        print(words);
    }
}
