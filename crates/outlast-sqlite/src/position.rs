//! The row that says how far a lane is.

use outlast::database::{LaneId, Position, Sequence64, TakeOverError};
use outlast::{RefusalKind, Sequence};
use rusqlite::OptionalExtension;

use crate::connection::Open;
use crate::failure::Failure;

/// Reads the row.
pub(crate) fn read(open: &Open, lane: &LaneId) -> Result<Option<Position>, Failure> {
    let sql = "SELECT sequence, generation, owner FROM outlast_position WHERE lane = ?1";
    let row: Option<(i64, i64, String)> = open.own(sql, |select| {
        select.query_row([lane.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
    })?;
    let Some((sequence, generation, owner)) = row else { return Ok(None) };
    let sequence = u64::try_from(sequence).ok().and_then(Sequence::from_u64).map(Sequence64);
    match (sequence, u64::try_from(generation)) {
        (Some(sequence), Ok(generation)) => Ok(Some(Position { sequence, generation, owner })),
        _ => Err(Failure::refused(
            RefusalKind::Other,
            format!(
                "the row \"{}\" of outlast_position was changed by somebody else: its numbers are negative",
                lane.as_str()
            ),
        )),
    }
}

/// Moves the sequence from `position` to `next`; false when the row is not `position`. The first statement of a
/// batch.
pub(crate) fn advance(
    open: &Open,
    lane: &LaneId,
    position: &Position,
    next: Sequence,
) -> Result<bool, Failure> {
    let (now, generation, next) = (position.sequence.0.as_u64(), position.generation, next.as_u64());
    let changed = open.own(
        "UPDATE outlast_position SET sequence = ?5 WHERE lane = ?1 AND sequence = ?2 AND generation = ?3 AND owner = ?4",
        |update| update.execute((lane.as_str(), integer(now), integer(generation), &position.owner, integer(next))),
    )?;
    Ok(changed == 1)
}

/// If the row still equals `seen`: raises its generation, puts `owner` in and, if given, the sequence.
pub(crate) fn take_over(
    open: &mut Open,
    lane: &LaneId,
    seen: Option<&Position>,
    sequence: Option<Sequence>,
    owner: &str,
) -> Result<Position, Stop> {
    open.transaction(|open| {
        let actual = read(open, lane)?;
        if actual.as_ref() != seen {
            return Err(Stop::Moved(actual));
        }
        let sequence = sequence.or(actual.as_ref().map(|row| row.sequence.0)).unwrap_or(Sequence::START);
        let generation = actual.map_or(1, |row| row.generation.saturating_add(1));
        open.own(
            "INSERT INTO outlast_position (lane, sequence, generation, owner) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (lane) DO UPDATE SET sequence = excluded.sequence, generation = excluded.generation, owner = excluded.owner",
            |upsert| upsert.execute((lane.as_str(), integer(sequence.as_u64()), integer(generation), owner)),
        )?;
        Ok(Position { sequence: Sequence64(sequence), generation, owner: owner.to_owned() })
    })
}

/// Why a row was not taken over.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is not what was seen.
    Moved(Option<Position>),
    /// The database failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Stop> for TakeOverError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Moved(actual) => Self::Moved { actual },
            Stop::Failed(Failure::Unavailable(reason) | Failure::Busy(reason)) => Self::Unavailable(reason),
            Stop::Failed(Failure::Interrupted) => {
                Self::Unavailable("it took longer than the time limit".into())
            }
            Stop::Failed(Failure::Refused { refusal, .. }) => Self::Refused(refusal.message),
        }
    }
}

/// Sequences are below 2^63; a generation that reached it would have been raised every microsecond for 290,000 years.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
