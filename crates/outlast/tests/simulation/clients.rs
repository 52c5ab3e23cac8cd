//! Clients: they write, wait or do not, hang up early, and come back with the same idempotency key.

use std::time::Duration;

use outlast::{Document, Error, Outcome, Outlast, RecordName, RefusalKind, Wait, Write, WriteId};
use outlast_testkit::history::{Cause, Change, Token, Told};
use outlast_testkit::simulated::NOTE;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::story::Story;

const LEDGERS: u64 = 4;
const DOCUMENTS: u64 = 14;
/// How often a client comes back with a key.
const ATTEMPTS_MAX: u32 = 4;

/// One write, of one or two effects.
#[derive(Debug, Clone)]
pub struct Job {
    tokens: Vec<Token>,
    write: Write,
    attempts: u32,
}

/// A job that ends with its process, before its client has an answer: the client comes back if it has a key.
struct Unfinished(Story, Option<Job>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let job = self.1.take().filter(|job| job.write.key().is_some() && job.attempts < ATTEMPTS_MAX);
        self.0.facts().unfinished.extend(job);
    }
}

/// Writes until it is aborted.
pub async fn run(story: Story, outlast: Outlast, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    loop {
        sleep(Duration::from_millis(dice.u64(20..1500))).await;
        let mut burst = JoinSet::new();
        let size = if dice.u8(..) < 40 { dice.usize(2..9) } else { 1 };
        for _ in 0..size {
            let again = if dice.u8(..) < 80 { story.facts().unfinished.pop() } else { None };
            let job = again.unwrap_or_else(|| Job::new(&story, &mut dice));
            burst.spawn(job.run(story.clone(), outlast.clone(), dice.fork()));
        }
        burst.join_all().await;
    }
}

/// One more write.
pub async fn last_words(story: &Story, outlast: &Outlast) {
    let mut dice = fastrand::Rng::with_seed(0);
    let (tokens, write) = notes(story, &[0], &mut dice);
    Job { tokens, write, attempts: 0 }.run(story.clone(), outlast.clone(), dice).await;
}

impl Job {
    fn new(story: &Story, dice: &mut fastrand::Rng) -> Self {
        let (tokens, write) = match dice.u8(..12) {
            0..=4 => notes(story, &[dice.u64(..LEDGERS)], dice),
            5 => {
                let first = dice.u64(..LEDGERS - 1);
                notes(story, &[first, dice.u64(first + 1..LEDGERS)], dice)
            }
            kind => document(story, kind, dice),
        };
        let mut job = Self { tokens, write, attempts: 0 };
        if dice.bool() {
            let key = format!("key of {}", job.name());
            job.write = job.write.with_idempotency_key(&key).unwrap();
        }
        job
    }

    fn name(&self) -> String {
        self.tokens.iter().map(Token::to_string).collect::<Vec<_>>().join("+")
    }

    async fn run(mut self, story: Story, outlast: Outlast, mut dice: fastrand::Rng) {
        let name = self.name();
        let mut unfinished = Unfinished(story.clone(), Some(self.clone()));
        while self.attempts < ATTEMPTS_MAX {
            self.attempts += 1;
            if self.attempts > 1 {
                let tokens = self.tokens.iter().map(Token::to_string);
                story.facts().sent_again.extend(tokens);
            }
            unfinished.1 = Some(self.clone());
            let wait = match dice.u8(..4) {
                0 => Wait::No,
                1 => Wait::UpTo(Duration::from_millis(dice.u64(1..60))),
                _ => Wait::UpTo(Duration::from_secs(10)),
            };
            let patience =
                if dice.u8(..) < 30 { dice.u64(..40) } else { Duration::from_mins(10).as_millis() as u64 };
            story.trace.note(format_args!("{name}: sent, {wait:?}: {}", self.describe()));
            let answer =
                timeout(Duration::from_millis(patience), outlast.submit(self.write.clone(), wait)).await;
            let Ok(answer) = answer else {
                story.trace.note(format_args!("{name}: the client hung up"));
                story.happened("hung up");
                if self.write.key().is_none() || dice.u8(..4) == 0 {
                    unfinished.1 = None;
                    return;
                }
                sleep(Duration::from_millis(dice.u64(1..3000))).await;
                continue;
            };
            let in_flight = matches!(answer, Err(Error::KeyInFlight { .. }));
            if !in_flight {
                unfinished.1 = None;
                self.told(&story, &answer);
                return;
            }
            story.happened("key in flight");
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn describe(&self) -> String {
        let operations = self.write.operations().iter();
        let records = |operation: &outlast::Operation| {
            let names = operation.records().iter().map(|record| record.id.as_str().to_owned());
            format!("{} {}", operation.verb(), names.collect::<Vec<_>>().join(" "))
        };
        operations.map(records).collect::<Vec<_>>().join(", ")
    }

    /// The client has its answer.
    fn told(&self, story: &Story, answer: &Result<Outcome, Error>) {
        let told = match answer {
            Ok(Outcome::Applied { .. }) => Told::Applied,
            Ok(Outcome::Queued(_)) => Told::Queued,
            Err(Error::Rejected { reason, .. }) => Told::Refused(match reason.kind {
                RefusalKind::Exists => Cause::Exists,
                RefusalKind::NotFound => Cause::Absent,
                _ => Cause::Other,
            }),
            Err(Error::LogFailed { outcome_unknown: true, .. }) => Told::Unknown,
            // What was tried before may still be applied.
            Err(_) if self.attempts > 1 => Told::Unknown,
            Err(_) => Told::Refused(Cause::Other),
        };
        story.trace.note(format_args!("{}: {}", self.name(), text(answer)));
        for token in &self.tokens {
            story.history.end(*token, told);
            let name = token.to_string();
            let mut facts = story.facts();
            match told {
                Told::Applied => {
                    facts.applied.insert(name.clone(), crate::world::elapsed());
                }
                Told::Queued => {
                    facts.queued.insert(name.clone());
                }
                Told::Refused(_) => {
                    facts.refused.insert(name.clone());
                }
                Told::Unknown => {}
            }
        }
        if let Ok(outcome) = answer {
            self.acknowledged(story, id_of(outcome));
        }
    }

    /// No two writes have one id.
    fn acknowledged(&self, story: &Story, id: WriteId) {
        let name = self.name();
        let former = story.facts().sequences.insert(id.0, name.clone());
        if let Some(former) = former.filter(|former| *former != name) {
            story.violation(format!("{former} and {name} have the same id {id}"));
        }
    }
}

fn id_of(outcome: &Outcome) -> WriteId {
    match outcome {
        Outcome::Applied { id, .. } => *id,
        Outcome::Queued(receipt) => receipt.id,
    }
}

fn text(answer: &Result<Outcome, Error>) -> String {
    match answer {
        Ok(Outcome::Applied { id, duplicate_of }) => {
            format!("told applied as {id}, duplicate of {duplicate_of:?}")
        }
        Ok(Outcome::Queued(receipt)) => format!("told queued as {}, {:?}", receipt.id, receipt.status),
        Err(error) => format!("told {error}"),
    }
}

fn record(collection: &str, id: &str) -> RecordName {
    RecordName { collection: collection.parse().unwrap(), id: id.parse().unwrap() }
}

/// One write that counts in these ledgers.
fn notes(story: &Story, ledgers: &[u64], dice: &mut fastrand::Rng) -> (Vec<Token>, Write) {
    let ids: Vec<String> = ledgers.iter().map(|number| format!("l{number}")).collect();
    let tokens: Vec<Token> =
        ids.iter().map(|id| story.history.begin(id.clone(), |_| Change::Note).0).collect();
    let records = ids.iter().map(|id| record("ledgers", id)).collect();
    // Segments should come to their end.
    let filling = "x".repeat(if dice.u8(..) < 50 { dice.usize(..6000) } else { 0 });
    (tokens.clone(), Write::statement(NOTE, parameters(&tokens, &filling), records))
}

fn parameters(tokens: &[Token], filling: &str) -> serde_json::Map<String, Value> {
    let tokens: Vec<String> = tokens.iter().map(Token::to_string).collect();
    json!({ "tokens": tokens, "filling": filling }).as_object().cloned().unwrap_or_default()
}

fn document(story: &Story, kind: u8, dice: &mut fastrand::Rng) -> (Vec<Token>, Write) {
    let id = format!("d{}", dice.u64(..DOCUMENTS));
    let (token, change) = story.history.begin(id.clone(), |token| {
        let name = token.to_string();
        match kind {
            6 | 7 => Change::Create(json!({ "token": name, "made": true })),
            8 => Change::Put(json!({ "token": name })),
            9 | 10 => Change::Patch(json!({ "token": name, "patched": { name.clone(): 1 } })),
            _ => Change::Delete,
        }
    });
    let RecordName { collection, id } = record("documents", &id);
    let data = |value: &Value| Document::parse(&value.to_string()).unwrap();
    let write = match &change {
        Change::Create(value) => Write::create(collection, id, data(value)),
        Change::Put(value) => Write::put(collection, id, data(value)),
        Change::Patch(value) => Write::patch(collection, id, data(value)),
        Change::Delete | Change::Note => {
            // The token stands in a statement that touches nothing.
            let delete = Write::delete(collection, id).operations().to_vec();
            let note = Write::statement(NOTE, parameters(&[token], ""), Vec::new()).operations().to_vec();
            Write::new([delete, note].concat()).unwrap()
        }
    };
    (vec![token], write)
}
