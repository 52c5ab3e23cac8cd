//! [`Faulty`]: a real database behind a temper. It can be away, lose answers, answer late, or refuse on command.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outlast::database::{
    Applied, ApplyError, Database, DatabaseError, Item, LaneId, ListQuery, Position, TakeOverError,
};
use outlast::{Collection, Document, Invalid, RecordId, Refusal, Sequence, Write, WriteId};

/// What happens to the next transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Temper {
    /// Nothing special.
    Calm,
    /// Every call fails: no connection.
    Away,
    /// The next transaction commits, and its answer is lost.
    CommitWithoutAnswer,
    /// The next transaction is lost before it reaches the database, and nobody knows.
    LoseRequest,
    /// The next transaction is answered with *unknown* and commits, if it still can, when it is delivered
    /// ([`Faulty::deliver_late`]).
    HoldBack,
    /// Every write is refused with these words.
    RefuseAll(Refusal),
}

type Judge = Box<dyn Fn(&Write) -> Option<(Refusal, bool)> + Send + Sync>;
type Held = (Vec<(LaneId, Position)>, Sequence, Vec<Item>);

/// A database with a temper in front of a real one.
pub struct Faulty {
    inner: Arc<dyn Database>,
    temper: Mutex<Temper>,
    judge: Mutex<Option<Judge>>,
    held: Mutex<Vec<Held>>,
    fired: Mutex<HashMap<&'static str, u64>>,
    transactions: AtomicU64,
}

impl Faulty {
    /// In front of `inner`, calm.
    pub fn new(inner: Arc<dyn Database>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            temper: Mutex::new(Temper::Calm),
            judge: Mutex::new(None),
            held: Mutex::default(),
            fired: Mutex::default(),
            transactions: AtomicU64::new(0),
        })
    }

    /// Changes the temper.
    pub fn set(&self, temper: Temper) {
        *lock(&self.temper) = temper;
    }

    /// Refuses the writes for which `judge` has a refusal (and whether it is retryable).
    pub fn judge(&self, judge: impl Fn(&Write) -> Option<(Refusal, bool)> + Send + Sync + 'static) {
        *lock(&self.judge) = Some(Box::new(judge));
    }

    /// Refuses nothing any more.
    pub fn acquit(&self) {
        *lock(&self.judge) = None;
    }

    /// How often each fault has fired.
    pub fn fired(&self, fault: &'static str) -> u64 {
        lock(&self.fired).get(fault).copied().unwrap_or(0)
    }

    /// Transactions that reached the real database.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::SeqCst)
    }

    /// Delivers the transactions that were held back, as a slow network would: too late. Returns how many of them
    /// still committed.
    pub async fn deliver_late(&self) -> usize {
        let held = std::mem::take(&mut *lock(&self.held));
        let mut committed = 0;
        for (rows, next, batch) in held {
            if self.inner.apply_across(&rows, next, &batch).await.is_ok() {
                committed += 1;
            }
        }
        committed
    }

    fn away(&self) -> Option<String> {
        (*lock(&self.temper) == Temper::Away).then(|| {
            self.count("away");
            "connection refused (injected)".to_owned()
        })
    }

    fn count(&self, fault: &'static str) {
        *lock(&self.fired).entry(fault).or_default() += 1;
    }

    fn once(&self, temper: &Temper, fault: &'static str) -> bool {
        let mut now = lock(&self.temper);
        let fires = *now == *temper;
        if fires {
            *now = Temper::Calm;
            drop(now);
            self.count(fault);
        }
        fires
    }

    fn refusal(&self, batch: &[Item]) -> Option<ApplyError> {
        if let Temper::RefuseAll(reason) = &*lock(&self.temper)
            && !batch.is_empty()
        {
            self.count("refused");
            return Some(ApplyError::Rejected { index: 0, reason: reason.clone(), retryable: false });
        }
        let judge = lock(&self.judge);
        let judge = judge.as_ref()?;
        let (index, (reason, retryable)) = batch
            .iter()
            .enumerate()
            .find_map(|(index, item)| judge(&item.write).map(|verdict| (index, verdict)))?;
        self.count("refused");
        Some(ApplyError::Rejected { index, reason, retryable })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Database for Faulty {
    fn describe(&self) -> String {
        format!("{} behind a temper", self.inner.describe())
    }

    fn check(&self, write: &Write) -> Result<(), Invalid> {
        self.inner.check(write)
    }

    fn batch_writes_max(&self) -> usize {
        self.inner.batch_writes_max()
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        match self.away() {
            Some(reason) => Err(DatabaseError::Unavailable(reason)),
            None => self.inner.probe().await,
        }
    }

    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError> {
        match self.away() {
            Some(reason) => Err(DatabaseError::Unavailable(reason)),
            None => self.inner.position(lane).await,
        }
    }

    async fn take_over(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        match self.away() {
            Some(reason) => Err(TakeOverError::Unavailable(reason)),
            None => self.inner.take_over(lane, seen, owner).await,
        }
    }

    async fn reset_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Sequence,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        match self.away() {
            Some(reason) => Err(TakeOverError::Unavailable(reason)),
            None => self.inner.reset_position(lane, seen, sequence, owner).await,
        }
    }

    async fn apply_across(
        &self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        if let Some(reason) = self.away() {
            return Err(ApplyError::Unavailable(reason));
        }
        if let Some(refusal) = self.refusal(batch) {
            return Err(refusal);
        }
        if self.once(&Temper::LoseRequest, "request lost") {
            return Err(ApplyError::Unknown("the request was lost (injected)".into()));
        }
        if self.once(&Temper::HoldBack, "held back") {
            lock(&self.held).push((rows.to_vec(), next, batch.to_vec()));
            return Err(ApplyError::Unknown("no answer in time (injected)".into()));
        }
        self.transactions.fetch_add(1, Ordering::SeqCst);
        let answer = self.inner.apply_across(rows, next, batch).await;
        if answer.is_ok() && self.once(&Temper::CommitWithoutAnswer, "answer lost") {
            return Err(ApplyError::Unknown("the answer was lost (injected)".into()));
        }
        answer
    }

    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError> {
        match self.away() {
            Some(reason) => Err(DatabaseError::Unavailable(reason)),
            None => self.inner.get(collection, id).await,
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        match self.away() {
            Some(reason) => Err(DatabaseError::Unavailable(reason)),
            None => self.inner.list(query).await,
        }
    }

    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError> {
        self.inner.find_key(key).await
    }

    async fn prune_keys(&self, older_than: Duration) -> Result<u64, DatabaseError> {
        self.inner.prune_keys(older_than).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
