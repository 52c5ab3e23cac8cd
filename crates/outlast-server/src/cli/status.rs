//! `outlast status`: first the answers to the questions that are asked in an incident.

use std::fmt::Write as _;

use outlast::health::{ConnectionState, Level};
use outlast::outage::Outage;
use outlast::status::{LaneState, Status};
use serde::Deserialize;
use serde_json::json;

use super::Exit;
use super::client::Client;
use super::output::{Failure, dead_letters, grouped, print, print_json, safe, size, span};

#[derive(Deserialize)]
struct Outages {
    outages: Vec<Outage>,
}

/// Prints how things stand. Ends with 1 when no writes are accepted.
pub(super) async fn run(client: Client) -> Result<(), Failure> {
    let raw = client.get("/v1/queue", &[]).await?;
    let raw_outages = client.get("/v1/outages", &[]).await?;
    let not_ours =
        |error: serde_json::Error| Failure::failed(format!("the server's answer is not understood: {error}"));
    let status: Status = serde_json::from_value(raw.clone()).map_err(not_ours)?;
    let Outages { outages } = serde_json::from_value(raw_outages).map_err(not_ours)?;
    if client.json {
        let mut body = raw;
        body["lost_writes"] = json!(lost(&outages));
        print_json(&body);
    } else {
        print(&in_words(&status, &outages));
    }
    if status.accepting { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

fn lost(outages: &[Outage]) -> u64 {
    outages.iter().map(|outage| outage.lost).sum()
}

fn in_words(status: &Status, outages: &[Outage]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Accepting writes: {}", accepting(status));
    let _ = writeln!(text, "Lost writes:      {}", lost_words(status, outages));
    let _ = writeln!(text, "Queue clear:      {}", clear(status));
    text.push('\n');
    let _ =
        writeln!(text, "Database:  {} ({})", database(&status.database), safe(&status.database_name, 100));
    let _ = writeln!(text, "Delivery:  {}", lane(&status.lane));
    let queue = &status.queue;
    let _ = writeln!(
        text,
        "Waiting:   {} of {} writes, {} of {}{}",
        grouped(queue.writes),
        grouped(queue.writes_max),
        size(queue.bytes),
        size(queue.bytes_max),
        if queue.writes > 0 {
            format!(", the oldest for {}", span(queue.oldest_age_seconds))
        } else {
            String::new()
        }
    );
    if let Some(seconds) = queue.time_to_full_seconds {
        let _ = writeln!(text, "Full in:   about {}", span(seconds as f64));
    }
    let accounting = &status.accounting;
    let _ = writeln!(
        text,
        "Accounts:  {} accepted = {} applied + {} pending + {} parked + {} dead + {} discarded",
        grouped(accounting.accepted),
        grouped(accounting.applied),
        grouped(accounting.pending),
        grouped(accounting.parked),
        grouped(accounting.dead),
        grouped(accounting.discarded)
    );
    for component in status.components.iter().filter(|component| component.level != Level::Healthy) {
        let level = if component.level == Level::Critical { "critical" } else { "warning" };
        let _ = writeln!(text, "{level}: {}: {}", safe(&component.name, 40), safe(&component.message, 300));
    }
    if accounting.dead > 0 {
        let _ = writeln!(text, "See `outlast dead list` for the {}.", dead_letters(accounting.dead));
    }
    text
}

fn accepting(status: &Status) -> String {
    match (status.accepting, &status.database, &status.lane) {
        (false, ..) => "NO".to_owned(),
        (true, ConnectionState::Connected { .. }, LaneState::Running) => {
            "yes, and applied at once".to_owned()
        }
        (true, ConnectionState::Connected { .. }, _) => {
            "yes, into the queue: nothing is applied (see Delivery)".to_owned()
        }
        (true, ..) => "yes, into the queue until the database is back".to_owned(),
    }
}

fn lost_words(status: &Status, outages: &[Outage]) -> String {
    match (lost(outages), status.accounting_holds) {
        (0, true) => "none".to_owned(),
        (0, false) => "UNKNOWN: the accounting identity does not hold".to_owned(),
        (lost, _) => format!("{} (see /v1/outages and the server's log lines)", grouped(lost)),
    }
}

fn clear(status: &Status) -> String {
    let queue = &status.queue;
    match (queue.writes, queue.drain_eta_seconds) {
        (0, _) => "now: nothing waits".to_owned(),
        (_, Some(seconds)) => format!("in about {}", span(seconds as f64)),
        (_, None) => "nobody can tell yet".to_owned(),
    }
}

fn database(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Failed { since, reason } => {
            format!("failed since {}: {}", safe(since, 40), safe(reason, 200))
        }
        ConnectionState::Connected { since } => format!("connected since {}", safe(since, 40)),
        ConnectionState::Connecting { since } => format!("connecting since {}", safe(since, 40)),
        ConnectionState::Disconnected => "not connected yet".to_owned(),
    }
}

fn lane(state: &LaneState) -> String {
    match state {
        LaneState::Running => "running".to_owned(),
        LaneState::Paused { until: None } => "paused; `outlast resume` goes on".to_owned(),
        LaneState::Paused { until: Some(until) } => {
            format!("paused until {}; `outlast resume` goes on", safe(until, 40))
        }
        LaneState::Storm { refusals, .. } => {
            format!(
                "held back: {refusals} refusals in a row; something is wrong with the database, not with the writes"
            )
        }
        LaneState::Halted { message, .. } => format!("HALTED: {}", safe(message, 400)),
    }
}
