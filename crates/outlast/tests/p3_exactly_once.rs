//! P3: each acknowledged write takes effect exactly once, increments included, whatever happens to answers.
//! Method: seeded cases on a real SQLite database behind a temper that loses requests and answers, holds
//! transactions back and delivers them late, and goes away; counters prove the number of effects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{PATIENT, World, counter, drained, id_of, increment};
use outlast::{Error, Outlast, Wait};
use outlast_testkit::faulty::{Faulty, Temper};
use outlast_testkit::{eventually, seeds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_increment_takes_effect_once_when_its_answer_is_lost() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    for temper in [Temper::CommitWithoutAnswer, Temper::LoseRequest] {
        world.database.set(temper);
        outlast.submit(increment("a"), PATIENT).await.unwrap();
    }
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 2);
    assert_eq!((world.database.fired("answer lost"), world.database.fired("request lost")), (1, 1));
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_arrives_after_the_take_over_has_no_effect() {
    let world = World::new();
    let outlast = world.open().await;
    outlast.submit(counter("a"), PATIENT).await.unwrap();
    world.database.set(Temper::HoldBack);
    outlast.submit(increment("a"), PATIENT).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.counter("a").await, 1, "it was sent again after the take-over");
    assert_eq!(world.database.deliver_late().await, 0, "the late one is fenced");
    assert_eq!(world.counter("a").await, 1);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_in_doubt_is_not_cancelled_before_it_is_known_whether_it_took_effect() {
    for _ in 0..5 {
        let world = World::new();
        let outlast = world.open().await;
        outlast.submit(counter("a"), PATIENT).await.unwrap();
        world.database.set(Temper::HoldBack);
        let id = id_of(&outlast.submit(increment("a"), Wait::No).await.unwrap());
        while world.database.fired("held back") == 0 {
            tokio::task::yield_now().await;
        }
        world.database.set(Temper::Away);
        let mut cancelled = tokio::spawn({
            let outlast = outlast.clone();
            async move { outlast.cancel(id).await }
        });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut cancelled).await;
        world.database.deliver_late().await;
        world.database.set(Temper::Calm);
        let cancelled = match early {
            Ok(cancelled) => cancelled,
            Err(_) => cancelled.await,
        };
        assert!(matches!(cancelled.unwrap(), Err(Error::Conflict(_))));
        drained(&outlast).await;
        assert_eq!(world.counter("a").await, 1);
        outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_outcomes_never_double_or_lose_an_effect_in_hundreds_of_cases() {
    let replaying = std::env::var("OUTLAST_SEED").is_ok();
    let (mut fired, mut cases) = (0, 0);
    // A quick machine has fewer faults in a case: then there are more cases.
    while cases < 200 || fired < 300 {
        assert!(cases < 2000, "only {fired} faults fired in {cases} cases");
        let some = seeds(10);
        let running: Vec<_> = some.iter().map(|seed| tokio::spawn(case(*seed))).collect();
        for (seed, case) in some.iter().zip(running) {
            fired += case.await.unwrap_or_else(|error| panic!("replay with OUTLAST_SEED={seed}: {error}"));
            cases += 1;
        }
        if replaying {
            return;
        }
    }
    println!("{fired} faults in {cases} cases");
}

async fn case(seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new();
    let outlast = world.open().await;
    for id in ["a", "b", "c"] {
        outlast.submit(counter(id), PATIENT).await.unwrap();
    }
    let acknowledged: Arc<[AtomicU64; 3]> = Arc::default();
    let mut callers = Vec::new();
    for _ in 0..4 {
        let random = fastrand::Rng::with_seed(random.u64(..));
        callers.push(tokio::spawn(caller(outlast.clone(), random, acknowledged.clone())));
    }
    while callers.iter().any(|caller| !caller.is_finished()) {
        disturb(&world.database, &mut random).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    world.database.set(Temper::Calm);
    world.database.deliver_late().await;
    eventually("connected", || outlast.is_healthy()).await;
    drained(&outlast).await;
    world.database.deliver_late().await;
    for (id, acknowledged) in ["a", "b", "c"].into_iter().zip(acknowledged.iter()) {
        assert_eq!(world.counter(id).await, acknowledged.load(Ordering::SeqCst), "counter {id}, seed {seed}");
    }
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    ["answer lost", "request lost", "held back", "away"]
        .into_iter()
        .map(|fault| world.database.fired(fault))
        .sum()
}

async fn caller(outlast: Outlast, mut random: fastrand::Rng, acknowledged: Arc<[AtomicU64; 3]>) {
    for _ in 0..40 {
        // The caller's own rhythm, not a wait for anything.
        tokio::time::sleep(Duration::from_micros(random.u64(0..3000))).await;
        let index = random.usize(0..3);
        let wait = if random.bool() { PATIENT } else { Wait::No };
        outlast.submit(increment(["a", "b", "c"][index]), wait).await.unwrap();
        acknowledged[index].fetch_add(1, Ordering::SeqCst);
    }
}

async fn disturb(database: &Faulty, random: &mut fastrand::Rng) {
    let temper = match random.u8(0..6) {
        0 => Temper::CommitWithoutAnswer,
        1 => Temper::LoseRequest,
        2 | 3 => Temper::HoldBack,
        4 => Temper::Away,
        _ => Temper::Calm,
    };
    database.set(temper);
    // The case's own rhythm, not a wait for anything.
    tokio::time::sleep(Duration::from_millis(random.u64(0..15))).await;
    if random.bool() {
        database.deliver_late().await;
    }
}
