//! P4: order is kept. Method: every write appends its number to a list in its record; the list must be in the order
//! of acknowledgement, through outages, refusals that park, and restarts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENT, World, drained, id_of, note};
use outlast::{Fate, Operation, Refusal, RefusalKind, Wait, Write};
use outlast_testkit::faulty::Temper;
use outlast_testkit::{eventually, seeds};

/// The number that a note adds.
fn number(write: &Write) -> Option<u64> {
    match write.operations() {
        [Operation::Statement { parameters, .. }] => parameters.get("number")?.as_u64(),
        _ => None,
    }
}

async fn list(world: &World, id: &str) -> Vec<u64> {
    let text = world.get("notes", id).await.unwrap();
    serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["list"].clone()).unwrap()
}

async fn prepare(world: &World) -> outlast::Outlast {
    let outlast = world.open().await;
    outlast.submit(common::put("notes", "seed", "{\"list\":[]}"), PATIENT).await.unwrap();
    outlast
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_write_keeps_the_order_of_its_record_and_others_go_on() {
    let world = World::new();
    let outlast = prepare(&world).await;
    // Number 3 is refused twice, then taken.
    let refusals = Arc::new(Mutex::new(0));
    let count = refusals.clone();
    world.database.judge(move |write| {
        let mut count = count.lock().unwrap();
        (number(write) == Some(3) && *count < 2).then(|| {
            *count += 1;
            (Refusal::new(RefusalKind::Constraint, "a reference is missing"), true)
        })
    });
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let mut three = None;
    for n in 0..20 {
        let outcome =
            outlast.submit(note(if n % 2 == 1 { "odd" } else { "even" }, n), Wait::No).await.unwrap();
        if n == 3 {
            three = Some(id_of(&outcome));
        }
    }
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    assert_eq!(list(&world, "odd").await, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
    assert_eq!(list(&world, "even").await, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
    assert_eq!(*refusals.lock().unwrap(), 2);
    let receipt = outlast.receipt(three.unwrap()).await.unwrap();
    assert_eq!(receipt.status, Fate::Applied, "its receipt follows it under its first id");
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Found by the simulation: what says that the earlier write waits was reclaimed, once that was on its way again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_lets_nothing_overtake_a_write_whose_former_entry_the_log_has_let_go_of() {
    let mut world = World::new();
    (world.options.retain, world.options.retain_bytes) = (Duration::ZERO, 0);
    let outlast = prepare(&world).await;
    outlast.submit(note("r", 1), PATIENT).await.unwrap();
    // Number 2 is refused once, and then the database goes away.
    let (database, refused) = (world.database.clone(), Arc::new(AtomicBool::new(false)));
    let once = refused.clone();
    world.database.judge(move |write| {
        let hit = number(write) == Some(2) && !once.swap(true, Ordering::SeqCst);
        hit.then(|| {
            database.set(Temper::Away);
            (Refusal::new(RefusalKind::Constraint, "a reference is missing"), true)
        })
    });
    let two = id_of(&outlast.submit(note("r", 2), Wait::No).await.unwrap());
    eventually("refused", || refused.load(Ordering::SeqCst)).await;
    eventually("away", || !outlast.is_healthy()).await;
    let filling = format!("{{\"filling\":\"{}\"}}", "x".repeat(10_000));
    for n in 0..20 {
        outlast.submit(common::put("filling", &n.to_string(), &filling), Wait::No).await.unwrap();
    }
    for n in 0..1000 {
        outlast.submit(note("another", n), Wait::No).await.unwrap();
    }
    let three = id_of(&outlast.submit(note("r", 3), Wait::No).await.unwrap());
    outlast.throttle(Some(40));
    world.database.set(Temper::Calm);
    let first_segment = world.options.directory.join("segments/00000001.jsonl");
    assert!(first_segment.exists());
    eventually("reclaimed", || !first_segment.exists()).await;
    for id in [two, three] {
        assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Pending);
    }
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    let outlast = world.open().await;
    drained(&outlast).await;
    assert_eq!(list(&world, "r").await, [1, 2, 3]);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_survives_parking_outages_and_restarts_in_seeded_cases() {
    for some in seeds(60).chunks(10) {
        let cases: Vec<_> = some.iter().map(|seed| tokio::spawn(case(*seed))).collect();
        for (seed, case) in some.iter().zip(cases) {
            case.await.unwrap_or_else(|error| panic!("replay with OUTLAST_SEED={seed}: {error}"));
        }
    }
}

async fn case(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    world.options.lanes = random.u32(1..=3);
    let mut outlast = prepare(&world).await;
    let already: Mutex<HashSet<u64>> = Mutex::default();
    let salt = random.u64(..);
    world.database.judge(move |write| {
        let number = number(write)?;
        let unlucky = (number ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).is_multiple_of(5);
        (unlucky && already.lock().unwrap().insert(number))
            .then(|| (Refusal::new(RefusalKind::Constraint, "not yet"), true))
    });
    let records = ["a", "b", "c"];
    let mut expected = [const { Vec::new() }; 3];
    for n in 0..60 {
        let record = random.usize(0..3);
        outlast.submit(note(records[record], n), Wait::No).await.unwrap();
        expected[record].push(n);
        match random.u8(0..20) {
            0 => world.database.set(Temper::Away),
            1 => world.database.set(Temper::CommitWithoutAnswer),
            2 => world.database.set(Temper::HoldBack),
            3..6 => world.database.set(Temper::Calm),
            6 => {
                drop(outlast);
                eventually("the lock is free", || world.try_lock()).await;
                outlast = world.open_now().await;
            }
            _ => {}
        }
    }
    world.database.set(Temper::Calm);
    eventually("connected", || outlast.is_healthy()).await;
    drained(&outlast).await;
    world.database.deliver_late().await;
    for (record, expected) in records.iter().zip(&expected) {
        if !expected.is_empty() {
            assert_eq!(&list(&world, record).await, expected, "record {record}, seed {seed}");
        }
    }
    assert!(world.database.fired("refused") > 0);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}
