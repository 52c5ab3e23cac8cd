//! The same primitives, scheduled by shuttle: at each use of one it decides which thread goes on, and a run can be
//! repeated exactly. Only for `tests/schedules.rs`.
//!
//! Time is a number that the schedule moves. A wait with a time limit ends early, or by its limit, as the schedule
//! likes; but one that is meant as "for ever" waits until it is woken, so that a wake-up that was forgotten shows as a
//! deadlock instead of hiding behind the limit.
#![expect(clippy::unnecessary_wraps, reason = "as the real ones, which know of poison")]

use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shuttle::rand::Rng;
pub(crate) use shuttle::sync::RwLock;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

/// A limit from here on never comes.
const FOR_EVER: Duration = Duration::from_mins(1);
/// How much time passes while a thread runs, in one of so many looks at the clock.
const TICK: Duration = Duration::from_micros(100);
const LOOKS_PER_TICK: u32 = 8;

type Locked<T> = Result<T, PoisonError<T>>;

/// A lock that knows where it came from: waiting for a time needs to give it back and take it again.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    inner: shuttle::sync::MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Locked<MutexGuard<'_, T>> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { inner, mutex: self })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> Locked<MutexGuard<'a, T>> {
        let MutexGuard { inner, mutex } = guard;
        let inner = self.0.wait(inner).unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { inner, mutex })
    }

    /// Others go on for a while; then the limit has come, or something has woken this thread, without need perhaps.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> Locked<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        if limit >= FOR_EVER {
            let guard = self.wait(guard).unwrap_or_else(PoisonError::into_inner);
            return Ok((guard, WaitTimeoutResult(false)));
        }
        let mutex = guard.mutex;
        drop(guard);
        let timed_out = pass(limit);
        let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((guard, WaitTimeoutResult(timed_out)))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Looking at it is a point where another thread may go on.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    looks: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self { looks: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.looks.load(Ordering::SeqCst);
        self.value.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.looks.load(Ordering::SeqCst);
        self.value.set(value)
    }
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::{Builder, JoinHandle, Thread, current, panicking, park, yield_now};

    /// Ends when it likes, as the real one may.
    pub(crate) fn park_timeout(limit: Duration) {
        super::pass(limit);
    }
}

std::thread_local! {
    /// All threads of a schedule are one thread of the system.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A time that only the schedule moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The present time.
    pub fn now() -> Self {
        if shuttle::rand::thread_rng().gen_ratio(1, LOOKS_PER_TICK) {
            advance(TICK);
        }
        Self(NOW.get())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    pub(crate) fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

fn advance(time: Duration) {
    NOW.set(NOW.get() + time);
}

/// Lets others go on; true if this time has passed meanwhile.
fn pass(time: Duration) -> bool {
    shuttle::thread::yield_now();
    let passes = shuttle::rand::thread_rng().r#gen();
    if passes {
        advance(time);
    }
    passes
}
