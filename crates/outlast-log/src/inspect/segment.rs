//! One segment, looked at: its header, its bytes, its sidecar, and whether they agree.

use std::io;

use super::{Finding, Seen};
use crate::codec::{Bodies, Frame};
use crate::encryption::EncryptedWith;
use crate::header::HEADER_BYTES;
use crate::inventory::Candidate;
use crate::options::{Compression, Format};
use crate::recovery::{Scanned, scan_watched};
use crate::scan::{Found, Scanner};
use crate::segment::{Ledger, Segment};
use crate::sidecar::Sidecar;
use crate::{Counts, Damage, KeyId, Sequence};

/// How often somebody who watches hears of progress.
const STEP_BYTES: u64 = 1024 * 1024;

/// What is known of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// How it is written.
    pub format: Format,
    /// Whether its file is compressed.
    pub compression: Compression,
    /// The opening in which it was written.
    pub epoch: u32,
    /// The sequence of its first entry, if it has one.
    pub first: Sequence,
    /// The last sequence in the log up to its end.
    pub last: Sequence,
    /// What stands in it; entries that are damaged count.
    pub counts: Counts,
    /// The size of its file.
    pub file_bytes: u64,
    /// Bytes of log in it, header included.
    pub log_bytes: u64,
    /// When it was begun, in Unix milliseconds.
    pub created_at_ms: u64,
    /// It has a sidecar that matches.
    pub has_sidecar: bool,
    /// With which key it is encrypted, if it is.
    pub key: Option<KeyId>,
    /// What stands in it can be read: it is not encrypted, or its key was given.
    pub is_readable: bool,
}

impl SegmentInfo {
    pub(super) fn new(segment: &Segment, ledger: &Ledger, candidate: &Candidate) -> Self {
        Self {
            number: segment.number(),
            format: segment.format(),
            compression: segment.compression(),
            epoch: segment.header.epoch,
            first: segment.header.first,
            last: segment.last(),
            counts: ledger.counts,
            file_bytes: candidate.file_bytes,
            log_bytes: segment.written(),
            created_at_ms: segment.header.created_at_ms,
            has_sidecar: candidate.sidecar.is_some(),
            key: candidate.header.encryption.as_ref().map(EncryptedWith::key),
            is_readable: !matches!(candidate.codec.bodies, Bodies::Hidden),
        }
    }
}

impl SegmentInfo {
    /// Entries in it that are not greater than `sequence`.
    pub fn entries_upto(&self, sequence: Sequence) -> u64 {
        let upto = sequence.min(self.last);
        if upto < self.first { 0 } else { upto.as_u64() - self.first.as_u64() + 1 }
    }
}

/// What the sidecar says; without one, what stands in the segment.
pub(super) fn survey(
    candidate: &Candidate,
    next_previous: Option<Sequence>,
) -> io::Result<(Scanned, Vec<Finding>)> {
    let size = candidate.file.size()?;
    match candidate.sidecar.clone().filter(|sidecar| sidecar.end <= size) {
        Some(sidecar) => Ok(from_sidecar(candidate, sidecar, size)),
        None => verify(candidate, next_previous, &mut |_| {}),
    }
}

fn from_sidecar(candidate: &Candidate, sidecar: Sidecar, size: u64) -> (Scanned, Vec<Finding>) {
    let (segment, ledger, damage) = sidecar.into_segment(candidate.codec.clone(), &candidate.path, size);
    let findings =
        damage.iter().map(|damage| Finding::Damage { damage: damage.clone(), known: true }).collect();
    (Scanned { segment, ledger, damage, torn: None }, findings)
}

/// Reads all of it and compares. What the sidecar knows and the segment has no longer is kept.
pub(super) fn verify(
    candidate: &Candidate,
    next_previous: Option<Sequence>,
    see: &mut dyn FnMut(Seen<'_>),
) -> io::Result<(Scanned, Vec<Finding>)> {
    let Candidate { header, codec, path, file, sidecar, .. } = candidate;
    let size = file.size()?;
    let mut findings: Vec<Finding> = header
        .wrong_copies(&**file)?
        .into_iter()
        .map(|copy| Finding::HeaderCopy { segment: header.segment, copy: copy + 1, known: false })
        .collect();
    // A sealed segment is never torn: its sidecar knows where it ended.
    let known_end = sidecar.as_ref().map(|sidecar| sidecar.last).or(next_previous);
    let mut told = 0;
    let scanned = scan_watched(header.clone(), codec, path, file, known_end, &mut |place, frame| {
        if place.end >= told + STEP_BYTES {
            see(Seen::Bytes(place.end - told));
            told = place.end;
        }
        if let Frame::Entry { sequence, time_ms, origin, body } = frame {
            see(Seen::Entry { sequence, time_ms, origin, body });
        }
    })?;
    see(Seen::Bytes(size.saturating_sub(told)));
    let Some(sidecar) = sidecar else {
        findings.extend(scanned.torn.map(Finding::Torn));
        let damage =
            scanned.damage.iter().map(|damage| Finding::Damage { damage: damage.clone(), known: false });
        findings.extend(damage);
        return Ok((scanned, findings));
    };
    Ok(compare(candidate, sidecar, scanned, findings, size))
}

/// The sidecar is the better witness of what stood in a segment that is damaged since.
fn compare(
    candidate: &Candidate,
    sidecar: &Sidecar,
    mut scanned: Scanned,
    mut findings: Vec<Finding>,
    size: u64,
) -> (Scanned, Vec<Finding>) {
    let segment = candidate.header.segment;
    scanned.must_reach(sidecar.end);
    if scanned.damage.is_empty() {
        let why = disagreement(sidecar, &scanned);
        if let Some(why) = why {
            findings.push(Finding::SidecarWrong { segment, why });
            return (scanned, findings);
        }
    }
    for damage in &scanned.damage {
        let same = |known: &&Damage| known.offset == damage.offset && known.bytes == damage.bytes;
        let known = sidecar.damage.iter().any(|known| same(&known));
        findings.push(Finding::Damage { damage: damage.clone(), known });
    }
    let damage = std::mem::take(&mut scanned.damage);
    let (mut kept, _) = from_sidecar(candidate, sidecar.clone(), size);
    kept.damage = damage;
    (kept, findings)
}

fn disagreement(sidecar: &Sidecar, scanned: &Scanned) -> Option<&'static str> {
    if sidecar.end != scanned.segment.written() || sidecar.last != scanned.segment.last() {
        Some("says that the segment ends elsewhere")
    } else if sidecar.ledger != scanned.ledger {
        Some("says that something else stands in the segment")
    } else if sidecar.points != scanned.segment.points() {
        Some("points to places where no frame begins")
    } else {
        None
    }
}

/// Every valid entry up to `end`, in order.
pub(super) fn entries(candidate: &Candidate, end: u64, see: &mut dyn FnMut(Seen<'_>)) -> io::Result<()> {
    let Candidate { header, codec, file, .. } = candidate;
    let mut scanner = Scanner::new(file.clone(), codec.clone(), HEADER_BYTES, end);
    let (mut last, mut told) = (header.previous, 0);
    loop {
        match scanner.next()? {
            Found::Frame(place, frame) => {
                if place.end >= told + STEP_BYTES {
                    see(Seen::Bytes(place.end - told));
                    told = place.end;
                }
                let Frame::Entry { sequence, time_ms, origin, body } = frame else { continue };
                // A whole frame in a place where it cannot be is damage.
                if sequence > last && sequence.epoch() == header.epoch {
                    last = sequence;
                    see(Seen::Entry { sequence, time_ms, origin, body });
                }
            }
            Found::Bad => {
                scanner.skip_gap()?;
            }
            Found::End => break,
        }
    }
    see(Seen::Bytes(end.saturating_sub(told)));
    Ok(())
}
