//! `outlast tail`: what happens, as it happens.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use super::Exit;
use super::client::Client;
use super::output::{Failure, grouped, print_json_text, print_line, safe};

/// The server sends something at least every 15 s: after so much silence the connection is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// An event is small; what does not end is none.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Why a stream is no longer read.
enum End {
    /// The connection was lost, or the server stopped.
    Lost,
    /// Nobody reads what is printed.
    Unread,
}

/// Follows the events until it is interrupted, through restarts of the server.
pub(super) async fn run(client: &Client) -> Result<(), Failure> {
    // The first time a server that is not there is more likely a wrong address.
    let mut stream = client.follow("/v1/events").await?;
    loop {
        eprintln!("outlast: listening to {}", client.base());
        if let End::Unread = read(client, &mut stream).await? {
            return Ok(());
        }
        eprintln!("outlast: the connection to {} was lost; trying again", client.base());
        stream = again(client).await?;
    }
}

/// Connects again, however long that takes. What happened meanwhile is not told: events are not kept.
async fn again(client: &Client) -> Result<Response, Failure> {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        match client.follow("/v1/events").await {
            Err(failure) if failure.exit == Exit::Unreachable => pause = (pause * 2).min(PAUSE_MAX),
            other => return other,
        }
    }
}

async fn read(client: &Client, stream: &mut Response) -> Result<End, Failure> {
    let mut frames = Frames::default();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE, stream.chunk()).await {
        for data in frames.take(&chunk)? {
            let printed = if client.json { print_json_text(&data) } else { print_line(&in_words(&data)) };
            if !printed {
                return Ok(End::Unread);
            }
        }
    }
    Ok(End::Lost)
}

/// Takes server-sent events out of chunks of bytes.
#[derive(Default)]
pub(super) struct Frames {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data of the event that has not ended yet.
    data: String,
}

impl Frames {
    /// The events that end in this chunk.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        for byte in chunk {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                    return Err(Failure::failed("the server sends an event that does not end"));
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let line = line.trim_end_matches('\r');
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                events.push(std::mem::take(&mut self.data));
            }
        }
        Ok(events)
    }
}

/// An event as a line for people.
pub(super) fn in_words(data: &str) -> String {
    let Ok(event) = serde_json::from_str::<Value>(data) else { return safe(data, 400) };
    let part = |name: &str| match &event[name] {
        Value::String(text) => safe(text, 300),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let words = match event["event"].as_str().unwrap_or_default() {
        "database_state" => format!("database: {} -> {}: {}", part("from"), part("to"), part("reason")),
        "outage_started" => format!("outage {} began: {}", part("outage"), part("reason")),
        "outage_ended" => format!("outage {} ended: nothing waits any more", part("outage")),
        "lane_state" => format!("delivery: {}", part("message")),
        "healing" => format!("healing: the database went back from {} to {}", part("to"), part("from")),
        "dead_letter" => format!("dead letter {}: {}", part("id"), part("reason")),
        "dead_letter_run" => progress(&event["run"]),
        "missed" => format!("{} events were not told: they came too fast", part("events")),
        _ => safe(data, 400),
    };
    format!("{} {words}", part("at")).trim_start().to_owned()
}

/// How far a run over dead letters is.
fn progress(run: &Value) -> String {
    let number = |name: &str| grouped(run[name].as_u64().unwrap_or_default());
    let part = |name: &str| safe(run[name].as_str().unwrap_or_default(), 200);
    let failed = match run["failed"].as_u64() {
        Some(count @ 1..) => format!(", {} failed", grouped(count)),
        _ => String::new(),
    };
    format!(
        "run {} ({} dead letters): {}, {} of {} done{failed}",
        number("id"),
        part("action"),
        part("state"),
        number("done"),
        number("total")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text = ": listening\n\nevent: a\ndata: {\"event\":\"a\"}\n\n:\n\nevent: b\r\ndata: {\"b\":\"ü\"}\r\n\r\n";
        for size in 1..text.len() {
            let mut frames = Frames::default();
            let events: Vec<String> =
                text.as_bytes().chunks(size).flat_map(|chunk| frames.take(chunk).unwrap()).collect();
            assert_eq!(events, ["{\"event\":\"a\"}", "{\"b\":\"ü\"}"], "in chunks of {size}");
        }
    }

    #[test]
    fn an_event_that_does_not_end_is_refused() {
        let mut frames = Frames::default();
        assert!(frames.take(&vec![b'x'; EVENT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn an_event_of_another_version_is_shown_as_it_is() {
        let data = r#"{"at":"2026-11-29T00:00:00Z","event":"new","x":1}"#;
        assert_eq!(in_words(data), format!("2026-11-29T00:00:00Z {data}"));
        assert_eq!(in_words("\u{1b}[31m"), " [31m");
    }
}
