//! The files of a log, looked at without opening it: no epoch begins and nothing is changed, except by
//! [`Inspection::repair`]. For tools that work while no process has the log open; the lock is held meanwhile.

mod disk;
mod finding;
mod known;
mod repair;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

pub use disk::ReadOnlyDisk;
pub use finding::{Finding, Severity};
pub use repair::Action;
pub use segment::SegmentInfo;

use crate::codec::Bodies;
use crate::compressed;
use crate::disk::{Disk, DiskLock};
use crate::epochs::{self, Recorded};
use crate::error::OpenError;
use crate::inventory::{Candidate, Examined, Listing, examine, unreadable};
use crate::opening::{check_belongs, check_chain};
use crate::recovery::Scanned;
use crate::segment::{Layout, Ledger};
use crate::{Counts, Damage, Epoch, Key, KeyId, Mark, QueueId, Sequence};
use known::Known;

/// Why files could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no log in this directory.
    #[error("{} is not a queue directory: {reason}; name the directory that queue.directory names", .directory.display())]
    NotALog {
        /// The directory.
        directory: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The user that runs this process may not.
    #[error("{} cannot be {action} ({source}); run this as the user that runs the server", .path.display())]
    NotAllowed {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// As when it is opened: it is in use, of another version, of another queue, or the disk says no.
    #[error(transparent)]
    Log(OpenError),
}

impl InspectError {
    /// Another process has it open.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Log(OpenError::Locked { .. }))
    }
}

impl From<OpenError> for InspectError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io { path, source, action } if is_denied(&source) => {
                let action = if matches!(action, "open" | "read" | "list") { "read" } else { "written" };
                Self::NotAllowed { path, action, source }
            }
            error => Self::Log(error),
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// What a walk through the files comes across.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// So many bytes more have been read.
    Bytes(u64),
    /// A valid entry.
    Entry {
        /// Its name.
        sequence: Sequence,
        /// When the write was first accepted, in Unix milliseconds.
        time_ms: u64,
        /// For a write that was appended again: its former sequence.
        origin: Option<Sequence>,
        /// The JSON text; empty if it is encrypted and its key was not given.
        body: &'a str,
    },
}

/// The files of a log that nobody has open.
pub struct Inspection {
    disk: Arc<dyn Disk>,
    layout: Layout,
    listing: Listing,
    recorded: Recorded,
    candidates: Vec<Candidate>,
    /// Damage and the like that shows before any segment is read.
    findings: Vec<Finding>,
    known: Known,
    keys: Vec<Key>,
    _lock: DiskLock,
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What stands in the files.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Whose they are; `None` when neither a segment nor `epochs.jsonl` can tell.
    pub queue: Option<QueueId>,
    /// Every opening that is known.
    pub epochs: Vec<Epoch>,
    /// The segments, in order.
    pub segments: Vec<SegmentInfo>,
    /// Every mark but cursors, in the order of the log.
    pub marks: Vec<Mark>,
    /// (sequence, origin) of every entry that has an origin.
    pub origins: Vec<(Sequence, Sequence)>,
    /// The last cursor.
    pub cursor: Option<Mark>,
    /// The last sequence.
    pub last: Sequence,
    /// The last sequence that is no longer in the files.
    pub retained_after: Sequence,
    /// Everything that was ever put into the log.
    pub counts: Counts,
    /// What of that was put in before the first segment that is left.
    pub reclaimed: Counts,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl Contents {
    /// The worst of what was found; `None` when everything is in order.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }

    /// How many entries in the files have `after < sequence <= to`; those that are damaged count.
    pub fn count(&self, after: Sequence, to: Sequence) -> u64 {
        let upto = |sequence| self.segments.iter().map(|segment| segment.entries_upto(sequence)).sum::<u64>();
        upto(to).saturating_sub(upto(after))
    }

    /// Entries whose bytes are gone, in the order of the log, both bounds included.
    pub fn lost(&self) -> impl Iterator<Item = (Sequence, Sequence)> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Damage { damage, .. } => damage.lost,
            _ => None,
        })
    }
}

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Sidecars; only a segment without one is read.
    Sidecars,
    /// Every byte.
    Bytes,
}

impl Inspection {
    /// Looks into this directory with these keys, in a way that cannot change anything. Without a key that is needed
    /// everything is looked at but what entries and marks say.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn open(directory: &Path, keys: &[Key]) -> Result<Self, InspectError> {
        Self::open_on(Arc::new(ReadOnlyDisk), directory, keys)
    }

    /// The same on any disk; to repair, one that can be written.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path, keys: &[Key]) -> Result<Self, InspectError> {
        let layout = Layout::new(directory);
        must_be_a_log(&*disk, &layout)?;
        let lock = disk.lock(&layout.lock()).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => {
                InspectError::Log(OpenError::Locked { directory: directory.to_owned() })
            }
            _ => OpenError::io("open", &layout.lock())(source).into(),
        })?;
        let mut recorded = epochs::read(&*disk, &layout)?;
        let listing = Listing::read(&*disk, &layout)?;
        let known = Known::read(&*disk, &layout)?;
        let mut findings = finding::of_listing(&listing);
        let mut candidates = Vec::new();
        let last = listing.segments.keys().next_back().copied();
        for (&number, &kept) in &listing.segments {
            match examine(&*disk, &layout, number, kept, Some(number) == last, keys)? {
                Examined::Segment(candidate) => candidates.push(*candidate),
                Examined::NeverBegun(_) => findings.push(Finding::NeverBegun { segment: number }),
                Examined::Unreadable(path, file) => {
                    let damage = unreadable(number, &path, &*file)?;
                    findings.push(Finding::Damage { damage, known: false });
                }
            }
        }
        for candidate in &candidates {
            check_belongs(candidate, &mut recorded.queue)?;
        }
        findings.extend(finding::of_epochs(&recorded, &candidates));
        findings.extend(finding::of_keys(&candidates));
        for candidate in &candidates {
            recorded.learn(candidate.header.queue, candidate.header.epoch());
        }
        let keys = keys.to_vec();
        Ok(Self { disk, layout, listing, recorded, candidates, findings, known, keys, _lock: lock })
    }

    /// The keys that are needed and were not given.
    pub fn missing_keys(&self) -> Vec<KeyId> {
        let missing = self.findings.iter().filter_map(|finding| match finding {
            Finding::KeyMissing { key, .. } => Some(*key),
            _ => None,
        });
        missing.collect()
    }

    /// Bytes that [`Inspection::verify`] will read.
    pub fn bytes(&self) -> u64 {
        self.candidates.iter().map(|candidate| candidate.file.size().unwrap_or(0)).sum()
    }

    /// What the sidecars say: quick, and as good as they are. Only a segment without one is read.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn survey(&self) -> Result<Contents, InspectError> {
        self.look(Depth::Sidecars, &mut |_| {})
    }

    /// Reads every byte.
    ///
    /// # Errors
    /// When the disk says no. What is damaged is no error: see [`Contents::findings`].
    pub fn verify(&self, see: &mut dyn FnMut(Seen<'_>)) -> Result<Contents, InspectError> {
        self.look(Depth::Bytes, see)
    }

    /// Every valid entry, in order.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn entries(&self, contents: &Contents, see: &mut dyn FnMut(Seen<'_>)) -> Result<(), InspectError> {
        for (candidate, info) in self.candidates.iter().zip(&contents.segments) {
            segment::entries(candidate, info.log_bytes, see)
                .map_err(OpenError::io("read", &candidate.path))?;
        }
        Ok(())
    }

    fn look(&self, depth: Depth, see: &mut dyn FnMut(Seen<'_>)) -> Result<Contents, InspectError> {
        let mut findings = self.findings.clone();
        let mut scanned = Vec::with_capacity(self.candidates.len());
        for (index, candidate) in self.candidates.iter().enumerate() {
            let next = self.candidates.get(index + 1).map(|next| next.header.previous);
            let looked = match depth {
                Depth::Bytes => segment::verify(candidate, next, see),
                Depth::Sidecars => segment::survey(candidate, next),
            };
            let (found, mut of_segment) = looked.map_err(OpenError::io("read", &candidate.path))?;
            if depth == Depth::Bytes && repair::is_compressed(candidate) {
                let path = &candidate.path;
                let raw = self.disk.open(path).map_err(OpenError::io("open", path))?;
                let wrong = compressed::wrong_wrapping(&*raw).map_err(OpenError::io("read", path))?;
                let segment = candidate.header.segment;
                of_segment.extend(wrong.into_iter().map(|(offset, _)| Finding::Wrapping { segment, offset }));
            }
            let there = self.listing.sidecars.contains(&candidate.header.segment);
            if candidate.sidecar.is_none() && (there || !found.ledger.is_empty()) {
                of_segment.push(finding::of_sidecar(candidate.header.segment, there));
            }
            findings.extend(of_segment);
            scanned.push(found);
        }
        self.chain(&scanned, &mut findings);
        for finding in &mut findings {
            self.known.recognise(finding);
        }
        Ok(self.contents(&scanned, findings))
    }

    /// What the segments say of each other.
    fn chain(&self, scanned: &[Scanned], findings: &mut Vec<Finding>) {
        let mut damage: Vec<Damage> = Vec::new();
        findings.retain(|finding| match finding {
            // The neighbours know what was in a segment that cannot be read.
            Finding::Damage { damage: unreadable, .. }
                if unreadable.segment > 0 && unreadable.offset == 0 =>
            {
                damage.push(unreadable.clone());
                false
            }
            _ => true,
        });
        check_chain(scanned.iter(), &mut damage);
        findings.extend(damage.into_iter().map(|damage| Finding::Damage { damage, known: false }));
        for pair in scanned.windows(2) {
            let [former, next] = pair else { continue };
            let counted = former.segment.header.before.plus(&former.ledger.counts);
            let said = next.segment.header.before;
            let marks =
                counted.marks.iter().zip(said.marks).map(|(counted, said)| said.saturating_sub(*counted));
            let marks: u64 = marks.sum();
            if marks > 0 {
                findings.push(Finding::MarksLost { segment: former.segment.number(), marks, known: false });
            }
            if counted.entries > said.entries || counted.requeued > said.requeued {
                findings.push(Finding::Contradiction { segment: next.segment.number() });
            }
        }
        let front = scanned.first().map_or(u64::MAX, |first| first.segment.number());
        for number in self.listing.orphans() {
            findings.push(finding::of_orphan(&*self.disk, &self.layout, number, front));
        }
    }

    fn contents(&self, scanned: &[Scanned], findings: Vec<Finding>) -> Contents {
        let mut contents = Contents {
            queue: self.recorded.queue,
            epochs: self.recorded.epochs.clone(),
            findings,
            ..Contents::default()
        };
        contents.epochs.sort_by_key(|epoch| epoch.number);
        if let Some(first) = scanned.first() {
            contents.retained_after = first.segment.header.previous;
            contents.reclaimed = first.segment.header.before;
        }
        for (Scanned { segment, ledger, .. }, candidate) in scanned.iter().zip(&self.candidates) {
            contents.segments.push(SegmentInfo::new(segment, ledger, candidate));
            let Ledger { marks, origins, cursor, counts } = ledger;
            contents.marks.extend_from_slice(marks);
            contents.origins.extend_from_slice(origins);
            contents.cursor = cursor.clone().or(contents.cursor);
            contents.last = segment.last();
            contents.counts = segment.header.before.plus(counts);
        }
        contents
    }
}

/// What stands in it cannot be read.
fn is_hidden(candidate: &Candidate) -> bool {
    matches!(candidate.codec.bodies, Bodies::Hidden)
}

fn must_be_a_log(disk: &dyn Disk, layout: &Layout) -> Result<(), InspectError> {
    let directory = &layout.directory;
    let not_a_log = |reason| InspectError::NotALog { directory: directory.clone(), reason };
    let denied = |source| OpenError::io("list", directory)(source).into();
    match disk.list(&layout.segments).map_err(|source| (source.kind(), source)) {
        Ok(_) => return Ok(()),
        Err((io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _)) => {}
        Err((_, source)) => return Err(denied(source)),
    }
    match disk.list(directory).map_err(|source| (source.kind(), source)) {
        Ok(_) => {}
        Err((io::ErrorKind::NotFound, _)) => return Err(not_a_log("there is no such directory")),
        Err((io::ErrorKind::NotADirectory, _)) => return Err(not_a_log("it is a file")),
        Err((_, source)) => return Err(denied(source)),
    }
    Err(not_a_log("it has no segments/"))
}
