//! Encrypted segments: what is put in stands nowhere in the files, comes back only as it was written and where it was
//! written, no key stream is ever used twice, and keys can be changed without losing anything.
//!
//! Attacks are made by somebody who knows the format and mends every checksum; frames are found and changed here by
//! `docs/format.md` alone. That rot costs one frame is shown in `corruption/`, power loss in `histories.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{
    FORMATS, append, bodies, copy, encrypted, entry, key, mark, only_decrypt, read, read_all, segment_files,
    wait_until,
};
use fastrand::Rng;
use outlast_log::inspect::{Finding, Inspection, Seen};
use outlast_log::{
    Compression, Encryption, Entry, Format, Key, Log, LogOptions, Mark, MarkKind, NewEntry, OpenError,
    Recovered, Retention, Sequence,
};
use outlast_testkit::disk::SimulatedDisk;
use outlast_testkit::files;
use serde_json::Value;
use tempfile::TempDir;

const HEADER_BYTES: usize = 2048;
/// What every entry says where key streams are compared.
const SAME: &str = r#"{"always":"the same"}"#;
const NO_RETENTION: Retention = Retention { time: Duration::ZERO, bytes: 0 };

fn options(format: Format, encryption: Encryption) -> LogOptions {
    LogOptions { segment_bytes: 16 * 1024, encryption, ..common::options(format) }
}

fn open(directory: &Path, format: Format, encryption: Encryption) -> (Log, Recovered) {
    Log::open(directory, options(format, encryption)).unwrap()
}

/// A copy from a moment in which no file was put in the place of another.
fn still(directory: &Path) -> TempDir {
    loop {
        let before: Vec<PathBuf> = files(directory).into_keys().collect();
        let there = tempfile::tempdir().unwrap();
        copy(directory, there.path());
        if files(directory).into_keys().eq(before) {
            return there;
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Entries (some with an origin) and marks of every kind, over several segments.
fn fill(log: &Log, secret: &str) -> (Vec<Entry>, Vec<Mark>) {
    let (mut entries, mut marks): (Vec<Entry>, Vec<Mark>) = (Vec::new(), Vec::new());
    for number in 0..90_u64 {
        let text =
            format!(r#"{{"n":{number},"secret":"{secret}","fill":"{}"}}"#, "y".repeat(number as usize * 7));
        let origin = entries.last().map(|entry| entry.sequence).filter(|_| number % 7 == 3);
        let sequence = log.append(NewEntry { body: &text, time_ms: number, origin }).unwrap().sequence;
        entries.push(Entry { sequence, time_ms: number, origin, body: text.into() });
        let kind = MarkKind::ALL[number as usize % 6];
        let body = format!(r#"{{"reason":"{secret}","n":{number}}}"#).into();
        marks.push(Mark { kind, target: sequence, time_ms: number, body });
        log.mark(&marks[number as usize]).unwrap();
    }
    log.sync().wait().unwrap();
    (entries, marks)
}

fn without_cursors(marks: &[Mark]) -> Vec<Mark> {
    marks.iter().filter(|mark| mark.kind != MarkKind::Cursor).cloned().collect()
}

#[test]
fn what_is_encrypted_reads_back_and_stands_in_no_file() {
    const SECRET: &str = "correct-horse-battery";
    for (format, compression) in
        FORMATS.into_iter().flat_map(|f| [(f, Compression::None), (f, Compression::Zstd)])
    {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions { compression, ..options(format, encrypted(&[1])) };
        let (log, _) = Log::open(directory.path(), options.clone()).unwrap();
        let (entries, marks) = fill(&log, SECRET);
        assert_eq!(read_all(&log), entries);
        assert_eq!(log.get(entries[40].sequence).unwrap().as_ref(), Some(&entries[40]));
        if compression == Compression::Zstd {
            let compressed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "zst");
            wait_until("something is compressed", || files(directory.path()).keys().any(compressed));
        }
        // As a killed process leaves it, and as a closed one does; with sidecars and without.
        let killed = still(directory.path());
        log.close().unwrap();
        let scanned = tempfile::tempdir().unwrap();
        copy(directory.path(), scanned.path());
        for path in
            files(scanned.path()).keys().filter(|path| path.extension().is_some_and(|name| name == "index"))
        {
            fs::remove_file(path).unwrap();
        }
        for directory in [&directory, &killed, &scanned] {
            for (path, bytes) in files(directory.path()) {
                assert!(!holds(&bytes, SECRET) && !holds(&bytes, "yyyy"), "{}", path.display());
            }
            let (log, recovered) = Log::open(directory.path(), options.clone()).unwrap();
            assert_eq!((&recovered.damage, recovered.torn), (&vec![], None));
            assert_eq!(read_all(&log), entries);
            assert_eq!(recovered.marks, without_cursors(&marks));
            assert_eq!(recovered.cursor.as_ref(), marks.iter().rfind(|mark| mark.kind == MarkKind::Cursor));
            let origins = entries.iter().filter_map(|entry| Some((entry.sequence, entry.origin?)));
            assert_eq!(recovered.origins, origins.collect::<Vec<_>>());
            assert_eq!(log.keys().into_keys().collect::<Vec<_>>(), [Some(key(1).id())]);
        }
    }
}

#[test]
fn a_key_is_changed_by_putting_a_new_one_in_front() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        // In clear, with one key, with another, in clear again.
        let ways = [Encryption::default(), encrypted(&[1]), encrypted(&[2, 1]), only_decrypt(&[2, 1])];
        for (index, way) in ways.into_iter().enumerate() {
            let (log, _) = open(directory.path(), format, way);
            for number in 0..3 {
                let body = format!(r#"{{"way":{index},"number":{number}}}"#);
                append(&log, &body);
                expected.push(body);
            }
            log.close().unwrap();
        }
        let (log, _) = open(directory.path(), format, only_decrypt(&[1, 2]));
        assert_eq!(bodies(&read_all(&log)), expected);
        let keys = log.keys();
        assert_eq!((keys[&Some(key(1).id())], keys[&Some(key(2).id())]), (1, 1));
        assert!(keys[&None] >= 3);
        log.close().unwrap();
        for keys in [&[1][..], &[2], &[3], &[]] {
            let error = Log::open(directory.path(), options(format, encrypted(keys))).unwrap_err();
            assert!(matches!(error, OpenError::KeyMissing { .. }), "{error}");
        }
        // When the segments with the old key are reclaimed it is not needed any more.
        let (log, recovered) = open(directory.path(), format, encrypted(&[2, 1]));
        log.settle(recovered.last);
        log.reclaim(NO_RETENTION).unwrap();
        assert_eq!(log.keys().into_keys().collect::<Vec<_>>(), [Some(key(2).id())]);
        log.close().unwrap();
        drop(open(directory.path(), format, encrypted(&[2])));
    }
}

#[test]
fn without_the_key_nothing_is_touched_and_the_message_says_which_one_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json, encrypted(&[1]));
    fill(&log, "secret");
    let killed = tempfile::tempdir().unwrap();
    copy(directory.path(), killed.path());
    log.close().unwrap();
    // Leftovers that an opening would remove, damage that it would copy, an end that it would cut.
    let segments = killed.path().join("segments");
    fs::write(segments.join("prefilling"), "half").unwrap();
    fs::write(segments.join("00000099.index"), "alone").unwrap();
    let last = segment_files(killed.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != b'\n').unwrap();
    bytes.truncate(end - 20);
    fs::write(&last, bytes).unwrap();
    fs::write(killed.path().join("epochs.jsonl"), "{\"torn").unwrap();
    let before = files(killed.path());
    for keys in [&[][..], &[2], &[2, 3]] {
        let error = Log::open(killed.path(), options(Format::Json, encrypted(keys))).unwrap_err().to_string();
        assert!(error.contains(&key(1).id().to_string()), "{error}");
        for given in keys {
            assert!(error.contains(&key(*given).id().to_string()), "{error}");
        }
        assert!(!error.contains(&key(1).to_text()));
        assert_eq!(files(killed.path()), before);
    }
    let (_, recovered) = open(killed.path(), Format::Json, encrypted(&[1]));
    assert!(recovered.torn.is_some());
}

/// A file of the json format, taken apart.
struct Forger {
    directory: TempDir,
    path: PathBuf,
    header: String,
    /// Lines without their newline.
    lines: Vec<String>,
}

impl Forger {
    /// The segment with this index of a closed log, without its sidecar: so all of it is read.
    fn new(original: &Path, index: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy(original, directory.path());
        for path in segment_files(directory.path()) {
            fs::remove_file(path.with_extension("index")).unwrap();
        }
        let path = segment_files(directory.path()).swap_remove(index);
        let text = fs::read_to_string(&path).unwrap();
        let (header, frames) = text.split_at(HEADER_BYTES);
        let lines = frames.lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect();
        Self { header: header.to_owned(), lines, directory, path }
    }

    fn salt(&self) -> u64 {
        let header: Value = serde_json::from_str(self.header[..HEADER_BYTES / 2].trim_end()).unwrap();
        u64::from_str_radix(header["salt"].as_str().unwrap(), 16).unwrap()
    }

    /// The line with this change and a checksum that is right.
    fn forge(&self, line: &str, from: &str, to: &str) -> String {
        assert!(line.contains(from), "{line}");
        Self::checksum(&line.replacen(from, to, 1), self.salt())
    }

    fn checksum(line: &str, salt: u64) -> String {
        let covered = &line[..line.rfind("\"crc32c\"").unwrap()];
        let seed = crc32c::crc32c(&salt.to_le_bytes());
        format!("{covered}\"crc32c\":\"{:08x}\"}}", crc32c::crc32c_append(seed, covered.as_bytes()))
    }

    /// Puts it back and reads the log.
    fn read(self) -> (Vec<Entry>, Recovered, usize) {
        fs::write(&self.path, format!("{}{}\n", self.header, self.lines.join("\n"))).unwrap();
        let (log, recovered) = open(self.directory.path(), Format::Json, encrypted(&[1]));
        let (entries, damage) = read(&log, log.retained_after());
        (entries, recovered, damage.len())
    }
}

/// What is done, and how.
type Attack = (&'static str, fn(&mut Forger, &Path));

fn is_entry(line: &str) -> bool {
    line.starts_with("{\"sequence\"")
}

#[test]
fn a_frame_is_good_only_where_it_was_written_and_with_what_stands_beside_it() {
    let original = tempfile::tempdir().unwrap();
    let (log, _) = open(original.path(), Format::Json, encrypted(&[1]));
    let mut entries = Vec::new();
    // All frames have one length, so that each could stand in the place of each.
    for number in 0..220 {
        let body = format!(r#"{{"number":{number:03}}}"#);
        let new = NewEntry { body: &body, time_ms: 1000, origin: None };
        let sequence = log.append(new).unwrap().sequence;
        entries.push(Entry { sequence, time_ms: 1000, origin: None, body: body.into() });
        log.mark(&mark(if number % 2 == 0 { MarkKind::Parked } else { MarkKind::Cursor }, sequence)).unwrap();
    }
    log.close().unwrap();
    assert!(segment_files(original.path()).len() > 2);
    let forger = || Forger::new(original.path(), 1);
    let untouched = forger().read();
    assert_eq!((untouched.0, untouched.2), (entries.clone(), 0));
    let marks = untouched.1.marks;

    let attacks: [Attack; 9] = [
        ("two frames change places", |it, _| {
            let at: Vec<usize> = (0..it.lines.len()).filter(|at| is_entry(&it.lines[*at])).collect();
            assert_eq!(it.lines[at[3]].len(), it.lines[at[4]].len());
            it.lines.swap(at[3], at[4]);
        }),
        ("a frame under the name of the next one", |it, _| {
            let at: Vec<usize> = (0..it.lines.len()).filter(|at| is_entry(&it.lines[*at])).collect();
            let name = |line: &str| line[..line.find(",\"time\"").unwrap()].to_owned();
            let (from, to) = (name(&it.lines[at[3]]), name(&it.lines[at[4]]));
            it.lines[at[4]] = it.forge(&it.lines[at[3]], &from, &to);
        }),
        ("a frame of another segment", |it, original| {
            let other = Forger::new(original, 0);
            let at = it.lines.iter().position(|line| is_entry(line)).unwrap();
            let theirs = other.lines.iter().rfind(|line| is_entry(line)).unwrap();
            let name = |line: &str| line[..line.find(",\"time\"").unwrap()].to_owned();
            let renamed = theirs.replacen(&name(theirs), &name(&it.lines[at]), 1);
            it.lines[at] = Forger::checksum(&renamed, it.salt());
        }),
        ("another time", |it, _| {
            let at = it.lines.iter().position(|line| is_entry(line)).unwrap();
            it.lines[at] = it.forge(&it.lines[at], "\"time\":1000", "\"time\":2000");
        }),
        ("another body with the same rest", |it, _| {
            let at: Vec<usize> = (0..it.lines.len()).filter(|at| is_entry(&it.lines[*at])).collect();
            let body = |line: &str| {
                line[line.find("\"body\"").unwrap()..line.find("\"crc32c\"").unwrap()].to_owned()
            };
            let (from, to) = (body(&it.lines[at[3]]), body(&it.lines[at[4]]));
            it.lines[at[3]] = it.forge(&it.lines[at[3]], &from, &to);
        }),
        ("another kind of mark", |it, _| {
            let at = it.lines.iter().position(|line| line.contains("\"parked\"")).unwrap();
            it.lines[at] = it.forge(&it.lines[at], "\"parked\"", "\"cursor\"");
        }),
        ("another target", |it, _| {
            let at = it.lines.iter().rposition(|line| line.contains("\"parked\"")).unwrap();
            let target = |line: &str| {
                line[line.find("\"target\"").unwrap()..line.find("\"body\"").unwrap()].to_owned()
            };
            let from = target(&it.lines[at]);
            let to = from.replacen("1-", "2-", 1);
            it.lines[at] = it.forge(&it.lines[at], &from, &to);
        }),
        ("a body in clear", |it, _| {
            let at = it.lines.iter().position(|line| is_entry(line)).unwrap();
            let line = &it.lines[at];
            let body = line[line.find("\"body\"").unwrap()..line.find("\"crc32c\"").unwrap()].to_owned();
            let fill = "x".repeat(body.len() - "\"body\":{\"number\":\"\"},".len());
            it.lines[at] = it.forge(line, &body, &format!("\"body\":{{\"number\":\"{fill}\"}},"));
        }),
        ("a bit of the authentication", |it, _| {
            let at = it.lines.iter().position(|line| is_entry(line)).unwrap();
            let line = &it.lines[at];
            let last = line.find("\",\"crc32c\"").unwrap();
            let other = if &line[last - 8..last - 7] == "A" { "B" } else { "A" };
            let changed = format!("{}{other}{}", &line[..last - 8], &line[last - 7..]);
            it.lines[at] = Forger::checksum(&changed, it.salt());
        }),
    ];
    for (what, attack) in attacks {
        let mut it = forger();
        let before = it.lines.clone();
        attack(&mut it, original.path());
        assert!(
            before.iter().map(String::len).eq(it.lines.iter().map(String::len)),
            "{what}: the same places"
        );
        assert_ne!(before, it.lines);
        let (found, recovered, stretches) = it.read();
        assert!(!recovered.damage.is_empty(), "{what}: is not noticed");
        let lost: BTreeSet<Sequence> = entries.iter().map(|entry| entry.sequence).collect();
        let lost = lost.len() - found.len();
        assert!(lost <= 2 && stretches <= 2, "{what}: costs no more than it changed");
        assert!(found.iter().all(|entry| entries.contains(entry)), "{what}: something wrong was delivered");
        assert!(recovered.marks.iter().all(|mark| marks.contains(mark)), "{what}");
        assert!(marks.len() - recovered.marks.len() <= 1, "{what}");
    }
}

#[test]
fn a_header_that_was_changed_is_not_taken_for_damage() {
    let original = tempfile::tempdir().unwrap();
    let (log, _) = open(original.path(), Format::Json, encrypted(&[1]));
    fill(&log, "secret");
    log.close().unwrap();
    let changes = [
        ("\"created_at_ms\":1", "\"created_at_ms\":2"),
        ("\"carries_cursor\":true", "\"carries_cursor\":false"),
        ("\"previous\":\"1-", "\"previous\":\"1-1"),
        ("\"salt\":\"", "\"salt\":\"0000000000000000\",\"x\":\""),
    ];
    for (from, to) in changes {
        let mut it = Forger::new(original.path(), 1);
        let line = it.header[..HEADER_BYTES / 2].trim_end().to_owned();
        assert!(line.contains(from), "{line}");
        let forged = line.replacen(from, to, 1);
        let covered = &forged[..forged.rfind("\"crc32c\"").unwrap()];
        let line = format!("{covered}\"crc32c\":\"{:08x}\"}}", crc32c::crc32c(covered.as_bytes()));
        it.header = format!("{line:<1023}\n").repeat(2);
        fs::write(&it.path, format!("{}{}\n", it.header, it.lines.join("\n"))).unwrap();
        let before = files(it.directory.path());
        let error = Log::open(it.directory.path(), options(Format::Json, encrypted(&[1]))).unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{to}: {error}");
        assert_eq!(files(it.directory.path()), before);
    }
}

/// The salt of a segment's keys, and a place in it.
type Place = (String, usize);

/// What was ever seen in any file.
#[derive(Default)]
struct Streams {
    texts: BTreeMap<Place, String>,
    places: BTreeMap<String, Place>,
}

/// Of each encrypted entry in this file: the salt of its segment's keys, its place there, and what stands for its body.
fn frames(bytes: &[u8]) -> Vec<(Place, String)> {
    let Ok(header) = serde_json::from_slice::<Value>(bytes[..HEADER_BYTES / 2].trim_ascii_end()) else {
        return Vec::new();
    };
    let Some(salt) = header["encryption"]["salt"].as_str() else { return Vec::new() };
    let (mut found, mut place) = (Vec::new(), HEADER_BYTES);
    for line in bytes[HEADER_BYTES..].split(|byte| *byte == b'\n') {
        let frame = serde_json::from_slice::<Value>(line).ok().filter(|frame| frame["sequence"].is_string());
        if let Some(body) = frame.as_ref().and_then(|frame| frame["body"].as_str()) {
            found.push(((salt.to_owned(), place), body.to_owned()));
        }
        place += line.len() + 1;
    }
    found
}

/// Every entry says the same. If keys and nonce of two frames were ever the same, so would be what stands for their bodies;
/// and nothing may ever be encrypted for a place in which something else stood under the same keys, also when a power cut
/// took that away again.
#[test]
fn no_key_stream_is_ever_used_twice() {
    let queue = Path::new("/queue");
    let seed = common::seed();
    for round in 0..40_u64 {
        let mut random = Rng::with_seed(seed ^ round);
        let mut disk = SimulatedDisk::new(seed ^ round);
        let mut known = Streams::default();
        for _ in 0..8 {
            let way = options(Format::Json, encrypted(&[1]));
            let (log, _) = Log::open_on(Arc::new(disk.clone()), queue, way).unwrap();
            for _ in 0..random.usize(1..90) {
                append(&log, SAME);
                match random.u8(..12) {
                    0 => log.sync().wait().unwrap(),
                    1 => drop(log.mark(&mark(MarkKind::Cursor, log.watermarks().last)).unwrap()),
                    2 => {
                        log.settle(log.watermarks().last);
                        log.reclaim(NO_RETENTION).unwrap();
                    }
                    _ => {}
                }
                if random.u8(..16) == 0 {
                    look(&disk, queue, &mut known);
                }
            }
            wait_until("everything is written", || log.watermarks().appended == log.watermarks().issued);
            look(&disk, queue, &mut known);
            disk = match random.u8(..3) {
                0 => {
                    log.close().unwrap();
                    disk
                }
                1 => {
                    let killed = disk.after_kill();
                    drop(log);
                    killed
                }
                _ => {
                    let left = disk.after_power_cut(random.u64(..));
                    drop(log);
                    left
                }
            };
        }
        assert!(known.texts.len() > 100);
    }
}

fn look(disk: &SimulatedDisk, queue: &Path, known: &mut Streams) {
    for path in disk.names(&queue.join("segments")) {
        // A spare may get another name at any time.
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.parse::<u64>().is_err() || path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let bytes = disk.read(&path);
        for (place, text) in if bytes.len() > HEADER_BYTES { frames(&bytes) } else { Vec::new() } {
            // Without what authenticates it, which depends on what stands beside it.
            let stream = text[..SAME.len() / 3 * 4].to_owned();
            let former = known.texts.insert(place.clone(), text.clone());
            assert!(former.is_none_or(|former| former == text), "two texts for {place:?}");
            let former = known.places.insert(stream, place.clone());
            assert!(former.is_none_or(|former| former == place), "one text in two places: {place:?}");
        }
    }
}

fn findings(directory: &Path, keys: &[Key]) -> (u64, u64, Vec<Finding>) {
    let inspection = Inspection::open(directory, keys).unwrap();
    let mut entries = 0;
    let contents = inspection
        .verify(&mut |seen| {
            if let Seen::Entry { body, .. } = seen {
                assert_eq!(body.is_empty(), keys.is_empty());
                entries += 1;
            }
        })
        .unwrap();
    assert_eq!(contents.segments.iter().all(|segment| segment.is_readable), !keys.is_empty());
    (entries, contents.counts.marks.iter().sum(), contents.findings)
}

#[test]
fn without_the_key_tools_prove_everything_but_what_is_said() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format, encrypted(&[1]));
        let (entries, marks) = fill(&log, "secret");
        log.close().unwrap();
        let (seen, counted, found) = findings(directory.path(), &[key(1)]);
        assert_eq!((seen, counted, found), (entries.len() as u64, marks.len() as u64, vec![]));
        let (seen, counted, found) = findings(directory.path(), &[]);
        assert_eq!((seen, counted), (entries.len() as u64, marks.len() as u64));
        let segments = segment_files(directory.path()).len() as u64;
        assert_eq!(found, [Finding::KeyMissing { key: key(1).id(), segments }]);
        // Rot shows also without the key; but nothing is repaired by halves.
        let path = segment_files(directory.path()).swap_remove(0);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let damaged =
            |found: &[Finding]| found.iter().any(|finding| matches!(finding, Finding::Damage { .. }));
        assert!(
            damaged(&findings(directory.path(), &[]).2) && damaged(&findings(directory.path(), &[key(1)]).2)
        );
        let before = files(directory.path());
        let inspection =
            Inspection::open_on(Arc::new(outlast_log::RealDisk), directory.path(), &[key(2)]).unwrap();
        let contents = inspection.verify(&mut |_| {}).unwrap();
        let error = inspection.repair(&contents).unwrap_err().to_string();
        assert!(error.contains(&key(1).id().to_string()), "{error}");
        drop(inspection);
        assert_eq!(files(directory.path()), before);
        let inspection =
            Inspection::open_on(Arc::new(outlast_log::RealDisk), directory.path(), &[key(1)]).unwrap();
        let contents = inspection.verify(&mut |_| {}).unwrap();
        assert!(!inspection.repair(&contents).unwrap().is_empty());
    }
}

#[test]
fn what_is_in_clear_and_what_is_encrypted_stand_side_by_side_when_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for way in [Encryption::default(), encrypted(&[1]), only_decrypt(&[1])] {
        for compression in [Compression::None, Compression::Zstd] {
            let options = LogOptions { compression, ..options(Format::Bincode, way.clone()) };
            let (log, recovered) = Log::open(directory.path(), options).unwrap();
            assert_eq!(recovered.damage, []);
            expected.extend(fill(&log, "secret").0);
            log.close().unwrap();
        }
    }
    let (log, _) = open(directory.path(), Format::Json, encrypted(&[1]));
    assert_eq!(read_all(&log), expected);
}

#[test]
fn the_longest_body_is_known_beforehand() {
    for (format, encryption) in
        FORMATS.into_iter().flat_map(|f| [(f, Encryption::default()), (f, encrypted(&[1]))])
    {
        let directory = tempfile::tempdir().unwrap();
        let options = options(format, encryption);
        let max = usize::try_from(options.body_bytes_max()).unwrap();
        let (log, _) = Log::open(directory.path(), options).unwrap();
        let text = |bytes: usize| format!("\"{}\"", "z".repeat(bytes - 2));
        let appended = log.append(entry(&text(max))).unwrap();
        log.durable(appended.ticket).wait().unwrap();
        assert_eq!(log.get(appended.sequence).unwrap().unwrap().body.len(), max);
        assert!(log.append(entry(&text(max + 4))).is_err());
    }
}

#[test]
fn a_key_is_64_hexadecimal_digits_and_is_not_shown() {
    let made = Key::generate().unwrap();
    assert_ne!(made, Key::generate().unwrap());
    let text = made.to_text();
    assert_eq!((text.len(), text.parse::<Key>().unwrap()), (64, made.clone()));
    assert_eq!(text.to_uppercase().parse::<Key>().unwrap().id(), made.id());
    for wrong in ["", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &"ä".repeat(32)] {
        assert!(wrong.parse::<Key>().is_err(), "{wrong}");
    }
    let shown = format!(
        "{made:?} {:?}",
        options(Format::Json, Encryption { keys: vec![made.clone()], only_decrypt: false })
    );
    assert!(!shown.contains(&text[..8]), "{shown}");
}
