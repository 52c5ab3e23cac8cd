//! The clients of a drill. Each writes one after the other, so that it knows what the database must hold in the end.
//!
//! Three kinds of writes take turns:
//!
//! - a *link* of the client's chain: one write that patches the link before it and creates the next. It is refused when the
//!   one before it is missing, and when it is there already: loss, reversal and doubling all show. It has no idempotency
//!   key, which would hide a doubling. When no answer comes, nobody knows whether it was taken, and a new chain begins;
//! - a *put* to the client's own record: the last one counts;
//! - a *single*: a record that is created once.
//!
//! The latter two have a key, and are sent again under it until they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::server::Address;
use crate::cli::output::{Failure, safe};

/// A client's longest pause between two writes, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;
/// Pause before a write is sent again.
const AGAIN: Duration = Duration::from_millis(20);
/// A write that is not acknowledged in this time fails the drill.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a client was told of one chain.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    /// Links that were acknowledged: 0 up to this number.
    pub(super) links: u64,
    /// Of the next one nobody knows whether it was taken.
    pub(super) unsure: bool,
}

/// What one client was told.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    pub(super) client: u16,
    /// Its chains; the last one may go on.
    pub(super) chains: Vec<Chain>,
    /// Puts that were acknowledged; the last one wrote this number.
    pub(super) puts: u64,
    /// Records that were created once.
    pub(super) singles: u64,
    /// Writes of which it was told *applied*.
    pub(super) applied: u64,
    /// Writes of which it was told *queued*.
    pub(super) queued: u64,
    /// Writes that were sent again under their keys, because no answer came.
    pub(super) sent_again: u64,
    /// Refusals: the code of each. None of these writes may be refused.
    pub(super) refused: Vec<String>,
}

/// Clients at work. They end when this is dropped.
pub(super) struct Load {
    clients: JoinSet<Result<Story, Failure>>,
    stop: Arc<AtomicBool>,
    told: Arc<Counts>,
}

/// Writes of all clients so far.
#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    queued: AtomicU64,
}

impl Load {
    pub(super) fn start(clients: u16, collection: &str, address: &Address, http: &reqwest::Client) -> Self {
        let mut load = Self { clients: JoinSet::new(), stop: Arc::default(), told: Arc::default() };
        for client in 0..clients {
            let client = Client {
                collection: collection.to_owned(),
                address: address.clone(),
                http: http.clone(),
                told: Arc::clone(&load.told),
                story: Story { client, ..Story::default() },
            };
            load.clients.spawn(client.run(Arc::clone(&load.stop)));
        }
        load
    }

    /// Writes that were acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.told.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes that were told *queued* so far.
    pub(super) fn queued(&self) -> u64 {
        self.told.queued.load(Ordering::Relaxed)
    }

    /// Lets every client finish its write, and collects what they were told.
    pub(super) async fn stop(mut self) -> Result<Vec<Story>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut stories = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            let story =
                ended.map_err(|error| Failure::failed(format!("a client of the drill failed: {error}")))?;
            stories.push(story?);
        }
        Ok(stories)
    }
}

struct Client {
    collection: String,
    address: Address,
    http: reqwest::Client,
    told: Arc<Counts>,
    story: Story,
}

/// The name of a link.
pub(super) fn link(client: u16, chain: usize, number: u64) -> String {
    format!("link-{client}-{chain}-{number}")
}

/// The name of the record that a client puts again and again.
pub(super) fn put(client: u16) -> String {
    format!("put-{client}")
}

/// The name of a record that is created once.
pub(super) fn single(client: u16, number: u64) -> String {
    format!("single-{client}-{number}")
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Story, Failure> {
        while !stop.load(Ordering::Relaxed) {
            self.link().await?;
            self.put().await?;
            self.single().await?;
        }
        Ok(self.story)
    }

    async fn link(&mut self) -> Result<(), Failure> {
        if self.story.chains.last().is_none_or(|chain| chain.unsure) {
            self.story.chains.push(Chain::default());
        }
        let (client, chain) = (self.story.client, self.story.chains.len() - 1);
        let number = self.story.chains.last().map_or(0, |chain| chain.links);
        let operation = |op: &str, at: u64, data: Value| json!({ "op": op, "collection": self.collection, "id": link(client, chain, at), "data": data });
        let mut operations = vec![operation("create", number, json!({ "n": number }))];
        if let Some(before) = number.checked_sub(1) {
            operations.insert(0, operation("patch", before, json!({ "next": number })));
        }
        let body = json!({ "operations": operations });
        let told = self.send(Method::POST, "/v1/transactions", &body, None).await?;
        if let Some(chain) = self.story.chains.last_mut() {
            match told {
                Told::Acknowledged => chain.links += 1,
                Told::Nothing => chain.unsure = true,
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<(), Failure> {
        let (client, number) = (self.story.client, self.story.puts + 1);
        let path = format!("/v1/records/{}/{}", self.collection, put(client));
        let key = format!("{}-{number}", put(client));
        self.send(Method::PUT, &path, &json!({ "n": number }), Some(&key)).await?;
        self.story.puts = number;
        Ok(())
    }

    async fn single(&mut self) -> Result<(), Failure> {
        let name = single(self.story.client, self.story.singles);
        let path = format!("/v1/records/{}/{name}", self.collection);
        self.send(Method::POST, &path, &json!({ "n": self.story.singles }), Some(&name)).await?;
        self.story.singles += 1;
        Ok(())
    }

    /// Sends a write until it is acknowledged or refused. Without a key it is not sent again once it may have been taken.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Result<Told, Failure> {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=PAUSE_MS_MAX))).await;
        let began = Instant::now();
        let (mut last, mut unanswered) = (String::new(), false);
        while began.elapsed() < PATIENCE {
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.address.url()));
            if let Some(key) = key {
                request = request.header("idempotency-key", format!("{}-{key}", self.collection));
            }
            // A body that does not come leaves a status that says enough.
            let (status, text, taken) = match request.json(body).send().await {
                Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default(), false),
                Err(error) => (0, error.to_string(), !error.is_connect()),
            };
            let problem: Value = serde_json::from_str(&text).unwrap_or_default();
            let code = problem["code"].as_str();
            if taken || problem["outcome_unknown"] == true {
                if key.is_none() {
                    return Ok(Told::Nothing);
                }
                unanswered = true;
            }
            match (status, code) {
                (200 | 201 | 204, _) => self.story.applied += 1,
                (202, _) => {
                    self.story.queued += 1;
                    self.told.queued.fetch_add(1, Ordering::Relaxed);
                }
                // Its first request is under way, or the server cannot take it now.
                (409, Some("idempotency_key_in_flight")) | (0 | 503, _) => {
                    last = text;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                (_, code) => self.story.refused.push(code.unwrap_or("unknown").to_owned()),
            }
            self.story.sent_again += u64::from(unanswered);
            self.told.acknowledged.fetch_add(1, Ordering::Relaxed);
            return Ok(Told::Acknowledged);
        }
        let what = safe(&last, 300);
        Err(Failure::failed(format!("a write was not acknowledged within {} s: {what}", PATIENCE.as_secs())))
    }
}

/// What a client knows of a write that it sent.
enum Told {
    /// It was answered.
    Acknowledged,
    /// The connection was lost, and it was not sent again.
    Nothing,
}
