//! One lane and a backlog: each transaction is with the database before the one in front of it is answered (decision
//! 0025).
//!
//! It expects the position that the one in front leaves, so that it takes effect right behind that one or not at all.
//! That is all that is decided early: no fate changes while one is under way behind another.

use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::deliver::{Answered, Flight, Part, poll_once};
use super::{Drainer, Flow, HOUSEKEEPING};
use crate::database::{Applied, ApplyError, Position, Sequence64};
use crate::feed::Read;
use crate::status::LaneState;

/// A transaction behind another one.
struct Ahead {
    part: Part,
    flight: Flight,
    /// It was answered before its turn.
    landed: Option<Answered>,
}

impl Drainer {
    /// Applies a part of the only lane, and what follows in the log as long as nothing else asks for attention.
    pub(super) async fn apply_in_chain(&mut self, mut part: Part, mut flight: Flight) -> Result<(), Flow> {
        let mut landed = poll_once(&mut flight).await;
        let mut turn = None;
        loop {
            let mut ahead = if landed.is_none() { self.send_ahead(&part)? } else { None };
            let (mut answer, took) = match landed.take() {
                Some(landed) => landed,
                None => land(&mut flight, ahead.as_mut()).await,
            };
            let early = part.came_early(&mut answer);
            // Waiting for its turn is not the database's slowness.
            let took = turn.take().map_or(took, |turn: Instant| took.min(turn.elapsed()));
            self.note_attempt(&part, &answer, took);
            if answer.is_err()
                && let Some(ahead) = ahead.take()
            {
                self.recall(ahead, &answer).await?;
            }
            // Its turn has come: the database works on it while the books are kept about the one in front.
            if let Some(Ahead { flight, landed: landed @ None, .. }) = &mut ahead {
                *landed = poll_once(flight).await;
            }
            if early {
                flight = self.send(&mut part, Duration::ZERO)?;
                landed = poll_once(&mut flight).await;
                continue;
            }
            match (self.answered(part, answer, took, false).await?, ahead) {
                (Some((again, pause)), _) => {
                    part = again;
                    flight = self.send(&mut part, pause)?;
                    landed = poll_once(&mut flight).await;
                }
                (None, Some(next)) => {
                    let now = Instant::now();
                    turn = Some(now);
                    match self.core.throttle() {
                        // The limit came when this one was under way already.
                        Some(_) => self.allowance.0 -= next.part.len() as f64,
                        None => self.allowance = (0.0, now),
                    }
                    self.see_outage_end();
                    Ahead { part, flight, landed } = next;
                }
                (None, None) => return Ok(()),
            }
        }
    }

    /// While the database works, the next part of a backlog is read and decoded, and sent if it may be.
    fn send_ahead(&mut self, part: &Part) -> Result<Option<Ahead>, Flow> {
        if self.core.throttle().is_some() {
            return Ok(None);
        }
        self.feed.read_ahead(self.ramp.size(), self.core.options.batch_bytes_max);
        if !self.may_send_ahead(part) {
            return Ok(None);
        }
        if !self.feed.ahead().is_some_and(|read| self.is_plain_read(read)) {
            return Ok(None);
        }
        let Some(read) = self.feed.take_ahead() else { return Ok(None) };
        let end = part.next();
        let expected = self.expected(part.lanes.clone())?;
        let expected = expected
            .into_iter()
            .map(|(lane, position)| (lane, Position { sequence: Sequence64(end), ..position }))
            .collect();
        let last = read.writes.last().map_or(end, |pending| pending.sequence);
        let mut part = Part::behind(read.writes, last);
        let flight = self.send_from(expected, &mut part, Duration::ZERO);
        Ok(Some(Ahead { part, flight, landed: None }))
    }

    /// Only while nothing else waits for the drainer, so that everything has its turn between two transactions; and not
    /// behind one that is sent in pieces or pauses first.
    fn may_send_ahead(&self, part: &Part) -> bool {
        self.core.database.takes_ahead()
            && part.leads()
            && self.commands.is_empty()
            && self.deferred.is_empty()
            && self.core.options.max_age.is_none()
            && !self.core.is_stopping()
            && self.connection.borrow().is_connected()
            && matches!(*self.lane_state.borrow(), LaneState::Running)
            && self.housekeeping.elapsed() < HOUSEKEEPING
    }

    /// Nothing is decided about any of these writes, nothing waits that they could overtake, and none must be durable
    /// first.
    fn is_plain_read(&self, read: &Read) -> bool {
        read.damage.is_empty()
            && read.unreadable.is_empty()
            && !read.writes.iter().any(|pending| pending.appended_again)
            && self.is_plain(&read.writes)
    }

    /// The transaction in front of this one did not commit, so neither does this one; and nothing is decided or sent
    /// again before that is certain. Its writes are read again.
    async fn recall(&mut self, mut ahead: Ahead, front: &Result<Applied, ApplyError>) -> Result<(), Flow> {
        if matches!(front, Err(ApplyError::Unknown(_) | ApplyError::Moved { .. })) {
            // The positions are taken over again: that decides about both.
            return Ok(());
        }
        let (answer, took) = match ahead.landed.take() {
            Some(landed) => landed,
            None => ahead.flight.await,
        };
        self.note_attempt(&ahead.part, &answer, took);
        match answer {
            Err(ApplyError::Unknown(reason)) => Err(self.in_doubt(Some(&reason))),
            Ok(_) => Err(self.in_doubt(None)),
            Err(_) => {
                self.feed.give_back(ahead.part.into_writes());
                Ok(())
            }
        }
    }
}

/// The answer to a transaction, while the one behind it goes on.
async fn land(flight: &mut Flight, mut ahead: Option<&mut Ahead>) -> Answered {
    std::future::poll_fn(|context| {
        if let Some(Ahead { flight, landed: landed @ None, .. }) = &mut ahead
            && let Poll::Ready(answered) = flight.as_mut().poll(context)
        {
            *landed = Some(answered);
        }
        flight.as_mut().poll(context)
    })
    .await
}
