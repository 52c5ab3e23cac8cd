//! Refusals: which write, why, and that nothing of its batch took effect. Idempotency keys.

use std::time::Duration;

use outlast::{RefusalKind, Write};

use super::{Guarded, Harness, World, assert_refused, assert_same, create, delete, json, patch, put, record};

/// Puts `bad` in the middle of good writes, and checks that none of those took effect.
async fn refused_alone(world: &mut World, bad: Write, kind: RefusalKind) {
    let before = (world.all("a").await, world.all("side").await);
    for index in [0, 3, 6] {
        let mut writes = vec![
            create("a", "new-1", "{}"),
            put("a", "old", "{\"changed\":true}"),
            delete("a", "older"),
            patch("a", "old", "{\"more\":1}"),
            create("side", "new-2", "{}"),
            put("side", "new-3", "{}"),
        ];
        writes.insert(index, bad.clone());
        let refusal = world.refused(writes).await;
        assert_refused(&refusal, index, kind);
        assert_eq!(
            (world.all("a").await, world.all("side").await),
            before,
            "nothing of a refused batch takes effect"
        );
    }
    let alone = world.refused([bad]).await;
    assert_refused(&alone, 0, kind);
}

async fn with_old_records(harness: &dyn Harness) -> World {
    let mut world = World::new(harness).await;
    world.apply([create("a", "old", "{\"n\":1}"), create("a", "older", "{\"n\":2}")]).await;
    world
}

pub async fn a_refused_create_is_told_with_its_index_and_nothing_is_applied(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    // Not "older", which a good write of the batch deletes.
    refused_alone(&mut world, create("a", "old", "{\"n\":9}"), RefusalKind::Exists).await;
    let twice = world.refused([create("a", "x", "{}"), create("a", "y", "{}"), create("a", "x", "{}")]).await;
    assert_refused(&twice, 2, RefusalKind::Exists);
    assert_eq!(world.get("a", "x").await, None);
}

pub async fn a_refused_patch_is_told_with_its_index_and_nothing_is_applied(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    refused_alone(&mut world, patch("a", "absent", "{\"n\":9}"), RefusalKind::NotFound).await;
    refused_alone(&mut world, patch("nowhere", "absent", "{\"n\":9}"), RefusalKind::NotFound).await;
    let deleted = world.refused([delete("a", "old"), patch("a", "old", "{}")]).await;
    assert_refused(&deleted, 1, RefusalKind::NotFound);
    assert!(world.get("a", "old").await.is_some());
}

pub async fn a_wrong_statement_is_told_with_its_index_and_nothing_is_applied(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    refused_alone(&mut world, harness.nonsense(), RefusalKind::Statement).await;
}

pub async fn each_class_of_refusal_is_told_with_its_index_and_nothing_is_applied(harness: &dyn Harness) {
    let all = harness.guarded();
    for (kind, retryable) in
        [(RefusalKind::Constraint, false), (RefusalKind::Constraint, true), (RefusalKind::Schema, false)]
    {
        let is_there = |guarded: &Guarded| (guarded.kind, guarded.retryable) == (kind, retryable);
        assert!(all.iter().any(is_there), "the harness has no refusal of this class: {kind:?} {retryable}");
    }
    for Guarded { ground, write, kind, retryable } in all {
        let mut world = with_old_records(harness).await;
        for step in ground {
            world.apply([step]).await;
        }
        refused_alone(&mut world, write.clone(), kind).await;
        let (_, reason, may_pass) = world.refused_for_now([put("a", "x", "{}"), write.clone()]).await;
        assert_eq!(may_pass, retryable, "{reason:?}");
        for record in write.records() {
            assert_eq!(world.get(record.collection.as_str(), record.id.as_str()).await, None);
        }
        // And what stands there still takes others.
        world.apply([put("a", "x", "{}")]).await;
    }
}

pub async fn a_statement_cannot_reach_the_positions(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let trespass = harness.trespass();
    // Refused at the door or by the database: either will do.
    if world.database.check(&trespass).is_err() {
        return;
    }
    let (index, reason) = world.refused([create("a", "x", "{}"), trespass]).await;
    assert_eq!(index, 1, "{reason}");
    assert!(matches!(reason.kind, RefusalKind::Permission | RefusalKind::Statement), "{reason:?}");
    assert_eq!(world.get("a", "x").await, None);
}

pub async fn operations_of_one_write_take_effect_together_or_not_at_all(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let both =
        |first: Write, second: Write| Write::new([first.operations(), second.operations()].concat()).unwrap();
    for bad in [create("a", "old", "{}"), patch("a", "absent", "{}"), harness.nonsense()] {
        let refusal = world.refused([create("a", "before", "{}"), both(put("a", "first", "{}"), bad)]).await;
        assert_eq!(refusal.0, 1, "the index is that of the write, not of the operation: {}", refusal.1);
        assert_eq!(world.get("a", "first").await, None);
        assert_eq!(world.get("a", "before").await, None);
    }
    world.apply([both(put("a", "first", "{\"n\":1}"), patch("a", "old", "{\"m\":2}"))]).await;
    assert_same(world.get("a", "first").await.as_ref(), &json("{\"n\":1}"));
    assert!(world.get("a", "old").await.is_some_and(|old| old.contains_key("m")));
}

pub async fn operations_of_one_write_may_change_a_record_one_after_the_other(harness: &dyn Harness) {
    if !harness.keeps_second_changes() {
        println!(
            "SKIPPED: this database forgets the second change to a record in one transaction: it is refused"
        );
        return;
    }
    let mut world = World::new(harness).await;
    let operations =
        [create("a", "1", "{\"n\":1}"), patch("a", "1", "{\"m\":2}"), put("a", "2", "{}"), delete("a", "2")];
    let operations = operations.iter().flat_map(|write| write.operations().to_vec()).collect();
    world.apply([Write::new(operations).unwrap()]).await;
    assert_same(world.get("a", "1").await.as_ref(), &json("{\"n\":1,\"m\":2}"));
    assert_eq!(world.get("a", "2").await, None);
}

pub async fn the_first_refused_write_is_the_one_that_is_told(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let refusal = world
        .refused([
            put("a", "x", "{}"),
            patch("a", "absent", "{}"),
            create("a", "old", "{}"),
            put("a", "y", "{}"),
        ])
        .await;
    assert_refused(&refusal, 1, RefusalKind::NotFound);
    let refusal = world.refused([create("a", "old", "{}"), patch("a", "absent", "{}")]).await;
    assert_refused(&refusal, 0, RefusalKind::Exists);
}

pub async fn the_rest_of_a_batch_passes_without_the_refused_write(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let mut writes: Vec<Write> = (0..60)
        .map(|n| {
            if n % 7 == 3 {
                create("a", "old", "{}")
            } else {
                create("a", &format!("{n:02}"), "{\"fine\":true}")
            }
        })
        .collect();
    let bad = writes.iter().filter(|write| write.records().any(|record| record.id.as_str() == "old")).count();
    for _ in 0..bad {
        let (index, _) = world.refused(writes.clone()).await;
        writes.remove(index);
    }
    world.apply(writes).await;
    let all = world.all("a").await;
    assert_eq!(all.len(), 60 - bad + 2);
    assert_same(all.get("old"), &json("{\"n\":1}"));
}

pub async fn a_key_takes_effect_once(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let write = harness.increment(&record("a", "old"), 10).with_idempotency_key("key 'one'; --").unwrap();
    assert_eq!(world.database.find_key("key 'one'; --").await.unwrap(), None);
    let first = world.item(write.clone());
    assert!(world.try_apply(std::slice::from_ref(&first)).await.unwrap().duplicates.is_empty());
    let fingerprint = write.key().unwrap().fingerprint.clone();
    assert_eq!(world.database.find_key("key 'one'; --").await.unwrap(), Some((first.id, fingerprint)));

    let batch = [world.item(put("a", "x", "{}")), world.item(write.clone()), world.item(put("a", "y", "{}"))];
    let applied = world.try_apply(&batch).await.unwrap();
    assert_eq!(applied.duplicates, [(1, first.id)]);
    assert_same(world.get("a", "old").await.as_ref(), &json("{\"n\":11}"));
    assert!(
        world.get("a", "x").await.is_some() && world.get("a", "y").await.is_some(),
        "the others of its batch take effect"
    );
}

pub async fn a_key_within_one_batch_takes_effect_once(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let write = create("a", "keyed", "{\"n\":1}").with_idempotency_key("k").unwrap();
    let batch = [
        world.item(write.clone()),
        world.item(write.clone()),
        world.item(create("a", "x", "{}")),
        world.item(write),
    ];
    let applied = world.try_apply(&batch).await.unwrap();
    assert_eq!(applied.duplicates, [(1, batch[0].id), (3, batch[0].id)]);
    assert_eq!(world.all("a").await.len(), 4);
}

pub async fn a_key_reused_for_another_write_is_refused(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    world.apply([create("a", "keyed", "{\"n\":1}").with_idempotency_key("k").unwrap()]).await;
    let other = create("a", "other", "{\"n\":1}").with_idempotency_key("k").unwrap();
    refused_alone(&mut world, other, RefusalKind::KeyReused).await;
    assert_eq!(world.get("a", "other").await, None);
    let (one, two) = (
        put("a", "p", "{}").with_idempotency_key("m").unwrap(),
        put("a", "q", "{}").with_idempotency_key("m").unwrap(),
    );
    let within = world.refused([one, two]).await;
    assert_refused(&within, 1, RefusalKind::KeyReused);
    assert_eq!(world.database.find_key("m").await.unwrap(), None, "a refused batch stores no keys");
}

pub async fn a_refused_write_leaves_its_key_free(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let write = patch("a", "later", "{\"n\":2}").with_idempotency_key("k").unwrap();
    let refusal = world.refused([write.clone()]).await;
    assert_refused(&refusal, 0, RefusalKind::NotFound);
    assert_eq!(world.database.find_key("k").await.unwrap(), None);
    let applied = world.apply([create("a", "later", "{}"), write]).await;
    assert!(applied.duplicates.is_empty());
    assert_same(world.get("a", "later").await.as_ref(), &json("{\"n\":2}"));
}

pub async fn a_key_of_the_very_same_write_has_no_second_effect(harness: &dyn Harness) {
    let mut world = with_old_records(harness).await;
    let item = world.item(harness.increment(&record("a", "old"), 10).with_idempotency_key("k").unwrap());
    world.try_apply(std::slice::from_ref(&item)).await.unwrap();
    world.try_apply(std::slice::from_ref(&item)).await.unwrap();
    assert_same(world.get("a", "old").await.as_ref(), &json("{\"n\":11}"));
}

pub async fn old_keys_are_forgotten_and_young_ones_kept(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world
        .apply(
            (0..50).map(|n| put("a", &n.to_string(), "{}").with_idempotency_key(&format!("k{n}")).unwrap()),
        )
        .await;
    assert_eq!(world.database.prune_keys(Duration::from_hours(1)).await.unwrap(), 0);
    assert!(world.database.find_key("k7").await.unwrap().is_some());
    assert_eq!(world.database.prune_keys(Duration::MAX).await.unwrap(), 0);
    // "Stored more than zero ago": the clock has to move on first, by one of its smallest steps.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut forgotten = 0;
    while forgotten < 50 && std::time::Instant::now() < deadline {
        forgotten += world.database.prune_keys(Duration::ZERO).await.unwrap();
    }
    assert_eq!(forgotten, 50);
    assert_eq!(world.database.find_key("k7").await.unwrap(), None);
    let applied = world.apply([put("a", "7", "{\"again\":1}").with_idempotency_key("k7").unwrap()]).await;
    assert!(applied.duplicates.is_empty());
}
