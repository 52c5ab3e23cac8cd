//! [`Finding`]: what is not as it should be, and how bad that is.

use std::collections::BTreeMap;
use std::fmt;

use super::is_hidden;
use crate::disk::Disk;
use crate::epochs::Recorded;
use crate::inventory::{Candidate, Listing};
use crate::segment::Layout;
use crate::{Damage, KeyId, Sequence, TornTail, sidecar};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is wrong, or it is known and reported.
    Note,
    /// Normal after a crash: never acknowledged, and cut off at the next opening.
    Torn,
    /// Something that was written is not there any more, or contradicts itself.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The end of the last segment was being written when the power went.
    Torn(TornTail),
    /// The last line of `epochs.jsonl` was, too; it begins at this offset.
    TornEpochs {
        /// Where it begins.
        offset: u64,
    },
    /// The power went before this last segment was begun.
    NeverBegun {
        /// Its number.
        segment: u64,
    },
    /// Bytes that do not match their checksum, or that are missing; a segment that is missing has 0 bytes. Segment 0 is
    /// `epochs.jsonl`.
    Damage {
        /// Where, and which entries are lost.
        damage: Damage,
        /// It was reported before, by an opening or a repair, and its bytes are kept.
        known: bool,
    },
    /// Marks that the next segment's header counts and that are not there.
    MarksLost {
        /// In this segment, or in one that is missing behind it.
        segment: u64,
        /// How many.
        marks: u64,
        /// It was reported before.
        known: bool,
    },
    /// One of the two copies of a header is wrong; the other one, or the sidecar, is good.
    HeaderCopy {
        /// Of this segment.
        segment: u64,
        /// 1 or 2.
        copy: usize,
        /// It was reported before, and is in a compressed file, into which it is not written.
        known: bool,
    },
    /// What lies around the blocks of a compressed segment does not match its checksum; the segment is read all the same.
    Wrapping {
        /// Of this segment.
        segment: u64,
        /// Where in its file.
        offset: u64,
    },
    /// The sidecar of a segment is not there: it is read when the log is opened.
    SidecarMissing {
        /// Of this segment.
        segment: u64,
    },
    /// The sidecar does not match its checksum, or says something else than the segment.
    SidecarWrong {
        /// Of this segment.
        segment: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A sidecar without its segment, which was removed just before a crash.
    SidecarAlone {
        /// Its number.
        segment: u64,
    },
    /// A segment that is missing although its sidecar is there, with these entries (none: only marks).
    SegmentMissing {
        /// Its number.
        segment: u64,
        /// The first and the last of its entries.
        entries: Option<(Sequence, Sequence)>,
    },
    /// The header of this segment counts less than stands before it.
    Contradiction {
        /// The segment.
        segment: u64,
    },
    /// Openings that segments know of and `epochs.jsonl` does not.
    EpochsIncomplete {
        /// Their numbers.
        epochs: Vec<u32>,
    },
    /// Segments are encrypted with a key that was not given: their checksums were tested, what stands in them was not.
    KeyMissing {
        /// The key.
        key: KeyId,
        /// How many segments.
        segments: u64,
    },
    /// A file that a crash left half done; the next opening removes it.
    Leftover {
        /// Its name.
        name: String,
    },
    /// A file that is none of the log's.
    Foreign {
        /// Its name.
        name: String,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Torn(_) | Self::TornEpochs { .. } | Self::NeverBegun { .. } => Severity::Torn,
            Self::Damage { known: true, .. }
            | Self::MarksLost { known: true, .. }
            | Self::HeaderCopy { known: true, .. }
            | Self::SidecarMissing { .. }
            | Self::SidecarAlone { .. }
            | Self::KeyMissing { .. }
            | Self::Leftover { .. }
            | Self::Foreign { .. } => Severity::Note,
            Self::Damage { .. }
            | Self::MarksLost { .. }
            | Self::HeaderCopy { .. }
            | Self::Wrapping { .. }
            | Self::SidecarWrong { .. }
            | Self::SegmentMissing { .. }
            | Self::Contradiction { .. }
            | Self::EpochsIncomplete { .. } => Severity::Damaged,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn(TornTail { segment, offset, bytes }) => write!(
                f,
                "segment {segment}: the end is torn at offset {offset} ({bytes} bytes that were never synced)"
            ),
            Self::TornEpochs { offset } => {
                write!(f, "epochs.jsonl: the last line is torn at offset {offset}")
            }
            Self::NeverBegun { segment } => {
                write!(f, "segment {segment} was never begun: the power went before")
            }
            Self::Damage { damage, known } => damaged(f, damage, *known),
            Self::MarksLost { segment, marks, known } => {
                write!(
                    f,
                    "segment {segment}: {marks} marks are missing in it or behind it{}",
                    reported(*known)
                )
            }
            Self::HeaderCopy { segment, copy, known } => write!(
                f,
                "segment {segment}: copy {copy} of its header is damaged, the header itself is known{}",
                reported(*known)
            ),
            Self::Wrapping { segment, offset } => write!(
                f,
                "segment {segment}: its compressed file is damaged at offset {offset}, beside what it holds"
            ),
            Self::SidecarMissing { segment } => {
                write!(f, "segment {segment} has no sidecar yet: it is read when the log is opened")
            }
            Self::SidecarWrong { segment, why } => write!(f, "segment {segment}: its sidecar {why}"),
            Self::SidecarAlone { segment } => {
                write!(f, "{segment:08}.index has no segment any more: the next opening removes it")
            }
            Self::SegmentMissing { segment, entries: Some((first, last)) } => {
                write!(f, "segment {segment} is missing; its sidecar says that it had {first} to {last}")
            }
            Self::SegmentMissing { segment, entries: None } => {
                write!(f, "segment {segment} is missing; its sidecar says that it had marks only")
            }
            Self::Contradiction { segment } => {
                write!(f, "segment {segment}: its header counts less than what stands before it")
            }
            Self::EpochsIncomplete { epochs } => {
                let epochs: Vec<String> = epochs.iter().map(ToString::to_string).collect();
                write!(f, "epochs.jsonl lacks epochs that segments know: {}", epochs.join(", "))
            }
            Self::KeyMissing { key, segments } => write!(
                f,
                "{segments} segments are encrypted with the key {key}, which was not given: their checksums, sequences and \
                 counts were looked at, what stands in them was not"
            ),
            Self::Leftover { name } => write!(f, "{name} is half done: the next opening removes it"),
            Self::Foreign { name } => write!(f, "{name} is none of the log's files"),
        }
    }
}

fn reported(known: bool) -> &'static str {
    if known { " (reported before)" } else { "" }
}

fn damaged(f: &mut fmt::Formatter<'_>, damage: &Damage, known: bool) -> fmt::Result {
    let Damage { segment, offset, bytes, lost, .. } = damage;
    match (segment, bytes) {
        (0, _) => write!(f, "epochs.jsonl: {bytes} bytes at offset {offset} are damaged")?,
        (_, 0) if *offset == 0 => write!(f, "segment {segment} is missing")?,
        (_, 0) => write!(f, "segment {segment}: something is missing at offset {offset}")?,
        _ => write!(f, "segment {segment}: {bytes} bytes at offset {offset} are damaged")?,
    }
    match lost {
        Some((first, last)) if first == last => write!(f, "; lost: {first}")?,
        Some((first, last)) => write!(f, "; lost: {first} to {last}")?,
        None if *segment == 0 => {}
        None if *offset == 0 => write!(f, "; what stood in it cannot be told")?,
        None => write!(f, "; no entry is lost")?,
    }
    f.write_str(reported(known))
}

pub(super) fn of_listing(listing: &Listing) -> Vec<Finding> {
    let name = |path: &std::path::PathBuf| {
        path.file_name().map_or_else(String::new, |name| format!("segments/{}", name.to_string_lossy()))
    };
    let leftovers = listing.leftovers.iter().map(|path| Finding::Leftover { name: name(path) });
    leftovers.chain(listing.foreign.iter().map(|path| Finding::Foreign { name: name(path) })).collect()
}

pub(super) fn of_epochs(recorded: &Recorded, candidates: &[Candidate]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for (offset, bytes) in &recorded.damaged {
        let after = Sequence::START;
        let damage = Damage { segment: 0, offset: *offset, bytes: *bytes, after, before: None, lost: None };
        findings.push(Finding::Damage { damage, known: false });
    }
    findings.extend(recorded.torn.map(|offset| Finding::TornEpochs { offset }));
    let listed = |candidate: &&Candidate| {
        let epoch = candidate.header.epoch();
        !recorded.epochs.iter().any(|known| known.number == epoch.number && known.owner == epoch.owner)
    };
    let mut epochs: Vec<u32> =
        candidates.iter().filter(listed).map(|candidate| candidate.header.epoch).collect();
    epochs.dedup();
    if !epochs.is_empty() {
        findings.push(Finding::EpochsIncomplete { epochs });
    }
    findings
}

/// Segments whose keys were not given, by key.
pub(super) fn of_keys(candidates: &[Candidate]) -> Vec<Finding> {
    let mut missing: BTreeMap<KeyId, u64> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| is_hidden(candidate)) {
        if let Some(with) = &candidate.header.encryption {
            *missing.entry(with.key()).or_default() += 1;
        }
    }
    missing.into_iter().map(|(key, segments)| Finding::KeyMissing { key, segments }).collect()
}

/// A segment that is read because its sidecar is of no use.
pub(super) fn of_sidecar(segment: u64, there: bool) -> Finding {
    if there {
        Finding::SidecarWrong { segment, why: "is damaged, or belongs to another segment" }
    } else {
        Finding::SidecarMissing { segment }
    }
}

/// A sidecar without its segment. Segments leave from the front and empty ones anywhere; any other that is gone is lost.
pub(super) fn of_orphan(disk: &dyn Disk, layout: &Layout, segment: u64, front: u64) -> Finding {
    let lost = sidecar::read(disk, &layout.sidecar(segment)).filter(|_| segment > front || front == u64::MAX);
    match lost {
        Some(sidecar) if !sidecar.ledger.is_empty() => {
            let first = sidecar.header.first;
            let entries = (sidecar.ledger.counts.entries > 0).then_some((first, sidecar.last));
            Finding::SegmentMissing { segment, entries }
        }
        _ => Finding::SidecarAlone { segment },
    }
}
