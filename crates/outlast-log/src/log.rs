//! [`Log`]: the handle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use crate::Sequence;
use crate::committer;
use crate::compressing;
use crate::disk::{Disk, DiskLock, RealDisk};
use crate::durable::Durable;
use crate::encryption::{EncryptedWith, KeyId};
use crate::entry::{Appended, Counts, Entry, Epoch, Mark, NewEntry, QueueId, Ticket};
use crate::error::{AppendError, CloseError, Damage, Failure, OpenError, ReadError, TornTail};
use crate::inventory;
use crate::keeper;
use crate::opening::{self, Opened};
use crate::options::{Compression, LogOptions, Reclaimed, Retention};
use crate::reader::{ReadItem, Reader};
use crate::segment::{Layout, Segment};
use crate::shared::{Seal, Shared};
use crate::sync::Mutex;
use crate::sync::thread::{self, JoinHandle};
use crate::tail::Spare;

/// What opening found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The log did not exist before.
    pub created: bool,
    /// Every mark that is still in the log, in its order, without cursors.
    pub marks: Vec<Mark>,
    /// Every entry still in the log that has an origin: (its sequence, its origin), in the order of the log.
    pub origins: Vec<(Sequence, Sequence)>,
    /// The last cursor. It survives the segment in which it stood.
    pub cursor: Option<Mark>,
    /// The last sequence in the log, [`Sequence::START`] if nothing was ever appended.
    pub last: Sequence,
    /// What was cut off the end of the last segment: it was never synced, so nobody was promised anything about it.
    pub torn: Option<TornTail>,
    /// Damage that is known, also from earlier openings. What was not read (sealed segments are not) is not checked.
    pub damage: Vec<Damage>,
}

/// How the log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogState {
    /// It takes entries.
    Ok,
    /// There is no space for more segments. Entries are refused when the present one is full, and marks soon after.
    /// Clears by itself.
    NoSpace {
        /// Since when.
        since: SystemTime,
    },
    /// It takes nothing until it is opened again.
    Failed(Failure),
}

/// How far the log has come. `appended >= durable` and `settled >= reclaimed`, and all only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Given out, perhaps not yet written.
    pub issued: Ticket,
    /// Written, perhaps not yet synced.
    pub appended: Ticket,
    /// Synced.
    pub durable: Ticket,
    /// The last sequence in the log.
    pub last: Sequence,
    /// What [`Log::settle`] was told; START after opening.
    pub settled: Sequence,
    /// The same as [`Log::retained_after`].
    pub reclaimed: Sequence,
    /// Syncs of segment files since opening.
    pub syncs: u64,
    /// The time that they took in all.
    pub sync_time: Duration,
}

/// What the log holds and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Segments in the log.
    pub segments: u64,
    /// Size of their files, and of the spare.
    pub disk_bytes: u64,
    /// Bytes of log in them.
    pub log_bytes: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes that may still be written in that file system; `None` if it would not tell.
    pub free_bytes: Option<u64>,
}

/// A durable, ordered list of entries, and of marks about them. Cheap to clone; closed when [`Log::close`] is called or
/// the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Log(Arc<Handle>);

/// Closes the log when it is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    committer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    /// Where segments are compressed.
    compressor: Option<JoinHandle<()>>,
    /// Given back when all have ended.
    _lock: DiskLock,
}

impl Log {
    /// Opens the log in this directory, or makes one, on the disk of this machine.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was appended, and what was in the log is still there.
    pub fn open(directory: &Path, options: LogOptions) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Arc::new(RealDisk), directory, options)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: LogOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        let Opened { shared, recovered, lock } = opening::open(disk, directory, options)?;
        let spawn = |name: &str, work: fn(&Arc<Shared>)| {
            let shared = shared.clone();
            let started = thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared));
            started.map_err(OpenError::io("start a thread for", directory))
        };
        let compresses = shared.options.compression != Compression::None;
        let others = || {
            let keeper = spawn("log-keeper", keeper::run)?;
            let compressor = compresses.then(|| spawn("log-compressor", compressing::run)).transpose();
            compressor.map(|compressor| (keeper, compressor))
        };
        let committer = spawn("log-committer", committer::run)?;
        match others() {
            Ok((keeper, compressor)) => {
                let running = Mutex::new(Some(Running { committer, keeper, compressor, _lock: lock }));
                Ok((Self(Arc::new(Handle { shared, running })), recovered))
            }
            Err(error) => {
                stop_committer(&shared);
                stop_others(&shared);
                // It has nothing to write; whether it ended well makes no difference.
                let _ = committer.join();
                Err(error)
            }
        }
    }

    /// Whether everything in this directory can be decrypted with the keys of these options. Changes nothing. For somebody
    /// who opens several logs and wants to touch none if one cannot be read.
    ///
    /// # Errors
    /// As [`Log::open`] gives when a key is missing. What else is wrong is for that to tell.
    pub fn check_keys(disk: &dyn Disk, directory: &Path, options: &LogOptions) -> Result<(), OpenError> {
        inventory::check_keys(disk, &Layout::new(directory), &options.encryption.keys)
    }

    /// With which keys the segments are encrypted that are in the log now, and how many with each; `None` counts those in
    /// clear.
    pub fn keys(&self) -> BTreeMap<Option<KeyId>, u64> {
        let mut keys = BTreeMap::new();
        self.shared().with_segments(|segments| {
            for segment in segments {
                *keys.entry(segment.header.encryption.as_ref().map(EncryptedWith::key)).or_default() += 1;
            }
        });
        keys
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The identity of this queue, the same for ever.
    pub fn queue_id(&self) -> QueueId {
        self.shared().epochs.queue
    }

    /// This opening.
    pub fn epoch(&self) -> &Epoch {
        &self.shared().epochs.current
    }

    /// Whether this is the owner of any opening of this log, ever.
    pub fn is_owner(&self, owner: &str) -> bool {
        self.shared().epochs.is_owner(owner)
    }

    /// Gives the entry its sequence and hands it to the committer. Returns before it is written: only a [`Durable`]
    /// that has ended means that it will survive. Blocks when the disk cannot keep up, or when the next segment's file
    /// is not ready yet.
    ///
    /// # Errors
    /// See [`AppendError`]; then it has no sequence and will never be seen.
    pub fn append(&self, entry: NewEntry<'_>) -> Result<Appended, AppendError> {
        self.shared().append(&entry)
    }

    /// The same for several entries that get neighbouring sequences, all or none. A power cut may still keep the first
    /// of them and lose the rest.
    ///
    /// # Errors
    /// See [`AppendError`]; together they must fit three quarters of a segment.
    pub fn append_all(&self, entries: &[NewEntry<'_>]) -> Result<Vec<Appended>, AppendError> {
        self.shared().append_all(entries)
    }

    /// Puts a mark into the log, behind everything that was appended before. The last part of each segment is kept for
    /// marks while there is no space for another segment.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn mark(&self, mark: &Mark) -> Result<Ticket, AppendError> {
        self.shared().mark(mark)
    }

    /// Ends when everything up to this ticket is fsynced, which is begun as soon as it is awaited. A ticket of another
    /// opening, beyond what this one has given, counts as the last one given.
    pub fn durable(&self, ticket: Ticket) -> Durable {
        let shared = self.shared();
        let ticket = if ticket.0 > shared.appended.load(Ordering::Acquire) {
            ticket.0.min(shared.tail().ticket)
        } else {
            ticket.0
        };
        Durable::new(shared.clone(), ticket)
    }

    /// Ends when everything appended so far is fsynced.
    pub fn sync(&self) -> Durable {
        let ticket = self.shared().tail().ticket;
        Durable::new(self.shared().clone(), ticket)
    }

    /// How the log is doing.
    pub fn state(&self) -> LogState {
        let shared = self.shared();
        if let Some(failure) = shared.failure.get() {
            return LogState::Failed(failure.clone());
        }
        let tail = shared.tail();
        match (tail.write_blocked, &tail.spare) {
            (Some(since), _) => LogState::NoSpace { since },
            (None, Spare::NoSpace(since)) => LogState::NoSpace { since: *since },
            (None, _) => LogState::Ok,
        }
    }

    /// How far the log has come.
    pub fn watermarks(&self) -> Watermarks {
        let shared = self.shared();
        // In this order, so that no later one is ever seen ahead of an earlier one.
        let durable = Ticket(shared.durable.load(Ordering::SeqCst));
        let appended = Ticket(shared.appended.load(Ordering::SeqCst));
        let reclaimed = self.retained_after();
        let settled = Sequence::from_u64(shared.settled.load(Ordering::SeqCst)).unwrap_or_default();
        let tail = shared.tail();
        Watermarks {
            issued: Ticket(tail.ticket),
            appended,
            durable,
            last: tail.last,
            settled,
            reclaimed,
            syncs: shared.syncs.load(Ordering::Relaxed),
            sync_time: Duration::from_nanos(shared.sync_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Everything that was ever put into the log, also by earlier openings, also what is reclaimed.
    pub fn counts(&self) -> Counts {
        self.shared().tail().counts()
    }

    /// What the log holds and takes.
    pub fn usage(&self) -> Usage {
        let shared = self.shared();
        let spare = match &shared.tail().spare {
            Spare::Ready(spare) => spare.bytes,
            Spare::Preparing | Spare::NoSpace(_) => 0,
        };
        let sum = |of: &dyn Fn(&Segment) -> u64| {
            shared.with_segments(|segments| segments.iter().map(|segment| of(segment)).sum::<u64>())
        };
        Usage {
            segments: sum(&|_| 1),
            disk_bytes: spare + sum(&|segment| segment.file_bytes.load(Ordering::Relaxed)),
            log_bytes: sum(&Segment::bytes),
            entries: sum(&Segment::entries),
            free_bytes: shared.disk.free_space(&shared.layout.segments).ok(),
        }
    }

    /// Reads entries with sequences greater than `after`, in order. It is an error (at its first read) if some of them
    /// have already left the log: begin at [`Log::retained_after`] to get what is there.
    pub fn reader(&self, after: Sequence) -> Reader {
        Reader::new(self.shared().clone(), after)
    }

    /// One entry, found through the sparse index. `None` if it is not in the log, or not written yet.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it stands where the file is damaged, [`ReadError::Io`] if the disk says no.
    pub fn get(&self, sequence: Sequence) -> Result<Option<Entry>, ReadError> {
        let Some(after) = sequence.as_u64().checked_sub(1).and_then(Sequence::from_u64) else {
            return Ok(None);
        };
        if after < self.retained_after() {
            return Ok(None);
        }
        let mut reader = self.reader(after);
        let found = match reader.next() {
            // It left the log while we looked.
            Err(ReadError::Reclaimed { .. }) => return Ok(None),
            found => found?,
        };
        match found {
            Some(ReadItem::Entry(entry)) => Ok(Some(entry).filter(|entry| entry.sequence == sequence)),
            Some(ReadItem::Damaged(damage)) => {
                let hit = damage.lost.is_some_and(|(first, last)| first <= sequence && sequence <= last);
                if hit { Err(ReadError::Damaged(damage)) } else { get_behind(reader, sequence) }
            }
            None => Ok(None),
        }
    }

    /// How many entries (not marks) in the log have `after < sequence <= to`. Exact, without reading any: damaged
    /// entries count, entries that are reclaimed do not.
    pub fn count(&self, after: Sequence, to: Sequence) -> u64 {
        self.shared().with_segments(|segments| {
            let upto = |sequence| segments.iter().map(|segment| segment.entries_upto(sequence)).sum::<u64>();
            upto(to).saturating_sub(upto(after))
        })
    }

    /// Bytes of log behind this entry, marks included; exact to the distance of two points of the sparse index (64 KiB).
    pub fn bytes(&self, after: Sequence) -> u64 {
        let bytes = |segment: &Segment| match segment.entries_upto(after) {
            _ if segment.last() <= after => 0,
            0 => segment.written(),
            _ => segment.written().saturating_sub(segment.seek(after).0),
        };
        self.shared().with_segments(|segments| segments.iter().map(|segment| bytes(segment)).sum())
    }

    /// Tells the log that every entry up to this one is decided and not needed any more, except for healing: what
    /// [`Log::reclaim`] may remove. Only grows.
    pub fn settle(&self, upto: Sequence) {
        self.shared().settled.fetch_max(upto.as_u64(), Ordering::SeqCst);
    }

    /// Removes whole segments from the front that are settled and that `keep` does not hold. Files are recycled.
    ///
    /// # Errors
    /// When a file could not be removed; that latches the log.
    pub fn reclaim(&self, keep: Retention) -> Result<Reclaimed, Failure> {
        self.shared().reclaim(keep)
    }

    /// The last sequence that is no longer in the log; [`Sequence::START`] if everything is still there.
    pub fn retained_after(&self) -> Sequence {
        self.shared().retained_after()
    }

    /// Syncs everything and ends the threads. Clones of this handle stay readable, but take nothing more.
    ///
    /// # Errors
    /// When the log has failed, before or now: what was appended since the last sync may be lost.
    pub fn close(self) -> Result<(), CloseError> {
        self.0.close();
        Ok(self.shared().check()?)
    }
}

impl Handle {
    fn close(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Running { committer, keeper, compressor, _lock }) = running.take() else { return };
        let shared = &self.shared;
        stop_committer(shared);
        if committer.join().is_ok() && shared.failure.get().is_none() {
            self.seal_last();
        }
        stop_others(shared);
        // A keeper that panicked leaves a sidecar unwritten, a compressor a file to be removed, nothing else.
        let _ = keeper.join();
        let _ = compressor.map(JoinHandle::join);
    }

    /// Seals the open segment, so that the next opening need not read it, and knows any damage in it for what it is.
    fn seal_last(&self) {
        let tail = self.shared.tail();
        let (segment, ledger) = (tail.segment.clone(), tail.ledger.clone());
        drop(tail);
        if !ledger.is_empty() {
            segment.seal(crate::epochs::now_ms());
            self.shared.keeper().seals.push(Seal { segment, ledger, damage: Vec::new() });
        }
    }
}

/// The entry behind damage that did not hit it.
fn get_behind(mut reader: Reader, sequence: Sequence) -> Result<Option<Entry>, ReadError> {
    match reader.next()? {
        Some(ReadItem::Entry(entry)) => Ok(Some(entry).filter(|entry| entry.sequence == sequence)),
        _ => Ok(None),
    }
}

fn stop_committer(shared: &Shared) {
    shared.tail().closing = true;
    shared.work.notify_all();
    shared.room.notify_all();
}

fn stop_others(shared: &Shared) {
    shared.keeper().stop = true;
    shared.keeper_work.notify_all();
    shared.compressor_work.notify_all();
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
