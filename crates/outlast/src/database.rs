//! The trait [`Database`]: all that Outlast needs of a database, and the words in which it answers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use outlast_log::Sequence;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Invalid, Refusal};
use crate::record::{Collection, Document, RecordId};
use crate::write::{Write, WriteId};

/// Names the row that holds a lane's position: the queue's id and the number of the lane, `QUEUE/LANE`; where there are
/// several, also how many, `QUEUE/LANE/LANES`, so that the rows of another number stay as they were.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneId(Arc<str>);

impl LaneId {
    /// Of lane `number` of the queue with the id `queue`.
    pub fn new(queue: impl fmt::Display, number: u16) -> Self {
        Self(format!("{queue}/{number}").into())
    }

    /// Of lane `number` of `lanes`.
    pub fn of(queue: impl fmt::Display, number: u16, lanes: u16) -> Self {
        if lanes <= 1 { Self::new(queue, number) } else { Self(format!("{queue}/{number}/{lanes}").into()) }
    }

    /// The text that keys the row.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How far a lane is, as the database keeps it, and the fence against late or foreign transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The watermark: the highest sequence whose fate is decided.
    pub sequence: Sequence64,
    /// Raised by every take-over, so that a transaction sent before it can no longer commit.
    pub generation: u64,
    /// The owner of the log's epoch that took over last: a random id.
    pub owner: String,
}

/// A sequence inside a [`Position`]: serialized as the integer that databases store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence64(pub Sequence);

impl Serialize for Sequence64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_u64())
    }
}

impl<'de> Deserialize<'de> for Sequence64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Sequence::from_u64(value)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a sequence is below 2^63"))
    }
}

/// A write on its way to the database.
#[derive(Debug, Clone)]
pub struct Item {
    /// The id under which the write is known for life: what `outlast_keys` stores.
    pub id: WriteId,
    /// What to do.
    pub write: Arc<Write>,
}

/// What committing a batch told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Indexes of the writes that took no effect because another write with the same idempotency key and the same
    /// fingerprint had been applied already, with that write's id.
    pub duplicates: Vec<(usize, WriteId)>,
}

/// Why a batch was not applied: what the drainer does differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Certainly not committed: no connection, refused, shutting down, read-only, too many connections.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Certainly not committed: serialization failure or deadlock. The same batch again.
    #[error("conflict: {0}")]
    Conflict(String),
    /// Certainly not committed: the write at `index` was refused.
    #[error("write {index} of the batch was refused: {reason}")]
    Rejected {
        /// Its place in the batch.
        index: usize,
        /// Why.
        reason: Refusal,
        /// Another attempt may succeed without anybody changing the write (a missing reference, say).
        retryable: bool,
    },
    /// The connection was lost, or time ran out, after sending: it may have committed, and may still.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The position was not the expected one: nothing was applied.
    #[error("the position has moved: {actual:?}")]
    Moved {
        /// What stands there.
        actual: Option<Position>,
    },
}

/// Why a position was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverError {
    /// The row no longer equals what was seen: read it again.
    #[error("the position has moved: {actual:?}")]
    Moved {
        /// What stands there.
        actual: Option<Position>,
    },
    /// The database cannot be reached, or the outcome is unknown: read the position again when it can.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The account may not write Outlast's tables; the text names the statements to run.
    #[error("{0}")]
    Refused(String),
}

/// Why a connection was not made or a read not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// The database cannot be reached: an outage.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The database did not serve this call, and that says nothing about others: a lock is held, or the call took longer
    /// than it may.
    #[error("{0}")]
    Busy(String),
    /// The database answered, but will not serve this: wrong credentials, missing rights, a wrong statement.
    #[error("{0}")]
    Refused(String),
    /// The question itself cannot be asked of this database.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Where.
    pub collection: Collection,
    /// Top-level members that must equal a scalar value; names are checked ([`crate::record::check_name`]).
    pub filters: Vec<(String, Value)>,
    /// Most records to return; at least 1.
    pub limit: usize,
    /// Only records with a greater id (the order is that of ids as text, byte by byte).
    pub after: Option<RecordId>,
}

/// A database that Outlast brings writes to. An adapter needs transactions, nothing else.
///
/// Contract of every call: it ends within the adapter's own time limit. A call that ran out of time or whose future
/// was dropped leaves no connection behind that could still send something: the adapter closes it. Nothing is queued
/// or sent again inside an adapter. Values are only ever bound, never written into a statement's text.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// What it is, for people, without secrets: for example `sqlite outlast-data/database.db`.
    fn describe(&self) -> String;

    /// Refuses at the door what this database cannot hold exactly. Pure: no connection is needed.
    ///
    /// # Errors
    /// What cannot be held, and what could.
    fn check(&self, write: &Write) -> Result<(), Invalid>;

    /// One bounded real round trip that touches storage, on a fresh connection if there is none. Makes what is missing
    /// (namespace, database, Outlast's own tables) where the account may.
    ///
    /// # Errors
    /// `Unavailable`, or `Refused` with the statements that somebody with more rights should run.
    async fn probe(&self) -> Result<(), DatabaseError>;

    /// Most writes that one transaction may have, as far as is known of the database that answers. Default: any number.
    fn batch_writes_max(&self) -> usize {
        usize::MAX
    }

    /// Whether a transaction may be handed over ([`Database::apply_across`]) before the one in front of it is answered,
    /// with the position that this one leaves: it waits for its turn, as far as it can, and takes effect only right
    /// behind it. Where it is refused for having come too early (`Moved`, `Conflict`), it is handed over again. Default:
    /// no.
    fn takes_ahead(&self) -> bool {
        false
    }

    /// Reads the position of a lane; `None` when there is no row.
    ///
    /// # Errors
    /// As `probe`.
    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError>;

    /// In one transaction: if the row still equals `seen` (or is still absent), raises the generation by one, puts the
    /// `owner` in, and leaves the sequence ([`Sequence::START`] for a new row). It is a write, so that a transaction
    /// of ours that is still under way somewhere can no longer commit after it.
    ///
    /// # Errors
    /// `Moved` with what stands there instead.
    async fn take_over(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        owner: &str,
    ) -> Result<Position, TakeOverError>;

    /// Sets the position of a lane to `sequence` whatever it was: an operator's decision about a gap or a wiped
    /// database, never taken by Outlast itself. Raises the generation and puts the `owner` in.
    ///
    /// # Errors
    /// As `take_over`.
    async fn reset_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Sequence,
        owner: &str,
    ) -> Result<Position, TakeOverError>;

    /// In one transaction: checks that each of the rows still equals its position, applies every write in order, stores
    /// the idempotency keys, sets the sequence of all these rows to `next`, commits. All or nothing. `batch` may be empty:
    /// then only the sequences move. There is one row, unless a write belongs to several lanes.
    ///
    /// # Errors
    /// See [`ApplyError`]: every variant but `Unknown` promises that nothing was committed. `Moved` is about the first row
    /// that is another one.
    async fn apply_across(
        &self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError>;

    /// The same with the row of one lane.
    ///
    /// # Errors
    /// See [`ApplyError`].
    async fn apply(
        &self,
        lane: &LaneId,
        position: &Position,
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        self.apply_across(&[(lane.clone(), position.clone())], next, batch).await
    }

    /// Reads a record.
    ///
    /// # Errors
    /// As `probe`.
    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError>;

    /// Lists records in the order of their ids. A collection that does not exist is empty.
    ///
    /// # Errors
    /// As `probe`.
    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError>;

    /// The write that was applied under an idempotency key: its id and fingerprint.
    ///
    /// # Errors
    /// As `probe`.
    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError>;

    /// Forgets idempotency keys stored more than `older_than` ago; returns how many.
    ///
    /// # Errors
    /// As `probe`.
    async fn prune_keys(&self, older_than: std::time::Duration) -> Result<u64, DatabaseError>;

    /// Closes connections. Later calls may open new ones.
    async fn close(&self);
}

/// Which database a URL names: what stands before `://`, in lower case.
///
/// # Errors
/// When there is no `://`.
pub fn url_scheme(url: &str) -> Result<String, Invalid> {
    url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).ok_or_else(|| {
        Invalid::new(
            "a database URL has the form SCHEME://..., for example sqlite://outlast-data/database.db",
        )
    })
}

/// True when the digits of a JSON number name exactly a 64-bit integer (signed or not) or a 64-bit float: what
/// [RFC 8259, section 6](https://www.rfc-editor.org/rfc/rfc8259#section-6) calls interoperable.
pub fn number_is_exact(text: &str) -> bool {
    if i64::from_str(text).is_ok() || u64::from_str(text).is_ok() {
        return true;
    }
    // The usual case without a detour: every 64-bit float keeps this many digits.
    if text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-')) {
        return true;
    }
    match f64::from_str(text) {
        Ok(float) if float.is_finite() => normal_digits(text) == normal_digits(&format!("{float:e}")),
        _ => false,
    }
}

/// Significant digits without leading and trailing zeros, the power of ten of the last of them, and the sign.
fn normal_digits(text: &str) -> (bool, String, i64) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut exponent = exponent.parse::<i64>().unwrap_or(i64::MAX / 2)
        - i64::try_from(fraction.len()).unwrap_or(i64::MAX / 2);
    let mut digits = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
    while digits.ends_with('0') {
        digits.pop();
        exponent += 1;
    }
    if digits.is_empty() {
        return (negative, digits, 0);
    }
    (negative, digits, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_numbers_are_told_from_those_that_would_change() {
        for exact in [
            "0",
            "-0",
            "1",
            "-9223372036854775808",
            "18446744073709551615",
            "0.1",
            "1.0",
            "1e2",
            "1E+2",
            "1.7976931348623157e308",
            "5e-324",
            "0.10",
            "100000000000000000000",
        ] {
            assert!(number_is_exact(exact), "{exact}");
        }
        for inexact in
            ["18446744073709551617", "0.12345678901234567890", "1e400", "9007199254740993.5", "1e-400"]
        {
            assert!(!number_is_exact(inexact), "{inexact}");
        }
    }
}
