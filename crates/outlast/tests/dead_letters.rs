//! What operators do with dead letters, one or many of them: exactly once and in order like everything else, also when the
//! process dies in between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENT, World, create, drained, id_of, patch, put};
use outlast::redact::{MARK, Redaction};
use outlast::status::DeadFilter;
use outlast::{Error, Fate, Operation, Outcome, Outlast, Refusal, RefusalKind, Wait, WriteId};
use outlast_testkit::eventually;

const ALL: DeadFilter =
    DeadFilter { kind: None, message: None, collection: None, after: None, there_at: None, limit: 10_000 };

fn world() -> World {
    let mut world = World::new();
    world.options.storm_threshold = 100_000;
    world
}

/// Dead letters of puts to these records, each refused for good. The judge is sent home again.
async fn bury(world: &World, outlast: &Outlast, records: &[(&str, &str)]) -> Vec<WriteId> {
    let before = outlast.status().accounting.dead;
    world.database.judge(|_| Some((Refusal::new(RefusalKind::Schema, "no such field"), false)));
    let mut ids = Vec::new();
    for (id, data) in records {
        ids.push(id_of(&outlast.submit(put("users", id, data), Wait::No).await.unwrap()));
    }
    eventually("all are dead", || outlast.status().accounting.dead == before + ids.len() as u64).await;
    world.database.acquit();
    ids
}

/// Notes every record whose write is tried, in order.
fn watch(world: &World) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    world.database.judge(move |write| {
        noted.lock().unwrap().push(write.records().next().unwrap().id.as_str().to_owned());
        None
    });
    seen
}

async fn end(outlast: Outlast) {
    assert!(outlast.status().accounting_holds, "{:?}", outlast.status().accounting);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_letter_takes_effect_as_it_was_edited_and_stays_the_write_of_its_client() {
    let world = world();
    let outlast = world.open().await;
    outlast.submit(put("users", "1", r#"{"n":0}"#), PATIENT).await.unwrap();
    let sent = create("users", "1", r#"{"n":1}"#).with_idempotency_key("order-7").unwrap();
    let id = id_of(&outlast.submit(sent.clone(), Wait::No).await.unwrap());
    eventually("dead", || outlast.status().accounting.dead == 1).await;

    outlast.edit_dead_letter(id, put("users", "1", r#"{"n":1.50}"#).operations().to_vec()).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), r#"{"n":1.50}"#);
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Applied);
    assert_eq!(outlast.dead_letters(&ALL).await.unwrap().total, 0);
    let again = outlast.submit(sent, PATIENT).await.unwrap();
    let Outcome::Applied { duplicate_of, .. } = again else { panic!("{again:?}") };
    assert_eq!(duplicate_of, Some(id), "its client is told what became of it");
    assert_eq!(world.get("users", "1").await.unwrap(), r#"{"n":1.50}"#);
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_held_to_the_rules_of_a_new_write_and_to_its_records() {
    let world = world();
    let outlast = world.open().await;
    let id = bury(&world, &outlast, &[("1", "{}")]).await[0];
    let letter = outlast.dead_letter(id).await.unwrap();
    let edit = async |operations: Vec<Operation>| outlast.edit_dead_letter(id, operations).await.unwrap_err();
    let of = |write: outlast::Write| write.operations().to_vec();

    for (operations, why) in [
        (of(put("users", "2", "{}")), "it would write to users/2 instead of users/1"),
        (of(put("people", "1", "{}")), "it would write to people/1 instead of users/1"),
        (
            [of(put("users", "1", "{}")), of(put("users", "2", "{}"))].concat(),
            "it would also write to users/2",
        ),
        (Vec::new(), "1 to 1000 operations"),
    ] {
        let refused = edit(operations).await;
        assert!(matches!(&refused, Error::Invalid(_)) && refused.to_string().contains(why), "{refused}");
    }
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(world.options.write_bytes_max as usize));
    let refused = edit(of(put("users", "1", &large))).await;
    assert!(matches!(refused, Error::TooLarge { setting: "queue.write_bytes_max", .. }), "{refused}");
    assert_eq!(outlast.dead_letter(id).await.unwrap(), letter, "it is as it was");
    let absent = outlast.edit_dead_letter("1-9999".parse().unwrap(), of(put("users", "1", "{}"))).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");

    // Another verb, and twice the same record, keep its order.
    outlast
        .edit_dead_letter(
            id,
            [of(create("users", "1", r#"{"a":1}"#)), of(patch("users", "1", r#"{"b":2}"#))].concat(),
        )
        .await
        .unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), r#"{"a":1,"b":2}"#);
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_never_stores_the_mark_of_a_hidden_value() {
    let mut world = world();
    world.options.redact = Redaction::new(["pin"]).unwrap();
    let outlast = world.open().await;
    let id = bury(&world, &outlast, &[("1", r#"{"pin":"4711","n":1}"#)]).await[0];
    let shown = put("users", "1", &format!(r#"{{"pin":"{MARK}","n":2}}"#)).operations().to_vec();
    let refused = outlast.edit_dead_letter(id, shown).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid(_)) && refused.to_string().contains("\"pin\""), "{refused}");
    let whole = put("users", "1", r#"{"pin":"4711","n":2}"#).operations().to_vec();
    outlast.edit_dead_letter(id, whole).await.unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), r#"{"n":2,"pin":"4711"}"#);
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_a_letter_follows_it_when_it_was_edited() {
    let mut world = world();
    world.options.hold_record_on_dead_letter = true;
    let outlast = world.open().await;
    let first = bury(&world, &outlast, &[("1", r#"{"a":1,"b":1}"#)]).await[0];
    let behind = id_of(&outlast.submit(patch("users", "1", r#"{"b":2}"#), Wait::No).await.unwrap());
    eventually("it waits", || outlast.status().accounting.parked == 1).await;
    outlast
        .edit_dead_letter(first, put("users", "1", r#"{"a":3,"b":3}"#).operations().to_vec())
        .await
        .unwrap();
    drained(&outlast).await;
    assert_eq!(world.get("users", "1").await.unwrap(), r#"{"a":3,"b":2}"#);
    assert_eq!(outlast.receipt(behind).await.unwrap().status, Fate::Applied);
    end(outlast).await;
}

/// The entries are durable, the marks that take the letters out are not: as if the process had died between the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_retried_letters_are_taken_out_is_noticed_at_the_next_start() {
    let world = world();
    let outlast = world.open().await;
    let ids = bury(&world, &outlast, &[("1", r#"{"n":1}"#), ("2", r#"{"n":1}"#), ("3", r#"{"n":1}"#)]).await;
    outlast.pause(None).await.unwrap();
    let (there, before) = (world.options.directory.join("dead"), world.path("dead before"));
    copy(&there, &before);
    outlast.edit_dead_letter(ids[1], put("users", "2", r#"{"n":2}"#).operations().to_vec()).await.unwrap();
    let step = outlast.retry_dead_letters(&[ids[0], ids[2]]).await.unwrap();
    assert_eq!((step.reached, step.failures.len()), (2, 0));
    assert_eq!(outlast.status().accounting.pending, 3);
    drop(outlast);
    eventually("the lock is free", || world.try_lock()).await;
    std::fs::remove_dir_all(&there).unwrap();
    copy(&before, &there);

    let seen = watch(&world);
    let outlast = world.open().await;
    outlast.resume(None).await.unwrap();
    drained(&outlast).await;
    assert_eq!(outlast.dead_letters(&ALL).await.unwrap().total, 0);
    for (id, data) in [("1", r#"{"n":1}"#), ("2", r#"{"n":2}"#), ("3", r#"{"n":1}"#)] {
        assert_eq!(world.get("users", id).await.unwrap(), data);
    }
    let mut tried = seen.lock().unwrap().clone();
    tried.dedup();
    assert_eq!(tried, ["2", "1", "3"], "each once, in the order in which they were retried");
    let terms = outlast.status().accounting;
    assert_eq!((terms.accepted, terms.applied, terms.dead), (3, 3, 0));
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_letters_are_retried_in_steps_that_keep_their_order() {
    let world = world();
    let outlast = world.open().await;
    let names: Vec<String> = (0..1200).map(|number| (number % 100).to_string()).collect();
    let records: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "{}")).collect();
    let ids = bury(&world, &outlast, &records).await;
    let seen = watch(&world);
    let (mut rest, mut steps) = (&ids[..], 0);
    while !rest.is_empty() {
        let step = outlast.retry_dead_letters(rest).await.unwrap();
        assert!(step.reached > 0 && step.failures.is_empty(), "{step:?}");
        rest = &rest[step.reached..];
        steps += 1;
    }
    assert_eq!(steps, 3);
    drained(&outlast).await;
    let tried = seen.lock().unwrap().clone();
    assert_eq!(tried, names);
    let terms = outlast.status().accounting;
    assert_eq!((terms.applied, terms.dead), (1200, 0));
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_named_twice_is_retried_once_and_one_that_is_none_is_a_failure() {
    let world = world();
    let outlast = world.open().await;
    let ids = bury(&world, &outlast, &[("1", "{}"), ("2", "{}")]).await;
    let none: WriteId = "1-9999".parse().unwrap();
    let seen = watch(&world);
    let step = outlast.retry_dead_letters(&[none, ids[0], ids[0], ids[1]]).await.unwrap();
    assert_eq!((step.reached, step.failures.len(), step.failures[0].0), (2, 1, none), "{step:?}");
    let step = outlast.retry_dead_letters(&[ids[0], ids[1]]).await.unwrap();
    assert_eq!((step.reached, step.failures.len(), step.failures[0].0), (2, 1, ids[0]), "{step:?}");
    drained(&outlast).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "2"]);

    let ids = bury(&world, &outlast, &[("3", "{}"), ("4", "{}")]).await;
    let step = outlast.discard_dead_letters(&[ids[0], none, ids[1], ids[1]]).await.unwrap();
    assert_eq!((step.reached, step.failures.len(), step.failures[0].0), (3, 1, none), "{step:?}");
    let terms = outlast.status().accounting;
    assert_eq!((terms.discarded, terms.dead), (2, 0));
    assert_eq!(outlast.receipt(ids[0]).await.unwrap().status, Fate::Discarded);
    end(outlast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_letters_stop_at_a_full_queue_and_a_single_one_does_not() {
    let mut world = world();
    world.options.max_writes = 3;
    let outlast = world.open().await;
    let mut ids = Vec::new();
    for id in ["1", "2", "3", "4", "5", "6"] {
        ids.extend(bury(&world, &outlast, &[(id, "{}")]).await);
    }
    outlast.pause(None).await.unwrap();
    let step = outlast.retry_dead_letters(&ids).await.unwrap();
    assert_eq!((step.reached, step.failures.len()), (3, 0));
    let full = outlast.retry_dead_letters(&ids[3..]).await.unwrap_err();
    assert!(matches!(full, Error::QueueFull { writes: 3, writes_max: 3, .. }), "{full}");
    outlast.retry_dead_letter(ids[3]).await.unwrap();
    let terms = outlast.status().accounting;
    assert_eq!((terms.pending, terms.dead), (4, 2));
    outlast.resume(None).await.unwrap();
    drained(&outlast).await;
    assert_eq!(outlast.status().queue.bytes, 0);
    assert_eq!(outlast.retry_dead_letters(&ids[4..]).await.unwrap().reached, 2);
    drained(&outlast).await;
    assert_eq!(outlast.status().accounting.applied, 6);
    end(outlast).await;
}
