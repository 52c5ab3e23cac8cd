//! [`Durable`]: waiting until the `durable` watermark has passed a ticket.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

use crate::Failure;
use crate::shared::Shared;
use crate::sync::Instant;
use crate::sync::thread::{self, Thread};

/// Those who wait, by ticket. Nobody is called while the lock is held.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: BTreeMap<(u64, u64), Waker>,
    next_key: u64,
}

impl Shared {
    /// Makes it known that everything up to this ticket is durable, and wakes who waited for that, in one go. Returns
    /// how many these were.
    pub(crate) fn publish_durable(&self, ticket: u64) -> u64 {
        self.durable.store(ticket, Ordering::SeqCst);
        let ready = {
            let mut waiters = self.waiters();
            if waiters.waiting.is_empty() {
                return 0;
            }
            let later = waiters.waiting.split_off(&(ticket + 1, 0));
            std::mem::replace(&mut waiters.waiting, later)
        };
        let count = ready.len() as u64;
        for waker in ready.into_values() {
            waker.wake();
        }
        count
    }

    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.waiters().waiting);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

/// Ends when everything up to a ticket is fsynced, or when the log has failed. Await it, or [`wait`](Durable::wait)
/// in a thread. It asks for the sync when that begins; dropping it afterwards is fine, the sync happens all the same.
#[derive(Debug)]
#[must_use = "nothing is durable before this has ended"]
pub struct Durable {
    shared: Arc<Shared>,
    ticket: u64,
    /// Under which its waker stands in the list. The sync was asked for before it has one.
    key: Option<u64>,
}

impl Durable {
    pub(crate) fn new(shared: Arc<Shared>, ticket: u64) -> Self {
        Self { shared, ticket, key: None }
    }

    fn want(&self) {
        self.shared.wanted.fetch_max(self.ticket, Ordering::SeqCst);
    }

    /// The state now; `None` while it is open.
    fn outcome(&self) -> Option<Result<(), Failure>> {
        if self.shared.durable.load(Ordering::SeqCst) >= self.ticket {
            return Some(Ok(()));
        }
        self.shared.failure.get().map(|failure| Err(failure.clone()))
    }

    /// Blocks this thread until it is durable. It writes and syncs itself if nobody else is at it.
    pub fn wait(mut self) -> Result<(), Failure> {
        if self.outcome().is_none() {
            self.want();
            self.shared.commit_here();
        }
        let waker = this_thread();
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Blocks this thread until it is durable or the deadline has come; then `None`.
    pub fn wait_until(mut self, deadline: Instant) -> Option<Result<(), Failure>> {
        let waker = this_thread();
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut self).poll(&mut context) {
                return Some(outcome);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            thread::park_timeout(left);
        }
    }
}

impl Future for Durable {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.outcome() {
            self.key = None; // whoever made it so has taken the waker out of the list, or is about to
            return Poll::Ready(outcome);
        }
        let this = &mut *self;
        if this.key.is_none() {
            this.want();
            this.shared.wake_committer();
        }
        let mut waiters = this.shared.waiters();
        // Once more, with the lock: what was published before it was taken woke nobody who was not in the list.
        if let Some(outcome) = this.outcome() {
            return Poll::Ready(outcome);
        }
        let key = *this.key.get_or_insert_with(|| {
            waiters.next_key += 1;
            waiters.next_key
        });
        let place = waiters.waiting.entry((this.ticket, key));
        place
            .and_modify(|waker| waker.clone_from(context.waker()))
            .or_insert_with(|| context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.waiters().waiting.remove(&(self.ticket, key));
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

fn this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}
