//! An outage is over when everything is applied that waited when the database came back: not only in a pause of the
//! callers, which a busy service may never make.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{PATIENT, World, counter, drained, increment, put};
use outlast::Wait;
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_ends_while_callers_keep_writing() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    world.database.set(Temper::Away);
    for _ in 0..50 {
        outlast.submit(increment("a"), Wait::No).await.unwrap();
    }
    eventually("away", || !outlast.is_healthy()).await;
    // Slower than the callers, so that something waits at any time.
    outlast.throttle(Some(100));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (outlast, stop) = (outlast.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    outlast.submit(put("busy", &caller.to_string(), "{}"), Wait::No).await.unwrap();
                    // The caller's own rhythm, not a wait for anything.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    world.database.set(Temper::Calm);
    eventually("the outage is over", || outlast.outages()[0].drained_at.is_some()).await;
    assert!(outlast.status().queue.writes > 0, "they never paused");
    assert_eq!(world.counter("a").await, 50, "what had waited is applied");
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    outlast.throttle(None);
    drained(&outlast).await;
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}
