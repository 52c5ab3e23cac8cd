//! Alerts that the server tells by itself: a pure decision about what to tell, and a thin loop that posts it.
//!
//! Nothing here touches the queue: it looks at the status that everybody can see, and a webhook that does not answer
//! holds up only what else is to be told there.

mod decide;
mod post;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outlast::Outlast;
use tokio::task::JoinHandle;

use crate::config::AlertsConfig;
use decide::{Event, Watch, conditions};
use post::Mailbox;

/// How often the status is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// An alert is over when it has not been seen for so long: what comes and goes is told once.
const CALM: Duration = Duration::from_secs(10);

/// Watches and tells until the task is aborted. `None` when nobody is to be told.
pub(crate) fn start(outlast: Outlast, config: &AlertsConfig, listen: SocketAddr) -> Option<JoinHandle<()>> {
    if config.webhooks.is_empty() || config.on.is_empty() {
        return None;
    }
    let mailboxes: Vec<Mailbox> = config.webhooks.iter().cloned().map(Mailbox::open).collect();
    let mut watch = Watch::new(config.on.clone(), config.repeat, CALM);
    Some(tokio::spawn(async move {
        let sender = post::Sender::of(&outlast.status().queue.id, listen);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let seen = conditions(&outlast.status());
            for notice in watch.step(Instant::now(), &post::now(), &seen) {
                // What lasts has its line already.
                if notice.event != Event::Repeat {
                    let (alert, state) = (notice.kind.as_str(), notice.event.as_str());
                    tracing::info!(event = "alert", alert, state, "{}", notice.summary);
                }
                let body = sender.body(&notice);
                for mailbox in &mailboxes {
                    mailbox.put(&body);
                }
            }
        }
    }))
}
