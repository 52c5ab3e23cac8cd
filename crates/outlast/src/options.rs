//! How an [`Outlast`](crate::Outlast) is run. Every option has the default of the design's table.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use outlast_log::{Compression, Encryption, Format, Key, KeyId, ParseKeyError};

use crate::redact::Redaction;
use crate::trace::Tracer;

/// Options of the library; the server fills them from its configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// `queue.directory`: where the log lives. One process at a time.
    pub directory: PathBuf,
    /// `queue.max_writes`: most writes that may wait.
    pub max_writes: u64,
    /// `queue.max_bytes`: most bytes that may wait.
    pub max_bytes: u64,
    /// `queue.format` of new segments.
    pub format: Format,
    /// `queue.compression` of sealed segments.
    pub compression: Compression,
    /// `queue.encryption_key_file`, `queue.encryption_key`, `queue.encrypt`: the keys of the log and of the dead letters.
    pub encryption: Encryption,
    /// `queue.segment_bytes`: size of one file of the log.
    pub segment_bytes: u64,
    /// `queue.sync_interval`: the longest that a write which nobody waits for stays unsynced.
    pub sync_interval: Duration,
    /// `queue.retain`: how long applied writes are kept for healing...
    pub retain: Duration,
    /// ...and at most how many bytes of them.
    pub retain_bytes: u64,
    /// `queue.max_age`: an older write becomes a dead letter. Off when `None`.
    pub max_age: Option<Duration>,
    /// `queue.max_age_includes_outages`: count the time during which the database could not take it, too.
    pub max_age_includes_outages: bool,
    /// `queue.write_bytes_max`: largest single write.
    pub write_bytes_max: u64,
    /// `queue.on_full`: how long to wait for room before the error; zero is `reject`.
    pub block_when_full: Duration,
    /// `delivery.max_attempts`: refusals of a queued write before it is dead.
    pub max_attempts: u32,
    /// `delivery.backoff`: first pause after a refusal; doubles.
    pub backoff: Duration,
    /// `delivery.backoff_max`.
    pub backoff_max: Duration,
    /// `delivery.batch_max`: most writes in one transaction.
    pub batch_max: usize,
    /// `delivery.batch_bytes_max`: most bytes in one transaction.
    pub batch_bytes_max: usize,
    /// `delivery.lanes`: how many transactions may be under way at once, each with the writes of its own records; 1 to 16,
    /// and what is beyond counts as the nearest. A new number takes effect when nothing waits.
    pub lanes: u32,
    /// `delivery.storm_threshold`: consecutive refusals over different records that pause the lane.
    pub storm_threshold: u32,
    /// `delivery.hold_record_on_dead_letter`: later writes to a record wait while it has a dead letter.
    pub hold_record_on_dead_letter: bool,
    /// `delivery.drain_rate`: most writes per second when draining a backlog. No limit when `None`.
    pub drain_rate: Option<u64>,
    /// `delivery.key_retention`: how long idempotency keys are remembered in the database.
    pub key_retention: Duration,
    /// `health.probe_interval` while connected.
    pub probe_interval: Duration,
    /// `health.probe_max_interval` while not connected.
    pub probe_max_interval: Duration,
    /// `health.probe_timeout`: a probe that takes longer has failed.
    pub probe_timeout: Duration,
    /// `health.unavailable_timeout`: a longer outage is Critical.
    pub unavailable_timeout: Duration,
    /// `health.retry_after_max`.
    pub retry_after_max: Duration,
    /// `health.read_wait`: how long a read waits for a connection that failed a short while ago.
    pub read_wait: Duration,
    /// `health.after_timeout`: what happens to writes when an outage is Critical.
    pub after_timeout: AfterTimeout,
    /// `privacy.redact`: fields whose values are taken out of the reasons of refusals before these are kept or told.
    /// Writes that the library shows have them all; [`Redaction::hide`] is for whoever shows them to people.
    pub redact: Redaction,
    /// Is told of transactions with writes that have a trace context.
    pub tracer: Option<Arc<dyn Tracer>>,
}

/// What happens to writes once an outage lasts longer than `unavailable_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterTimeout {
    /// They are queued all the same.
    #[default]
    Queue,
    /// They get 503.
    Reject,
}

/// More connections than that would be a burden for the database, not a help.
const LANES_MAX: u16 = 16;

impl Options {
    /// How many lanes there should be.
    pub(crate) fn wanted_lanes(&self) -> u16 {
        u16::try_from(self.lanes).unwrap_or(LANES_MAX).clamp(1, LANES_MAX)
    }

    /// The defaults, with the log in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_writes: 1_000_000,
            max_bytes: 1 << 30,
            format: Format::Json,
            compression: Compression::None,
            encryption: Encryption::default(),
            segment_bytes: 32 << 20,
            sync_interval: Duration::from_millis(200),
            retain: Duration::from_mins(15),
            retain_bytes: 256 << 20,
            max_age: None,
            max_age_includes_outages: false,
            write_bytes_max: 1 << 20,
            block_when_full: Duration::ZERO,
            max_attempts: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_mins(1),
            batch_max: 500,
            batch_bytes_max: 4 << 20,
            lanes: 1,
            storm_threshold: 20,
            hold_record_on_dead_letter: false,
            drain_rate: None,
            key_retention: Duration::from_hours(24),
            probe_interval: Duration::from_secs(10),
            probe_max_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(5),
            unavailable_timeout: Duration::from_secs(30),
            retry_after_max: Duration::from_mins(1),
            read_wait: Duration::from_secs(2),
            after_timeout: AfterTimeout::Queue,
            redact: Redaction::default(),
            tracer: None,
        }
    }
}
