//! The position of a lane, and the idempotency keys: Outlast's own two tables.

use ciborium::Value as Cbor;
use outlast::Sequence;
use outlast::WriteId;
use outlast::database::{DatabaseError, LaneId, Position, Sequence64, TakeOverError};
use tokio::time::Instant;

use crate::apply::worst;
use crate::batch::{KEYS, POSITIONS};
use crate::connection::{Connection, RequestError};
use crate::fault::{Fault, Meaning};
use crate::value::{integer, member, object, record, text, text_key};

/// Most keys that one transaction forgets.
const PRUNE_PAGE: u64 = 1000;

/// Runs a query that changes nothing, or whose outcome does not matter when it fails. A missing table has no rows.
pub(crate) async fn ask(
    connection: &mut Connection,
    query: &str,
    values: Vec<(String, Cbor)>,
    deadline: Instant,
) -> Result<Vec<Cbor>, DatabaseError> {
    let fault = match connection.query(query, values, deadline).await {
        Ok(rows) => match worst(rows) {
            Ok(results) => return Ok(results),
            Err(fault) => fault,
        },
        Err(RequestError::Fault(fault)) => fault,
        Err(error) => return Err(DatabaseError::Unavailable(error.into_message())),
    };
    if fault.meaning() == Meaning::TableMissing {
        return Ok(Vec::new());
    }
    Err(error(connection, fault))
}

/// What a fault means for somebody who reads.
pub(crate) fn error(connection: &mut Connection, fault: Fault) -> DatabaseError {
    match fault.meaning() {
        Meaning::Refused { .. } | Meaning::Thrown | Meaning::Unclear => DatabaseError::Refused(fault.message),
        Meaning::Session => {
            connection.abandon();
            DatabaseError::Unavailable(fault.message)
        }
        _ => DatabaseError::Unavailable(fault.message),
    }
}

/// The rows of the first result.
pub(crate) fn rows(results: Vec<Cbor>) -> Vec<Cbor> {
    results.into_iter().find_map(|result| result.into_array().ok()).unwrap_or_default()
}

fn is_empty(result: &Cbor) -> bool {
    result.as_array().is_none_or(Vec::is_empty)
}

/// Reads the position of a lane.
pub(crate) async fn read(
    connection: &mut Connection,
    lane: &LaneId,
    deadline: Instant,
) -> Result<Option<Position>, DatabaseError> {
    let values = vec![("outlast_lane".to_owned(), record(POSITIONS, lane.as_str()))];
    let results =
        ask(connection, "SELECT sequence, generation, owner FROM $outlast_lane", values, deadline).await?;
    rows(results).first().map(position_row).transpose()
}

fn position_row(row: &Cbor) -> Result<Position, DatabaseError> {
    let number =
        |name| member(row, name).and_then(Cbor::as_integer).and_then(|number| u64::try_from(number).ok());
    let owner = member(row, "owner").and_then(Cbor::as_text);
    let sequence = number("sequence").and_then(Sequence::from_u64);
    match (sequence, number("generation"), owner) {
        (Some(sequence), Some(generation), Some(owner)) => {
            Ok(Position { sequence: Sequence64(sequence), generation, owner: owner.to_owned() })
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
    deadline: Instant,
) -> Result<Position, TakeOverError> {
    let kept = seen.map_or(Sequence::START, |seen| seen.sequence.0);
    let new = Position {
        sequence: Sequence64(sequence.unwrap_or(kept)),
        generation: seen.map_or(0, |seen| seen.generation).saturating_add(1),
        owner: owner.to_owned(),
    };
    let content = object([
        ("sequence", integer(new.sequence.0.as_u64())),
        ("generation", integer(new.generation)),
        ("owner", text(owner)),
    ]);
    let lane_record = record(POSITIONS, lane.as_str());
    let mut values = vec![("outlast_lane".to_owned(), lane_record), ("outlast_new".to_owned(), content)];
    let query = if let Some(seen) = seen {
        values.extend([
            ("outlast_sequence".to_owned(), integer(seen.sequence.0.as_u64())),
            ("outlast_generation".to_owned(), integer(seen.generation)),
            ("outlast_owner".to_owned(), text(seen.owner.as_str())),
        ]);
        "UPDATE $outlast_lane CONTENT $outlast_new WHERE sequence = $outlast_sequence AND generation = $outlast_generation \
         AND owner = $outlast_owner RETURN VALUE generation"
    } else {
        "CREATE $outlast_lane CONTENT $outlast_new RETURN VALUE generation"
    };
    let fault = match connection.query(query, values, deadline).await {
        Ok(answer) => match worst(answer) {
            Ok(results) if results.iter().all(is_empty) => {
                return Err(moved(connection, lane, seen, deadline).await);
            }
            Ok(_) => return Ok(new),
            Err(fault) => fault,
        },
        Err(RequestError::Fault(fault)) => fault,
        Err(error) => return Err(TakeOverError::Unavailable(error.into_message())),
    };
    match (fault.meaning(), seen) {
        (Meaning::Refused { kind: outlast::RefusalKind::Exists, .. }, None)
        | (Meaning::TableMissing, Some(_)) => Err(moved(connection, lane, seen, deadline).await),
        _ => match error(connection, fault) {
            DatabaseError::Refused(reason) => Err(TakeOverError::Refused(reason)),
            error => Err(TakeOverError::Unavailable(error.to_string())),
        },
    }
}

async fn moved(
    connection: &mut Connection,
    lane: &LaneId,
    seen: Option<&Position>,
    deadline: Instant,
) -> TakeOverError {
    match read(connection, lane, deadline).await {
        // The server leaves out rows that the account may not write, without an error.
        Ok(actual) if actual.as_ref() == seen => TakeOverError::Refused(
            "the account may not write the table outlast_position: give it the role EDITOR or OWNER, for example \
             DEFINE USER outlast ON DATABASE PASSWORD '...' ROLES EDITOR"
                .to_owned(),
        ),
        Ok(actual) => TakeOverError::Moved { actual },
        Err(error) => TakeOverError::Unavailable(error.to_string()),
    }
}

/// The key, its write and its fingerprint.
pub(crate) fn key_row(row: &Cbor) -> Option<(String, (WriteId, String))> {
    let key = member(row, "id").and_then(text_key)?;
    let id = member(row, "write_id").and_then(Cbor::as_text)?.parse().ok()?;
    let fingerprint = member(row, "fingerprint").and_then(Cbor::as_text)?;
    Some((key.to_owned(), (id, fingerprint.to_owned())))
}

/// The write that was applied under a key.
pub(crate) async fn find_key(
    connection: &mut Connection,
    key: &str,
    deadline: Instant,
) -> Result<Option<(WriteId, String)>, DatabaseError> {
    let values = vec![("outlast_key".to_owned(), record(KEYS, key))];
    let results =
        ask(connection, "SELECT id, write_id, fingerprint FROM $outlast_key", values, deadline).await?;
    Ok(rows(results).first().and_then(key_row).map(|(_, found)| found))
}

/// Forgets one page of the keys stored before a time; returns how many, and whether there may be more.
pub(crate) async fn prune_keys(
    connection: &mut Connection,
    before_millis: u64,
    deadline: Instant,
) -> Result<(u64, bool), DatabaseError> {
    let values = vec![
        ("outlast_before".to_owned(), integer(before_millis)),
        ("outlast_page".to_owned(), integer(PRUNE_PAGE)),
    ];
    let query = "{ LET $outlast_old = (SELECT VALUE id FROM outlast_keys WHERE at < $outlast_before LIMIT $outlast_page); \
                 DELETE $outlast_old RETURN NONE; RETURN array::len($outlast_old) }";
    let results = ask(connection, query, values, deadline).await?;
    let count =
        results.first().and_then(Cbor::as_integer).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    Ok((count, count == PRUNE_PAGE))
}
