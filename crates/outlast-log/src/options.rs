//! [`LogOptions`]: how a log is kept, and [`Retention`]: how long it keeps what is settled.

use std::path::Path;
use std::time::Duration;

use crate::codec::OVERHEAD_MAX;
use crate::encryption::{Encryption, decrypted_length_max, encrypted_length};
use crate::error::OpenError;

/// The smallest `segment_bytes`: a header, the reserve for marks and a few entries must fit.
const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// The largest `segment_bytes`: offsets within a segment are 32-bit in the sparse index.
const SEGMENT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// How new segments are written. Segments of both formats live side by side, so changing it needs no migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// JSON Lines that `cat`, `grep` and `jq` read.
    #[default]
    Json,
    /// The bincode wire format in checksummed frames: smaller and quicker, not readable by eye.
    Bincode,
}

impl Format {
    /// What an unused byte of a prefilled segment holds. A valid frame never contains a long run of it.
    pub(crate) const fn prefill(self) -> u8 {
        match self {
            Self::Json => b'\n',
            Self::Bincode => 0,
        }
    }

    /// The file name extension of such segments.
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Json => "jsonl",
            Self::Bincode => "bin",
        }
    }

    pub(crate) fn from_extension(text: &str) -> Option<Self> {
        [Self::Json, Self::Bincode].into_iter().find(|format| format.extension() == text)
    }
}

/// Whether sealed segments are compressed. The one that is being written never is, so appending is not touched by it.
/// Both kinds live side by side, so changing it needs no migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// They stay as they were written.
    #[default]
    None,
    /// In the background into zstd files that `zstdcat` reads. Rot costs more then: a damaged byte takes everything with
    /// it that stands in the same block of 64 KiB.
    Zstd,
}

impl Compression {
    /// What goes behind the file name extension of the format.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
        }
    }

    /// That of the segment in this file.
    pub(crate) fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|extension| extension == "zst") { Self::Zstd } else { Self::None }
    }
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The format of new segments.
    pub format: Format,
    /// Whether sealed segments are compressed.
    pub compression: Compression,
    /// The size of a segment file, in bytes: 16 KiB to 2 GiB, 32 MiB by default.
    pub segment_bytes: u64,
    /// The longest that an appended entry stays unsynced when nobody asks; 200 ms by default.
    pub sync_interval: Duration,
    /// The longest body that is taken, in bytes; 4 MiB by default. A longer one is refused before it gets a
    /// sequence. However large this is, an entry (or a group given to `append_all`) must fit three quarters of a
    /// segment.
    pub entry_bytes_max: u64,
    /// The keys of its segments, if they are encrypted.
    pub encryption: Encryption,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            format: Format::Json,
            compression: Compression::None,
            segment_bytes: 32 * 1024 * 1024,
            sync_interval: Duration::from_millis(200),
            entry_bytes_max: 4 * 1024 * 1024,
            encryption: Encryption::default(),
        }
    }
}

impl LogOptions {
    /// The longest body that is taken.
    pub fn body_bytes_max(&self) -> u64 {
        let frame = (self.frame_bytes_max()).saturating_sub(OVERHEAD_MAX as u64);
        let body = if self.encryption.current().is_some() { decrypted_length_max(frame) } else { frame };
        body.min(self.entry_bytes_max)
    }

    /// Whatever stands in a segment is not longer than this.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        self.segment_bytes / 4 * 3
    }

    /// The most that the frame of a body of this length takes.
    pub(crate) fn frame_bytes(&self, body: usize) -> u64 {
        let body = if self.encryption.current().is_some() { encrypted_length(body) } else { body };
        (body + OVERHEAD_MAX) as u64
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Options(format!(
                "segment_bytes is {}; it must be between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            )));
        }
        if self.entry_bytes_max == 0 {
            return Err(OpenError::Options("entry_bytes_max is 0; no entry would ever be taken".into()));
        }
        Ok(())
    }
}

/// How long settled segments are kept for healing: a segment may go when *either* bound is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A settled segment sealed longer ago than this may go.
    pub time: Duration,
    /// While settled segments hold more than this many bytes, the oldest may go.
    pub bytes: u64,
}

/// What [`Log::reclaim`](crate::Log::reclaim) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Segments that left the log.
    pub segments: u64,
    /// Bytes of log (not of file) that left with them.
    pub bytes: u64,
}
