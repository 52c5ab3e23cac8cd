//! What happens, for whoever wants to watch: the server-sent events of the HTTP interface.

use serde::{Deserialize, Serialize};

/// Something that happened. Events are told once and not kept: the log and the outage reports are the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When (RFC 3339).
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The connection to the database changed its state.
    DatabaseState {
        /// From which state.
        from: String,
        /// To which.
        to: String,
        /// Why.
        reason: String,
    },
    /// An outage began.
    OutageStarted {
        /// Its id.
        outage: u64,
        /// What failed.
        reason: String,
    },
    /// The backlog of an outage is drained.
    OutageEnded {
        /// Its id.
        outage: u64,
    },
    /// The lane was paused, resumed, halted, or stands in a refusal storm.
    LaneState {
        /// In words.
        message: String,
    },
    /// The database came back older than it left; what is missing is applied again.
    Healing {
        /// The watermark found.
        from: String,
        /// The watermark known.
        to: String,
    },
    /// A write became a dead letter.
    DeadLetter {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
}
