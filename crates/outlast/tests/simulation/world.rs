//! One thread, one clock, one seed. Tokio's paused clock jumps to the next timer whenever nothing is left to do; before
//! it does, the log's threads run in lockstep until each of them waits.

use std::cell::Cell;
use std::future::pending;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use outlast_log::simulation::World;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

std::thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Virtual time since the beginning of this thread's simulation.
pub fn elapsed() -> Duration {
    BEGUN.get().map_or(Duration::ZERO, |begun| begun.elapsed())
}

/// Joins the log's threads to the runtime.
#[derive(Default)]
struct Pump {
    world: OnceLock<World>,
    /// When the log's threads want to go on by themselves.
    next: Mutex<Option<Duration>>,
    changed: Notify,
}

impl Pump {
    /// Nothing is left to do in the runtime.
    fn turn(&self) {
        let Some(world) = self.world.get() else { return };
        let next = world.run();
        let mut known = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next != *known {
            *known = next;
            self.changed.notify_one();
        }
    }

    /// Makes the clock stop at the times at which the log's threads want to go on.
    async fn run(&self) {
        loop {
            let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = BEGUN.get().unwrap_or_else(Instant::now);
            let timer = async {
                match next {
                    Some(at) => sleep_until(begun + at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                // The threads are let go when nothing else is left to do.
                () = timer => *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None,
            }
        }
    }
}

/// Runs this to its end in a world of its own.
pub fn run<T>(seed: u64, simulation: impl Future<Output = T>) -> T {
    // The library's dice.
    fastrand::seed(seed);
    let pump = Arc::new(Pump::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park({
            let pump = pump.clone();
            move || pump.turn()
        })
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        BEGUN.set(Some(Instant::now()));
        assert!(pump.world.set(World::new(seed, elapsed)).is_ok());
        let pumping = tokio::spawn(async move { pump.run().await });
        let outcome = simulation.await;
        pumping.abort();
        outcome
    });
    drop(runtime);
    BEGUN.set(None);
    outcome
}
