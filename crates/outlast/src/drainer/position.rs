//! Where is the database? Read, decide, take over.

use outlast_log::{Mark, MarkKind, Sequence};

use super::Drainer;
use crate::clock::now_ms;
use crate::database::{DatabaseError, Position, TakeOverError};
use crate::event::EventKind;
use crate::outage::Outage;
use crate::status::{Decision, Halt, LaneState};
use crate::verdict::{Known, Verdict, decide};

impl Drainer {
    /// Reads the position, decides what it means and takes it over. True when draining may go on; false when it could
    /// not be found out now, or the lane has halted.
    pub(super) async fn establish(&mut self) -> bool {
        let seen = match self.core.database.position(&self.core.lane).await {
            Ok(seen) => seen,
            Err(error) => {
                self.report(&error);
                return false;
            }
        };
        let epoch_begin = Sequence::new(self.core.log.epoch().number, 0).unwrap_or(Sequence::START);
        let known = Known {
            cursor: self.core.cursor(),
            bound: self.bound,
            retained_after: self.core.log.retained_after(),
            issued: self.core.intake.last().max(epoch_begin),
        };
        let verdict = decide(seen.as_ref(), known, |owner| self.core.log.is_owner(owner));
        match verdict {
            Verdict::GoOn { to } | Verdict::Heal { to } => self.take_over(seen.as_ref(), to).await,
            Verdict::Gap { at, retained_after } => self.halt(
                Halt::Gap,
                format!(
                    "the database stands at {at}, but the log begins after {retained_after}: the writes between are gone \
                     from here. Restore a newer copy of the database, or decide: resume --decision replay applies what \
                     the log has, resume --decision skip applies only what was never applied"
                ),
            ),
            Verdict::Wiped => self.halt(
                Halt::Wiped,
                format!(
                    "the database has no position of this queue, though {}: it is another database, or it was wiped. \
                     Check database.url, or decide: resume --decision replay applies again everything that the log \
                     has, resume --decision skip only what was never applied",
                    if known.cursor == Sequence::START {
                        "a database had one".to_owned()
                    } else {
                        format!("writes up to {} were applied", known.cursor)
                    }
                ),
            ),
            Verdict::Fenced => {
                let owner = seen.as_ref().map_or("", |position| position.owner.as_str());
                self.halt(
                    Halt::Fenced,
                    format!(
                        "the position of this queue in the database belongs to somebody else (owner {owner}): another \
                         instance runs on a copy of this queue directory. Stop one of the two; nothing was touched"
                    ),
                )
            }
        }
    }

    fn halt(&mut self, halt: Halt, message: String) -> bool {
        self.position = None;
        self.certain = false;
        self.core.set_lane_state(&LaneState::Halted { halt, message });
        false
    }

    pub(super) fn report(&self, error: &DatabaseError) {
        // A database that answers, but not what is needed, cannot be used any more than one that is away.
        self.core.monitor.report_failure("write", &error.to_string());
    }

    async fn take_over(&mut self, seen: Option<&Position>, to: Sequence) -> bool {
        let owner = self.core.log.epoch().owner.clone();
        match self.core.database.take_over(&self.core.lane, seen, &owner).await {
            Ok(position) => self.settle_at(position, to).await,
            Err(TakeOverError::Moved { actual }) => {
                tracing::info!(?actual, "the position moved while it was taken over: reading it again");
                false
            }
            Err(TakeOverError::Unavailable(reason) | TakeOverError::Refused(reason)) => {
                self.core.monitor.report_failure("write", &reason);
                false
            }
        }
    }

    /// The position is ours and stands at `to`: the cursor follows it, forwards or back.
    async fn settle_at(&mut self, position: Position, to: Sequence) -> bool {
        let cursor = self.core.cursor();
        if !self.bind(to).await {
            return false;
        }
        if to > cursor {
            self.pass(cursor, to);
        } else if to < cursor {
            self.heal(cursor, to);
        }
        self.core.set_cursor(to);
        self.backlog_end = self.core.intake.last().max(cursor);
        self.core.ledger().chains.dissolve(to);
        if matches!(*self.core.lane_state.borrow(), LaneState::Halted { .. }) {
            // What halted it is gone: a newer copy was put back, say.
            self.core.set_lane_state(&LaneState::Running);
        }
        self.position = Some(position);
        self.certain = true;
        self.feed.restart(to);
        self.core.fates_changed();
        self.count_bytes(to);
        true
    }

    /// Notes durably that this queue has a position in a database: its absence will mean something from now on.
    async fn bind(&mut self, to: Sequence) -> bool {
        if self.bound {
            return true;
        }
        let mark =
            Mark { kind: MarkKind::Cursor, target: to, time_ms: now_ms(), body: "{\"bound\":true}".into() };
        let durable = match self.core.log.mark(&mark) {
            Ok(ticket) => self.core.log.durable(ticket).await.map_err(|failure| failure.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &durable {
            tracing::error!(error, "the log cannot note that this queue has a position in a database");
        }
        self.bound = durable.is_ok();
        self.bound
    }

    /// Writes up to `to` turned out to be applied: tells their callers and the books.
    fn pass(&self, cursor: Sequence, to: Sequence) {
        let entries = self.core.log.count(cursor, to);
        let decided = self.core.ledger().decided_between(cursor, to);
        let applied = entries.saturating_sub(decided);
        let bytes = self.core.log.bytes(to);
        let mut book = self.core.book();
        let applied = applied.min(book.terms.pending);
        book.terms.pending -= applied;
        book.terms.applied += applied;
        // At once: nobody may see bytes of writes that do not wait any more.
        book.set_bytes(bytes);
        drop(book);
        tracing::info!(from = %cursor, %to, applied, "the database is further than was known");
    }

    /// The database came back older: what it lacks counts as pending again.
    fn heal(&mut self, cursor: Sequence, to: Sequence) {
        let entries = self.core.log.count(to, cursor);
        let decided = self.core.ledger().decided_between(to, cursor);
        let missing = entries.saturating_sub(decided);
        {
            let mut book = self.core.book();
            let missing = missing.min(book.terms.applied);
            book.terms.applied -= missing;
            book.terms.pending += missing;
        }
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
        let seen = self.core.database.position(&self.core.lane).await.map_err(|error| error.to_string())?;
        let at = seen.as_ref().map_or(Sequence::START, |position| position.sequence.0);
        let to = match decision {
            Decision::Replay => at.max(self.core.log.retained_after()),
            Decision::Skip => self.core.cursor(),
        };
        let owner = self.core.log.epoch().owner.clone();
        let reset = self.core.database.reset_position(&self.core.lane, seen.as_ref(), to, &owner).await;
        let position = reset.map_err(|error| error.to_string())?;
        tracing::warn!(?decision, %at, %to, "an operator decided about the position");
        if at < to {
            self.report_in_outage("the database lacks what the log no longer has", |outage| {
                outage.missing = Some(format!("{at} -> {to}"));
            });
        }
        self.settle_at(position, to).await;
        Ok(())
    }
}
