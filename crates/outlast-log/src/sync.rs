//! The primitives with which threads of the log meet, from one place, so that tests can put others here and decide
//! themselves which thread goes on; and beside them time and random numbers. What never makes a thread wait (`Arc`,
//! orderings, poison) is taken from `std`.

#[cfg(feature = "simulation")]
pub(crate) mod lockstep;
#[cfg(feature = "shuttle")]
mod scheduled;

#[cfg(not(any(feature = "shuttle", feature = "simulation")))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, RwLock},
    thread,
    time::Instant,
};

#[cfg(feature = "simulation")]
pub use lockstep::Instant;
#[cfg(feature = "simulation")]
pub(crate) use lockstep::{
    AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, RwLock, fill_random, system_now,
    thread,
};
#[cfg(all(feature = "shuttle", not(feature = "simulation")))]
pub use scheduled::Instant;
#[cfg(all(feature = "shuttle", not(feature = "simulation")))]
pub(crate) use scheduled::{
    AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, RwLock, thread,
};

/// The time of day.
#[cfg(not(feature = "simulation"))]
pub(crate) fn system_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Fills it with random numbers that nobody can guess.
#[cfg(not(feature = "simulation"))]
pub(crate) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(std::io::Error::other)
}
