//! The crash-safe log of Outlast: a durable, ordered list of entries in files, and of marks about them.
//!
//! # What an acknowledgement means
//!
//! When a [`Durable`] ends with `Ok`, everything that was appended or marked up to its [`Ticket`] has been written *and
//! synced* (`fdatasync`, with the file's name in its directory): it survives kill -9 of this process and loss of power
//! at any instant, and every later opening returns it, byte by byte and in order. Nothing else is an acknowledgement: an
//! [`Appended`] is a promise to try, and what a [`Reader`] returns may still be lost with the power.
//!
//! It does not hold when the disk itself is lost, when a device says "flushed" and is not, or when somebody changes the
//! files. Rot is detected and named exactly, but what has rotted is gone.
//!
//! # Invariants
//!
//! 1. **A power cut leaves a prefix.** Entries and marks stand in one order in the same files; the next segment is begun
//!    only after the former one is synced; a hole in the unsynced end cuts the log there.
//!    (`committer.rs`, `recovery.rs`)
//! 2. **A sequence is never given twice.** Each opening is a new [`Epoch`], durable before the first append in it; what
//!    was given and lost is not given again. (`epochs.rs`)
//! 3. **A failed write or sync is final.** It latches: nobody is told "durable" afterwards, no second sync is tried. Out
//!    of space is different: it clears. (`shared.rs`, `committer.rs`)
//! 4. **Only the end of the last segment may be torn.** Everything else that does not match its checksum is damage: its
//!    neighbours stay, the lost sequences are named, nothing is dropped silently. (`recovery.rs`, `reader.rs`)
//! 5. **Memory and the time to open do not grow with the backlog.** Per segment there are some numbers and a point per
//!    64 KiB; opening reads the sidecars and, after a crash, the last segment. (`segment.rs`, `opening.rs`)
//!
//! The byte layout is described in `docs/format.md` and nowhere else.
//!
//! # Use
//!
//! ```
//! use outlast_log::{Log, LogOptions, NewEntry, ReadItem, Sequence};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let (log, recovered) = Log::open(directory.path(), LogOptions::default())?;
//! assert!(recovered.created);
//! let appended = log.append(NewEntry { body: r#"{"put":"it"}"#, time_ms: 1_763_911_111_111, origin: None })?;
//! log.durable(appended.ticket).wait()?; // or `.await`
//! let mut reader = log.reader(Sequence::START);
//! assert!(matches!(reader.next()?, Some(ReadItem::Entry(entry)) if entry.sequence == appended.sequence));
//! log.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! Read upward: `disk` knows nothing of frames, `codec` nothing of files, `scan` walks the frames of one file,
//! `recovery` judges one segment, `inventory` one folder, `opening` puts the log together. Then it lives in threads:
//! `tail` encodes what callers bring, the `committer` alone encrypts, writes and syncs, the `keeper` prepares files ahead and writes
//! sidecars, and `compressing` makes sealed segments smaller if that is wanted; what they share is `shared`. `inspect`
//! looks at the same files without opening the log.

mod checked;
mod codec;
mod committer;
mod compressed;
mod compressing;
mod disk;
mod durable;
mod encryption;
mod entry;
mod epochs;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gathering;
mod header;
pub mod inspect;
mod inventory;
mod keeper;
mod log;
mod opening;
mod options;
mod reader;
mod reclaim;
mod recovery;
mod scan;
mod segment;
mod sequence;
mod shared;
mod sidecar;
mod sync;
mod tail;

pub use disk::{Disk, DiskFile, DiskLock, RealDisk};
pub use durable::Durable;
pub use encryption::{Encryption, Key, KeyId, ParseKeyError};
pub use entry::{Appended, Counts, Entry, Epoch, Mark, MarkKind, NewEntry, QueueId, Ticket};
pub use epochs::now_ms;
pub use error::{AppendError, CloseError, Damage, Failure, OpenError, ReadError, TornTail};
pub use log::{Log, LogState, Recovered, Usage, Watermarks};
pub use options::{Compression, Format, LogOptions, Reclaimed, Retention};
pub use reader::{ReadItem, Reader};
pub use sequence::{ParseSequenceError, Sequence};
#[cfg(any(feature = "shuttle", feature = "simulation"))]
#[doc(hidden)]
pub use sync::Instant;
/// The world in which logs are simulated.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation {
    pub use crate::sync::lockstep::{World, sleep};
}

#[cfg(test)]
mod tests {
    mod golden;
}
