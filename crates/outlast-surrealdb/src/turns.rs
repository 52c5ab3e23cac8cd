//! [`Turns`]: transactions of one lane are sent one after the other, in the order of the calls.
//!
//! The server's transactions do not wait for each other, they conflict. So one that is handed over before the one in
//! front of it is answered waits here, ready to be sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use outlast::database::{LaneId, Position};
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Whose turn it is, for each lane.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<LaneId, Arc<Queue<()>>>>);

impl Turns {
    /// Waits until all that came before for these lanes is over. What several lanes have to do together is never handed
    /// over behind something.
    pub(crate) async fn take(&self, rows: &[(LaneId, Position)]) -> Option<OwnedMutexGuard<()>> {
        let [(lane, _)] = rows else { return None };
        let queue = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(queues.entry(lane.clone()).or_default())
        };
        Some(queue.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outlast::Sequence;
    use outlast::database::Sequence64;

    use super::*;

    #[tokio::test]
    async fn a_lane_has_one_turn_at_a_time_and_another_lane_its_own() {
        let row = |number| {
            let position =
                Position { sequence: Sequence64(Sequence::START), generation: 1, owner: String::new() };
            [(LaneId::new("q", number), position)]
        };
        let turns = Turns::default();
        let first = turns.take(&row(0)).await;
        assert!(first.is_some() && turns.take(&row(1)).await.is_some());
        let rows = row(0);
        let mut second = Box::pin(turns.take(&rows));
        assert!(tokio::time::timeout(Duration::ZERO, &mut second).await.is_err());
        drop(first);
        assert!(second.await.is_some());
    }
}
