//! Callers that wait for *applied*.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outlast_log::Sequence;
use tokio::sync::oneshot;

use crate::error::Refusal;
use crate::write::WriteId;

/// What a waiting caller is told.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The database has committed it.
    Applied { duplicate_of: Option<WriteId> },
    /// The database refused it; the mark is durable.
    Rejected(Refusal),
    /// Do not wait any longer: take *queued*.
    Released,
    /// Whoever was deciding could not finish: a mark may stand in the log, durable or not.
    Undecided,
}

/// Who waits for which write. Whoever takes a waiter out of here decides what its caller is told, so a caller can
/// never be told *queued* and *refused* both.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// False while the database is away or the lane stands still: then nobody begins to wait.
    open: bool,
    waiting: HashMap<Sequence, oneshot::Sender<Answer>>,
}

impl Waiters {
    /// Registers a caller; `None` when waiting is pointless now. `promising`: the lane is about to open.
    pub(crate) fn register(&self, sequence: Sequence, promising: bool) -> Option<oneshot::Receiver<Answer>> {
        let mut inner = self.lock();
        if !inner.open && !promising {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        inner.waiting.insert(sequence, sender);
        Some(receiver)
    }

    /// Takes a caller out: by the drainer to answer it, or by the caller itself to leave. `None`: the other was first.
    pub(crate) fn take(&self, sequence: Sequence) -> Option<oneshot::Sender<Answer>> {
        self.lock().waiting.remove(&sequence)
    }

    /// Sends one caller away with *queued*.
    pub(crate) fn release(&self, sequence: Sequence) {
        if let Some(waiter) = self.take(sequence) {
            let _ = waiter.send(Answer::Released);
        }
    }

    pub(crate) fn is_waiting(&self, sequence: Sequence) -> bool {
        self.lock().waiting.contains_key(&sequence)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Tells everybody whose write was applied.
    pub(crate) fn applied(&self, sequences: impl Iterator<Item = (Sequence, Option<WriteId>)>) {
        let mut inner = self.lock();
        if inner.waiting.is_empty() {
            return;
        }
        for (sequence, duplicate_of) in sequences {
            if let Some(waiter) = inner.waiting.remove(&sequence) {
                let _ = waiter.send(Answer::Applied { duplicate_of });
            }
        }
    }

    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    /// Sends everybody away with *queued*, and nobody waits until `open`.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.open = false;
            std::mem::take(&mut inner.waiting)
        };
        // In the order of the log: what callers do next should not hang on the order of a table.
        let mut waiting: Vec<_> = waiting.into_iter().collect();
        waiting.sort_unstable_by_key(|(sequence, _)| *sequence);
        for (_, waiter) in waiting {
            let _ = waiter.send(Answer::Released);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
