//! The log that is measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outlast_log::{Compression, Encryption, Format, Key, Log, LogOptions, NewEntry, Retention};

use super::super::contents::contents;
use crate::Result;

/// When every entry was accepted.
pub(super) const TIME_MS: u64 = 1_795_000_000_000;
/// The same for every process that takes part.
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// When nothing has changed for so long, nothing is left to be compressed.
const QUIET: Duration = Duration::from_millis(1500);
/// Entries from which the size of one is worked out.
const SAMPLE: u64 = 1000;

/// How it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The default
    Json,
    /// The quicker format
    Bincode,
    /// With sealed segments compressed
    JsonZstd,
    /// Likewise
    BincodeZstd,
    /// With a key
    JsonEncrypted,
    /// Likewise
    BincodeEncrypted,
}

impl Kind {
    pub(super) const EACH: [Self; 6] = [
        Self::Json,
        Self::Bincode,
        Self::JsonZstd,
        Self::BincodeZstd,
        Self::JsonEncrypted,
        Self::BincodeEncrypted,
    ];

    /// For tables, and the value of the argument.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Bincode => "bincode",
            Self::JsonZstd => "json-zstd",
            Self::BincodeZstd => "bincode-zstd",
            Self::JsonEncrypted => "json-encrypted",
            Self::BincodeEncrypted => "bincode-encrypted",
        }
    }

    fn compresses(self) -> bool {
        matches!(self, Self::JsonZstd | Self::BincodeZstd)
    }

    /// It happens in the background.
    pub(super) fn wait_until_compressed(self, log: &Log) {
        let mut before = 0;
        while self.compresses() && log.usage().disk_bytes != before {
            before = log.usage().disk_bytes;
            std::thread::sleep(QUIET);
        }
    }

    pub(super) fn options(self) -> LogOptions {
        let (format, compression) = match self {
            Self::Json | Self::JsonEncrypted => (Format::Json, Compression::None),
            Self::Bincode | Self::BincodeEncrypted => (Format::Bincode, Compression::None),
            Self::JsonZstd => (Format::Json, Compression::Zstd),
            Self::BincodeZstd => (Format::Bincode, Compression::Zstd),
        };
        let encrypts = matches!(self, Self::JsonEncrypted | Self::BincodeEncrypted);
        let keys: Vec<Key> = encrypts.then(|| KEY.parse().ok()).flatten().into_iter().collect();
        let encryption = Encryption { keys, only_decrypt: false };
        LogOptions { format, compression, encryption, ..LogOptions::default() }
    }
}

/// An open log, and what is put into it.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) log: Log,
    contents: Vec<String>,
}

impl Subject {
    pub(super) fn open(kind: Kind, directory: &Path) -> Result<Arc<Self>> {
        let (log, _) = Log::open(&directory.join(kind.name()), kind.options())?;
        Ok(Arc::new(Self { kind, log, contents: contents() }))
    }

    /// Any entry.
    pub(super) fn entry(&self) -> NewEntry<'_> {
        let body = &self.contents[fastrand::usize(..self.contents.len())];
        NewEntry { body, time_ms: TIME_MS, origin: None }
    }

    /// A durable append by a thread.
    pub(super) fn blocking(&self) -> Result<()> {
        let appended = self.log.append(self.entry())?;
        Ok(self.log.durable(appended.ticket).wait()?)
    }

    /// A durable append by a task.
    pub(super) async fn waiting(&self) -> Result<()> {
        let appended = self.log.append(self.entry())?;
        Ok(self.log.durable(appended.ticket).await?)
    }

    /// A durable batch.
    pub(super) fn batch(&self, entries: &[NewEntry<'_>]) -> Result<()> {
        let appended = self.log.append_all(entries)?;
        let last = appended.last().ok_or("an empty batch")?;
        Ok(self.log.durable(last.ticket).wait()?)
    }

    /// Lets everything go: whole segments, whose files are used again.
    pub(super) fn free(&self) -> Result<()> {
        self.log.settle(self.log.watermarks().last);
        self.log.reclaim(Retention { time: Duration::ZERO, bytes: 0 })?;
        Ok(())
    }

    /// How many bytes an entry takes in the file.
    pub(super) fn frame_bytes(&self) -> Result<usize> {
        self.log.sync().wait()?;
        let before = self.log.usage().log_bytes;
        for _ in 0..SAMPLE {
            self.log.append(self.entry())?;
        }
        self.log.sync().wait()?;
        Ok(((self.log.usage().log_bytes - before) / SAMPLE) as usize)
    }
}
