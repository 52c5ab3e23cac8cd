//! Callers in a closed loop: each does the next call when the former one has ended. `tools/peers` builds this file, too.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::stats::Sample;
use crate::Result;

/// A runtime as a service would have it: a worker for each processor.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// So many tasks, each calling again and again until time is over. `call` gets the number of its caller.
pub(crate) fn tasks<F, A>(runtime: &Runtime, callers: usize, time: Duration, call: F) -> Result<Sample>
where
    F: Fn(usize) -> A + Clone + Send + 'static,
    A: Future<Output = Result<()>> + Send,
{
    runtime.block_on(async move {
        let started = Instant::now();
        let end = started + time;
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let call = call.clone();
            tasks.spawn(async move {
                let mut nanos = Vec::new();
                let mut before = Instant::now();
                while before < end {
                    call(caller).await?;
                    let after = Instant::now();
                    nanos.push(after.duration_since(before).as_nanos() as u64);
                    before = after;
                }
                Result::Ok(nanos)
            });
        }
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            all.append(&mut ended??);
        }
        Sample::of_calls(all, started.elapsed())
    })
}

/// The same with threads of the operating system, for calls that block.
pub(crate) fn threads(
    callers: usize,
    time: Duration,
    call: impl Fn(usize) -> Result<()> + Sync,
) -> Result<Sample> {
    let started = Instant::now();
    let end = started + time;
    let all = std::thread::scope(|scope| {
        let call = &call;
        let running: Vec<_> =
            (0..callers).map(|number| scope.spawn(move || until(end, || call(number)))).collect();
        let mut all = Vec::new();
        for thread in running {
            all.append(&mut thread.join().map_err(|_| "a caller's thread panicked")??);
        }
        Result::Ok(all)
    })?;
    Sample::of_calls(all, started.elapsed())
}

/// The same by this thread alone.
pub(crate) fn repeat(time: Duration, call: impl FnMut() -> Result<()>) -> Result<Sample> {
    let started = Instant::now();
    Sample::of_calls(until(started + time, call)?, started.elapsed())
}

/// Calls until then; how long each took, in nanoseconds.
fn until(end: Instant, mut call: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    let mut nanos = Vec::new();
    let mut before = Instant::now();
    while before < end {
        call()?;
        let after = Instant::now();
        nanos.push(after.duration_since(before).as_nanos() as u64);
        before = after;
    }
    Ok(nanos)
}
