//! The rows of the lanes in the database, and how their number changes.

use std::ops::Range;

use outlast_log::{Mark, MarkKind, Sequence};

use super::{Drainer, Flow, RETRY, Row};
use crate::clock::now_ms;
use crate::core::Core;
use crate::database::{ApplyError, DatabaseError, LaneId, Position, Sequence64, TakeOverError};
use crate::lanes::{Change, CursorNote};
use crate::write::WriteId;

/// So many changes are remembered, for a database that comes back from before them.
const CHANGES_MAX: usize = 16;

/// So many lanes, whose rows stood at `seen`.
pub(super) fn rows(core: &Core, lanes: usize, seen: Sequence) -> Vec<Row> {
    let queue = core.log.queue_id();
    let id = |lane| LaneId::of(queue, number(lane), number(lanes));
    (0..lanes.max(1)).map(|lane| Row { id: id(lane), seen, position: None }).collect()
}

fn number(lanes: usize) -> u16 {
    u16::try_from(lanes).unwrap_or(u16::MAX)
}

impl Drainer {
    pub(super) fn knows_positions(&self) -> bool {
        self.rows.iter().all(|row| row.position.is_some())
    }

    pub(super) fn forget_positions(&mut self) {
        for row in &mut self.rows {
            row.position = None;
        }
    }

    /// What is known of the rows of these lanes, for a transaction that moves them.
    pub(super) fn expected(&self, lanes: Range<usize>) -> Result<Vec<(LaneId, Position)>, Flow> {
        let rows = self.rows.get(lanes).unwrap_or_default().iter();
        rows.map(|row| Ok((row.id.clone(), row.position.clone().ok_or(Flow::Again)?))).collect()
    }

    /// The rows of these lanes stand at `to` now, and the lanes are there.
    pub(super) fn moved(&mut self, lanes: Range<usize>, to: Sequence) {
        for lane in lanes {
            if let Some(row) = self.rows.get_mut(lane) {
                row.seen = to;
                if let Some(position) = &mut row.position {
                    position.sequence = Sequence64(to);
                }
            }
            self.core.reach(lane, to);
        }
    }

    /// A note that the cursor is at `at`, and of the lanes.
    pub(super) fn cursor_mark(&self, at: Sequence) -> Mark {
        let note = CursorNote { lanes: self.lanes, changes: self.changes.clone() };
        let body = serde_json::to_string(&note).unwrap_or_else(|_| "{}".to_owned());
        Mark { kind: MarkKind::Cursor, target: at, time_ms: now_ms(), body: body.into() }
    }

    /// Notes it durably; false if the log cannot.
    pub(super) async fn note_durably(&self, at: Sequence) -> bool {
        let durable = match self.core.log.mark(&self.cursor_mark(at)) {
            Ok(ticket) => self.core.log.durable(ticket).await.map_err(|failure| failure.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &durable {
            tracing::error!(error, "the log cannot note where the database is");
        }
        durable.is_ok()
    }

    /// Moves the rows of lanes that had nothing to do up to the others, so that the cursor may be noted, and the log may
    /// let go of what they have behind them.
    pub(super) async fn bring_up_rows(&mut self) -> Result<(), Flow> {
        let to = self.core.cursor();
        for lane in 0..self.rows.len() {
            if self.rows[lane].seen >= to {
                continue;
            }
            let expected = self.expected(lane..lane + 1)?;
            match self.core.database.apply_across(&expected, to, &[]).await {
                Ok(_) => self.moved(lane..lane + 1, to),
                Err(ApplyError::Conflict(reason)) => {
                    tracing::debug!(reason, lane, "the row of a lane was not brought up");
                    return Err(Flow::Again);
                }
                Err(ApplyError::Rejected { reason, .. }) => return Err(self.in_doubt(Some(&reason.message))),
                Err(ApplyError::Unavailable(reason)) => {
                    self.core.monitor.report_failure("write", &reason);
                    return Err(Flow::Again);
                }
                Err(ApplyError::Unknown(reason)) => return Err(self.in_doubt(Some(&reason))),
                Err(ApplyError::Moved { .. }) => return Err(self.in_doubt(None)),
            }
        }
        Ok(())
    }

    /// Nobody knows where the database is: no fate may change until the positions are read again.
    pub(super) fn in_doubt(&mut self, failure: Option<&str>) -> Flow {
        self.certain = false;
        self.forget_positions();
        if let Some(reason) = failure {
            self.core.monitor.report_failure("write", reason);
        }
        Flow::Again
    }

    /// Tells once that another number is configured than can be had while something waits.
    pub(super) fn tell_lanes(&mut self) {
        let terms = self.core.book().terms;
        let waiting = terms.pending + terms.parked;
        let Some(configured) = self.core.lanes_configured().filter(|_| waiting > 0 && !self.lanes_told)
        else {
            return;
        };
        self.lanes_told = true;
        tracing::info!(
            event = "lanes_wait",
            lanes = self.core.lanes(),
            configured,
            waiting,
            "another number of lanes is configured than is in use: it comes into use when nothing waits"
        );
    }

    /// Nothing waits: there may be another number of lanes from now on. Their rows are set to where everything is
    /// decided, and then the log notes that they count.
    pub(super) async fn change_lanes(&mut self) -> Result<(), Flow> {
        // The former rows stay where all is decided: whoever comes back from before this finds them there.
        self.bring_up_rows().await?;
        let wanted = self.core.options.wanted_lanes();
        let at = self.core.cursor();
        let owner = self.core.log.epoch().owner.clone();
        let mut changed = rows(&self.core, usize::from(wanted), at);
        for row in &mut changed {
            let set = match self.core.database.position(&row.id).await {
                Ok(seen) => self.core.database.reset_position(&row.id, seen.as_ref(), at, &owner).await,
                Err(error) => {
                    self.report(&error);
                    return Err(Flow::Again);
                }
            };
            match set {
                Ok(position) => row.position = Some(position),
                Err(TakeOverError::Moved { .. }) => return Err(self.in_doubt(None)),
                Err(TakeOverError::Unavailable(reason) | TakeOverError::Refused(reason)) => {
                    return Err(self.in_doubt(Some(&reason)));
                }
            }
        }
        let before = number(self.rows.len());
        let former = (self.lanes, self.changes.clone());
        self.lanes = wanted;
        self.changes.push(Change { at: WriteId(at), before });
        let excess = self.changes.len().saturating_sub(CHANGES_MAX);
        self.changes.drain(..excess);
        if !self.note_durably(at).await {
            (self.lanes, self.changes) = former;
            // Not at once again and again: the disk may be full.
            self.pause_for(RETRY).await;
            return Err(self.in_doubt(None));
        }
        self.rows = changed;
        self.core.reach_all(usize::from(wanted), at);
        tracing::info!(event = "lanes_changed", lanes = wanted, before, %at, "nothing waited: the number of lanes was changed");
        Ok(())
    }

    /// How many lanes the database has, and their positions. One that comes back from before the number was changed has
    /// those of a former number: then that counts, until another database comes or nothing waits.
    pub(super) async fn read_positions(&self) -> Result<(u16, Vec<Option<Position>>), DatabaseError> {
        let newest = self.read_rows(self.lanes).await?;
        let (mut lanes, mut seen) = (self.lanes, newest.clone());
        for Change { at, before } in self.changes.iter().rev() {
            let former = self.read_rows(*before).await?;
            // The former rows as well: a database that went back while the new ones were set has only these.
            let is_since =
                |seen: &Option<Position>| seen.as_ref().is_some_and(|seen| seen.sequence.0 >= at.0);
            if seen.iter().chain(&former).all(is_since) {
                break;
            }
            (lanes, seen) = (*before, former);
        }
        Ok(if seen.iter().all(Option::is_some) { (lanes, seen) } else { (self.lanes, newest) })
    }

    /// What was taken over is in the database now, and nothing goes on without it. Whether the number of lanes was read
    /// from that database, too: another one may have been put there in between.
    pub(super) async fn is_still_right(&self) -> bool {
        if self.changes.is_empty() {
            return true;
        }
        match self.read_positions().await {
            Ok((lanes, _)) => usize::from(lanes) == self.rows.len(),
            Err(error) => {
                self.report(&error);
                false
            }
        }
    }

    async fn read_rows(&self, lanes: u16) -> Result<Vec<Option<Position>>, DatabaseError> {
        let mut seen = Vec::with_capacity(usize::from(lanes));
        for row in rows(&self.core, usize::from(lanes), Sequence::START) {
            seen.push(self.core.database.position(&row.id).await?);
        }
        Ok(seen)
    }

    /// There are so many lanes now. What single ones had reached is counted anew.
    pub(super) fn count_lanes(&mut self, lanes: u16) {
        if usize::from(lanes) == self.rows.len() {
            return;
        }
        let cursor = self.core.cursor();
        for lane in 0..self.rows.len() {
            self.take_back(lane, self.core.reached(lane), cursor);
        }
        tracing::warn!(lanes, before = self.rows.len(), "the database is from another number of lanes");
        self.rows = rows(&self.core, usize::from(lanes), cursor);
        self.core.reach_all(usize::from(lanes), cursor);
    }
}
