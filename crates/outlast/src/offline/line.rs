//! The lines of an export: a header, one per entry, and a closing line.

use outlast_log::Sequence;
use serde::{Deserialize, Serialize};

use crate::error::{Invalid, Refusal};
use crate::status::{Accounting, Attempt};
use crate::write::{Operation, Write, WriteId};

/// The version of these lines.
pub(super) const EXPORT_VERSION: u32 = 1;

/// What became of an entry, as far as the files know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Behind the cursor, and nothing is decided.
    Pending,
    /// Up to the cursor, and nothing else is decided.
    Applied,
    /// Waits for its next attempt.
    Parked,
    /// A dead letter.
    Dead,
    /// Given up.
    Discarded,
    /// Refused, and its caller was told.
    Rejected,
    /// The write stands further behind under another sequence.
    AppendedAgain,
}

impl Status {
    pub(super) const ALL: [Self; 7] = [
        Self::Pending,
        Self::Applied,
        Self::Parked,
        Self::Dead,
        Self::Discarded,
        Self::Rejected,
        Self::AppendedAgain,
    ];

    /// Its fate is not decided.
    pub fn waits(self) -> bool {
        matches!(self, Self::Pending | Self::Parked)
    }

    /// The word in the lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Parked => "parked",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
            Self::Rejected => "rejected",
            Self::AppendedAgain => "appended_again",
        }
    }
}

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportHeader {
    /// The version of these lines.
    pub outlast_export: u32,
    /// The queue that it comes from.
    pub queue: String,
    /// When (RFC 3339).
    pub exported_at: String,
    /// What was taken to be applied: everything up to here.
    pub watermark: WriteId,
    /// Where that comes from: `cursor`, `given` or `none`.
    pub watermark_from: String,
    /// The last sequence in the queue.
    pub last: WriteId,
    /// The terms of the accounting identity.
    pub accounting: Accounting,
    /// Entries that are damaged and not in this file: the first and the last of each stretch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<(WriteId, WriteId)>,
}

/// A line about one entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportLine {
    /// The id under which the caller knows the write.
    pub id: WriteId,
    /// The entry's place in the log.
    pub sequence: WriteId,
    /// What became of it.
    pub status: Status,
    /// When it was accepted (RFC 3339).
    pub accepted_at: String,
    /// The same in Unix milliseconds.
    pub accepted_ms: u64,
    /// Where the write stands now, when it was appended again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<WriteId>,
    /// Attempts that the database refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// Why it was refused, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Refusal>,
    /// When a dead letter died, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died_ms: Option<u64>,
    /// Every refused attempt of a dead letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Attempt>,
    /// What it does.
    pub operations: Vec<Operation>,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl ExportLine {
    /// The write, checked like any other: the text may come from anywhere.
    pub(super) fn to_write(&self) -> Result<Write, Invalid> {
        let operations: Result<_, _> = self.operations.iter().map(Operation::checked).collect();
        let write = Write::new(operations?)?;
        match &self.idempotency_key {
            Some(key) => write.with_idempotency_key(key),
            None => Ok(write),
        }
    }
}

/// The last line: without it the file is not whole.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportEnd {
    /// Lines about entries before it.
    pub outlast_export_end: u64,
}

/// The sequence before this one, for bounds that are included.
pub(super) fn before(sequence: Sequence) -> Sequence {
    sequence.as_u64().checked_sub(1).and_then(Sequence::from_u64).unwrap_or(Sequence::START)
}
