//! The position of a lane, and the idempotency keys: Outlast's own two tables.

use outlast::database::{DatabaseError, LaneId, Position, Sequence64, TakeOverError};
use outlast::{Sequence, WriteId};

use crate::connection::Connection;
use crate::fault::{Fault, Meaning};
use crate::flight::{Answer, Flight, Landing, Row};
use crate::limits::Limits;

/// Most keys that one statement forgets.
const PRUNE_PAGE: u64 = 1000;
/// A time longer than every clock has run: a hundred years in seconds.
const AGE_SECONDS_MAX: u64 = 3_155_760_000;

/// Takes the position from what was expected to `next`, or fails with [`crate::fault::EXPECTED`]. It locks the row, so
/// that of two batches or take-overs only one goes on.
pub(crate) const ADVANCE: &str = "SELECT outlast_advance($1, $2, $3, $4, $5)";

/// Runs one statement, within the server's own limits, that changes nothing, or whose outcome does not matter when it
/// fails.
pub(crate) async fn ask(
    connection: &mut Connection,
    statement: &str,
    parameters: &[Option<&str>],
    limits: Limits,
) -> Result<Answer, Trouble> {
    let flight = limits.around(statement, parameters).map_err(Trouble::Refused)?;
    match connection.fly(flight, limits.deadline).await {
        // The one before the commit.
        Ok(Landing::Done(answers)) => Ok(answers.into_iter().rev().nth(1).unwrap_or_default()),
        Ok(Landing::Failed(_, fault)) => Err(trouble(connection, fault)),
        Err(lost) => Err(Trouble::Unavailable(lost.into_message())),
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody answers now.
    Unavailable(String),
    /// This call was not served: a lock is held, or it took too long.
    Busy(String),
    /// A table or column is not as we think it is.
    Shape(Fault),
    /// A value does not fit its column.
    Value(String),
    /// The database will not answer this.
    Refused(String),
}

impl From<Trouble> for DatabaseError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unavailable(reason) => Self::Unavailable(reason),
            Trouble::Busy(reason) => Self::Busy(reason),
            Trouble::Shape(fault) => Self::Refused(fault.message),
            Trouble::Value(reason) | Trouble::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// What a fault means for somebody who reads. A connection that is at fault is not used again.
pub(crate) fn trouble(connection: &mut Connection, fault: Fault) -> Trouble {
    match fault.meaning() {
        Meaning::Shape => Trouble::Shape(fault),
        Meaning::Refused { .. } if fault.code.starts_with("22") => Trouble::Value(fault.message),
        Meaning::Refused { .. } | Meaning::Login | Meaning::Missing => Trouble::Refused(fault.message),
        Meaning::Elsewhere => {
            connection.note_demotion();
            Trouble::Unavailable(fault.message)
        }
        Meaning::Session | Meaning::Unknown => {
            connection.abandon();
            Trouble::Unavailable(fault.message)
        }
        Meaning::Unavailable => Trouble::Unavailable(fault.message),
        Meaning::Conflict | Meaning::BrokenOff => Trouble::Busy(fault.message),
    }
}

/// Reads the position of a lane. A missing table has no rows.
pub(crate) async fn read(
    connection: &mut Connection,
    lane: &LaneId,
    limits: Limits,
) -> Result<Option<Position>, DatabaseError> {
    let statement = "SELECT sequence, generation, owner FROM outlast_position WHERE lane = $1::text";
    match ask(connection, statement, &[Some(lane.as_str())], limits).await {
        Ok(answer) => answer.rows.first().map(position_row).transpose(),
        Err(Trouble::Shape(fault)) if fault.code == "42P01" => Ok(None),
        Err(trouble) => Err(trouble.into()),
    }
}

fn position_row(row: &Row) -> Result<Position, DatabaseError> {
    let number = |at: usize| row.get(at).and_then(|value| value.as_deref()?.parse::<u64>().ok());
    let owner = row.get(2).cloned().flatten();
    match (number(0).and_then(Sequence::from_u64), number(1), owner) {
        (Some(sequence), Some(generation), Some(owner)) => {
            Ok(Position { sequence: Sequence64(sequence), generation, owner })
        }
        _ => Err(DatabaseError::Refused(
            "a row of the table outlast_position is not one that Outlast wrote".to_owned(),
        )),
    }
}

/// Takes a lane over, and sets its sequence when one is given.
pub(crate) async fn take_over(
    connection: &mut Connection,
    lane: &LaneId,
    seen: Option<&Position>,
    sequence: Option<Sequence>,
    owner: &str,
    limits: Limits,
) -> Result<Position, TakeOverError> {
    let kept = seen.map_or(Sequence::START, |seen| seen.sequence.0);
    let new = Position {
        sequence: Sequence64(sequence.unwrap_or(kept)),
        generation: seen.map_or(0, |seen| seen.generation).saturating_add(1),
        owner: owner.to_owned(),
    };
    let flight = take_over_flight(lane, seen, &new, limits).map_err(TakeOverError::Refused)?;
    let fault = match connection.fly(flight, limits.deadline).await {
        Ok(Landing::Done(answers)) => {
            // The statement between the limits and the commit.
            let changed = answers.iter().rev().nth(1).is_some_and(|answer| answer.count == 1);
            return if changed { Ok(new) } else { Err(moved(connection, lane, limits).await) };
        }
        Ok(Landing::Failed(_, fault)) => fault,
        Err(lost) => return Err(TakeOverError::Unavailable(lost.into_message())),
    };
    if fault.code == "42P01" && seen.is_some() {
        return Err(TakeOverError::Moved { actual: None });
    }
    if fault.code == "42501" {
        return Err(TakeOverError::Refused(rights(&fault)));
    }
    match DatabaseError::from(trouble(connection, fault)) {
        DatabaseError::Refused(reason) => Err(TakeOverError::Refused(reason)),
        error => Err(TakeOverError::Unavailable(error.to_string())),
    }
}

fn take_over_flight(
    lane: &LaneId,
    seen: Option<&Position>,
    new: &Position,
    limits: Limits,
) -> Result<Flight, String> {
    let mut flight = Flight::default();
    limits.begin(&mut flight)?;
    let (sequence, generation) = (new.sequence.0.as_u64().to_string(), new.generation.to_string());
    let mut parameters =
        vec![Some(lane.as_str()), Some(&*sequence), Some(&*generation), Some(new.owner.as_str())];
    if let Some(seen) = seen {
        let (seen_sequence, seen_generation) =
            (seen.sequence.0.as_u64().to_string(), seen.generation.to_string());
        parameters.extend([Some(&*seen_sequence), Some(&*seen_generation), Some(seen.owner.as_str())]);
        flight.add(
            "UPDATE outlast_position SET sequence = $2::bigint, generation = $3::bigint, owner = $4::text \
             WHERE lane = $1::text AND sequence = $5::bigint AND generation = $6::bigint AND owner = $7::text",
            &parameters,
        )?;
    } else {
        flight.add(
            "INSERT INTO outlast_position (lane, sequence, generation, owner) \
             VALUES ($1::text, $2::bigint, $3::bigint, $4::text) ON CONFLICT (lane) DO NOTHING",
            &parameters,
        )?;
    }
    flight.add("COMMIT", &[])?;
    Ok(flight)
}

/// What an account needs that may not write our tables.
pub(crate) fn rights(fault: &Fault) -> String {
    format!(
        "{}. Let the owner run: GRANT SELECT, INSERT, UPDATE, DELETE ON outlast_position, outlast_keys TO the account",
        fault.message
    )
}

async fn moved(connection: &mut Connection, lane: &LaneId, limits: Limits) -> TakeOverError {
    match read(connection, lane, limits).await {
        Ok(actual) => TakeOverError::Moved { actual },
        Err(error) => TakeOverError::Unavailable(error.to_string()),
    }
}

/// The key, its write and its fingerprint.
pub(crate) fn key_row(row: &Row) -> Option<(String, (WriteId, String))> {
    let [Some(key), Some(id), Some(fingerprint)] = row.as_slice() else { return None };
    Some((key.clone(), (id.parse().ok()?, fingerprint.clone())))
}

/// The rows of keys: a JSON array of texts.
pub(crate) const READ_KEYS: &str = "SELECT key, write_id, fingerprint FROM outlast_keys \
     WHERE key IN (SELECT jsonb_array_elements_text($1::text::jsonb))";

/// The write that was applied under a key.
pub(crate) async fn find_key(
    connection: &mut Connection,
    key: &str,
    limits: Limits,
) -> Result<Option<(WriteId, String)>, DatabaseError> {
    let statement = "SELECT key, write_id, fingerprint FROM outlast_keys WHERE key = $1::text";
    match ask(connection, statement, &[Some(key)], limits).await {
        Ok(answer) => Ok(answer.rows.first().and_then(key_row).map(|(_, found)| found)),
        Err(Trouble::Shape(fault)) if fault.code == "42P01" => Ok(None),
        Err(trouble) => Err(trouble.into()),
    }
}

/// Forgets one page of the keys stored longer ago than a time, by the database's own clock; returns how many, and
/// whether there may be more.
pub(crate) async fn prune_keys(
    connection: &mut Connection,
    older_than: std::time::Duration,
    limits: Limits,
) -> Result<(u64, bool), DatabaseError> {
    let (seconds, page) = (older_than.as_secs().min(AGE_SECONDS_MAX), PRUNE_PAGE.to_string());
    let age = format!("{seconds}.{:06}", older_than.subsec_micros());
    let statement = "DELETE FROM outlast_keys WHERE key IN (SELECT key FROM outlast_keys \
         WHERE at < clock_timestamp() - make_interval(secs => $1::double precision) ORDER BY at LIMIT $2::bigint)";
    match ask(connection, statement, &[Some(&age), Some(&page)], limits).await {
        Ok(answer) => Ok((answer.count, answer.count >= PRUNE_PAGE)),
        Err(Trouble::Shape(fault)) if fault.code == "42P01" => Ok((0, false)),
        Err(trouble) => Err(trouble.into()),
    }
}
