//! A batch in one transaction.

use std::sync::atomic::Ordering;

use outlast::database::{Applied, ApplyError, Item, LaneId, Position};
use outlast::{Collection, Refusal, RefusalKind, Sequence, WriteId};
use rusqlite::ffi;

use crate::connection::Open;
use crate::failure::{self, Failure};
use crate::keys::{self, Claim};
use crate::operation::{Halt, Insert, Manner};
use crate::{operation, position};

/// Why a batch stopped: before its end, or at the commit.
enum Stop {
    Moved(Option<Position>),
    /// Before the first write.
    Early(Failure),
    /// At a write.
    Write(Halt),
    Commit(rusqlite::Error),
}

impl Stop {
    /// One of several writes that went together is refused; also at the commit, since a row that refers to a later one
    /// passes together with it and not by itself.
    fn is_among(&self) -> bool {
        match self {
            Self::Write(halt) => halt.among && matches!(halt.failure, Failure::Refused { .. }),
            Self::Commit(error) => failure::code(error) == Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY),
            Self::Moved(_) | Self::Early(_) => false,
        }
    }
}

/// Applies a batch; see [`Database::apply_across`](outlast::database::Database::apply_across).
pub(crate) fn apply(
    open: &mut Open,
    rows: &[(LaneId, Position)],
    next: Sequence,
    batch: &[Item],
) -> Result<Applied, ApplyError> {
    let mut tried = try_apply(open, rows, next, batch, Manner::Together);
    if tried.as_ref().is_err_and(Stop::is_among) {
        // Which write it is shows when each goes by itself.
        open.roll_back();
        tried = try_apply(open, rows, next, batch, Manner::Singly);
    }
    let stop = match tried {
        Ok(applied) => return Ok(applied),
        Err(stop) => stop,
    };
    open.roll_back();
    match stop {
        Stop::Moved(actual) => Err(ApplyError::Moved { actual }),
        Stop::Early(failure) => Err(early(failure)),
        Stop::Write(halt) => Err(at_write(halt.index, halt.failure)),
        Stop::Commit(error) => Err(at_commit(open, batch, &error)),
    }
}

fn try_apply(
    open: &mut Open,
    rows: &[(LaneId, Position)],
    next: Sequence,
    batch: &[Item],
    manner: Manner,
) -> Result<Applied, Stop> {
    open.begin().map_err(|error| Stop::Early(error.into()))?;
    for (lane, position) in rows {
        if !position::advance(open, lane, position, next).map_err(Stop::Early)? {
            return Err(Stop::Moved(position::read(open, lane).map_err(Stop::Early)?));
        }
    }
    open.shapes.refresh(&open.connection).map_err(|error| Stop::Early(error.into()))?;
    let applied = write_all(open, batch, manner).map_err(Stop::Write)?;
    if open.is_over() {
        return Err(Stop::Early(Failure::Interrupted));
    }
    open.commit().map_err(Stop::Commit)?;
    Ok(applied)
}

/// Applies the writes inside an open transaction.
fn write_all(open: &mut Open, batch: &[Item], manner: Manner) -> Result<Applied, Halt> {
    let mut applied = Applied::default();
    let mut index = 0;
    for run in batch.chunk_by(|one, other| kind(one).is_some_and(|of_one| kind(other) == Some(of_one))) {
        let in_batch = |halt: Halt| Halt { index: index + halt.index, ..halt };
        match kind(&run[0]) {
            Some((insert, collection)) => {
                let rows = run.iter().flat_map(|item| item.write.operations()).filter_map(Insert::of);
                let rows: Vec<_> = rows.map(|(_, record, data)| (&record.id, data)).collect();
                insert.all(open, collection, &rows, manner).map_err(in_batch)?;
            }
            None => {
                for (within, item) in run.iter().enumerate() {
                    let duplicate =
                        write_one(open, item).map_err(|failure| in_batch(Halt::at(within, failure)))?;
                    applied.duplicates.extend(duplicate.map(|owner| (index + within, owner)));
                }
            }
        }
        index += run.len();
    }
    Ok(applied)
}

/// A write that is one insert and nothing else, as most are: those that follow each other go together.
fn kind(item: &Item) -> Option<(Insert, &Collection)> {
    match item.write.operations() {
        [operation] if item.write.key().is_none() => {
            Insert::of(operation).map(|(insert, record, _)| (insert, &record.collection))
        }
        _ => None,
    }
}

/// Tells the write that took effect in its place, if its key was used before.
fn write_one(open: &mut Open, item: &Item) -> Result<Option<WriteId>, Failure> {
    if open.is_over() {
        return Err(Failure::Interrupted);
    }
    if let Some(key) = item.write.key() {
        match keys::claim(open, key, item.id)? {
            Claim::New => {}
            Claim::Own => return Ok(None),
            Claim::Duplicate(owner) => return Ok(Some(owner)),
        }
    }
    for step in item.write.operations() {
        operation::run(open, step)?;
    }
    Ok(None)
}

/// Nothing of the batch has been looked at: no write can be to blame.
pub(crate) fn early(failure: Failure) -> ApplyError {
    match failure {
        Failure::Busy(reason) => ApplyError::Conflict(reason),
        Failure::Unavailable(reason) => ApplyError::Unavailable(reason),
        Failure::Interrupted => {
            ApplyError::Unavailable("the batch took longer than its time limit and was rolled back".into())
        }
        Failure::Refused { refusal, .. } => ApplyError::Unavailable(refusal.message),
    }
}

fn at_write(index: usize, failure: Failure) -> ApplyError {
    match failure {
        Failure::Refused { refusal, retryable } => ApplyError::Rejected { index, reason: refusal, retryable },
        other => early(other),
    }
}

/// The transaction is rolled back if SQLite left it open; what remains to be told is what the failed COMMIT may
/// have done.
fn at_commit(open: &mut Open, batch: &[Item], error: &rusqlite::Error) -> ApplyError {
    let code = failure::code(error);
    if code == Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) {
        return match find_culprit(open, batch) {
            Ok(Some(index)) => {
                let message =
                    "a record that it refers to does not exist, or one that refers to it would be left alone";
                ApplyError::Rejected {
                    index,
                    reason: Refusal::new(RefusalKind::Constraint, message),
                    retryable: true,
                }
            }
            Ok(None) => ApplyError::Conflict("a reference that was missing is there now".into()),
            Err(failure) => early(failure),
        };
    }
    if code.is_some_and(|code| code & 0xff == ffi::SQLITE_BUSY) {
        return ApplyError::Conflict(failure::message(error));
    }
    ApplyError::Unknown(format!("the commit failed: {}", failure::message(error)))
}

/// References that are checked at the commit (`DEFERRABLE INITIALLY DEFERRED`) do not tell which write broke them.
/// The culprit is a write before which a commit would pass and after which it would not: found by halving, with
/// commits that are only tried.
fn find_culprit(open: &mut Open, batch: &[Item]) -> Result<Option<usize>, Failure> {
    let (mut passes, mut fails) = (0, batch.len());
    if would_commit(open, batch)? {
        return Ok(None);
    }
    while fails - passes > 1 {
        let middle = usize::midpoint(passes, fails);
        if would_commit(open, &batch[..middle])? {
            passes = middle;
        } else {
            fails = middle;
        }
    }
    Ok(Some(passes))
}

/// Whether a transaction of these writes alone could be committed. Leaves nothing behind: the commit hook turns
/// the commit into a rollback, after SQLite has checked the references.
fn would_commit(open: &mut Open, batch: &[Item]) -> Result<bool, Failure> {
    open.begin()?;
    open.shapes.refresh(&open.connection)?;
    let written = write_all(open, batch, Manner::Singly);
    open.trial.store(true, Ordering::Relaxed);
    let committed = match written {
        Ok(_) => open.commit().err(),
        Err(Halt { failure, .. }) => {
            open.trial.store(false, Ordering::Relaxed);
            open.roll_back();
            return Err(failure);
        }
    };
    open.trial.store(false, Ordering::Relaxed);
    open.roll_back();
    match committed.as_ref().and_then(failure::code) {
        Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK) => Ok(true),
        Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => Ok(false),
        _ => {
            Err(committed.map_or_else(|| Failure::Busy("a trial was not rolled back".into()), Failure::from))
        }
    }
}
