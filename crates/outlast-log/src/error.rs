//! Errors, shaped by what the caller would do differently.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::{KeyId, Sequence};

/// The disk failed and the log has latched: nothing more is taken or acknowledged until it is opened again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log has failed and takes nothing more until it is opened again: {reason}")]
pub struct Failure {
    /// What failed, with the operating system's words.
    pub reason: Arc<str>,
    /// When it failed.
    pub since: SystemTime,
}

/// A log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another handle in this one) has it open.
    #[error(
        "the queue directory {} is in use by another process; stop that one, or choose another directory",
        .directory.display()
    )]
    Locked {
        /// The queue's directory.
        directory: PathBuf,
    },
    /// The directory cannot be written.
    #[error(
        "the queue directory {} cannot be written ({source}); give the user that runs this process the right \
         to write there, or choose another directory",
        .directory.display()
    )]
    NotWritable {
        /// The queue's directory.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The options contradict themselves; the text says which and why.
    #[error("the log's options are not usable: {0}")]
    Options(String),
    /// The files are not of this queue or of this version: nothing was changed.
    #[error("{} does not fit this log: {reason}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A segment is encrypted, and its key was not given: nothing was changed.
    #[error(
        "{} is encrypted with the key {key}, which is not among the keys that were given ({}); give it as well, behind \
         the one that is to encrypt: nothing was changed",
        .path.display(), ids(.given)
    )]
    KeyMissing {
        /// The segment.
        path: PathBuf,
        /// The key that it needs.
        key: KeyId,
        /// The keys that were given.
        given: Vec<KeyId>,
    },
    /// The log has been opened 2^23 - 1 times: no epoch is left.
    #[error("this log has no epoch left; export it into a new queue directory")]
    Exhausted,
    /// Anything else that the disk said.
    #[error("could not {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: names what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

fn ids(keys: &[KeyId]) -> String {
    if keys.is_empty() {
        return "none".to_owned();
    }
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An entry or mark was not taken. Nothing of it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Longer than the log takes.
    #[error("the entry has {bytes} bytes, more than the {max} that the log takes")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest that would have been taken.
        max: u64,
    },
    /// The body is empty or holds a control character, so it is not compact JSON.
    #[error("the body must be compact JSON text, without newlines or other control characters")]
    InvalidBody,
    /// No space on the disk. Clears by itself when space returns.
    #[error("there is no space left for the log; free some, writing goes on by itself")]
    NoSpace,
    /// The log has failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
    /// This epoch has given its last sequence (2^40): open the log again.
    #[error("this opening of the log has given its last sequence; open it again")]
    Exhausted,
}

/// Reading did not work.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What was asked for is no longer in the log.
    #[error("the log no longer holds what was asked for: it begins after {retained_after}")]
    Reclaimed {
        /// See [`Log::retained_after`](crate::Log::retained_after).
        retained_after: Sequence,
    },
    /// The entry that was asked for stands where the file is damaged.
    #[error("the entry is damaged on disk: {0}")]
    Damaged(Damage),
    /// The disk said no.
    #[error("could not read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Closing did not work: what was appended since the last sync may not be durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// The log had failed, or failed while closing.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A stretch of a segment that no longer matches its checksum. Its neighbours are kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment}, {bytes} bytes at offset {offset}, between {after} and {}", match .before {
    Some(before) => before.to_string(),
    None => "the end".to_owned(),
})]
pub struct Damage {
    /// The number of the segment.
    pub segment: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is; 0 when a whole segment is missing.
    pub bytes: u64,
    /// The last good entry before it.
    pub after: Sequence,
    /// The first good entry behind it, if there is one in the log.
    pub before: Option<Sequence>,
    /// The first and the last of the entries that are lost, both included; `None` when only marks were hit.
    pub lost: Option<(Sequence, Sequence)>,
}

/// The end of the last segment that was being written when the power went: cut off, since it was never synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// The number of the segment.
    pub segment: u64,
    /// Where in the file it was cut.
    pub offset: u64,
    /// How many bytes (other than prefill) were cut off.
    pub bytes: u64,
}

/// Whether a disk error means that there is no space (which clears) and not that the disk is broken (which does not).
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
