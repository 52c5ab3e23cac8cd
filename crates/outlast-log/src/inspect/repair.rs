//! Repair: brings the files in order as far as opening would, and mends what opening does not look at. Nothing valid is
//! thrown away: what does not match goes to `damaged/` first.

use std::fmt;
use std::path::Path;

use super::{Contents, Finding, InspectError, Inspection, is_hidden};
use crate::compressed;
use crate::disk::Disk;
use crate::epochs;
use crate::error::OpenError;
use crate::inventory::{Candidate, no_cipher, set_aside};
use crate::opening::fill_up;
use crate::options::Compression;
use crate::recovery::{keep_damaged, scan_segment};
use crate::segment::Segment;
use crate::{Damage, Sequence, sidecar};

/// A step of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Copy damaged bytes to `damaged/`.
    Keep(Damage),
    /// Move a segment without any header to `damaged/`.
    SetAside {
        /// Its number.
        segment: u64,
    },
    /// Move the sidecar of a missing segment to `damaged/`.
    SetSidecarAside {
        /// The segment's number.
        segment: u64,
    },
    /// Write a damaged copy of a header again, from the header that is known.
    RestoreHeader {
        /// Of this segment.
        segment: u64,
        /// 1 or 2.
        copy: usize,
    },
    /// Write what lies around the blocks of a compressed segment again.
    RestoreWrapping {
        /// Of this segment.
        segment: u64,
    },
    /// Cut the torn end off the last segment.
    Cut {
        /// Its number.
        segment: u64,
        /// Where it ends then.
        offset: u64,
    },
    /// Give a sealed segment that was cut short its length again, as prefill, so that its sidecar stays of use.
    Extend {
        /// Its number.
        segment: u64,
        /// Its length.
        bytes: u64,
    },
    /// Write a sidecar.
    WriteSidecar {
        /// Of this segment.
        segment: u64,
    },
    /// Write `epochs.jsonl` anew, with every epoch that is known.
    RewriteEpochs,
    /// Remove a file that a crash left half done.
    Remove {
        /// Its name.
        name: String,
    },
    /// Note in `damaged/reported.jsonl` what is lost, so that it is told from new losses.
    Report {
        /// How many findings.
        findings: usize,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(Damage { segment: 0, offset, bytes, .. }) => {
                write!(f, "copy {bytes} damaged bytes at offset {offset} of epochs.jsonl to damaged/")
            }
            Self::Keep(Damage { segment, offset, bytes, .. }) => {
                write!(f, "copy {bytes} damaged bytes at offset {offset} of segment {segment} to damaged/")
            }
            Self::SetAside { segment } => {
                write!(f, "move segment {segment}, which has no header, to damaged/")
            }
            Self::SetSidecarAside { segment } => {
                write!(f, "move the sidecar of the missing segment {segment} to damaged/")
            }
            Self::RestoreHeader { segment, copy } => {
                write!(f, "write copy {copy} of the header of segment {segment} again")
            }
            Self::RestoreWrapping { segment } => {
                write!(f, "write again what lies around the blocks of the compressed segment {segment}")
            }
            Self::Cut { segment, offset } => {
                write!(f, "cut the torn end off segment {segment} at offset {offset}")
            }
            Self::Extend { segment, bytes } => {
                write!(f, "give segment {segment} its {bytes} bytes again, with nothing in what is missing")
            }
            Self::WriteSidecar { segment } => write!(f, "write the sidecar of segment {segment}"),
            Self::RewriteEpochs => f.write_str("write epochs.jsonl anew"),
            Self::Remove { name } => write!(f, "remove {name}, which is half done"),
            Self::Report { findings } => {
                write!(f, "note {findings} losses as known in damaged/reported.jsonl")
            }
        }
    }
}

/// What is to be done, in the order in which it is safe: bytes are kept before anything else is touched.
fn plan(contents: &Contents, candidates: &[Candidate]) -> Vec<Action> {
    let mut actions = Vec::new();
    let (mut later, mut lost, mut epochs) = (Vec::new(), 0, false);
    let is_last = |number| candidates.last().is_some_and(|last| last.header.segment == number);
    let candidate = |number: u64| candidates.iter().find(|candidate| candidate.header.segment == number);
    for finding in &contents.findings {
        match finding {
            Finding::Damage { known: true, .. }
            | Finding::MarksLost { known: true, .. }
            | Finding::HeaderCopy { known: true, .. }
            | Finding::Contradiction { .. }
            | Finding::KeyMissing { .. }
            | Finding::Foreign { .. } => {}
            Finding::Damage { damage, .. } => {
                lost += 1;
                epochs |= damage.segment == 0;
                if damage.segment > 0 && damage.offset == 0 && damage.bytes > 0 {
                    actions.push(Action::SetAside { segment: damage.segment });
                } else if damage.bytes > 0 {
                    actions.push(Action::Keep(damage.clone()));
                }
                let cut = candidate(damage.segment).and_then(short_of);
                later.extend(cut.map(|bytes| Action::Extend { segment: damage.segment, bytes }));
            }
            Finding::MarksLost { .. } => lost += 1,
            Finding::Torn(torn) => later.push(Action::Cut { segment: torn.segment, offset: torn.offset }),
            Finding::TornEpochs { .. } | Finding::EpochsIncomplete { .. } => epochs = true,
            // A compressed file is not written to; the other copy and the sidecar have what it said.
            Finding::HeaderCopy { segment, .. } if candidate(*segment).is_some_and(is_compressed) => {
                lost += 1;
            }
            Finding::Wrapping { segment, .. } => later.push(Action::RestoreWrapping { segment: *segment }),
            Finding::HeaderCopy { segment, copy, .. } => {
                later.push(Action::RestoreHeader { segment: *segment, copy: *copy });
            }
            // The last segment of a process that was killed: what opening does with it is more than a sidecar.
            Finding::SidecarMissing { segment } if is_last(*segment) => {}
            Finding::SidecarMissing { segment } | Finding::SidecarWrong { segment, .. } => {
                later.push(Action::WriteSidecar { segment: *segment });
            }
            Finding::SegmentMissing { segment, .. } => {
                later.push(Action::SetSidecarAside { segment: *segment });
            }
            Finding::NeverBegun { segment } => {
                later.push(Action::Remove { name: format!("segment {segment}") });
            }
            Finding::SidecarAlone { segment } => {
                later.push(Action::Remove { name: format!("segments/{segment:08}.index") });
            }
            Finding::Leftover { name } => later.push(Action::Remove { name: name.clone() }),
        }
    }
    actions.extend(later);
    actions.dedup();
    if epochs {
        actions.push(Action::RewriteEpochs);
    }
    if lost > 0 {
        actions.push(Action::Report { findings: lost });
    }
    actions
}

pub(super) fn is_compressed(candidate: &Candidate) -> bool {
    Compression::of(&candidate.path) == Compression::Zstd
}

/// The length that a sealed segment had, if its file is shorter now.
fn short_of(candidate: &Candidate) -> Option<u64> {
    let size = candidate.file.size().ok()?;
    candidate.sidecar.as_ref().map(|sidecar| sidecar.end).filter(|end| *end > size)
}

impl Inspection {
    /// What [`Inspection::repair`] would do about what [`Inspection::verify`] has found.
    pub fn plan(&self, contents: &Contents) -> Vec<Action> {
        plan(contents, &self.candidates)
    }

    /// Does it, on a disk that can be written. What [`Inspection::verify`] finds afterwards is in order but for losses
    /// that are known and reported.
    ///
    /// # Errors
    /// When the disk says no, or a key is missing. What was done stays done; it can be run again.
    pub fn repair(&self, contents: &Contents) -> Result<Vec<Action>, InspectError> {
        let actions = self.plan(contents);
        // Without the key a sidecar could not be written, and what is damaged would not show.
        if let Some(candidate) = self.candidates.iter().find(|candidate| is_hidden(candidate)) {
            candidate
                .header
                .codec(candidate.codec.format, &self.keys)
                .map_err(|why| InspectError::Log(no_cipher(&candidate.path, why, &self.keys)))?;
        }
        for action in &actions {
            self.carry_out(action, contents)?;
        }
        Ok(actions)
    }

    fn carry_out(&self, action: &Action, contents: &Contents) -> Result<(), OpenError> {
        let (disk, layout) = (&*self.disk, &self.layout);
        match action {
            Action::Keep(damage) if damage.segment == 0 => {
                let path = layout.epochs();
                let file = disk.open(&path).map_err(OpenError::io("open", &path))?;
                keep_damaged(disk, layout, &path, &*file, damage).map_err(OpenError::io("copy", &path))
            }
            Action::Keep(damage) => self.with(damage.segment, "copy", |candidate| {
                keep_damaged(disk, layout, &candidate.path, &*candidate.file, damage)
            }),
            Action::SetAside { segment } => {
                let Some(kept) = self.listing.segments.get(segment) else { return Ok(()) };
                let path = layout.kept(*segment, *kept);
                let file = disk.open(&path).map_err(OpenError::io("open", &path))?;
                set_aside(disk, layout, *segment, &path, &*file).map(drop)
            }
            Action::SetSidecarAside { segment } => {
                let (path, kept) =
                    (layout.sidecar(*segment), layout.damaged.join(format!("{segment:08}.index")));
                move_aside(disk, &layout.damaged, &path, &kept).map_err(OpenError::io("move away", &path))
            }
            Action::RestoreHeader { segment, copy } => {
                self.with(*segment, "write", |candidate| candidate.header.restore(&*candidate.file, copy - 1))
            }
            Action::RestoreWrapping { segment } => self.with(*segment, "write", |candidate| {
                let file = disk.open(&candidate.path)?;
                for (offset, bytes) in compressed::wrong_wrapping(&*file)? {
                    file.write_at(&bytes, offset)?;
                }
                file.sync()
            }),
            Action::Cut { segment, offset } => self.with(*segment, "cut", |candidate| {
                candidate.file.set_size(*offset)?;
                candidate.file.sync()
            }),
            Action::Extend { segment, bytes } => self.with(*segment, "extend", |candidate| {
                fill_up(&*candidate.file, candidate.codec.format, *bytes)
            }),
            Action::WriteSidecar { segment } => self.write_sidecar(*segment),
            Action::RewriteEpochs => {
                let Some(queue) = contents.queue else { return Ok(()) };
                let path = layout.epochs();
                epochs::rewrite(disk, layout, queue, &contents.epochs).map_err(OpenError::io("write", &path))
            }
            Action::Remove { name } => self.remove(name),
            Action::Report { .. } => {
                let stays = |finding: &&Finding| is_loss(finding, &self.candidates);
                let lost: Vec<Finding> = contents.findings.iter().filter(stays).cloned().collect();
                let path = &layout.damaged;
                self.known.report(disk, layout, &lost).map_err(OpenError::io("write", path))
            }
        }
    }

    fn with(
        &self,
        segment: u64,
        action: &'static str,
        work: impl FnOnce(&Candidate) -> std::io::Result<()>,
    ) -> Result<(), OpenError> {
        match self.candidates.iter().find(|candidate| candidate.header.segment == segment) {
            Some(candidate) => work(candidate).map_err(OpenError::io(action, &candidate.path)),
            None => Ok(()),
        }
    }

    /// From the segment, as opening does.
    fn write_sidecar(&self, number: u64) -> Result<(), OpenError> {
        let index = self.candidates.iter().position(|candidate| candidate.header.segment == number);
        let Some((index, candidate)) = index.and_then(|index| Some((index, self.candidates.get(index)?)))
        else {
            return Ok(());
        };
        let next: Option<Sequence> = self.candidates.get(index + 1).map(|next| next.header.previous);
        let Candidate { header, codec, path, file, .. } = candidate;
        let scanned =
            scan_segment(header.clone(), codec, path, file, next).map_err(OpenError::io("read", path))?;
        let segment: &Segment = &scanned.segment;
        let sidecar = self.layout.sidecar(number);
        sidecar::write(&*self.disk, &sidecar, segment, &scanned.ledger, &scanned.damage)
            .and_then(|()| self.disk.sync_directory(&self.layout.segments))
            .map_err(OpenError::io("write", &sidecar))
    }

    /// By its name in a finding.
    fn remove(&self, name: &str) -> Result<(), OpenError> {
        let number = name.strip_prefix("segment ").and_then(|number| number.parse().ok());
        let path = match number.and_then(|number: u64| Some((number, *self.listing.segments.get(&number)?))) {
            Some((number, kept)) => self.layout.kept(number, kept),
            None => self.layout.directory.join(name),
        };
        self.disk
            .remove(&path)
            .and_then(|()| self.disk.sync_directory(&self.layout.segments))
            .map_err(OpenError::io("remove", &path))
    }
}

/// What a repair cannot mend, only report.
fn is_loss(finding: &Finding, candidates: &[Candidate]) -> bool {
    match finding {
        Finding::Damage { known: false, .. } | Finding::MarksLost { known: false, .. } => true,
        Finding::HeaderCopy { segment, known: false, .. } => candidates
            .iter()
            .any(|candidate| candidate.header.segment == *segment && is_compressed(candidate)),
        _ => false,
    }
}

fn move_aside(disk: &dyn Disk, damaged: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    disk.create_directory(damaged)?;
    disk.rename(from, to)?;
    disk.sync_directory(damaged)
}
