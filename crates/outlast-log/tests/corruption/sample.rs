//! A log whose every byte is accounted for: what it was given, and which bytes of its files say so.
//!
//! Frames are found here by the layout of `docs/format.md` alone, not by the code that is under test.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast_log::{Entry, Format, Log, LogOptions, Mark, MarkKind, NewEntry, Recovered, Sequence};
use outlast_testkit::disk::{Medium, SimulatedDisk};

use crate::common::{body, extension, only_decrypt, options, wait_until};

pub(crate) const QUEUE: &str = "/queue";
pub(crate) const HEADER_BYTES: usize = 2048;
/// The smallest that there is.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// How the log came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed: every segment is sealed and has its sidecar.
    Closed,
    /// Killed, before any sidecar was written: every segment is scanned, and the last may end torn.
    Killed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The index of the entry in the sample.
    Entry(usize),
    Mark(usize),
    /// The last cursor before the segment, once more.
    Carried(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) place: Range<usize>,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<Frame>,
}

impl Frame {
    pub(crate) fn entry(&self) -> Option<usize> {
        if let What::Entry(entry) = self.what { Some(entry) } else { None }
    }

    pub(crate) fn mark(&self) -> Option<usize> {
        if let What::Mark(mark) = self.what { Some(mark) } else { None }
    }

    pub(crate) fn mark_or_carried(&self) -> Option<usize> {
        if let What::Carried(mark) = self.what { Some(mark) } else { self.mark() }
    }
}

impl Segment {
    /// Of one copy of its header.
    pub(crate) fn header_length(&self) -> usize {
        self.bytes[..HEADER_BYTES / 2].trim_ascii_end().len()
    }

    /// Behind the last frame.
    pub(crate) fn end(&self) -> usize {
        self.frames.last().map_or(HEADER_BYTES, |frame| frame.place.end)
    }

    pub(crate) fn sidecar(&self) -> PathBuf {
        self.path.with_extension("index")
    }
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) format: Format,
    pub(crate) end: End,
    pub(crate) medium: Medium,
    pub(crate) entries: Vec<Entry>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) owner: String,
}

impl Sample {
    /// Entries with bodies up to this many bytes, and marks, until there are so many bytes of log.
    pub(crate) fn new(format: Format, end: End, log_bytes: u64, body_bytes: usize) -> Self {
        Self::with(options(format), end, log_bytes, body_bytes)
    }

    pub(crate) fn with(options: LogOptions, end: End, log_bytes: u64, body_bytes: usize) -> Self {
        let (disk, format) = (SimulatedDisk::new(1), options.format);
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..options };
        let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new(QUEUE), options).unwrap();
        let owner = log.epoch().owner.clone();
        let (mut entries, mut marks): (Vec<Entry>, Vec<Mark>) = (Vec::new(), Vec::new());
        while log.usage().log_bytes < log_bytes {
            let number = entries.len() as u64;
            let text = body(number, 30 + entries.len() * 37 % body_bytes);
            let origin = entries.last().map(|entry| entry.sequence).filter(|_| number % 7 == 3);
            let new = NewEntry { body: &text, time_ms: number, origin };
            let sequence = log.append(new).unwrap().sequence;
            entries.push(Entry { sequence, time_ms: number, origin, body: text.into() });
            if number % 3 == 1 {
                let kind = MarkKind::ALL[entries.len() % MarkKind::ALL.len()];
                let mark = Mark { kind, target: sequence, time_ms: number, body: body(number, 40).into() };
                log.mark(&mark).unwrap();
                marks.push(mark);
            }
            log.sync().wait().unwrap();
        }
        let disk = match end {
            End::Closed => {
                log.close().unwrap();
                disk
            }
            End::Killed => {
                // With the sidecars of all but the last, which are then removed.
                let segments = log.usage().segments;
                let sidecar = |number: u64| Path::new(QUEUE).join(format!("segments/{number:08}.index"));
                let spare = Path::new(QUEUE).join("segments/spare").with_extension(extension(format));
                let all = || (1..segments).all(|number| disk.exists(&sidecar(number))) && disk.exists(&spare);
                wait_until("the sidecars and the next file are there", all);
                let killed = disk.after_kill();
                for number in 1..segments {
                    outlast_log::Disk::remove(&killed, &sidecar(number)).unwrap();
                }
                killed
            }
        };
        let mut sample = Self { format, end, medium: disk.medium(), entries, marks, segments: vec![], owner };
        sample.find_segments(&disk);
        sample
    }

    fn find_segments(&mut self, disk: &SimulatedDisk) {
        let (mut entries, mut marks) = (0, 0);
        for number in 1.. {
            let path = Path::new(QUEUE).join(format!("segments/{number:08}.{}", extension(self.format)));
            if !disk.exists(&path) {
                break;
            }
            let bytes = disk.read(&path);
            let carries = String::from_utf8_lossy(&bytes[..1024]).contains(r#""carries_cursor":true"#);
            let places = frames(self.format, &bytes);
            let frames = places.into_iter().enumerate().map(|(index, (place, is_entry))| {
                let what = if carries && index == 0 {
                    let cursor = self.marks[..marks].iter().rposition(|mark| mark.kind == MarkKind::Cursor);
                    What::Carried(cursor.unwrap())
                } else if is_entry {
                    entries += 1;
                    What::Entry(entries - 1)
                } else {
                    marks += 1;
                    What::Mark(marks - 1)
                };
                Frame { place, what }
            });
            let frames = frames.collect();
            self.segments.push(Segment { number, path, bytes, frames });
        }
        assert_eq!((entries, marks), (self.entries.len(), self.marks.len()));
    }

    pub(crate) fn log_bytes(&self) -> usize {
        self.segments.iter().map(Segment::end).sum()
    }

    /// What stands in a file where nothing was written.
    pub(crate) fn prefill(&self) -> u8 {
        if self.format == Format::Json { b'\n' } else { 0 }
    }

    pub(crate) fn sequence(&self, entry: usize) -> Sequence {
        self.entries[entry].sequence
    }
}

/// With the key of an encrypted sample.
pub(crate) fn open(disk: &SimulatedDisk, format: Format) -> (Log, Recovered) {
    let encryption = only_decrypt(&[1]);
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, encryption, ..options(format) };
    Log::open_on(Arc::new(disk.clone()), Path::new(QUEUE), options).unwrap()
}

/// Where the frames are, and which of them are entries.
fn frames(format: Format, bytes: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut frames = Vec::new();
    let mut start = HEADER_BYTES;
    while let Some((length, is_entry)) = frame(format, &bytes[start..]) {
        frames.push((start..start + length, is_entry));
        start += length;
    }
    frames
}

fn frame(format: Format, bytes: &[u8]) -> Option<(usize, bool)> {
    if format == Format::Json {
        let length = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        return (length > 1).then(|| (length, bytes.starts_with(br#"{"sequence":"#)));
    }
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().unwrap()) as usize;
    // The payload begins with the sequence, 0 for a mark.
    (length > 0).then(|| (12 + length, bytes[12] != 0))
}
