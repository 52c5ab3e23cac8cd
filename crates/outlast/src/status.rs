//! What callers and operators see: outcomes, receipts, the status of the queue. One shape for library, HTTP and command line.

use outlast_log::Sequence;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::health::{Component, ConnectionState, Level};
use crate::write::{Operation, WriteId};

/// How long a caller waits for *applied* before it takes *queued*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At most this long while connected; not at all while the database is away.
    UpTo(std::time::Duration),
    /// Not at all: *queued* as soon as it is durable in the log.
    No,
}

/// An acknowledgement: the write is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The database has committed it.
    Applied {
        /// Its id.
        id: WriteId,
        /// The write that had the same idempotency key and content and was applied before; this one took no effect.
        duplicate_of: Option<WriteId>,
    },
    /// It is fsynced in the log.
    Queued(Receipt),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Durable in the log, not applied yet.
    Pending,
    /// The database has committed it.
    Applied,
    /// Refused, or behind a refused one of its record: waits for its next attempt.
    Parked,
    /// A dead letter.
    Dead,
    /// Given up by an operator or cancelled by a client.
    Discarded,
    /// Refused, and its caller was told.
    Rejected,
}

/// A receipt: where a write stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The id of the write.
    pub id: WriteId,
    /// Its fate.
    pub status: Fate,
    /// Writes that go before it; `None` once it is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Estimated seconds until it is applied; `None` when it is decided or nobody can tell (during an outage, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_seconds: Option<u64>,
    /// Which durable place has it: `database` or `log`.
    pub durability: Durability,
    /// Why it was refused, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Refusal>,
    /// Attempts that the database refused.
    #[serde(default)]
    pub attempts: u32,
}

/// Which durable place has a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Committed by the database.
    Database,
    /// Fsynced in the local log.
    Log,
}

/// Every accepted write is in exactly one place: `accepted = applied + pending + parked + dead + discarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounting {
    /// Taken into the log, and not refused to a waiting caller.
    pub accepted: u64,
    /// Committed by the database.
    pub applied: u64,
    /// Wait for their first attempt, or for a later one that is due.
    pub pending: u64,
    /// Wait for their next attempt.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Given up by an operator or cancelled.
    pub discarded: u64,
}

impl Accounting {
    /// Whether the identity holds.
    pub fn holds(&self) -> bool {
        self.accepted == self.applied + self.pending + self.parked + self.dead + self.discarded
    }
}

/// Acknowledged writes that cannot be read back, from the log or as dead letters. Anything but 0 is a broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Losses {
    /// How many, since the queue was made.
    pub writes: u64,
    /// When the last of them was found (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<String>,
}

/// What the lane is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LaneState {
    /// Applies writes as they come, or waits for the database.
    Running,
    /// An operator paused it.
    Paused {
        /// When it goes on by itself (RFC 3339), if it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// Everything is being refused: nothing is buried, one trial write at a time is sent.
    Storm {
        /// Refusals in a row.
        refusals: u32,
        /// The reasons, grouped, with their counts.
        reasons: Vec<(String, u32)>,
    },
    /// An operator must decide.
    Halted {
        /// `gap`, `wiped` or `fenced`.
        halt: Halt,
        /// What was found and what can be done.
        message: String,
    },
}

impl LaneState {
    /// The word for it in metrics and documents.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Storm { .. } => "storm",
            Self::Halted { .. } => "halted",
        }
    }
}

/// Why a lane halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Halt {
    /// The database is further behind than the log reaches back.
    Gap,
    /// The database has no position though this queue has applied writes: another database, or a wiped one.
    Wiped,
    /// Somebody else uses this queue's identity.
    Fenced,
}

/// An operator's decision about a halted lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Apply again everything that the log still has, after where the database is.
    Replay,
    /// Apply nothing again: go on with what was never applied.
    Skip,
}

/// The whole picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `healthy`, `warning` or `critical`: the worst of the components.
    pub health: Level,
    /// The components behind it.
    pub components: Vec<Component>,
    /// The connection to the database.
    pub database: ConnectionState,
    /// Which database, without secrets.
    pub database_name: String,
    /// What the lane is doing.
    pub lane: LaneState,
    /// The queue.
    pub queue: QueueStatus,
    /// The accounting identity's terms.
    pub accounting: Accounting,
    /// Whether the identity holds.
    pub accounting_holds: bool,
    /// What was lost.
    #[serde(default)]
    pub losses: Losses,
    /// Whether a write would be durably accepted now.
    pub accepting: bool,
    /// Id of the outage that lasts, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<u64>,
}

/// The queue in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The queue's id.
    pub id: String,
    /// Writes that wait (pending and parked).
    pub writes: u64,
    /// Their limit.
    pub writes_max: u64,
    /// Bytes that wait.
    pub bytes: u64,
    /// Their limit.
    pub bytes_max: u64,
    /// Age of the oldest waiting write in seconds; 0 when none waits.
    pub oldest_age_seconds: f64,
    /// Writes per second that left the queue lately, applied or refused, while draining.
    pub drain_rate: f64,
    /// Estimated seconds until nothing waits; `None` while nobody can tell.
    pub drain_eta_seconds: Option<u64>,
    /// Estimated seconds until the queue is full at the present rate; `None` when it is not filling.
    pub time_to_full_seconds: Option<u64>,
    /// The run-time limit in writes per second, if one is set.
    pub throttle: Option<u64>,
    /// How many lanes there are.
    pub lanes: u64,
    /// How many are configured, if that is another number: it comes into use when nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lanes_configured: Option<u64>,
    /// Which keys the files need; missing without any key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionStatus>,
}

/// How the segments of log and dead letters are encrypted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EncryptionStatus {
    /// The id of the key for new segments; `None` when these are written in clear.
    pub current: Option<String>,
    /// Segments that are not encrypted.
    pub segments_in_clear: u64,
    /// Every key that is needed to read what is there.
    pub keys: Vec<KeyStatus>,
}

impl EncryptionStatus {
    /// Segments for which another key is needed than that of new ones.
    pub(crate) fn with_old_keys(&self) -> u64 {
        let is_old = |key: &&KeyStatus| self.current.as_ref() != Some(&key.id);
        self.keys.iter().filter(is_old).map(|key| key.segments).sum()
    }
}

/// A key that is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Its id.
    pub id: String,
    /// Segments that are encrypted with it.
    pub segments: u64,
}

/// A waiting write, as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedWrite {
    /// The id under which its caller knows it.
    pub id: WriteId,
    /// Its present place in the log.
    pub sequence: WriteId,
    /// Pending or parked.
    pub status: Fate,
    /// When it was accepted (RFC 3339).
    pub accepted_at: String,
    /// Refused attempts so far.
    pub attempts: u32,
    /// Why the last attempt was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Refusal>,
    /// Its client's own name for it, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What it does.
    pub operations: Vec<Operation>,
    /// Whether values are hidden here ([`Redaction`](crate::redact::Redaction)): then it must not be taken for the write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// Which waiting writes. Everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct QueueFilter {
    /// Only that touch this collection.
    pub collection: Option<crate::record::Collection>,
    /// Only that touch a record with this id; with `collection`, a record of that collection.
    pub record: Option<crate::record::RecordId>,
    /// Only the one that its caller knows under this id.
    pub write: Option<WriteId>,
    /// Only pending or only parked ones.
    pub status: Option<Fate>,
    /// Only with an operation of this kind: one of [`VERBS`](crate::write::VERBS).
    pub verb: Option<&'static str>,
    /// Only accepted at this time or before (Unix milliseconds).
    pub accepted_until_ms: Option<u64>,
    /// Only accepted at this time or later (Unix milliseconds).
    pub accepted_from_ms: Option<u64>,
    /// Only after this place in the log: [`QueuedWrites::next`] of the page before.
    pub after: Option<WriteId>,
    /// Most writes on the page.
    pub limit: usize,
}

/// A page of waiting writes, in the order of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedWrites {
    /// This page.
    pub writes: Vec<QueuedWrite>,
    /// Pass it as `after` to go on, also when this page is empty; `None` when everything was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<WriteId>,
}

/// A write that the database refused for good (or as often as it may), with its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The id under which its caller knows it.
    pub id: WriteId,
    /// When it was accepted (RFC 3339).
    pub accepted_at: String,
    /// When it died (RFC 3339).
    pub died_at: String,
    /// The last reason.
    pub reason: Refusal,
    /// Every refused attempt, oldest first.
    pub history: Vec<Attempt>,
    /// What it does.
    pub operations: Vec<Operation>,
    /// Whether values are hidden here ([`Redaction`](crate::redact::Redaction)): then it must not be taken for the write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// One refused attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When (RFC 3339).
    pub at: String,
    /// Why.
    pub reason: Refusal,
}

/// A page of dead letters, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// All that match, also those on other pages.
    pub total: u64,
    /// How many there are of each reason, most first; at most 100 groups.
    pub groups: Vec<DeadGroup>,
    /// All groups, also those that are not shown.
    #[serde(default)]
    pub groups_total: u64,
    /// This page.
    pub letters: Vec<DeadLetter>,
    /// Pass it as `after` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<WriteId>,
}

/// Dead letters with the same reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadGroup {
    /// The reason, with `…` in its message for ids and values that are the single write's own.
    pub reason: Refusal,
    /// How many.
    pub count: u64,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Only with this kind of reason.
    pub kind: Option<crate::error::RefusalKind>,
    /// Only with this message, as [`DeadLetters::groups`] has it.
    pub message: Option<String>,
    /// Only that touch this collection.
    pub collection: Option<crate::record::Collection>,
    /// Only after this one.
    pub after: Option<WriteId>,
    /// Only those that were there when this mark was taken.
    pub there_at: Option<DeadMark>,
    /// Most letters on the page.
    pub limit: usize,
}

/// A moment in the life of the dead letters: those that were there can be told from later ones, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadMark(pub(crate) Sequence);

impl std::fmt::Display for DeadMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for DeadMark {
    type Err = outlast_log::ParseSequenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The dead letters that match a filter, for an action on all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadSelection {
    /// In order.
    pub ids: Vec<WriteId>,
    /// Now: see [`DeadFilter::there_at`].
    pub mark: DeadMark,
}

/// How far one step over many dead letters came.
#[derive(Debug, Clone, Default)]
pub struct DeadStep {
    /// So many of the first letters are done, or are among the failures. The rest is for the next step.
    pub reached: usize,
    /// Those that could not be done, and why.
    pub failures: Vec<(WriteId, crate::error::Error)>,
}

/// A sequence as an integer, for places that order by it.
pub fn write_id(sequence: Sequence) -> WriteId {
    WriteId(sequence)
}
