//! A thread that owns a connection and does one job after the other.
//!
//! SQLite's calls block. A thread of its own costs a call two hand-overs and nothing else; a pool of the runtime
//! would cost more, and could be exhausted by others. A job that its caller gave up on does not start; one that
//! runs is broken off at the next opportunity (see [`Ticket`]), so nothing is sent behind a caller's back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::connection::Slot;

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const ABANDONED: u8 = 2;

/// A call's life as its caller and the thread both see it.
#[derive(Debug)]
pub(crate) struct Ticket {
    state: AtomicU8,
    deadline: Instant,
}

impl Ticket {
    /// Of a call that may take `limit`.
    pub(crate) fn new(limit: Duration) -> Arc<Self> {
        // A little less than the caller waits, so that it hears of the rollback instead of having to guess.
        let deadline = Instant::now() + limit.mul_f64(0.9);
        Arc::new(Self { state: AtomicU8::new(WAITING), deadline })
    }

    /// True when the work should stop: nobody waits for it any more, or its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.state.load(Ordering::Acquire) == ABANDONED || Instant::now() >= self.deadline
    }

    /// The thread claims the job; false when its caller is gone.
    fn start(&self) -> bool {
        self.state.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up; true when the job had not started and now never will.
    fn abandon(&self) -> bool {
        self.state.swap(ABANDONED, Ordering::AcqRel) == WAITING
    }
}

/// Abandons the ticket when the caller's future is dropped. Harmless after the answer.
struct Caller(Arc<Ticket>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The job never started and never will.
    NotStarted,
    /// It was running when time ran out.
    Underway,
}

type Job = Box<dyn FnOnce(&mut Slot) + Send>;

/// A handle to the thread. When it is dropped the thread finishes what it has, closes its connection and ends.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts a thread that owns `slot`.
    pub(crate) fn start(name: &str, mut slot: Slot) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&waiting);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                // A defect in one job must not silence the database for good. Its caller sees a dropped answer.
                if catch_unwind(AssertUnwindSafe(|| job(&mut slot))).is_err() {
                    slot.close();
                }
                done.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { jobs, waiting })
    }

    /// Jobs handed over and not done.
    pub(crate) fn load(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Has the thread do `work` and waits for its answer, at most `limit`.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&mut Slot) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let ticket = Ticket::new(limit);
        let caller = Caller(Arc::clone(&ticket));
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |slot| {
            if !ticket.start() {
                return;
            }
            slot.watch(Some(ticket));
            let result = work(slot);
            slot.watch(None);
            // Nobody may be listening any more.
            let _ = reply.send(result);
        });
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.jobs.send(job).is_err() {
            return Err(NoAnswer::NotStarted);
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => Ok(result),
            _ if caller.0.abandon() => Err(NoAnswer::NotStarted),
            _ => Err(NoAnswer::Underway),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Role, Shared};
    use crate::options::SqliteOptions;

    const LONG: Duration = Duration::from_mins(1);

    fn worker() -> Worker {
        let shared = Arc::new(Shared::new("/nowhere/x.db".into(), SqliteOptions::default()));
        Worker::start("test", Slot::new(shared, Role::Writer)).unwrap()
    }

    fn is_over(slot: &Slot) -> bool {
        slot.watched().is_some_and(|ticket| ticket.is_over())
    }

    #[tokio::test]
    async fn a_job_whose_caller_gave_up_never_starts() {
        let worker = worker();
        let (go, gate) = mpsc::channel::<()>();
        let (started, ran) = mpsc::channel::<()>();
        let mut blocking = Box::pin(worker.call(LONG, move |_| gate.recv().is_ok()));
        let late = async {
            // Behind the blocking job, with hardly any time.
            worker.call(Duration::from_millis(20), move |_| started.send(()).is_ok()).await
        };
        tokio::select! {
            biased;
            _ = &mut blocking => panic!("nobody opened the gate"),
            answer = late => assert_eq!(answer, Err(NoAnswer::NotStarted)),
        }
        go.send(()).unwrap();
        assert_eq!(blocking.await, Ok(true));
        assert_eq!(worker.call(LONG, |_| 1).await, Ok(1), "the next job is served");
        assert!(ran.recv().is_err(), "the job was thrown away without having run");
    }

    #[tokio::test]
    async fn work_is_told_to_stop_when_its_caller_is_gone() {
        let worker = worker();
        let (started, running) = mpsc::channel();
        let (stopped, saw) = mpsc::channel();
        let mut call = Box::pin(worker.call(LONG, move |slot| {
            started.send(()).unwrap();
            while !is_over(slot) {
                std::thread::yield_now();
            }
            stopped.send(()).unwrap();
        }));
        // The first poll hands the job over.
        assert!(tokio::time::timeout(Duration::ZERO, &mut call).await.is_err());
        running.recv().unwrap();
        drop(call);
        saw.recv().unwrap();
    }

    #[tokio::test]
    async fn work_is_told_to_stop_before_its_caller_stops_waiting() {
        let worker = worker();
        let answer = worker.call(Duration::from_secs(3), |slot| {
            while !is_over(slot) {
                std::thread::yield_now();
            }
            "rolled back"
        });
        assert_eq!(answer.await, Ok("rolled back"));
    }

    #[tokio::test]
    async fn a_job_that_panics_does_not_silence_the_thread() {
        let worker = worker();
        assert_eq!(worker.call::<()>(LONG, |_| panic!("on purpose")).await, Err(NoAnswer::Underway));
        assert_eq!(worker.call(LONG, |_| 1).await, Ok(1));
        outlast_testkit::eventually("every job is counted as done", || worker.load() == 0).await;
    }
}
