//! Where is the database? Read, decide, take over.

use outlast_log::{ReadItem, Sequence};

use super::Drainer;
use crate::database::{DatabaseError, Position, TakeOverError};
use crate::event::EventKind;
use crate::feed::Pending;
use crate::lanes::place_of;
use crate::outage::Outage;
use crate::status::{Decision, Halt, LaneState};
use crate::verdict::{Known, Verdict, decide};

impl Drainer {
    /// Reads the positions, decides what they mean and takes them over. True when draining may go on; false when it could
    /// not be found out now, or the lanes have halted.
    pub(super) async fn establish(&mut self) -> bool {
        let (lanes, seen) = match self.read_positions().await {
            Ok(read) => read,
            Err(error) => {
                self.report(&error);
                return false;
            }
        };
        self.count_lanes(lanes);
        let epoch_begin = Sequence::new(self.core.log.epoch().number, 0).unwrap_or(Sequence::START);
        let mut places = Vec::with_capacity(seen.len());
        for (lane, seen) in seen.into_iter().enumerate() {
            let known = Known {
                cursor: self.rows[lane].seen,
                bound: self.bound,
                retained_after: self.core.log.retained_after(),
                issued: self.core.intake.last().max(epoch_begin),
            };
            let reached = self.core.reached(lane);
            match decide(seen.as_ref(), known, |owner| self.core.log.is_owner(owner)) {
                // A lane that had nothing to do is further than its row.
                Verdict::GoOn { to } => places.push((seen, to.max(reached))),
                Verdict::Heal { to } => places.push((seen, to)),
                Verdict::Gap { at, retained_after } => return self.halt_at_gap(at, retained_after),
                Verdict::Wiped => return self.halt_wiped(known.cursor),
                Verdict::Fenced => return self.halt_fenced(seen.as_ref()),
            }
        }
        self.take_over(places).await
    }

    fn halt_at_gap(&mut self, at: Sequence, retained_after: Sequence) -> bool {
        self.halt(
            Halt::Gap,
            format!(
                "the database stands at {at}, but the log begins after {retained_after}: the writes between are gone \
                 from here. Restore a newer copy of the database, or decide: resume --decision replay applies what \
                 the log has, resume --decision skip applies only what was never applied"
            ),
        )
    }

    fn halt_wiped(&mut self, cursor: Sequence) -> bool {
        self.halt(
            Halt::Wiped,
            format!(
                "the database has no position of this queue, though {}: it is another database, or it was wiped. \
                 Check database.url, or decide: resume --decision replay applies again everything that the log \
                 has, resume --decision skip only what was never applied",
                if cursor == Sequence::START {
                    "a database had one".to_owned()
                } else {
                    format!("writes up to {cursor} were applied")
                }
            ),
        )
    }

    fn halt_fenced(&mut self, seen: Option<&Position>) -> bool {
        let owner = seen.map_or("", |position| position.owner.as_str());
        self.halt(
            Halt::Fenced,
            format!(
                "the position of this queue in the database belongs to somebody else (owner {owner}): another \
                 instance runs on a copy of this queue directory. Stop one of the two; nothing was touched"
            ),
        )
    }

    fn halt(&mut self, halt: Halt, message: String) -> bool {
        self.forget_positions();
        self.certain = false;
        self.core.set_lane_state(&LaneState::Halted { halt, message });
        false
    }

    pub(super) fn report(&self, error: &DatabaseError) {
        // A database that answers, but not what is needed, cannot be used any more than one that is away.
        self.core.monitor.report_failure("write", &error.to_string());
    }

    /// Takes over what was seen of each lane, and goes on from where that one is.
    async fn take_over(&mut self, places: Vec<(Option<Position>, Sequence)>) -> bool {
        let owner = self.core.log.epoch().owner.clone();
        let mut taken = Vec::with_capacity(places.len());
        for (row, (seen, to)) in self.rows.iter().zip(places) {
            match self.core.database.take_over(&row.id, seen.as_ref(), &owner).await {
                Ok(position) => taken.push((position, to)),
                Err(TakeOverError::Moved { actual }) => {
                    tracing::info!(?actual, "the position moved while it was taken over: reading it again");
                    return false;
                }
                Err(TakeOverError::Unavailable(reason) | TakeOverError::Refused(reason)) => {
                    self.core.monitor.report_failure("write", &reason);
                    return false;
                }
            }
        }
        self.is_still_right().await && self.settle_at(taken).await
    }

    /// The positions are ours, and each lane is at its place: the cursor follows, forwards or back.
    async fn settle_at(&mut self, places: Vec<(Position, Sequence)>) -> bool {
        let cursor = self.core.cursor();
        if !self.bind(places.iter().map(|(_, to)| *to).min().unwrap_or(cursor)).await {
            return false;
        }
        let mut missing = 0;
        let mut back: Option<(Sequence, Sequence)> = None;
        for (lane, (position, to)) in places.into_iter().enumerate() {
            let reached = self.core.reached(lane);
            if to > reached {
                self.pass(lane, reached, to);
            } else if to < reached {
                missing += self.take_back(lane, reached, to);
                let (from, lowest) = back.unwrap_or((reached, to));
                back = Some((from.max(reached), lowest.min(to)));
            }
            self.rows[lane].seen = position.sequence.0;
            self.rows[lane].position = Some(position);
            self.core.reach(lane, to);
        }
        if let Some((from, to)) = back {
            self.heal(from, to, missing);
        }
        let to = self.core.cursor();
        self.backlog_end = self.core.intake.last().max(cursor);
        self.core.ledger().chains.dissolve(to);
        if matches!(*self.core.lane_state.borrow(), LaneState::Halted { .. }) {
            // What halted it is gone: a newer copy was put back, say.
            self.core.set_lane_state(&self.core.wanted_state());
        }
        self.certain = true;
        self.core.forget_decided_keys();
        self.feed.restart(to);
        self.core.fates_changed();
        self.count_bytes(to);
        true
    }

    /// Notes durably that this queue has a position in a database: its absence will mean something from now on.
    async fn bind(&mut self, to: Sequence) -> bool {
        self.bound = self.bound || self.note_durably(to).await;
        self.bound
    }

    /// How many writes of a lane there are between two places about which nothing is decided but by them.
    fn undecided(&self, lane: usize, after: Sequence, to: Sequence) -> u64 {
        let lanes = self.core.lanes();
        if lanes == 1 {
            return self.core.undecided_between(after, to);
        }
        let mut reader = self.core.log.reader(after);
        let mut undecided = 0;
        loop {
            match reader.next() {
                Ok(Some(ReadItem::Entry(entry))) if entry.sequence <= to => {
                    let is_ours = Pending::decode(&entry)
                        .is_ok_and(|pending| place_of(&pending.write, lanes).lane == lane);
                    undecided += u64::from(is_ours && self.core.ledger().fate(entry.sequence).is_none());
                }
                Ok(Some(ReadItem::Damaged(_))) => {}
                Ok(_) => return undecided,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read: the books are not exact");
                    return undecided;
                }
            }
        }
    }

    /// Writes of a lane up to `to` turned out to be applied: tells their callers and the books.
    fn pass(&self, lane: usize, reached: Sequence, to: Sequence) {
        let applied = self.undecided(lane, reached, to);
        let bytes = self.core.log.bytes(to);
        let mut book = self.core.book();
        let applied = applied.min(book.terms.pending);
        book.terms.pending -= applied;
        book.terms.applied += applied;
        // At once: nobody may see bytes of writes that do not wait any more.
        book.set_bytes(bytes);
        drop(book);
        tracing::info!(lane, from = %reached, %to, applied, "the database is further than was known");
    }

    /// What the database lacks of a lane counts as pending again. Returns how many writes that are.
    pub(super) fn take_back(&self, lane: usize, reached: Sequence, to: Sequence) -> u64 {
        if to >= reached {
            return 0;
        }
        let missing = self.undecided(lane, to, reached);
        let mut book = self.core.book();
        let counted = missing.min(book.terms.applied);
        book.terms.applied -= counted;
        book.terms.pending += counted;
        missing
    }

    /// The database came back older: tells it.
    fn heal(&mut self, cursor: Sequence, to: Sequence, missing: u64) {
        self.core.metrics.healed.inc_by(missing);
        tracing::warn!(database = %to, cursor = %cursor, writes = missing, "the database came back older: applying again what it lacks");
        self.report_in_outage("the database came back older than it left", |outage| {
            outage.healed_writes += missing;
            outage.healed_from = Some(format!("{to} -> {cursor}"));
        });
        self.core.tell(EventKind::Healing { from: to.to_string(), to: cursor.to_string() });
    }

    /// Notes something about the position in the report of the outage; there is one from now on, if there was none.
    fn report_in_outage(&self, reason: &str, change: impl FnOnce(&mut Outage)) {
        let mut outages = self.core.outages();
        if outages.current().is_none() {
            outages.failed("position", reason);
            outages.reconnected();
            self.core.metrics.outages.inc();
        }
        outages.update(change);
    }

    fn count_bytes(&self, cursor: Sequence) {
        let bytes = self.core.log.bytes(cursor);
        self.core.book().set_bytes(bytes);
    }

    /// Carries out an operator's decision about a gap or a wiped database.
    pub(super) async fn carry_out(&mut self, decision: Decision) -> Result<(), String> {
        let owner = self.core.log.epoch().owner.clone();
        let mut places = Vec::with_capacity(self.rows.len());
        for lane in 0..self.rows.len() {
            let id = self.rows[lane].id.clone();
            let seen = self.core.database.position(&id).await.map_err(|error| error.to_string())?;
            let at = seen.as_ref().map_or(Sequence::START, |position| position.sequence.0);
            let to = match decision {
                Decision::Replay => at.max(self.core.log.retained_after()),
                Decision::Skip => self.core.reached(lane),
            };
            let reset = self.core.database.reset_position(&id, seen.as_ref(), to, &owner).await;
            places.push((reset.map_err(|error| error.to_string())?, to));
            tracing::warn!(?decision, lane, %at, %to, "an operator decided about the position");
            if at < to {
                self.report_in_outage("the database lacks what the log no longer has", |outage| {
                    outage.missing = Some(format!("{at} -> {to}"));
                });
            }
        }
        self.settle_at(places).await;
        Ok(())
    }
}
