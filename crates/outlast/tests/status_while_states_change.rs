//! The status is asked for at any moment, also in the middle of a change of state: the question never hangs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{World, drained, put};
use outlast::Wait;
use outlast_testkit::eventually;

#[test]
fn the_status_answers_while_the_lane_is_paused_and_resumed_all_the_time() {
    // In a thread of its own: one that hangs must fail this test, not keep it for ever.
    let asking = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(ask_while_it_changes());
    });
    let deadline = Instant::now() + Duration::from_mins(1);
    while !asking.is_finished() {
        assert!(Instant::now() < deadline, "the status hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
    asking.join().unwrap();
}

async fn ask_while_it_changes() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.pause(None).await.unwrap();
    // Something waits, so that there is something to estimate.
    outlast.submit(put("a", "1", "{}"), Wait::No).await.unwrap();
    let (stop, answers): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
    let changing = {
        let (outlast, stop) = (outlast.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                outlast.resume(None).await.unwrap();
                outlast.pause(None).await.unwrap();
                outlast.submit(put("a", "1", "{}"), Wait::No).await.unwrap();
            }
        })
    };
    for _ in 0..2 {
        let (outlast, stop, answers) = (outlast.clone(), stop.clone(), answers.clone());
        // Threads of their own: one that hangs would keep a worker.
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                outlast.status();
                answers.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually("many answers", || answers.load(Ordering::SeqCst) > 100_000).await;
    stop.store(true, Ordering::SeqCst);
    changing.await.unwrap();
    outlast.resume(None).await.unwrap();
    drained(&outlast).await;
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}
