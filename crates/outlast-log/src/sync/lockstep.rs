//! The same primitives in lockstep, for the simulation of a whole system: of all threads of a [`World`] exactly one runs
//! at a time, from where it began to wait to where it waits again. Who goes on next, and what time it is, only the world
//! says, so that one seed gives one run, bit for bit.
//!
//! The code of the log is the real one on real threads. What differs: a wait hands over to another thread, time is a
//! number, and random numbers come from the seed.

use std::cell::RefCell;
use std::ops::{Add, Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
pub(crate) use std::sync::{OnceLock, RwLock};

/// The thread that drives the world.
const DRIVER: usize = 0;
/// How much time passes for a thread that lets others run.
const TURN: Duration = Duration::from_micros(10);
/// How long a thread waits before it looks again whether a lock is free.
const LOCK_RETRY: Duration = Duration::from_micros(10);
/// The Unix time at which every world begins: 2025-01-01.
const BEGINNING: Duration = Duration::from_hours(482_136);

std::thread_local! {
    /// The world of this thread, and its number there.
    static HERE: RefCell<Option<(World, usize)>> = const { RefCell::new(None) };
}

/// Threads that run one at a time, their clock and their dice. The thread that makes it drives it: the others run while
/// it calls [`World::run`], and while it waits for one of them.
#[derive(Debug, Clone)]
pub struct World(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: std::sync::Mutex<State>,
    /// The driver's clock.
    clock: fn() -> Duration,
}

#[derive(Debug)]
struct State {
    now: Duration,
    dice: u64,
    threads: Vec<Slot>,
    running: usize,
    /// The driver waits for something that nobody will ever do.
    stuck: bool,
}

#[derive(Debug)]
struct Slot {
    wait: Wait,
    /// Rings when this thread may go on.
    bell: Arc<std::sync::Condvar>,
    /// Its last wait ended because somebody woke it, and not by its limit.
    woken: bool,
    /// It was unparked before it parked.
    token: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For its turn.
    Turn,
    /// The driver, until all others wait for something else than their turn.
    Others,
    For {
        what: What,
        until: Option<Duration>,
    },
    /// It has ended.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Time,
    Condvar(u64),
    Unpark,
    End(usize),
}

impl World {
    /// A world that this thread drives. `clock` tells the driver's time, from zero; it never goes back.
    pub fn new(seed: u64, clock: fn() -> Duration) -> Self {
        let state = State {
            now: Duration::ZERO,
            dice: seed,
            threads: vec![Slot::new()],
            running: DRIVER,
            stuck: false,
        };
        let world = Self(Arc::new(Inner { state: std::sync::Mutex::new(state), clock }));
        HERE.set(Some((world.clone(), DRIVER)));
        world
    }

    /// Lets the others run until each of them waits. Returns when the first of them wants to go on by itself.
    pub fn run(&self) -> Option<Duration> {
        self.tick();
        self.wait(DRIVER, Wait::Others);
        self.state().next_deadline()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        let now = (self.0.clock)();
        let mut state = self.state();
        state.now = state.now.max(now);
    }

    fn now(&self, me: usize) -> Duration {
        if me == DRIVER {
            self.tick();
        }
        self.state().now
    }

    /// Hands over; true if somebody woke this thread before the limit.
    fn wait(&self, me: usize, wait: Wait) -> bool {
        let mut state = self.state();
        state.threads[me].wait = wait;
        state.threads[me].woken = false;
        state.choose();
        let next = state.running;
        if next != me {
            state.threads[next].bell.notify_one();
            if wait == Wait::Over {
                return true;
            }
            let bell = state.threads[me].bell.clone();
            while state.running != me {
                state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.threads[me].wait = Wait::Turn;
        assert!(
            !(me == DRIVER && state.stuck),
            "deadlock: the driver waits for something that nobody will do"
        );
        state.threads[me].woken
    }

    fn wait_for(&self, me: usize, what: What, limit: Option<Duration>) -> bool {
        let until = limit.map(|limit| self.now(me) + limit);
        self.wait(me, Wait::For { what, until })
    }

    fn wake(&self, what: What, at_most: usize) {
        let mut state = self.state();
        let waits = |slot: &&mut Slot| matches!(slot.wait, Wait::For { what: other, .. } if other == what);
        for slot in state.threads.iter_mut().filter(waits).take(at_most) {
            (slot.wait, slot.woken) = (Wait::Turn, true);
        }
    }
}

impl State {
    /// Who goes on. Time passes by itself only while the driver waits for something of the others.
    fn choose(&mut self) {
        loop {
            let now = self.now;
            for slot in &mut self.threads {
                if matches!(slot.wait, Wait::For { until: Some(until), .. } if until <= now) {
                    slot.wait = Wait::Turn;
                }
            }
            let ready = self.threads.iter().enumerate().filter(|(_, slot)| slot.wait == Wait::Turn);
            let ready: Vec<usize> = ready.map(|(number, _)| number).collect();
            if !ready.is_empty() {
                self.running = ready[self.throw() as usize % ready.len()];
                return;
            }
            match self.next_deadline() {
                Some(at) if self.threads[DRIVER].wait != Wait::Others => self.now = at,
                deadline => {
                    self.stuck = deadline.is_none() && self.threads[DRIVER].wait != Wait::Others;
                    self.running = DRIVER;
                    return;
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self.threads.iter().filter_map(|slot| match slot.wait {
            Wait::For { until, .. } => until,
            _ => None,
        });
        deadlines.min()
    }

    /// The next number of [SplitMix64](https://doi.org/10.1145/2714064.2660195).
    fn throw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Slot {
    fn new() -> Self {
        Self { wait: Wait::Turn, bell: Arc::default(), woken: false, token: false }
    }
}

fn here() -> (World, usize) {
    HERE.with_borrow(Clone::clone).expect("a thread of a simulated log belongs to a world")
}

/// Makes a thread of a log wait; a disk that takes its time calls it. The driver does not wait: its time passes
/// elsewhere.
pub fn sleep(time: Duration) {
    let (world, me) = here();
    if me != DRIVER {
        world.wait_for(me, What::Time, Some(time));
    }
}

/// Fills it with random numbers, from the seed.
#[expect(clippy::unnecessary_wraps, reason = "as the real one")]
pub(crate) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    let (world, _) = here();
    let mut state = world.state();
    for part in bytes.chunks_mut(8) {
        let random = state.throw().to_le_bytes();
        part.copy_from_slice(&random[..part.len()]);
    }
    Ok(())
}

/// The time of day.
pub(crate) fn system_now() -> SystemTime {
    let (world, me) = here();
    UNIX_EPOCH + BEGINNING + world.now(me)
}

/// A time that only the world moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The present time.
    pub fn now() -> Self {
        let (world, me) = here();
        Self(world.now(me))
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

type Locked<T> = Result<T, PoisonError<T>>;

/// A lock that nobody waits for with the turn in hand.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    inner: std::sync::MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Locked<MutexGuard<'_, T>> {
        loop {
            match self.0.try_lock() {
                Ok(inner) => return Ok(MutexGuard { inner, mutex: self }),
                Err(TryLockError::Poisoned(poisoned)) => {
                    return Err(PoisonError::new(MutexGuard { inner: poisoned.into_inner(), mutex: self }));
                }
                Err(TryLockError::WouldBlock) => {
                    let (world, me) = here();
                    world.wait_for(me, What::Time, Some(LOCK_RETRY));
                }
            }
        }
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
pub(crate) struct Condvar(u64);

#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self(MADE.fetch_add(1, Ordering::Relaxed))
    }

    fn wait_limited<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Option<Duration>,
    ) -> (Locked<MutexGuard<'a, T>>, bool) {
        let (world, me) = here();
        let mutex = guard.mutex;
        drop(guard);
        let woken = world.wait_for(me, What::Condvar(self.0), limit);
        (mutex.lock(), woken)
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> Locked<MutexGuard<'a, T>> {
        self.wait_limited(guard, None).0
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the real one")]
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> Locked<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (guard, woken) = self.wait_limited(guard, Some(limit));
        Ok((guard.unwrap_or_else(PoisonError::into_inner), WaitTimeoutResult(!woken)))
    }

    pub(crate) fn notify_one(&self) {
        here().0.wake(What::Condvar(self.0), 1);
    }

    pub(crate) fn notify_all(&self) {
        here().0.wake(What::Condvar(self.0), usize::MAX);
    }
}

pub(crate) mod thread {
    use std::io;
    use std::time::Duration;

    pub(crate) use std::thread::panicking;

    use super::{HERE, Slot, TURN, Wait, What, World, here};

    #[derive(Debug)]
    pub(crate) struct Builder(std::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Self(std::thread::Builder::new())
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            let (world, _) = here();
            let number = {
                let mut state = world.state();
                state.threads.push(Slot::new());
                state.threads.len() - 1
            };
            let inner = self.0.spawn({
                let world = world.clone();
                move || {
                    HERE.set(Some((world.clone(), number)));
                    wait_for_turn(&world, number);
                    let _ending = Ending(world, number);
                    work()
                }
            })?;
            Ok(JoinHandle { inner, number })
        }
    }

    fn wait_for_turn(world: &World, me: usize) {
        let mut state = world.state();
        let bell = state.threads[me].bell.clone();
        while state.running != me {
            state = bell.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Hands over for the last time, also after a panic.
    struct Ending(World, usize);

    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.wake(What::End(self.1), usize::MAX);
            self.0.wait(self.1, Wait::Over);
        }
    }

    #[derive(Debug)]
    pub(crate) struct JoinHandle<T> {
        inner: std::thread::JoinHandle<T>,
        number: usize,
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn join(self) -> std::thread::Result<T> {
            let (world, me) = here();
            let over = world.state().threads[self.number].wait == Wait::Over;
            if !over {
                world.wait_for(me, What::End(self.number), None);
            }
            self.inner.join()
        }
    }

    /// A thread that may be parked.
    #[derive(Debug, Clone)]
    pub(crate) struct Thread(World, usize);

    impl Thread {
        pub(crate) fn unpark(&self) {
            let mut state = self.0.state();
            let slot = &mut state.threads[self.1];
            if matches!(slot.wait, Wait::For { what: What::Unpark, .. }) {
                (slot.wait, slot.woken) = (Wait::Turn, true);
            } else {
                slot.token = true;
            }
        }
    }

    pub(crate) fn current() -> Thread {
        let (world, me) = here();
        Thread(world, me)
    }

    pub(crate) fn park() {
        wait_for_unpark(None);
    }

    /// Time passes while others run.
    pub(crate) fn yield_now() {
        super::sleep(TURN);
    }

    pub(crate) fn park_timeout(limit: Duration) {
        wait_for_unpark(Some(limit));
    }

    fn wait_for_unpark(limit: Option<Duration>) {
        let (world, me) = here();
        let token = std::mem::take(&mut world.state().threads[me].token);
        if !token {
            world.wait_for(me, What::Unpark, limit);
        }
    }
}
