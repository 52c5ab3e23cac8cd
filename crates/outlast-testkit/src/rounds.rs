//! How long randomised tests go on: a few rounds by default, minutes when they are asked for.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The minutes that randomised tests are to run, from `OUTLAST_MINUTES`; `None` if nothing was said.
///
/// # Panics
/// When it is not a number.
pub fn minutes() -> Option<u64> {
    let text = std::env::var("OUTLAST_MINUTES").ok()?;
    Some(text.parse().expect("OUTLAST_MINUTES is a number"))
}

/// Seeds, one per round: the one in `OUTLAST_SEED`; or new ones for as long as `OUTLAST_MINUTES` says; or `count` new
/// ones. Several threads may take from it.
///
/// # Panics
/// When one of the variables is not a number.
pub fn rounds(count: u64) -> impl Fn() -> Option<u64> + Sync {
    let one = std::env::var("OUTLAST_SEED").ok().map(|seed| seed.parse().expect("OUTLAST_SEED is a number"));
    let deadline = minutes().map(|minutes| Instant::now() + Duration::from_mins(minutes));
    let done = Mutex::new(0);
    move || {
        let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let goes_on = match (one, deadline) {
            (Some(_), _) => *done == 0,
            (None, Some(deadline)) => Instant::now() < deadline,
            (None, None) => *done < count,
        };
        *done += 1;
        goes_on.then(|| one.unwrap_or_else(|| fastrand::u64(..)))
    }
}
