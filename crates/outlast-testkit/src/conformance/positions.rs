//! Positions, take-overs and the fence.

use std::time::{Duration, Instant};

use outlast::Sequence;
use outlast::database::{ApplyError, Item, LaneId, Position, TakeOverError};

use super::{Harness, World, assert_moved, assert_not_taken, can_race, create, delete, patch, put};

fn sequence(number: u64) -> Sequence {
    Sequence::from_u64(number).unwrap()
}

pub async fn a_lane_has_no_position_before_it_is_taken_over(harness: &dyn Harness) {
    let fresh = harness.fresh().await;
    fresh.database.probe().await.unwrap();
    let lane = LaneId::new("q", 0);
    assert_eq!(fresh.database.position(&lane).await.unwrap(), None);
    let expected = Position { sequence: super_sequence(0), generation: 1, owner: "o".into() };
    assert_moved(fresh.database.apply(&lane, &expected, sequence(1), &[]).await, None);
    assert_not_taken(fresh.database.take_over(&lane, Some(&expected), "o").await, None);
    assert_eq!(fresh.database.position(&lane).await.unwrap(), None, "a refused take-over makes no row");
}

fn super_sequence(number: u64) -> outlast::database::Sequence64 {
    outlast::database::Sequence64(sequence(number))
}

pub async fn a_take_over_raises_the_generation_and_keeps_the_sequence(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    assert_eq!(world.position.sequence.0, Sequence::START);
    assert_eq!(world.position.owner, "owner");
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
    world.apply([create("a", "1", "{}")]).await;
    let before = world.position.clone();
    let after = world.database.take_over(&world.lane, Some(&before), "another `owner' \"x\"").await.unwrap();
    assert_eq!(after.sequence, before.sequence);
    assert!(after.generation > before.generation);
    assert_eq!(after.owner, "another `owner' \"x\"");
    assert_eq!(world.stored_position().await, Some(after.clone()));
    // The same owner again, on a new connection of the same epoch.
    let again = world.database.take_over(&world.lane, Some(&after), &after.owner).await.unwrap();
    assert!(again.generation > after.generation);
}

pub async fn a_take_over_of_a_changed_row_says_what_stands_there(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let first = world.position.clone();
    assert_not_taken(world.database.take_over(&world.lane, None, "x").await, Some(&first));
    world.apply([create("a", "1", "{}")]).await;
    assert_not_taken(world.database.take_over(&world.lane, Some(&first), "x").await, Some(&world.position));
    assert_not_taken(
        world.database.reset_position(&world.lane, Some(&first), sequence(9), "x").await,
        Some(&world.position),
    );
    for wrong in [
        Position { generation: world.position.generation + 1, ..world.position.clone() },
        Position { owner: "nobody".into(), ..world.position.clone() },
        Position { sequence: super_sequence(77), ..world.position.clone() },
    ] {
        assert_not_taken(
            world.database.take_over(&world.lane, Some(&wrong), "x").await,
            Some(&world.position),
        );
    }
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

pub async fn only_one_of_several_take_overs_wins(harness: &dyn Harness) {
    if !can_race(harness) {
        return;
    }
    let world = World::new(harness).await;
    let mut seen = world.position.clone();
    for round in 0..5 {
        let contenders: Vec<_> = (0..4)
            .map(|contender| {
                let (database, lane, seen) = (world.database.clone(), world.lane.clone(), seen.clone());
                tokio::spawn(async move {
                    loop {
                        // A contender that lost a race inside the database reads "unavailable" and asks again.
                        match database.take_over(&lane, Some(&seen), &format!("{round}-{contender}")).await {
                            Ok(position) => return Some(position),
                            Err(TakeOverError::Moved { .. }) => return None,
                            Err(TakeOverError::Unavailable(_)) => tokio::task::yield_now().await,
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        let mut winners = Vec::new();
        for contender in contenders {
            winners.extend(contender.await.unwrap());
        }
        let stored = world.stored_position().await;
        assert_eq!(winners.len(), 1, "{winners:?}, stored {stored:?}");
        assert_eq!(stored.as_ref(), winners.first());
        seen = winners.remove(0);
    }
}

pub async fn a_batch_prepared_before_a_take_over_has_no_effect(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let late = [world.item(create("a", "late", "{}"))];
    let before = world.position.clone();
    let after = world.database.take_over(&world.lane, Some(&before), "successor").await.unwrap();
    assert_moved(world.database.apply(&world.lane, &before, sequence(1), &late).await, Some(&after));
    assert_eq!(world.get("a", "late").await, None);
    assert_eq!(world.stored_position().await, Some(after));
}

pub async fn a_take_over_and_a_batch_never_both_succeed(harness: &dyn Harness) {
    if !can_race(harness) {
        return;
    }
    let mut world = World::new(harness).await;
    for round in 0..12 {
        let id = round.to_string();
        let mut items = vec![world.item(create("a", &id, "{}"))];
        for filler in 0..round * 5 {
            items.push(world.item(put("a", &format!("filler-{filler}"), "{\"x\":1}")));
        }
        let (database, lane, position) = (world.database.clone(), world.lane.clone(), world.position.clone());
        let next = sequence(position.sequence.0.as_u64() + 1);
        let batch = tokio::spawn({
            let (database, lane, position) = (database.clone(), lane.clone(), position.clone());
            async move { database.apply(&lane, &position, next, &items).await }
        });
        let taken = database.take_over(&lane, Some(&position), "successor").await;
        let applied = batch.await.unwrap();
        assert!(!(applied.is_ok() && taken.is_ok()), "round {round}: both succeeded");
        if let Err(error) = &applied {
            let certain = matches!(
                error,
                ApplyError::Moved { .. } | ApplyError::Conflict(_) | ApplyError::Unavailable(_)
            );
            assert!(certain, "{error}");
        }
        assert_eq!(world.get("a", &id).await.is_some(), applied.is_ok(), "round {round}: {applied:?}");
        world.position = world.stored_position().await.unwrap();
        assert_eq!(world.position.sequence.0 == next, applied.is_ok(), "round {round}");
        if let Ok(taken) = taken {
            assert_eq!(taken, world.position);
        }
    }
}

pub async fn a_batch_sent_ahead_takes_effect_right_behind_the_one_in_front_or_not_at_all(
    harness: &dyn Harness,
) {
    if !can_race(harness) {
        return;
    }
    let mut world = World::new(harness).await;
    world.apply([create("a", "taken", "{}")]).await;
    let mut both = 0;
    let mut took = Duration::ZERO;
    for round in 0..40_u32 {
        let refused = round % 4 == 3;
        let mut front: Vec<Item> =
            (0..round * 3).map(|filler| world.item(put("a", &format!("filler-{filler}"), "{}"))).collect();
        let id = if refused { "taken".to_owned() } else { format!("front-{round}") };
        let fresh = format!("fresh{round}");
        front.extend([create(&fresh, "1", "{}"), create(&fresh, "2", "{}")].map(|write| world.item(write)));
        front.push(world.item(create("a", &id, "{}")));
        // What the one in front makes is there for the one behind it, collections too.
        let mut behind = vec![
            create("a", &format!("behind-{round}"), "{}"),
            patch("a", &id, r#"{"behind":1}"#),
            delete("a", "filler-0"),
            delete(&fresh, "2"),
        ];
        let mut patched = vec![("a", &*id)];
        if round % 2 == 0 {
            behind.push(patch(&fresh, "1", r#"{"behind":1}"#));
            patched.push((&*fresh, "1"));
        }
        let behind: Vec<Item> = behind.into_iter().map(|write| world.item(write)).collect();
        let start = world.position.clone();
        let middle = Position { sequence: super_sequence(start.sequence.0.as_u64() + 1), ..start.clone() };
        let end = sequence(start.sequence.0.as_u64() + 2);
        let (database, lane) = (&world.database, &world.lane);
        // Sooner or later while the one in front is under way.
        let (began, later) = (Instant::now(), took * (round % 9) / 8);
        let (in_front, ahead) = tokio::join!(
            async {
                let applied = database.apply(lane, &start, middle.sequence.0, &front).await;
                took = began.elapsed();
                applied
            },
            async {
                tokio::time::sleep(later).await;
                database.apply(lane, &middle, end, &behind).await
            },
        );
        match (&in_front, refused) {
            (Ok(_), false) | (Err(ApplyError::Conflict(_)), _) => {}
            (Err(ApplyError::Rejected { index, .. }), true) => assert_eq!(*index, front.len() - 1),
            _ => panic!("round {round}: in front {in_front:?}"),
        }
        match &ahead {
            Ok(_) => assert!(in_front.is_ok(), "round {round}: behind a batch without effect"),
            Err(ApplyError::Moved { .. } | ApplyError::Conflict(_)) => {}
            // To whom nothing is sent ahead, a position that comes meanwhile looks like missing rights.
            Err(ApplyError::Unavailable(_) | ApplyError::Rejected { .. })
                if !world.database.takes_ahead() => {}
            Err(error) => panic!("round {round}: ahead {error}"),
        }
        both += u32::from(ahead.is_ok());
        let there = world.get("a", &format!("behind-{round}")).await.is_some();
        assert_eq!(there, ahead.is_ok(), "round {round}: {ahead:?}");
        if ahead.is_ok() {
            for (collection, id) in patched {
                let patched = world.get(collection, id).await.unwrap();
                assert_eq!(
                    patched.get("behind").and_then(serde_json::Value::as_u64),
                    Some(1),
                    "round {round}"
                );
            }
            assert_eq!(world.get("a", "filler-0").await, None, "round {round}");
            assert_eq!(world.get(&fresh, "2").await, None, "round {round}");
        }
        world.position = world.stored_position().await.unwrap();
        let expected = match (in_front.is_ok(), ahead.is_ok()) {
            (true, true) => end,
            (true, false) => middle.sequence.0,
            (false, _) => start.sequence.0,
        };
        assert_eq!(world.position.sequence.0, expected, "round {round}");
    }
    assert!(both > 0 || !world.database.takes_ahead(), "nothing sent ahead ever waited for its turn");
}

pub async fn a_batch_at_another_sequence_generation_or_owner_has_no_effect(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([create("a", "1", "{}")]).await;
    let items = [world.item(create("a", "2", "{}"))];
    let right = world.position.clone();
    for wrong in [
        Position { sequence: super_sequence(0), ..right.clone() },
        Position { sequence: super_sequence(2), ..right.clone() },
        Position { generation: right.generation - 1, ..right.clone() },
        Position { generation: right.generation + 1, ..right.clone() },
        Position { owner: "Owner".into(), ..right.clone() },
    ] {
        assert_moved(world.database.apply(&world.lane, &wrong, sequence(9), &items).await, Some(&right));
        assert_moved(world.database.apply(&world.lane, &wrong, sequence(9), &[]).await, Some(&right));
        assert_eq!(world.get("a", "2").await, None);
        assert_eq!(world.stored_position().await, Some(right.clone()));
    }
}

pub async fn lanes_do_not_touch_each_other(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let first = world.position.clone();
    let other = LaneId::new("conformance", 1);
    let strange = LaneId::new("it's \"quoted\" `$lane`; -- ", 1);
    for lane in [&other, &strange] {
        assert_eq!(world.database.position(lane).await.unwrap(), None);
        let position = world.database.take_over(lane, None, "other").await.unwrap();
        world.database.apply(lane, &position, sequence(40), &[]).await.unwrap();
    }
    assert_eq!(world.stored_position().await, Some(first));
    world.apply([create("a", "1", "{}")]).await;
    assert_eq!(world.database.position(&other).await.unwrap().unwrap().sequence.0, sequence(40));
}

pub async fn a_batch_over_several_lanes_moves_all_of_them_or_none(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let mut rows = Vec::new();
    for number in 0..3 {
        let lane = LaneId::of("several", number, 3);
        let position = world.database.take_over(&lane, None, "owner").await.unwrap();
        rows.push((lane, position));
    }
    let batch = [world.item(create("a", "1", "{}"))];
    world.database.apply_across(&rows, sequence(7), &batch).await.unwrap();
    for (lane, position) in &mut rows {
        position.sequence = super_sequence(7);
        assert_eq!(world.database.position(lane).await.unwrap().as_ref(), Some(&*position));
    }
    // Whichever of them has moved meanwhile, nothing of the batch takes effect, and nothing else moves.
    for moved in 0..rows.len() {
        let mut expected = rows.clone();
        let (lane, position) = &mut rows[moved];
        *position = world.database.take_over(lane, Some(position), "another").await.unwrap();
        let batch = [world.item(create("a", "2", "{}"))];
        let applied = world.database.apply_across(&expected, sequence(8), &batch).await;
        assert_moved(applied, Some(&rows[moved].1));
        expected[moved] = rows[moved].clone();
        for (lane, position) in &expected {
            assert_eq!(world.database.position(lane).await.unwrap().as_ref(), Some(position));
        }
    }
    assert_eq!(world.get("a", "2").await, None);
    // Nor when a write is refused.
    let batch = [world.item(create("a", "3", "{}")), world.item(create("a", "1", "{}"))];
    let refused = world.database.apply_across(&rows, sequence(8), &batch).await;
    assert!(matches!(refused, Err(ApplyError::Rejected { index: 1, .. })), "{refused:?}");
    for (lane, position) in &rows {
        assert_eq!(world.database.position(lane).await.unwrap().as_ref(), Some(position));
    }
    assert_eq!(world.get("a", "3").await, None);
}

pub async fn an_operator_sets_the_position_whatever_it_was(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for target in [sequence(1 << 41), sequence(3)] {
        let before = world.position.clone();
        let after =
            world.database.reset_position(&world.lane, Some(&before), target, "operator").await.unwrap();
        assert_eq!((after.sequence.0, &*after.owner), (target, "operator"));
        assert!(after.generation > before.generation);
        assert_eq!(world.stored_position().await.as_ref(), Some(&after));
        assert_moved(world.database.apply(&world.lane, &before, sequence(4), &[]).await, Some(&after));
        world.position = after;
    }
    world.apply([create("a", "1", "{}")]).await;
    let wiped = LaneId::new("wiped", 0);
    let row = world.database.reset_position(&wiped, None, sequence(7), "operator").await.unwrap();
    assert_eq!(row.sequence.0, sequence(7));
    assert_eq!(world.database.position(&wiped).await.unwrap(), Some(row));
}

pub async fn the_largest_sequence_is_kept(harness: &dyn Harness) {
    let world = World::new(harness).await;
    let largest = sequence((1 << 63) - 1);
    world.database.apply(&world.lane, &world.position, largest, &[]).await.unwrap();
    assert_eq!(world.stored_position().await.unwrap().sequence.0, largest);
}

pub async fn a_closed_database_opens_again(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([create("a", "1", "{\"n\":1}")]).await;
    world.database.close().await;
    world.database.close().await;
    world.database.probe().await.unwrap();
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
    assert!(world.get("a", "1").await.is_some());
    world.apply([create("a", "2", "{}")]).await;
    assert_eq!(world.all("a").await.len(), 2);
}
