//! `outlast status`: first the answers to the questions that are asked in an incident.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use outlast::health::{ConnectionState, Level};
use outlast::outage::Outage;
use outlast::status::{EncryptionStatus, LaneState, Losses, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Exit;
use super::client::Client;
use super::output::{
    Failure, dead_letters, grouped, print, print_json, print_json_text, print_line, safe, size, span,
};
use crate::config::units;

#[derive(Deserialize)]
struct Outages {
    outages: Vec<Outage>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Look again and again, until interrupted: redrawn on a terminal, a line per look elsewhere
    #[arg(long)]
    watch: bool,
    /// Pause between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = units::parse_duration)]
    interval: Duration,
}

/// How things stand at one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) status: Status,
    /// Newest first.
    pub(super) outages: Vec<Outage>,
    pub(super) raw: Value,
}

impl Picture {
    pub(super) async fn take(client: &Client) -> Result<Self, Failure> {
        let raw = client.get("/v1/queue", &[]).await?;
        let raw_outages = client.get("/v1/outages", &[]).await?;
        let not_ours = |error: serde_json::Error| {
            Failure::failed(format!("the server's answer is not understood: {error}"))
        };
        let status = serde_json::from_value(raw.clone()).map_err(not_ours)?;
        let Outages { outages } = serde_json::from_value(raw_outages).map_err(not_ours)?;
        Ok(Self { status, outages, raw })
    }
}

/// Prints how things stand. Ends with 1 when no writes are accepted.
pub(super) async fn run(client: &Client, arguments: &StatusArguments) -> Result<(), Failure> {
    if arguments.watch {
        return watch(client, arguments.interval).await;
    }
    let picture = Picture::take(client).await?;
    if client.json {
        print_json(&picture.raw);
    } else {
        print(&in_words(&picture));
    }
    if picture.status.accepting { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

/// Until it is interrupted, or nobody reads any more. A server that is away is part of the picture.
async fn watch(client: &Client, interval: Duration) -> Result<(), Failure> {
    let screen = !client.json && std::io::stdout().is_terminal();
    loop {
        let now = format!("{:.3}", jiff::Timestamp::now());
        let shown = match Picture::take(client).await {
            Ok(picture) if client.json => picture.raw.to_string(),
            Ok(picture) if screen => format!("{}, {now}\n\n{}", client.base(), in_words(&picture)),
            Ok(picture) => format!("{now} {}", in_a_line(&picture)),
            Err(failure) if failure.exit != Exit::Unreachable => return Err(failure),
            Err(failure) if client.json => json!({ "unreachable": failure.message }).to_string(),
            Err(failure) => format!("{now} {}", failure.message),
        };
        let written = if screen {
            redraw(&shown)
        } else if client.json {
            print_json_text(&shown)
        } else {
            print_line(&shown)
        };
        if !written {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
    }
}

/// Over what stood there, line by line, so that nothing flickers.
fn redraw(text: &str) -> bool {
    let mut frame = String::from("\x1b[H");
    for line in text.lines() {
        let _ = write!(frame, "{line}\x1b[K\r\n");
    }
    frame.push_str("\x1b[J");
    let mut out = std::io::stdout().lock();
    out.write_all(frame.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn in_a_line(picture: &Picture) -> String {
    let status = &picture.status;
    let accepting = if status.accepting { "accepting writes" } else { "NOT accepting writes" };
    format!(
        "{accepting}; lost: {}; database {}; delivery {}; {} wait, {}; clear: {}",
        lost_words(&status.losses, status.accounting_holds),
        status.database.name(),
        safe(&lane(&status.lane), 60),
        grouped(status.queue.writes),
        size(status.queue.bytes),
        clear(status)
    )
}

fn in_words(picture: &Picture) -> String {
    let status = &picture.status;
    let mut text = String::new();
    let _ = writeln!(text, "Accepting writes: {}", accepting(status));
    let _ = writeln!(text, "Lost writes:      {}", lost_words(&status.losses, status.accounting_holds));
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
    if let Some(configured) = queue.lanes_configured {
        let _ = writeln!(
            text,
            "Lanes:     {} in use; {configured} are configured, and come into use when nothing waits",
            queue.lanes
        );
    }
    if let Some(encryption) = &queue.encryption {
        let _ = writeln!(text, "Keys:      {}", keys(encryption));
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

/// Which keys must be kept.
fn keys(encryption: &EncryptionStatus) -> String {
    let current = match &encryption.current {
        Some(key) => format!("{} encrypts new segments", safe(key, 40)),
        None => "new segments are written in clear".to_owned(),
    };
    let needed =
        encryption.keys.iter().map(|key| format!("{} by {}", safe(&key.id, 40), grouped(key.segments)));
    let needed: Vec<String> = needed.collect();
    let needed = if needed.is_empty() { "by no segment".to_owned() } else { needed.join(", ") };
    format!("{current}; needed: {needed}; {} segments in clear", grouped(encryption.segments_in_clear))
}

/// Are we accepting writes?
pub(super) fn accepting(status: &Status) -> String {
    match (status.accepting, &status.database, &status.lane) {
        (false, ..) => "NO".to_owned(),
        (true, ConnectionState::Connected { .. }, LaneState::Running) if has_backlog(status) => {
            "yes, into the queue behind the backlog, which is being applied".to_owned()
        }
        (true, ConnectionState::Connected { .. }, LaneState::Running) => {
            "yes, and applied at once".to_owned()
        }
        (true, ConnectionState::Connected { .. }, _) => {
            "yes, into the queue: nothing is applied (see Delivery)".to_owned()
        }
        (true, ..) => "yes, into the queue until the database is back".to_owned(),
    }
}

/// Whether a write that comes now has to wait for those before it.
fn has_backlog(status: &Status) -> bool {
    status.accounting.pending > 0
        && (status.outage.is_some() || status.queue.drain_eta_seconds.is_some_and(|seconds| seconds >= 2))
}

/// Is anything lost?
pub(super) fn lost_words(losses: &Losses, accounting_holds: bool) -> String {
    match (losses.writes, accounting_holds) {
        (0, true) => "none".to_owned(),
        (0, false) => "UNKNOWN: the accounting identity does not hold".to_owned(),
        (lost, _) => {
            let found = losses.last_at.as_deref().unwrap_or("an unknown time");
            format!("{}, found last at {} (see the server's log lines)", grouped(lost), safe(found, 40))
        }
    }
}

/// When are we clear?
pub(super) fn clear(status: &Status) -> String {
    let queue = &status.queue;
    match (queue.writes, queue.drain_eta_seconds) {
        (0, _) => "now: nothing waits".to_owned(),
        (_, Some(0)) => "within a second".to_owned(),
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

/// What delivery is doing.
pub(super) fn lane(state: &LaneState) -> String {
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
