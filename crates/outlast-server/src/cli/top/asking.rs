//! What is asked of the server, and what it tells by itself.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::super::client::Client;
use super::super::output::Failure;
use super::super::status::Picture;
use super::super::tail::{self, Frames, SILENCE};
use super::state::{Entry, History, Letters, View};

/// A server that takes longer for an answer is as good as away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the stream of events is asked for again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Rows of a list.
const ROWS_MAX: &str = "200";
/// Grouping dead letters costs the server something: it is asked when their number has changed, and now and then.
const DEAD_AGAIN: Duration = Duration::from_secs(10);

/// Something from the server.
#[derive(Debug)]
pub(super) enum News {
    /// How things stand, with the outages.
    Picture(Box<Picture>),
    /// Newer samples.
    History(History),
    /// The first writes that wait.
    Queue(Vec<Entry>),
    /// The groups of dead letters, and the first of them.
    Dead(Box<Letters>),
    /// An event, in words.
    Event(String),
    /// It did not answer: why.
    Silent(String),
}

/// What is known already, and need not be asked for again.
#[derive(Default)]
struct Asked {
    /// The time of the last sample, in Unix milliseconds.
    sample: Option<i64>,
    /// How many dead letters there were when they were asked for, for which view, and when that was.
    dead: Option<(u64, View, Instant)>,
}

/// Asks again and again, and at once when another view is looked at. Ends when nobody hears it.
pub(super) async fn keep(
    client: &Client,
    interval: Duration,
    mut view: watch::Receiver<View>,
    tell: mpsc::Sender<News>,
) {
    let mut asked = Asked::default();
    loop {
        let looked_at = *view.borrow_and_update();
        let answers = timeout(PATIENCE, ask(client, looked_at, &mut asked, &tell)).await;
        let heard = match answers {
            Ok(Ok(heard)) => heard,
            Ok(Err(failure)) => tell.send(News::Silent(failure.message)).await.is_ok(),
            Err(_) => {
                let silent = format!("the server at {} did not answer within 5 s", client.base());
                tell.send(News::Silent(silent)).await.is_ok()
            }
        };
        if !heard {
            return;
        }
        tokio::select! {
            () = sleep(interval) => {}
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// One look; false when nobody hears it.
async fn ask(
    client: &Client,
    view: View,
    asked: &mut Asked,
    tell: &mpsc::Sender<News>,
) -> Result<bool, Failure> {
    let picture = Picture::take(client).await?;
    let dead = picture.status.accounting.dead;
    let mut news = vec![News::Picture(Box::new(picture))];
    let after = asked.sample.map(|at| ("after", at.to_string()));
    let history: History = parsed(client, "/v1/history", after.as_slice()).await?;
    asked.sample = history.last_at().or(asked.sample);
    news.push(News::History(history));
    if view == View::Queue {
        let page: Page = parsed(client, "/v1/queue/writes", &[("limit", ROWS_MAX.to_owned())]).await?;
        news.push(News::Queue(page.writes));
    }
    let known = |(count, for_view, at): (u64, View, Instant)| {
        count == dead && for_view == view && at.elapsed() < DEAD_AGAIN
    };
    if !asked.dead.is_some_and(known) {
        let limit = if view == View::Dead { ROWS_MAX } else { "1" };
        let letters = parsed(client, "/v1/dead-letters", &[("limit", limit.to_owned())]).await?;
        asked.dead = Some((dead, view, Instant::now()));
        news.push(News::Dead(Box::new(letters)));
    }
    for news in news {
        if tell.send(news).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[derive(Deserialize)]
struct Page {
    writes: Vec<Entry>,
}

async fn parsed<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
) -> Result<T, Failure> {
    serde_json::from_value(client.get(path, query).await?)
        .map_err(|error| Failure::failed(format!("the server's answer is not understood: {error}")))
}

/// Tells events as they come, through restarts of the server. Ends when nobody hears it.
pub(super) async fn listen(client: &Client, tell: mpsc::Sender<News>) {
    while !tell.is_closed() {
        // Why there is no stream, `keep` finds out by itself, and tells it.
        if let Ok(mut stream) = client.follow("/v1/events").await {
            let mut frames = Frames::default();
            while let Ok(Ok(Some(chunk))) = timeout(SILENCE, stream.chunk()).await {
                let Ok(events) = frames.take(&chunk) else { break };
                for event in events {
                    if tell.send(News::Event(tail::in_words(&event))).await.is_err() {
                        return;
                    }
                }
            }
        }
        sleep(LISTEN_AGAIN).await;
    }
}
