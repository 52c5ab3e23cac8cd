//! Several lanes: records keep their order, writes over several lanes are barriers, and the number changes only when
//! nothing waits. That transactions are under way at the same time is seen by the simulation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::time::Duration;

use common::{PATIENT, World, drained, note, put};
use outlast::{Outlast, RecordName, Wait, Write};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;

const RECORDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

async fn list(world: &World, id: &str) -> Vec<u64> {
    let text = world.get("notes", id).await.unwrap();
    serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["list"].clone()).unwrap()
}

/// Appends the number to the lists of all records at once.
fn note_everywhere(number: u64) -> Write {
    Write::new(RECORDS.iter().flat_map(|id| note(id, number).operations().to_vec()).collect()).unwrap()
}

/// Appends the number everywhere, without saying which records that are.
fn note_without_a_word(number: u64) -> Write {
    let text = "UPDATE notes SET data = json_insert(data, '$.list[#]', :number)";
    let parameters = serde_json::json!({ "number": number }).as_object().unwrap().clone();
    Write::statement(text, parameters, Vec::<RecordName>::new())
}

async fn open(world: &mut World, lanes: u32) -> Outlast {
    world.options.lanes = lanes;
    let outlast = world.open().await;
    outlast.submit(put("notes", "seed", "{\"list\":[]}"), PATIENT).await.unwrap();
    outlast
}

async fn close(outlast: Outlast, world: &World) {
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_keeps_its_order_and_what_touches_several_is_a_barrier() {
    let mut world = World::new();
    let outlast = open(&mut world, 4).await;
    for (number, id) in RECORDS.iter().enumerate() {
        outlast.submit(note(id, number as u64), PATIENT).await.unwrap();
    }
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    let mut expected: Vec<Vec<u64>> = (0..RECORDS.len() as u64).map(|number| vec![number]).collect();
    for number in 100..400 {
        let write = match number % 10 {
            0 => note_everywhere(number),
            5 => note_without_a_word(number),
            _ => note(RECORDS[number as usize * 7 % RECORDS.len()], number),
        };
        match number % 10 {
            0 | 5 => expected.iter_mut().for_each(|list| list.push(number)),
            _ => expected[number as usize * 7 % RECORDS.len()].push(number),
        }
        outlast.submit(write, Wait::No).await.unwrap();
    }
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    for (id, expected) in RECORDS.iter().zip(&expected) {
        assert_eq!(&list(&world, id).await, expected, "record {id}");
    }
    close(outlast, &world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_changes_only_when_nothing_waits() {
    let mut world = World::new();
    let outlast = open(&mut world, 1).await;
    world.database.set(Temper::Away);
    eventually("away", || !outlast.is_healthy()).await;
    for number in 0..20 {
        outlast.submit(note("a", number), Wait::No).await.unwrap();
    }
    close(outlast, &world).await;

    world.options.lanes = 3;
    let outlast = world.open_now().await;
    let lanes = |outlast: &Outlast| {
        let queue = outlast.status().queue;
        (queue.lanes, queue.lanes_configured)
    };
    assert_eq!(lanes(&outlast), (1, Some(3)), "something waits");
    world.database.set(Temper::Calm);
    drained(&outlast).await;
    eventually("three lanes", || lanes(&outlast) == (3, None)).await;
    for number in 20..40 {
        outlast.submit(note(RECORDS[number as usize % 3], number), PATIENT).await.unwrap();
    }
    close(outlast, &world).await;

    // It stays so after a restart, and can be taken back.
    let outlast = world.open_now().await;
    assert_eq!(outlast.status().queue.lanes, 3);
    close(outlast, &world).await;
    world.options.lanes = 1;
    let outlast = world.open().await;
    eventually("one lane", || outlast.status().queue.lanes == 1).await;
    outlast.submit(note("a", 40), PATIENT).await.unwrap();
    let expected: Vec<u64> = (0..20).chain((20..40).filter(|number| number % 3 == 0)).chain([40]).collect();
    assert_eq!(list(&world, "a").await, expected);
    close(outlast, &world).await;
}

/// A backup from the time of one lane is put back when there are four.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_before_the_number_changed_is_healed() {
    let mut world = World::new();
    let outlast = open(&mut world, 1).await;
    outlast.submit(note("a", 1), PATIENT).await.unwrap();
    outlast.submit(note("b", 2), PATIENT).await.unwrap();
    close(outlast, &world).await;
    let backup = world.path("backup.db");
    let copy = rusqlite::Connection::open(world.path("database.db")).unwrap();
    copy.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    drop(copy);

    world.options.lanes = 4;
    let outlast = world.open().await;
    outlast.submit(note("a", 3), PATIENT).await.unwrap();
    eventually("four lanes", || outlast.status().queue.lanes == 4).await;
    for (number, id) in (4..).zip(RECORDS) {
        outlast.submit(note(id, number), PATIENT).await.unwrap();
    }
    close(outlast, &world).await;

    std::fs::rename(&backup, world.path("database.db")).unwrap();
    for rest in ["database.db-wal", "database.db-shm"] {
        let _ = std::fs::remove_file(world.path(rest));
    }
    let outlast = world.open().await;
    outlast.submit(note("f", 10), PATIENT).await.unwrap();
    drained(&outlast).await;
    assert_eq!(list(&world, "a").await, [1, 3, 4]);
    assert_eq!(list(&world, "b").await, [2, 5]);
    assert_eq!(list(&world, "f").await, [9, 10]);
    eventually("four lanes again", || outlast.status().queue.lanes == 4).await;
    close(outlast, &world).await;
}
