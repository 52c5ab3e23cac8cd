//! Opening over damaged and over arbitrary files.
//!
//! A directory opens or is refused with a reason. What is delivered was appended, in order; what was not touched is
//! delivered; what is missing is reported; and the log takes and keeps entries afterwards.

#![no_main]

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::disk::SimulatedDisk;
use outlast_fuzz::sample::{HEADER_BYTES, QUEUE, SEGMENTS, Sample, open};
use outlast_log::fuzzing::seal_line;
use outlast_log::{Disk, Entry, Format, Log, NewEntry, OpenError, ReadItem, Recovered};

/// Names of the files of an arbitrary directory.
const NAMES: [&str; 12] = [
    "epochs.jsonl",
    "segments/00000001.jsonl",
    "segments/00000001.index",
    "segments/00000002.jsonl",
    "segments/00000002.bin",
    "segments/00000002.index",
    "segments/00000003.bin",
    "segments/18446744073709551615.jsonl",
    "segments/spare.jsonl",
    "segments/recycled",
    "segments/prefilling",
    "segments/damaged",
];

fuzz_target!(|input: &[u8]| {
    static SAMPLES: OnceLock<[Sample; 2]> = OnceLock::new();
    let Some((&mode, rest)) = input.split_first() else { return };
    let samples = SAMPLES.get_or_init(|| [Format::Json, Format::Bincode].map(Sample::new));
    match mode & 3 {
        0 => damaged(&samples[0], rest),
        1 => damaged(&samples[1], rest),
        2 => arbitrary(Format::Json, rest),
        _ => arbitrary(Format::Bincode, rest),
    }
});

/// What was done to one file.
#[derive(Debug, Default)]
struct Touched {
    places: Vec<Range<usize>>,
    /// Frames may stand where they were not before, or nothing stands anywhere.
    moved: bool,
}

impl Touched {
    fn is_whole(&self, place: &Range<usize>) -> bool {
        !self.moved
            && !self.places.iter().any(|touched| touched.start < place.end && place.start < touched.end)
    }

    fn is_untouched(&self) -> bool {
        !self.moved && self.places.is_empty()
    }

    /// One of the two copies is whole.
    fn has_header(&self) -> bool {
        let half = HEADER_BYTES / 2;
        self.is_whole(&(0..half)) || self.is_whole(&(half..HEADER_BYTES))
    }

    fn is_cut(&self) -> bool {
        self.places.iter().any(|place| place.end == usize::MAX)
    }
}

fn damaged(sample: &Sample, input: &[u8]) {
    let disk = SimulatedDisk::holding(sample.medium.clone(), 1);
    let mut touched: Vec<Touched> = sample.files.iter().map(|_| Touched::default()).collect();
    for edit in input.chunks_exact(8) {
        touch(sample, &disk, &mut touched, edit.try_into().expect("eight bytes each"));
    }
    let Some((log, recovered)) = opened(&disk, sample.format) else { return };
    let found = read(&log);
    let mut known = sample.entries.iter();
    for entry in &found.entries {
        assert!(
            known.any(|other| other == entry),
            "{} was never there, or not behind the one before",
            entry.sequence
        );
    }
    for (index, frames) in sample.frames.iter().enumerate() {
        for (place, entry) in frames {
            if !found.entries.contains(entry) && !touched[index].moved {
                judge_missing(sample, index, place, entry, &touched, &recovered, &found);
            }
        }
    }
    goes_on(&disk, log, sample.format, &found);
}

fn touch(sample: &Sample, disk: &SimulatedDisk, touched: &mut [Touched], edit: [u8; 8]) {
    let [file, what, a, b, c, d, value, more] = edit;
    let file = usize::from(file) % sample.files.len();
    let (path, touched) = (&sample.files[file], &mut touched[file]);
    if !disk.exists(path) {
        return;
    }
    let size = disk.read(path).len();
    let at = usize::from(u16::from_le_bytes([a, b])).min(size);
    let count = usize::from(u16::from_le_bytes([c, d]));
    let end = (at + count).min(size);
    match what % 7 {
        0 if at < size => {
            disk.change(path, |bytes| bytes[at] ^= value.max(1));
            touched.places.push(at..at + 1);
        }
        1 => {
            let byte = [0, b'\n', value][usize::from(more % 3)];
            disk.change(path, |bytes| bytes[at..end].fill(byte));
            // What looks as if nothing had ever been written there is as good as cut off.
            let is_blank = matches!(byte, 0 | b'\n')
                && sample
                    .frames
                    .get(file)
                    .is_some_and(|frames| frames.iter().all(|(place, _)| place.end <= end));
            touched.places.push(at..if is_blank { usize::MAX } else { end });
        }
        2 => {
            disk.truncate(path, at);
            touched.places.push(at..usize::MAX);
        }
        3 => {
            disk.change(path, |bytes| {
                bytes.copy_within(at..end, usize::from(value) * 64 % (size - (end - at) + 1))
            });
            touched.moved = true;
        }
        4 => {
            disk.change(path, |bytes| bytes.extend(std::iter::repeat_n(value, count)));
            touched.places.push(size..usize::MAX);
        }
        5 => {
            let mut random = fastrand::Rng::with_seed(value.into());
            disk.change(path, |bytes| bytes[at..end].fill_with(|| random.u8(..)));
            touched.places.push(at..end);
        }
        6 => {
            disk.remove(path).expect("it is there");
            touched.moved = true;
        }
        _ => {}
    }
}

/// An entry is not delivered: it must have been touched, or stand where nothing can be told any more; and it must be
/// reported.
fn judge_missing(
    sample: &Sample,
    index: usize,
    place: &Range<usize>,
    entry: &Entry,
    touched: &[Touched],
    recovered: &Recovered,
    found: &Found,
) {
    let number = index as u64 + 1;
    let it = &touched[index];
    let has_header = |at: usize| {
        let has_sidecar = at == 0 && !touched[at].moved && touched[SEGMENTS].is_untouched();
        touched[at].has_header() || has_sidecar
    };
    let is_first = !(0..index).any(has_header);
    let is_last = !(index + 1..SEGMENTS).any(has_header);
    let has_header = has_header(index);
    let is_torn = is_last && recovered.torn.is_some_and(|torn| torn.offset <= place.start as u64);
    assert!(!it.is_whole(place) || !has_header || is_torn, "{} was not touched", entry.sequence);
    let is_said = found.lost.iter().any(|(first, last)| (*first..=*last).contains(&entry.sequence));
    let is_aside = recovered.damage.iter().any(|damage| (damage.segment, damage.offset) == (number, 0));
    // The end of a log that was killed: what was cut off, or a file that was never begun as far as can be seen. Of a
    // first file without a header nobody knows where it began.
    // Bytes that somebody has moved are no rot: then nothing false is delivered, but not every loss can be told.
    let is_moved = touched.iter().any(|other| other.moved);
    let is_unknown =
        is_moved || is_last && (is_torn || is_aside || !has_header || it.is_cut()) || is_first && is_aside;
    assert!(
        is_said || is_unknown,
        "nothing says that {} is lost, of {}",
        entry.sequence,
        sample.entries.len()
    );
}

/// Files of these names with pieces of the input.
fn arbitrary(format: Format, mut input: &[u8]) {
    let disk = SimulatedDisk::new(1);
    for directory in [QUEUE, "/queue/segments"] {
        disk.create_directory(Path::new(directory)).expect("a directory is made");
    }
    while let Some((&[name, how, low, high], rest)) = input.split_first_chunk::<4>() {
        let (content, rest) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
        let bytes = match how % 4 {
            0 => content.to_vec(),
            1 => [seal_line(content), vec![b'\n']].concat(),
            _ => {
                let mut header = seal_line(content);
                header.resize((HEADER_BYTES / 2 - 1).max(header.len()), b' ');
                header.push(b'\n');
                let mut bytes = [&header[..], &header[..]].concat();
                bytes.resize(4096, if how % 4 == 2 { b'\n' } else { 0 });
                bytes
            }
        };
        let path = Path::new(QUEUE).join(NAMES[usize::from(name) % NAMES.len()]);
        let file = if disk.exists(&path) { disk.open(&path) } else { disk.create(&path) };
        let file = file.expect("the disk does not fail");
        let end = file.size().expect("the disk does not fail");
        file.write_at(&bytes, end).expect("the disk does not fail");
        input = rest;
    }
    if let Some((log, _)) = opened(&disk, format) {
        let found = read(&log);
        goes_on(&disk, log, format, &found);
    }
}

/// The log, unless it is refused with a reason.
fn opened(disk: &SimulatedDisk, format: Format) -> Option<(Log, Recovered)> {
    match open(disk, format) {
        Ok(opened) => Some(opened),
        Err(OpenError::Foreign { .. } | OpenError::KeyMissing { .. } | OpenError::Exhausted) => None,
        Err(other) => panic!("the disk does not fail, but: {other}"),
    }
}

struct Found {
    entries: Vec<Entry>,
    lost: Vec<(outlast_log::Sequence, outlast_log::Sequence)>,
}

fn read(log: &Log) -> Found {
    let mut found = Found { entries: Vec::new(), lost: Vec::new() };
    let mut reader = log.reader(log.retained_after());
    while let Some(item) = reader.next().expect("the disk does not fail") {
        match item {
            ReadItem::Entry(entry) => found.entries.push(entry),
            ReadItem::Damaged(damage) => found.lost.extend(damage.lost),
        }
    }
    found
}

/// It takes an entry, and the next opening finds that behind everything that was found before.
fn goes_on(disk: &SimulatedDisk, log: Log, format: Format, found: &Found) {
    let new = NewEntry { body: "{}", time_ms: 1, origin: None };
    let sequence = log.append(new).expect("it takes entries").sequence;
    log.close().expect("the disk does not fail");
    let (log, _) = open(disk, format).expect("what was opened once opens again");
    let again = read(&log);
    let (last, before) = again.entries.split_last().expect("there is at least the new one");
    assert_eq!((last.sequence, before), (sequence, &found.entries[..]));
}
