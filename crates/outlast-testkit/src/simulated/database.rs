//! The database's temper: what becomes of a request on its way there, and of its answer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outlast::database::{
    Applied, ApplyError, Database, DatabaseError, Item, LaneId, ListQuery, Position, TakeOverError,
};
use outlast::{Collection, Document, Invalid, RecordId, Refusal, RefusalKind, Sequence, Write, WriteId};
use tokio::sync::oneshot;

use super::{Content, Trace};

/// How long a client of it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a batch that waits for its turn looks.
const LOOKS: Duration = Duration::from_micros(200);
/// Snapshots to which it can go back.
const SNAPSHOTS_MAX: usize = 12;

/// How it is in these days. Shares are between 0 and 1.
#[derive(Debug, Clone)]
pub struct Temper {
    /// It takes connections.
    pub up: bool,
    /// It takes connections and writes nothing.
    pub read_only: bool,
    /// How long a request, and how long an answer, is under way.
    pub latency: Range<Duration>,
    /// The share of requests that arrive much later, when nobody waits for them any more.
    pub late: f64,
    /// The share of requests that never arrive.
    pub request_lost: f64,
    /// The share of answers that never arrive.
    pub answer_lost: f64,
    /// The share of batches that do not wait for one of their lane that was sent before them.
    pub overtakes: f64,
    /// The share of transactions that conflict with another.
    pub conflict: f64,
    /// Records about which it refuses everything, and whether another attempt may succeed.
    pub refuses: BTreeMap<String, bool>,
    /// It refuses everything.
    pub refuses_all: bool,
    /// How long it takes to remove old idempotency keys.
    pub pruning: Duration,
}

impl Default for Temper {
    fn default() -> Self {
        Self {
            up: true,
            read_only: false,
            latency: Duration::from_micros(200)..Duration::from_millis(4),
            late: 0.0,
            request_lost: 0.0,
            answer_lost: 0.0,
            overtakes: 0.0,
            conflict: 0.0,
            refuses: BTreeMap::new(),
            refuses_all: false,
            pruning: Duration::ZERO,
        }
    }
}

/// See the module. Cheap to clone: all clones are one database.
#[derive(Clone)]
pub struct SimulatedDatabase {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    temper: Temper,
    content: Content,
    /// Former contents, oldest first.
    snapshots: VecDeque<Content>,
    dice: fastrand::Rng,
    /// Raised when everything under way is lost with the server.
    crashes: u64,
    /// Batches for whose answer somebody waits, in the order in which they were sent.
    under_way: Vec<UnderWay>,
    batches: u64,
    /// How many writes each batch had that reached it.
    sizes: Vec<usize>,
    fired: BTreeMap<&'static str, u64>,
}

/// A batch for whose answer somebody waits.
struct UnderWay {
    number: u64,
    lanes: Vec<LaneId>,
    /// The database has done its work.
    done: bool,
}

/// What will become of a request.
struct Way {
    sent: bool,
    /// How long it is under way, and how long its answer.
    there: Duration,
    back: Duration,
    arrives: bool,
    answers: bool,
    crashes: u64,
}

/// What became of a request that got no answer.
enum Lost {
    /// It was certainly never sent.
    NotSent,
    /// Nobody knows.
    NoAnswer,
}

impl SimulatedDatabase {
    /// An empty one in a good mood.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            temper: Temper::default(),
            content: Content::default(),
            snapshots: VecDeque::new(),
            dice: fastrand::Rng::with_seed(seed),
            crashes: 0,
            under_way: Vec::new(),
            batches: 0,
            sizes: Vec::new(),
            fired: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    /// Changes its temper.
    pub fn temper(&self, change: impl FnOnce(&mut Temper)) {
        change(&mut self.lock().temper);
    }

    /// The server process ends at once and another begins: what was under way is lost.
    pub fn crash(&self) {
        self.lock().crashes += 1;
    }

    /// What it holds now.
    pub fn content(&self) -> Content {
        self.lock().content.clone()
    }

    /// Puts another content in, as a restored backup does. Returns what it held.
    pub fn restore(&self, content: Content) -> Content {
        let mut state = self.lock();
        state.crashes += 1;
        state.snapshots.clear();
        std::mem::replace(&mut state.content, content)
    }

    /// Goes back to one of the snapshots that it has kept. Returns what it held before.
    pub fn go_back(&self) -> Option<Content> {
        let mut state = self.lock();
        let count = state.snapshots.len();
        let chosen = if count == 0 { return None } else { state.dice.usize(..count) };
        let content = state.snapshots[chosen].clone();
        state.snapshots.truncate(chosen + 1);
        state.crashes += 1;
        state.count("went back in time");
        Some(std::mem::replace(&mut state.content, content))
    }

    /// How often each fault has fired.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.lock().fired.clone()
    }

    /// How many writes each batch had that has reached it, in this order.
    pub fn sizes(&self) -> Vec<usize> {
        self.lock().sizes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request. Whatever becomes of who waits for the answer, the database does its work when it arrives.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        self.ask_in_turn(None, work).await
    }

    /// The same; the batch of this number waits for those of its lanes that were sent before it.
    async fn ask_in_turn<T: Send + 'static>(
        &self,
        turn: Option<u64>,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let Way { sent, there, back, arrives, answers, crashes } = self.lock().way();
        if !sent {
            tokio::time::sleep(there).await;
            return Err(Lost::NotSent);
        }
        let (answer, answered) = oneshot::channel();
        let database = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(there).await;
            while turn.is_some_and(|number| database.lock().is_behind(number)) {
                tokio::time::sleep(LOOKS).await;
            }
            let result = {
                let mut state = database.lock();
                if !arrives || state.crashes != crashes {
                    return;
                }
                work(&mut state)
            };
            tokio::time::sleep(back).await;
            if answers {
                let _ = answer.send(result);
            }
        });
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Lost::NoAnswer),
            Err(_) => {
                self.lock().count("no answer in time");
                Err(Lost::NoAnswer)
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Content) -> T + Send + 'static,
    ) -> Result<T, DatabaseError> {
        self.ask(move |state| look(&state.content))
            .await
            .map_err(|lost| DatabaseError::Unavailable(lost.why()))
    }

    async fn take(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Option<Sequence>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        let (lane, seen, owner) = (lane.clone(), seen.cloned(), owner.to_owned());
        let trace = self.trace.clone();
        let answer = self.ask(move |state| {
            if state.is_read_only() {
                return Err(TakeOverError::Unavailable("read-only".to_owned()));
            }
            let taken = state.content.take_over(lane.as_str(), seen.as_ref(), sequence, &owner);
            trace.note(format_args!("database: take over {taken:?}"));
            taken
        });
        answer.await.unwrap_or_else(|lost| Err(TakeOverError::Unavailable(lost.why())))
    }
}

/// Ends with whoever waits for the answer to the batch of this number.
struct Landed<'a>(&'a SimulatedDatabase, u64);

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way.retain(|batch| batch.number != self.1);
    }
}

impl Lost {
    fn why(&self) -> String {
        match self {
            Self::NotSent => "connection refused".to_owned(),
            Self::NoAnswer => "no answer".to_owned(),
        }
    }
}

impl UnderWay {
    fn shares(&self, lanes: &[LaneId]) -> bool {
        self.lanes.iter().any(|lane| lanes.contains(lane))
    }
}

impl State {
    fn count(&mut self, fault: &'static str) {
        *self.fired.entry(fault).or_default() += 1;
    }

    fn happens(&mut self, fault: &'static str, share: f64) -> bool {
        let happens = self.dice.f64() < share;
        if happens {
            self.count(fault);
        }
        happens
    }

    /// Notes a batch; tells its number, and whether it will wait for its turn.
    fn send(&mut self, rows: &[(LaneId, Position)]) -> (u64, bool) {
        self.batches += 1;
        let lanes: Vec<LaneId> = rows.iter().map(|(lane, _)| lane.clone()).collect();
        if !self.under_way.is_empty() {
            let ahead = self.under_way.iter().any(|batch| batch.shares(&lanes));
            self.count(if ahead { "sent ahead" } else { "batches at once" });
        }
        self.under_way.push(UnderWay { number: self.batches, lanes, done: false });
        let waits = self.dice.f64() >= self.temper.overtakes;
        (self.batches, waits)
    }

    fn is_behind(&self, number: u64) -> bool {
        let Some(at) = self.under_way.iter().position(|batch| batch.number == number) else { return false };
        self.under_way[..at].iter().any(|batch| !batch.done && batch.shares(&self.under_way[at].lanes))
    }

    fn done(&mut self, number: u64) {
        if let Some(batch) = self.under_way.iter_mut().find(|batch| batch.number == number) {
            batch.done = true;
        }
    }

    /// What will become of the next request.
    fn way(&mut self) -> Way {
        let (there, back, crashes) = (self.latency(), self.latency(), self.crashes);
        if !self.temper.up {
            self.count("down");
            return Way { sent: false, there, back, arrives: false, answers: false, crashes };
        }
        let Temper { late, request_lost, answer_lost, .. } = self.temper;
        let late = if self.happens("arrived late", late) { self.dice.u64(100..12_000) } else { 0 };
        let there = there + Duration::from_millis(late);
        let arrives = !self.happens("request lost", request_lost);
        let answers = !self.happens("answer lost", answer_lost);
        Way { sent: true, there, back, arrives, answers, crashes }
    }

    fn latency(&mut self) -> Duration {
        let Range { start, end } = self.temper.latency.clone();
        Duration::from_micros(self.dice.u64(start.as_micros() as u64..=end.as_micros() as u64))
    }

    fn is_read_only(&mut self) -> bool {
        let read_only = self.temper.read_only;
        if read_only {
            self.count("read-only");
        }
        read_only
    }

    fn apply(
        &mut self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        if self.is_read_only() {
            return Err(ApplyError::Unavailable("read-only".to_owned()));
        }
        let conflict = self.temper.conflict;
        if self.happens("conflict", conflict) {
            return Err(ApplyError::Conflict("serialization failure".to_owned()));
        }
        let before = self.content.clone();
        let temper = &self.temper;
        let refuses = |write: &Write| {
            let reason = |words: &str| Refusal::new(RefusalKind::Constraint, words);
            if temper.refuses_all {
                return Some((reason("permission is gone"), false));
            }
            let retryable = write.records().find_map(|record| temper.refuses.get(record.id.as_str()));
            retryable.map(|retryable| (reason("a reference is missing"), *retryable))
        };
        let applied = self.content.apply(rows, next, batch, refuses);
        match &applied {
            Ok(applied) => {
                *self.fired.entry("duplicate keys").or_default() += applied.duplicates.len() as u64;
                if self.dice.f64() < 0.3 {
                    self.snapshots.push_back(before);
                    if self.snapshots.len() > SNAPSHOTS_MAX {
                        self.snapshots.pop_front();
                    }
                }
            }
            Err(ApplyError::Rejected { retryable: true, .. }) => self.count("refused, may pass"),
            Err(ApplyError::Rejected { .. }) => self.count("refused"),
            Err(ApplyError::Moved { .. }) => self.count("fenced"),
            Err(_) => {}
        }
        applied
    }
}

#[async_trait]
impl Database for SimulatedDatabase {
    fn describe(&self) -> String {
        "a simulated database".to_owned()
    }

    fn check(&self, _write: &Write) -> Result<(), Invalid> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        self.read(|_| ()).await
    }

    /// Requests overtake each other, too.
    fn takes_ahead(&self) -> bool {
        true
    }

    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError> {
        let lane = lane.clone();
        self.read(move |content| content.position(lane.as_str()).cloned()).await
    }

    async fn take_over(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.take(lane, seen, None, owner).await
    }

    async fn reset_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Sequence,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.take(lane, seen, Some(sequence), owner).await
    }

    async fn apply_across(
        &self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        let (rows, batch) = (rows.to_vec(), batch.to_vec());
        let trace = self.trace.clone();
        let (number, waits) = self.lock().send(&rows);
        let _landed = Landed(self, number);
        let answer = self.ask_in_turn(waits.then_some(number), move |state| {
            let known = state.content.effects.len();
            state.sizes.push(batch.len());
            let applied = state.apply(&rows, next, &batch);
            state.done(number);
            let effects = state.content.effects.get(known..).unwrap_or_default().join(" ");
            match &applied {
                Ok(_) => trace.note(format_args!("database: up to {next}: {effects}")),
                Err(error) => trace.note(format_args!("database: not up to {next}: {error}")),
            }
            applied
        });
        match answer.await {
            Ok(answer) => answer,
            Err(lost @ Lost::NotSent) => Err(ApplyError::Unavailable(lost.why())),
            Err(lost @ Lost::NoAnswer) => Err(ApplyError::Unknown(lost.why())),
        }
    }

    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError> {
        let name = (collection.as_str().to_owned(), id.as_str().to_owned());
        let found = self.read(move |content| content.records.get(&name).cloned()).await?;
        Ok(found.map(|record| Document::from_map(&record)).transpose()?)
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        let collection = query.collection.as_str().to_owned();
        let all = self.read(move |content| content.records.clone()).await?;
        let mut listed = Vec::new();
        for ((_, id), record) in all.iter().filter(|((of, _), _)| *of == collection).take(query.limit) {
            listed.push((id.parse()?, Document::from_map(record)?));
        }
        Ok(listed)
    }

    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError> {
        let key = key.to_owned();
        self.read(move |content| content.key(&key).cloned()).await
    }

    /// Takes its time and keeps all of them: those of a simulated life are young.
    async fn prune_keys(&self, _older_than: Duration) -> Result<u64, DatabaseError> {
        let pruning = {
            let mut state = self.lock();
            state.count("began to remove old keys");
            state.temper.pruning
        };
        tokio::time::sleep(pruning).await;
        self.lock().count("removed old keys");
        Ok(0)
    }

    async fn close(&self) {}
}
