//! Many clients that write as fast as they are answered, and a history of what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outlast_testkit::history::{Cause, Change, History, Token, Told};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Api, Dialect, NoAnswer, Reply};

/// How many clients write to how many records, and how fast.
#[derive(Debug, Clone)]
pub struct Mix {
    pub dialect: Dialect,
    pub seed: u64,
    pub clients: usize,
    pub ledgers: usize,
    pub documents: usize,
    /// Longest pause of a client between two operations, in milliseconds.
    pub pause_ms: u64,
}

impl Mix {
    /// 64 clients and 500 records.
    pub fn new(dialect: Dialect, seed: u64) -> Self {
        Self { dialect, seed, clients: 64, ledgers: 150, documents: 350, pause_ms: 100 }
    }
}

/// Clients at work.
pub struct Load {
    pub api: Arc<Api>,
    pub history: Arc<History>,
    stop: Arc<AtomicBool>,
    /// Reads that got 503.
    pub reads_refused: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes the collections, then starts the clients.
    pub async fn start(api: Arc<Api>, mix: &Mix) -> Self {
        api.collections().await;
        let mut load = Self {
            api,
            history: Arc::default(),
            stop: Arc::default(),
            reads_refused: Arc::default(),
            tasks: Vec::new(),
        };
        let mut random = fastrand::Rng::with_seed(mix.seed);
        for _ in 0..mix.clients {
            let client = Client {
                api: load.api.clone(),
                history: load.history.clone(),
                reads_refused: load.reads_refused.clone(),
                random: fastrand::Rng::with_seed(random.u64(..)),
                mix: mix.clone(),
            };
            load.tasks.push(tokio::spawn(client.run(load.stop.clone())));
        }
        load
    }

    /// Lets every client finish its operation.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }
}

/// Writes so many notes to a few ledgers, some at a time, and records what was told.
pub async fn notes(api: &Arc<Api>, history: &Arc<History>, dialect: Dialect, count: usize) {
    let clients: Vec<_> = (0..10)
        .map(|client| {
            let (api, history) = (api.clone(), history.clone());
            let share = count / 10 + usize::from(client < count % 10);
            tokio::spawn(async move {
                for at in 0..share {
                    let record = format!("counters/c{}", (client + at) % 7);
                    write(&api, &history, dialect, record, |_| Change::Note, None).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// One write: sends it, and records what was told.
pub async fn write(
    api: &Api,
    history: &History,
    dialect: Dialect,
    record: String,
    change: impl FnOnce(Token) -> Change,
    prefer: Option<&str>,
) -> Told {
    let (token, change) = history.begin(record.clone(), change);
    let (method, path, body) = request(dialect, &record, &change, token);
    let told = told(api.send(method, &path, body.as_ref(), prefer).await);
    history.end(token, told);
    told
}

/// Whether a client has panicked: then there is nothing left to wait for.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::SeqCst)
}

static FAILED: AtomicBool = AtomicBool::new(false);

struct Client {
    api: Arc<Api>,
    history: Arc<History>,
    reads_refused: Arc<AtomicU64>,
    random: fastrand::Rng,
    mix: Mix,
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            FAILED.store(true, Ordering::SeqCst);
        }
    }
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            if self.random.u8(0..20) == 0 {
                self.read().await;
            } else {
                self.write().await;
            }
            // The client's own rhythm, not a wait for anything.
            tokio::time::sleep(Duration::from_millis(self.random.u64(0..=self.mix.pause_ms))).await;
        }
    }

    async fn write(&mut self) {
        let (record, kind) = self.choose();
        let (api, history, dialect) = (self.api.clone(), self.history.clone(), self.mix.dialect);
        let prefer = (self.random.u8(0..4) == 0).then_some("respond-async");
        write(&api, &history, dialect, record, |token| self.change(kind, token), prefer).await;
    }

    async fn read(&mut self) {
        let path = format!("/v1/records/counters/c{}", self.random.usize(0..self.mix.ledgers));
        let Ok(reply) = self.api.send(Method::GET, &path, None, None).await else { return };
        match reply.status {
            200 => {}
            404 => assert_eq!(reply.problem(), "not-found", "{reply:?}"),
            503 => {
                reply.retry_after();
                self.reads_refused.fetch_add(1, Ordering::SeqCst);
            }
            _ => panic!("a read got {reply:?}"),
        }
    }

    /// A record and what to do with it, so that a few in a hundred are refused.
    fn choose(&mut self) -> (String, Kind) {
        let document = format!("documents/d{}", self.random.usize(0..self.mix.documents));
        match self.random.u8(0..100) {
            0..40 => (format!("counters/c{}", self.random.usize(0..self.mix.ledgers)), Kind::Note),
            40..65 => (document, Kind::Put),
            65..82 => (document, Kind::Patch),
            82..84 => (document, Kind::Delete),
            84 => (document, Kind::Create),
            _ => (format!("documents/{:016x}", self.random.u64(..)), Kind::Create),
        }
    }

    fn change(&mut self, kind: Kind, token: Token) -> Change {
        let by = token.to_string();
        let more = self.random.u8(0..3);
        match kind {
            Kind::Note => Change::Note,
            Kind::Create => Change::Create(json!({ "by": by, "more": { "a": more } })),
            Kind::Put => Change::Put(json!({ "by": by, "list": [more, null], "more": { "b": "ü" } })),
            Kind::Patch if more == 0 => Change::Patch(json!({ "patched": by, "more": null })),
            Kind::Patch => Change::Patch(json!({ "patched": by, "more": { "a": by, "b": null } })),
            Kind::Delete => Change::Delete,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Note,
    Create,
    Put,
    Patch,
    Delete,
}

fn request(dialect: Dialect, record: &str, change: &Change, token: Token) -> (Method, String, Option<Value>) {
    let path = format!("/v1/records/{record}");
    match change {
        Change::Note => {
            let id = record.trim_start_matches("counters/");
            let body = Api::statement(dialect.note(), id, &token.to_string());
            (Method::POST, "/v1/transactions".to_owned(), Some(body))
        }
        Change::Create(value) => (Method::POST, path, Some(value.clone())),
        Change::Put(value) => (Method::PUT, path, Some(value.clone())),
        Change::Patch(value) => (Method::PATCH, path, Some(value.clone())),
        Change::Delete => (Method::DELETE, path, None),
    }
}

/// What an answer means for the write.
fn told(answer: Result<Reply, NoAnswer>) -> Told {
    let reply = match answer {
        Ok(reply) => reply,
        Err(NoAnswer::NotSent) => return Told::Refused(Cause::Other),
        Err(NoAnswer::Unknown) => return Told::Unknown,
    };
    match (reply.status, reply.problem().as_str()) {
        (200 | 201 | 204, _) => {
            assert_eq!(reply.header("write-status"), "applied", "{reply:?}");
            Told::Applied
        }
        (202, _) => {
            let id = reply.json()["id"].as_str().unwrap_or_default().to_owned();
            assert_eq!(reply.header("location"), format!("/v1/writes/{id}"), "{reply:?}");
            assert_eq!((reply.header("write-status"), reply.header("write-id")), ("queued", id.as_str()));
            Told::Queued
        }
        (409, "record-exists") => Told::Refused(Cause::Exists),
        (404, "record-not-found") => Told::Refused(Cause::Absent),
        (503, _) => {
            reply.retry_after();
            let unknown = reply.json()["outcome_unknown"] == true;
            if unknown { Told::Unknown } else { Told::Refused(Cause::Other) }
        }
        _ => panic!("a write got {reply:?}"),
    }
}
