//! Waiting for states, and seeds that are printed.

use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `state` holds.
///
/// # Panics
/// When it does not hold within 30 seconds: the message names what was waited for.
pub async fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !state() {
        pause(what, deadline).await;
    }
}

/// Waits until there is something to be found, and returns it. (A future that `tokio::spawn` takes needs `eventually`: one
/// with an async closure cannot be shown to be `Send`.)
///
/// # Panics
/// When nothing is found within 30 seconds: the message names what was waited for.
pub async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        pause(what, deadline).await;
    }
}

async fn pause(what: &str, deadline: Instant) {
    assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Seeds for a randomised test: `count` fresh ones, or the one in `OUTLAST_SEED`. Each is printed, so that a failure
/// can be replayed.
///
/// # Panics
/// When `OUTLAST_SEED` is not a number.
pub fn seeds(count: usize) -> Vec<u64> {
    match std::env::var("OUTLAST_SEED") {
        Ok(seed) => vec![seed.parse().expect("OUTLAST_SEED is a number")],
        Err(_) => (0..count).map(|_| fastrand::u64(..)).collect(),
    }
}
