//! A mailbox for each webhook: notices in their order, with a few attempts each.

use std::net::SocketAddr;
use std::time::Duration;

use outlast::health::Level;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::decide::Notice;
use crate::config::Webhook;
use crate::outgoing::post_json;

/// How long a webhook may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses between the attempts at one notice. Afterwards it is given up: an alert that lasts comes again.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(15)];
/// Notices that wait for a webhook. More are given up.
const WAITING_MAX: usize = 64;

/// Who tells: stands in every notice.
pub(super) struct Sender {
    host: String,
    listen: SocketAddr,
    queue: String,
}

impl Sender {
    pub(super) fn of(queue: &str, listen: SocketAddr) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, listen, queue: queue.to_owned() }
    }

    /// What is posted. `text` is what chat programs show.
    pub(super) fn body(&self, notice: &Notice) -> String {
        let severity = if notice.level == Level::Critical { "critical" } else { "warning" };
        let (event, alert) = (notice.event.as_str(), notice.kind.as_str());
        json!({
            "alert": alert,
            "event": event,
            "severity": severity,
            "summary": notice.summary,
            "since": notice.since,
            "at": notice.at,
            "host": self.host,
            "listen": self.listen.to_string(),
            "queue": self.queue,
            "version": env!("CARGO_PKG_VERSION"),
            "text": format!("Outlast on {}: {event}: {severity}: {}", self.host, notice.summary),
        })
        .to_string()
    }
}

/// The present time (RFC 3339, UTC).
pub(super) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Where notices wait until their webhook has taken them.
pub(super) struct Mailbox {
    webhook: Webhook,
    waiting: mpsc::Sender<String>,
    task: AbortHandle,
}

impl Mailbox {
    /// Posts what is put in, in order, until it is dropped.
    pub(super) fn open(webhook: Webhook) -> Self {
        let (waiting, notices) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(deliver(webhook.clone(), notices)).abort_handle();
        Self { webhook, waiting, task }
    }

    /// Never waits.
    pub(super) fn put(&self, body: &str) {
        if self.waiting.try_send(body.to_owned()).is_err() {
            tracing::warn!(webhook = %self.webhook, "an alert is given up: {WAITING_MAX} others wait for this webhook");
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn deliver(webhook: Webhook, mut notices: mpsc::Receiver<String>) {
    while let Some(body) = notices.recv().await {
        let mut pauses = PAUSES.iter();
        while let Err(error) = attempt(&webhook, &body).await {
            let Some(pause) = pauses.next() else {
                tracing::warn!(%webhook, error, "an alert is given up: the webhook did not take it");
                break;
            };
            tracing::debug!(%webhook, error, "an alert was not taken; it is tried again");
            tokio::time::sleep(*pause).await;
        }
    }
}

async fn attempt(webhook: &Webhook, body: &str) -> Result<(), String> {
    let status = post_json(webhook.expose(), body.to_owned(), LIMIT).await?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}
