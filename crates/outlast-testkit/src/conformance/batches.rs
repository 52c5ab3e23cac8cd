//! Batches: order, size, and all or nothing as readers see it.

use outlast::{Options, Write};
use serde_json::Value;

use super::{Harness, World, assert_same, create, delete, json, patch, put, record};

pub async fn a_batch_takes_effect_in_order(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let applied = world
        .apply([create("a", "1", "{\"n\":1}"), create("b", "1", "{\"n\":2}"), put("a", "1", "{\"n\":3}")])
        .await;
    assert!(applied.duplicates.is_empty());
    assert_same(world.get("a", "1").await.as_ref(), &json("{\"n\":3}"));
    assert_same(world.get("b", "1").await.as_ref(), &json("{\"n\":2}"));
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

pub async fn an_empty_batch_moves_the_sequence(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let before = world.position.clone();
    world.apply([]).await;
    let after = world.stored_position().await.unwrap();
    assert_eq!(after, world.position);
    assert!(after.sequence > before.sequence);
    assert_eq!((after.generation, after.owner), (before.generation, before.owner));
}

pub async fn a_batch_of_500_and_one_of_5000_writes_take_effect(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for size in [500, 5_000] {
        let collection = format!("of_{size}");
        world
            .apply((0..size).map(|n| {
                create(&collection, &format!("{n:05}"), &format!("{{\"n\":{n},\"text\":\"a little text\"}}"))
            }))
            .await;
        let all = world.all(&collection).await;
        assert_eq!(all.len(), size);
        for (n, (id, data)) in all.iter().enumerate() {
            assert_eq!(*id, format!("{n:05}"));
            assert_same(Some(data), &json(&format!("{{\"n\":{n},\"text\":\"a little text\"}}")));
        }
    }
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

/// As many as the library sends at once by default: in writes of the largest size, in some dozens, and in hundreds, all in
/// characters that may take more bytes on the way than here.
pub async fn a_batch_of_as_many_bytes_as_are_sent_at_once_takes_effect(harness: &dyn Harness) {
    let options = Options::new("nowhere");
    let largest = usize::try_from(options.write_bytes_max).unwrap() - 1024;
    let mut world = World::new(harness).await;
    for (round, bytes) in [largest, largest / 8, 8_000].into_iter().enumerate() {
        let count = (options.batch_bytes_max / bytes + 1).min(world.database.batch_writes_max());
        // Seven characters, which take 18 bytes.
        let text: String = "\u{1}\"\\/\u{7f}ä\u{10ffff}".chars().cycle().take(bytes * 7 / 18 - 32).collect();
        let document = serde_json::json!({ "round": round, "text": text });
        let collection = format!("of_{bytes}");
        let writes = (0..count).map(|n| create(&collection, &format!("{n:04}"), &document.to_string()));
        world.apply(writes).await;
        let stored = world.all(&collection).await;
        assert_eq!(stored.len(), count);
        for data in stored.values() {
            assert_same(Some(data), document.as_object().unwrap());
        }
    }
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

pub async fn several_writes_to_one_record_take_effect_in_order(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let mut writes = vec![create("a", "1", "{\"n\":0,\"created\":true}")];
    writes.extend((1..50).map(|n| patch("a", "1", &format!("{{\"n\":{n},\"m{}\":{n}}}", n % 3))));
    world.apply(writes).await;
    assert_same(
        world.get("a", "1").await.as_ref(),
        &json("{\"n\":49,\"created\":true,\"m0\":48,\"m1\":49,\"m2\":47}"),
    );
    world
        .apply([
            delete("a", "1"),
            create("a", "1", "{\"second\":true}"),
            delete("a", "1"),
            put("a", "1", "{\"third\":1}"),
            put("a", "1", "{\"third\":2}"),
            create("a", "2", "{}"),
            delete("a", "2"),
        ])
        .await;
    assert_same(world.get("a", "1").await.as_ref(), &json("{\"third\":2}"));
    assert_eq!(world.get("a", "2").await, None);
}

pub async fn writes_of_every_kind_mix_in_one_batch(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([create("a", "old", "{\"n\":1}"), create("a", "gone", "{}"), create("b", "3", "{}")]).await;
    let several = Write::new(
        [create("b", "1", "{\"n\":5}"), put("b", "2", "{}"), delete("b", "3")]
            .iter()
            .flat_map(|write| write.operations().to_vec())
            .collect(),
    )
    .unwrap();
    world
        .apply([
            create("a", "new", "{\"n\":2}"),
            harness.increment(&record("a", "new"), 40),
            patch("a", "old", "{\"n\":null,\"was\":1}"),
            several,
            delete("a", "gone"),
            harness.increment(&record("b", "1"), -7),
        ])
        .await;
    assert_same(world.get("a", "new").await.as_ref(), &json("{\"n\":42}"));
    assert_same(world.get("a", "old").await.as_ref(), &json("{\"was\":1}"));
    assert_same(world.get("b", "1").await.as_ref(), &json("{\"n\":-2}"));
    assert_eq!(world.all("a").await.len(), 2);
    assert_eq!(world.all("b").await.len(), 2);
}

pub async fn an_increment_counts_each_write_once(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let counter = record("counters", "visits");
    world.apply([create("counters", "visits", "{\"n\":0,\"kept\":\"yes\"}")]).await;
    for size in [1, 20, 1] {
        world.apply((0..size).map(|_| harness.increment(&counter, 3))).await;
    }
    assert_same(world.get("counters", "visits").await.as_ref(), &json("{\"n\":66,\"kept\":\"yes\"}"));
}

pub async fn concurrent_reads_see_whole_batches(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply((0..20).map(|id| put("pairs", &format!("{id:02}"), "{\"round\":0}"))).await;
    let database = world.database.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reader = tokio::spawn(async move {
        let query = super::ListQuery {
            collection: super::name("pairs"),
            filters: Vec::new(),
            limit: 100,
            after: None,
        };
        let mut stopped = stopped;
        let (mut reads, mut last) = (0, 0);
        // One read more after the end, so that there is at least one.
        loop {
            let over = stopped.try_recv() != Err(tokio::sync::oneshot::error::TryRecvError::Empty);
            let records = database.list(&query).await.unwrap();
            let rounds: Vec<Value> = records.iter().map(|(_, data)| data.to_map()["round"].clone()).collect();
            assert_eq!(rounds.len(), 20);
            assert!(rounds.iter().all(|round| round == &rounds[0]), "half a batch was seen: {rounds:?}");
            let round = rounds[0].as_u64().unwrap();
            assert!(round >= last, "a later read saw an older state");
            last = round;
            reads += 1;
            if over {
                return (reads, last);
            }
        }
    });
    for round in 1..=30 {
        world
            .apply((0..20).map(|id| put("pairs", &format!("{id:02}"), &format!("{{\"round\":{round}}}"))))
            .await;
    }
    stop.send(()).expect("the reader runs until it is told to stop");
    let (reads, last) = reader.await.unwrap();
    assert!(reads > 0);
    assert_eq!(last, 30, "a read after the last batch sees it");
}
