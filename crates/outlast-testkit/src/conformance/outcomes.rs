//! What is said of a batch whose answer never came.

use outlast::Sequence;
use outlast::database::{ApplyError, Position};

use super::{Harness, World, create};
use crate::proxy::Faults;

/// Answers that are lost.
const ROUNDS: u64 = 30;

pub async fn a_lost_answer_leaves_the_outcome_unknown_and_the_position_tells_it(harness: &dyn Harness) {
    let Some((fresh, proxy)) = harness.behind_proxy().await else {
        println!("SKIPPED: no connection to this database could break");
        return;
    };
    let mut world = World::on(fresh).await;
    world.apply([create("a", "first", "{}")]).await;
    let mut unknown = 0;
    for round in 0..ROUNDS {
        let id = format!("r{round}");
        let items = [world.item(create("a", &id, "{}"))];
        let next = Sequence::from_u64(world.position.sequence.0.as_u64() + 1).unwrap();
        let lost = Faults::count(&proxy.faults().answers_dropped);
        proxy.cut_before_answer(0);
        let outcome = world.database.apply(&world.lane, &world.position, next, &items).await;
        assert_eq!(Faults::count(&proxy.faults().answers_dropped), lost + 1, "an answer was to be lost");
        let not_sent = match outcome {
            Err(ApplyError::Unknown(_)) => false,
            Err(ApplyError::Unavailable(_)) => true,
            other => panic!("round {round}: the answer was lost, and it says {other:?}"),
        };
        unknown += u64::from(!not_sent);
        world.position = take_over_after_doubt(&world).await;
        let applied = world.position.sequence.0 == next;
        assert!(!(not_sent && applied), "round {round}: it was said to be certainly not applied, and was");
        assert_eq!(
            world.get("a", &id).await.is_some(),
            applied,
            "round {round}: the position tells the outcome"
        );
    }
    println!("{unknown} of {ROUNDS} lost answers were those of a commit");
    assert!(unknown > 0, "no answer to a commit was lost");
}

/// Reading and taking over, as often as it takes to find a connection.
async fn take_over_after_doubt(world: &World) -> Position {
    let mut last = String::new();
    for _ in 0..ROUNDS {
        match world.database.position(&world.lane).await {
            Ok(seen) => match world.database.take_over(&world.lane, seen.as_ref(), "owner").await {
                Ok(position) => return position,
                Err(error) => last = error.to_string(),
            },
            Err(error) => last = error.to_string(),
        }
    }
    panic!("the database is not reached again: {last}");
}
