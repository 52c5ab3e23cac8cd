//! What a caller gets when a write or a read cannot be served, shaped by what it would do differently.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::write::WriteId;

/// Input that is wrong whatever the state of the database: change it, do not send it again as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    message: String,
}

impl Invalid {
    /// With a message that says what is wrong and what would be right.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Why a database refused a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// `create` of a record that exists.
    Exists,
    /// `patch` of a record that does not exist.
    NotFound,
    /// A unique index, reference or check.
    Constraint,
    /// A field or table that the schema does not allow.
    Schema,
    /// The account may not do it.
    Permission,
    /// Larger than the database takes.
    TooLarge,
    /// The idempotency key belongs to another write.
    KeyReused,
    /// The statement is wrong, or threw.
    Statement,
    /// Older than `queue.max_age` allows.
    Expired,
    /// Another refusal; the message has the database's words.
    Other,
}

impl RefusalKind {
    /// The word for it in metrics and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::NotFound => "not_found",
            Self::Constraint => "constraint",
            Self::Schema => "schema",
            Self::Permission => "permission",
            Self::TooLarge => "too_large",
            Self::KeyReused => "key_reused",
            Self::Statement => "statement",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }

    /// Every kind, for metrics that show all series from the start.
    pub const ALL: [Self; 10] = [
        Self::Exists,
        Self::NotFound,
        Self::Constraint,
        Self::Schema,
        Self::Permission,
        Self::TooLarge,
        Self::KeyReused,
        Self::Statement,
        Self::Expired,
        Self::Other,
    ];
}

/// A refusal: its kind and the database's words, fit for the caller's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of refusal.
    pub kind: RefusalKind,
    /// What the database said.
    pub message: String,
}

impl Refusal {
    /// A refusal with the database's words.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a caller gets instead of an acknowledgement.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be reached, and this cannot be served without it. Try again after `retry_after`.
    #[error("the database is unavailable: {reason}; try again in {} s", retry_after.as_secs())]
    ServiceUnavailable {
        /// Computed: never 0, at most `retry_after_max`.
        retry_after: Duration,
        /// Since when and why, in words.
        reason: String,
    },
    /// The queue holds as much as it may. Nothing was accepted; try again after `retry_after`.
    #[error("the queue is full: {writes} of {writes_max} writes, {bytes} of {bytes_max} bytes; try again in {} s, or raise queue.max_writes or queue.max_bytes", retry_after.as_secs())]
    QueueFull {
        /// Computed from the drain rate.
        retry_after: Duration,
        /// Writes that wait.
        writes: u64,
        /// Their limit (`queue.max_writes`).
        writes_max: u64,
        /// Bytes that wait.
        bytes: u64,
        /// Their limit (`queue.max_bytes`).
        bytes_max: u64,
    },
    /// The database refused the write: it took no effect and never will.
    #[error("the database refused the write: {reason}")]
    Rejected {
        /// The id that the write had.
        id: WriteId,
        /// Why.
        reason: Refusal,
    },
    /// There is no such record or write.
    #[error("{what} was not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The input is wrong: change it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Larger than a limit allows.
    #[error("{what} has {bytes} bytes, the limit is {bytes_max} ({setting})")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
        /// The setting that sets the limit.
        setting: &'static str,
    },
    /// A write with this idempotency key is still under way: try again a little later.
    #[error("a write with this idempotency key is still under way: {id}")]
    KeyInFlight {
        /// The write that has the key.
        id: WriteId,
    },
    /// The idempotency key belongs to a write with other content: use a new key.
    #[error("the idempotency key belongs to another write")]
    KeyReused,
    /// What is asked is not possible in the present state; the message says why and what would be.
    #[error("{0}")]
    Conflict(String),
    /// The log cannot take writes: its disk failed or is full. What was acknowledged is safe.
    #[error("the log cannot take writes: {reason}")]
    LogFailed {
        /// What failed, and what to do.
        reason: String,
        /// True when it was handed to a log that then failed: it may be applied after all.
        outcome_unknown: bool,
    },
    /// Outlast is shutting down: send it to another instance, or again later.
    #[error("shutting down: nothing new is accepted")]
    ShuttingDown,
}
