//! What the handles and the two threads of a log share: the watermarks, the latch, the list of segments.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::disk::{Disk, DiskFile};
use crate::durable::Waiters;
use crate::encryption::{KEY_BYTES, random};
use crate::epochs::Epochs;
use crate::options::LogOptions;
use crate::segment::{Layout, Ledger, Segment};
use crate::sync::{AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, RwLock, system_now, thread};
use crate::tail::Tail;
use crate::{Damage, Failure, Sequence};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) options: LogOptions,
    pub(crate) epochs: Epochs,
    /// Where entries are put. Held for the time of one encoding; never while anything is read or written.
    pub(crate) tail: Mutex<Tail>,
    /// Wakes the committer; goes with `tail`.
    pub(crate) work: Condvar,
    /// Wakes those who wait for a spare or for room in the tail; goes with `tail`.
    pub(crate) room: Condvar,
    /// What the committer waits for, or is about to; see [`rest`].
    pub(crate) committer_rests: AtomicU8,
    /// Tickets: given, written, synced, and to be synced at once.
    pub(crate) issued: AtomicU64,
    pub(crate) appended: AtomicU64,
    pub(crate) durable: AtomicU64,
    pub(crate) wanted: AtomicU64,
    pub(crate) settled: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_nanos: AtomicU64,
    pub(crate) failure: OnceLock<Failure>,
    pub(crate) waiters: Mutex<Waiters>,
    /// In the order of the log; the last one is being written.
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) keeper: Mutex<KeeperQueue>,
    /// Wakes the keeper; goes with `keeper`.
    pub(crate) keeper_work: Condvar,
    /// Wakes the compressor; goes with `keeper`.
    pub(crate) compressor_work: Condvar,
    /// Held while segments are reclaimed: one at a time, from the front.
    pub(crate) reclaiming: Mutex<()>,
}

/// Why the committer sleeps: whoever changes something wakes it only if that is worth it.
pub(crate) mod rest {
    /// It works, or will look once more before it sleeps.
    pub(crate) const NOT: u8 = 0;
    /// Something waits to be written, but nobody waits for it: a little more may gather.
    pub(crate) const LAZILY: u8 = 1;
    /// There is nothing to write.
    pub(crate) const IDLE: u8 = 2;
}

/// What the keeper and the compressor have to do.
#[derive(Debug, Default)]
pub(crate) struct KeeperQueue {
    /// Sealed segments whose sidecars are not written yet.
    pub(crate) seals: Vec<Seal>,
    pub(crate) spare_wanted: bool,
    /// Sealed segments that are to be compressed, the last one first: the first ones leave the log first.
    pub(crate) compress: Vec<Arc<Segment>>,
    /// A file that may be prefilled again instead of a new one.
    pub(crate) recycled: Option<PathBuf>,
    pub(crate) stop: bool,
}

/// A segment that gets nothing more, and what its sidecar has to say.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) segment: Arc<Segment>,
    pub(crate) ledger: Ledger,
    pub(crate) damage: Vec<Damage>,
}

/// A prefilled and synced file.
#[derive(Debug)]
pub(crate) struct SpareFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) salts: Salts,
}

/// The random numbers of a new segment. Made ahead, so that nothing can fail where they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Salts {
    /// Goes into every checksum.
    pub(crate) checksums: u64,
    /// Of the keys, if it is encrypted.
    pub(crate) keys: [u8; KEY_BYTES],
}

impl Salts {
    pub(crate) fn make() -> io::Result<Self> {
        Ok(Self { checksums: u64::from_le_bytes(random()?), keys: random()? })
    }
}

impl Shared {
    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        // A panic while it is held would be a bug in encoding; the committer's guard then latches the log.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keeper(&self) -> MutexGuard<'_, KeeperQueue> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segments as they are now, oldest first.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn with_segments<T>(&self, look: impl FnOnce(&[Arc<Segment>]) -> T) -> T {
        look(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change_segments<T>(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>) -> T) -> T {
        change(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last sequence that is no longer in the log.
    pub(crate) fn retained_after(&self) -> Sequence {
        self.with_segments(|segments| segments.first().map_or(Sequence::START, |first| first.header.previous))
    }

    /// Latches the log: the first failed write or sync is final. A second sync must never be tried, because the kernel
    /// may have dropped the pages and would then report success (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
    /// What was published as durable stays so; everybody else learns of the failure.
    pub(crate) fn fail(&self, reason: String) {
        let failure = Failure { reason: reason.into(), since: system_now() };
        if self.failure.set(failure).is_ok() {
            // Taken and released, so that nobody is between looking at the latch and going to sleep.
            drop(self.tail());
            self.work.notify_all();
            self.room.notify_all();
            drop(self.keeper());
            self.keeper_work.notify_all();
            self.compressor_work.notify_all();
            self.wake_all();
        }
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Wakes the committer if it sleeps. Takes the tail's lock, so it must not be called with it.
    pub(crate) fn wake_committer(&self) {
        if self.committer_rests.swap(rest::NOT, Ordering::SeqCst) != rest::NOT {
            // It looks once more before it sleeps, with the lock: now it sleeps, or has seen what we did.
            drop(self.tail());
            self.work.notify_one();
        }
    }
}

/// Held by the log's threads: if one of them ever panics, those who wait for it must not wait for ever.
#[derive(Debug)]
pub(crate) struct LatchOnPanic(pub(crate) Arc<Shared>, pub(crate) &'static str);

impl Drop for LatchOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(format!("the {} stopped unexpectedly; this is a bug", self.1));
        }
    }
}
