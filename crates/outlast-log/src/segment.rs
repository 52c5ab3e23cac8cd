//! [`Segment`]: one file of the log as every part of the process sees it, and the names of files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::codec::Codec;
use crate::compressed::CompressedFile;
use crate::disk::{Disk, DiskFile};
use crate::header::{HEADER_BYTES, Header};
use crate::options::{Compression, Format};
use crate::sync::{AtomicBool, AtomicU64, Mutex};
use crate::{Counts, Mark, Sequence};

/// Bytes between two points of the sparse index: what a random read scans at most.
const POINT_DISTANCE: u64 = 64 * 1024;
/// A greater one is never reached, and would leave none for the next segment.
const SEGMENT_NUMBER_MAX: u64 = u64::MAX / 2;

/// A place in a segment where a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// Entries of this segment before it.
    pub(crate) ordinal: u32,
    pub(crate) offset: u32,
}

/// What is known of a segment without reading it. The entries of a segment are of one epoch and their counters have
/// no gaps, so that counting and finding are arithmetic.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) codec: Codec,
    pub(crate) path: PathBuf,
    /// The size of its file.
    pub(crate) file_bytes: AtomicU64,
    /// The last entry that was put into it, or `header.previous`.
    last: AtomicU64,
    /// Everything before this offset may be read.
    written: AtomicU64,
    /// When it was sealed, in Unix milliseconds; 0 while it is being written. Then `written` is final.
    sealed_at_ms: AtomicU64,
    /// It left the log; its file may already hold something else.
    reclaimed: AtomicBool,
    /// The same segment stands in the list with another file, and this one may already hold something else.
    replaced: AtomicBool,
    points: Mutex<Vec<Point>>,
}

impl Segment {
    /// A segment into which nothing was put yet.
    pub(crate) fn new(header: Header, codec: Codec, path: PathBuf, file_bytes: u64) -> Self {
        Self {
            codec,
            path,
            file_bytes: AtomicU64::new(file_bytes),
            last: AtomicU64::new(header.previous.as_u64()),
            written: AtomicU64::new(0),
            sealed_at_ms: AtomicU64::new(0),
            reclaimed: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            points: Mutex::default(),
            header,
        }
    }

    /// The same sealed segment in its compressed file.
    pub(crate) fn compressed(&self, path: PathBuf, file_bytes: u64) -> Self {
        let segment = Self::new(self.header.clone(), self.codec.clone(), path, file_bytes);
        segment.set_last(self.last());
        segment.set_written(self.written());
        segment.seal(self.sealed_at_ms().unwrap_or(1));
        segment.set_points(self.points());
        segment
    }

    /// Opens its file for reading; offsets are those of the segment as it was written.
    pub(crate) fn open(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        let file = disk.open(&self.path)?;
        Ok(match self.compression() {
            Compression::None => file,
            Compression::Zstd => {
                Arc::new(CompressedFile::open(file, self.format())?.reaching(self.written()))
            }
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        Compression::of(&self.path)
    }

    pub(crate) fn format(&self) -> Format {
        self.codec.format
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.segment
    }

    pub(crate) fn last(&self) -> Sequence {
        Sequence::from_u64(self.last.load(Ordering::Acquire)).expect("only sequences are stored")
    }

    pub(crate) fn set_last(&self, last: Sequence) {
        self.last.store(last.as_u64(), Ordering::Release);
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn set_written(&self, offset: u64) {
        self.written.store(offset, Ordering::Release);
    }

    pub(crate) fn sealed_at_ms(&self) -> Option<u64> {
        Some(self.sealed_at_ms.load(Ordering::Acquire)).filter(|time| *time > 0)
    }

    pub(crate) fn seal(&self, now_ms: u64) {
        self.sealed_at_ms.store(now_ms.max(1), Ordering::Release);
    }

    pub(crate) fn is_reclaimed(&self) -> bool {
        self.reclaimed.load(Ordering::Acquire)
    }

    /// Called before anything happens to its file.
    pub(crate) fn set_reclaimed(&self) {
        self.reclaimed.store(true, Ordering::Release);
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Called when its successor is in the list, before anything happens to its file.
    pub(crate) fn set_replaced(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    /// Bytes of log in it, header included.
    pub(crate) fn bytes(&self) -> u64 {
        self.written()
    }

    /// Entries in it.
    pub(crate) fn entries(&self) -> u64 {
        self.entries_upto(self.last())
    }

    /// Entries in it that are not greater than `sequence`.
    pub(crate) fn entries_upto(&self, sequence: Sequence) -> u64 {
        let upto = sequence.min(self.last());
        if upto < self.header.first { 0 } else { upto.as_u64() - self.header.first.as_u64() + 1 }
    }

    /// Notes where a frame begins, if it is time for another point. `ordinal` entries of this segment are before it.
    /// Returns from where on it is time for the next.
    pub(crate) fn note(&self, ordinal: u64, offset: u64) -> u64 {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let last = points.last().map_or(HEADER_BYTES, |point| u64::from(point.offset));
        if offset < last + POINT_DISTANCE {
            return last + POINT_DISTANCE;
        }
        points.push(Point { ordinal: ordinal as u32, offset: offset as u32 });
        offset + POINT_DISTANCE
    }

    pub(crate) fn points(&self) -> Vec<Point> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_points(&self, points: Vec<Point>) {
        *self.points.lock().unwrap_or_else(PoisonError::into_inner) = points;
    }

    /// The last known place before the first entry greater than `after`, and the last sequence before that place.
    pub(crate) fn seek(&self, after: Sequence) -> (u64, Sequence) {
        let ordinal = self.entries_upto(after);
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = points.partition_point(|point| u64::from(point.ordinal) <= ordinal);
        match behind.checked_sub(1).map(|at| points[at]) {
            Some(Point { ordinal: 0, offset }) => (u64::from(offset), self.header.previous),
            Some(Point { ordinal, offset }) => {
                let before = self.header.first.as_u64() + u64::from(ordinal) - 1;
                (u64::from(offset), Sequence::from_u64(before).unwrap_or(self.header.previous))
            }
            None => (HEADER_BYTES, self.header.previous),
        }
    }

    /// The entries that are missing between two good ones, both bounds included; `None` if there are none. Without
    /// `before` the last that this segment is known to have counts as missing.
    pub(crate) fn lost_between(
        &self,
        after: Sequence,
        before: Option<Sequence>,
    ) -> Option<(Sequence, Sequence)> {
        let first = Sequence::from_u64(after.as_u64() + 1).filter(|_| after >= self.header.first);
        let first = first.unwrap_or(self.header.first);
        let last = match before {
            Some(before) => Sequence::from_u64(before.as_u64().checked_sub(1)?)?,
            None => self.last(),
        };
        (first <= last).then_some((first, last))
    }
}

/// What opening has to know of a segment beside its entries: kept while it is written, then in its sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) counts: Counts,
    /// In the order of the log, without cursors.
    pub(crate) marks: Vec<Mark>,
    /// The last cursor.
    pub(crate) cursor: Option<Mark>,
    /// Entries with an origin: (sequence, origin).
    pub(crate) origins: Vec<(Sequence, Sequence)>,
}

impl Ledger {
    pub(crate) fn add_mark(&mut self, mark: Mark) {
        self.counts.marks[mark.kind.index()] += 1;
        if mark.kind == crate::MarkKind::Cursor {
            self.cursor = Some(mark);
        } else {
            self.marks.push(mark);
        }
    }

    pub(crate) fn add_entry(&mut self, sequence: Sequence, origin: Option<Sequence>) {
        self.counts.entries += 1;
        if let Some(origin) = origin {
            self.counts.requeued += 1;
            self.origins.push((sequence, origin));
        }
    }

    /// Neither entries nor marks.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.entries == 0 && self.counts.marks_total() == 0
    }
}

/// Where the files of a log are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
    pub(crate) segments: PathBuf,
    pub(crate) damaged: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            segments: directory.join("segments"),
            damaged: directory.join("damaged"),
        }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    pub(crate) fn epochs(&self) -> PathBuf {
        self.directory.join("epochs.jsonl")
    }

    pub(crate) fn segment(&self, number: u64, format: Format) -> PathBuf {
        self.segments.join(format!("{number:08}.{}", format.extension()))
    }

    /// The file of a segment that is kept like this.
    pub(crate) fn kept(&self, number: u64, (format, compression): (Format, Compression)) -> PathBuf {
        self.segments.join(format!("{number:08}.{}{}", format.extension(), compression.suffix()))
    }

    pub(crate) fn sidecar(&self, number: u64) -> PathBuf {
        self.segments.join(format!("{number:08}.index"))
    }

    /// A prefilled file, ready to become a segment.
    pub(crate) fn spare(&self, format: Format) -> PathBuf {
        self.segments.join(format!("spare.{}", format.extension()))
    }

    /// A file that is being prefilled.
    pub(crate) fn prefilling(&self) -> PathBuf {
        self.segments.join("prefilling")
    }

    /// A compressed file that is not finished.
    pub(crate) fn compressing(&self) -> PathBuf {
        self.segments.join("compressing")
    }

    /// A file that was a segment and waits to be prefilled again.
    pub(crate) fn recycled(&self) -> PathBuf {
        self.segments.join("recycled")
    }
}

/// What a file name in `segments/` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileName {
    Segment(u64, Format, Compression),
    Sidecar(u64),
    Other,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Self {
        let Some((stem, extension)) = name.split_once('.') else { return Self::Other };
        let digits = stem.len() >= 8 && stem.bytes().all(|byte| byte.is_ascii_digit());
        let number = stem.parse().ok().filter(|number| digits && *number <= SEGMENT_NUMBER_MAX);
        let Some(number) = number else { return Self::Other };
        let (extension, compression) = match extension.strip_suffix(Compression::Zstd.suffix()) {
            Some(extension) => (extension, Compression::Zstd),
            None => (extension, Compression::None),
        };
        match Format::from_extension(extension) {
            Some(format) => Self::Segment(number, format, compression),
            None if extension == "index" && compression == Compression::None => Self::Sidecar(number),
            None => Self::Other,
        }
    }
}
