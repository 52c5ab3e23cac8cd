//! A crash costs nothing that was acknowledged, and damage is contained and named exactly.
//!
//! The files of a log are taken as a killed process leaves them, changed, and opened again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    FORMATS, append, bodies, body, copy, entry, extension, mark, open, options, read, read_all,
    segment_files, sequence, wait_until,
};
use outlast_log::{Disk, Format, Log, MarkKind, NewEntry, ReadError, Recovered, Sequence};
use outlast_testkit::disk::{PowerLoss, SimulatedDisk};

const QUEUE: &str = "/queue";
const HEADER_BYTES: usize = 2048;

/// The files of a log with these bodies in its only segment, as a killed process leaves them.
fn killed(format: Format, bodies: &[String]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    let (log, _) = open_memory(&disk, format);
    for body in bodies {
        append(&log, body);
    }
    log.sync().wait().unwrap();
    disk.after_kill()
}

fn open_memory(disk: &SimulatedDisk, format: Format) -> (Log, Recovered) {
    Log::open_on(Arc::new(disk.clone()), Path::new(QUEUE), options(format)).unwrap()
}

/// Where the frames are in the only segment.
fn frames(format: Format, bodies: &[String]) -> Vec<std::ops::Range<usize>> {
    let (log, _) = open_memory(&SimulatedDisk::new(0), format);
    let mut ends = vec![HEADER_BYTES];
    for body in bodies {
        append(&log, body);
        log.sync().wait().unwrap();
        ends.push(log.usage().log_bytes as usize);
    }
    ends.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

fn some_bodies(count: u64) -> Vec<String> {
    (1..=count).map(|number| body(number, 40 + number as usize * 7)).collect()
}

fn only_segment(directory: &Path) -> PathBuf {
    let files = segment_files(directory);
    assert_eq!(files.len(), 1);
    files[0].clone()
}

/// Opens a copy in which one segment was changed.
fn open_changed(
    original: &Path,
    format: Format,
    segment: usize,
    change: impl FnOnce(&mut Vec<u8>),
) -> (tempfile::TempDir, Log, Recovered) {
    let directory = tempfile::tempdir().unwrap();
    copy(original, directory.path());
    let path = segment_files(directory.path())[segment].clone();
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let (log, recovered) = open(directory.path(), format);
    (directory, log, recovered)
}

/// Opens a copy in which the only segment was changed.
fn open_memory_changed(
    original: &SimulatedDisk,
    format: Format,
    change: impl FnOnce(&mut Vec<u8>),
) -> (SimulatedDisk, Log, Recovered) {
    let disk = original.after_kill();
    disk.change(&Path::new(QUEUE).join(format!("segments/00000001.{}", extension(format))), change);
    let (log, recovered) = open_memory(&disk, format);
    (disk, log, recovered)
}

#[test]
fn a_tail_torn_anywhere_in_the_last_entry_is_cut_and_nothing_else() {
    for format in FORMATS {
        let expected = some_bodies(4);
        let killed = killed(format, &expected);
        let last = frames(format, &expected).pop().unwrap();
        let prefill = if format == Format::Json { b'\n' } else { 0 };
        for cut in last.clone() {
            for truncated in [false, true] {
                let (_disk, log, recovered) = open_memory_changed(&killed, format, |bytes| {
                    if truncated { bytes.truncate(cut) } else { bytes[cut..].fill(prefill) }
                });
                let entries = read_all(&log);
                if !truncated && cut == last.end - 1 && format == Format::Json {
                    // What is missing is the newline, and the prefill has one.
                    assert_eq!(bodies(&entries), expected);
                    continue;
                }
                assert_eq!(bodies(&entries), expected[..3], "{format:?} {cut} {truncated}");
                assert_eq!(recovered.damage, []);
                assert_eq!(recovered.torn.is_some(), cut > last.start, "{format:?} {cut} {truncated}");
                assert_eq!(recovered.last, sequence("1-3"));
                // The lost sequence is never given again.
                assert_eq!(append(&log, "{}"), sequence("2-1"));
                assert_eq!(log.count(Sequence::START, sequence("2-1")), 4);
            }
        }
    }
}

#[test]
fn a_hole_that_the_power_cut_left_ends_the_log_there() {
    // Pages of an unsynced tail may reach the disk in any order. What stands behind such a hole was never
    // acknowledged, and what was appended in order must survive as a prefix.
    for format in FORMATS {
        let expected: Vec<String> = (1..=60).map(|number| body(number, 100)).collect();
        let killed = killed(format, &expected);
        let frames = frames(format, &expected);
        let prefill = if format == Format::Json { b'\n' } else { 0 };
        for sector in (HEADER_BYTES + 512..frames[59].end - 1024).step_by(512) {
            let (_disk, log, recovered) =
                open_memory_changed(&killed, format, |bytes| bytes[sector..sector + 512].fill(prefill));
            let whole = frames.iter().take_while(|frame| frame.end <= sector).count();
            let entries = read_all(&log);
            assert_eq!(bodies(&entries), expected[..whole]);
            assert_eq!(recovered.damage, []);
            assert_eq!(recovered.torn.map(|torn| torn.offset), Some(frames[whole].start as u64));
        }
    }
}

#[test]
fn a_flipped_byte_costs_one_entry_and_is_reported_exactly() {
    for format in FORMATS {
        let expected = some_bodies(5);
        let killed = killed(format, &expected);
        let frames = frames(format, &expected);
        for at in frames[2].clone() {
            let (disk, log, recovered) =
                open_memory_changed(&killed, format, |bytes| bytes[at] = bytes[at].wrapping_add(1));
            let (entries, damage) = read(&log, Sequence::START);
            let kept = [&expected[..2], &expected[3..]].concat();
            assert_eq!(bodies(&entries), kept, "{format:?} {at}");
            assert_eq!(damage.len(), 1);
            assert_eq!(recovered.damage, damage, "what opening and reading say is the same");
            assert_eq!(recovered.torn, None);
            let damage = &damage[0];
            assert_eq!(damage.lost, Some((sequence("1-3"), sequence("1-3"))));
            assert_eq!((damage.after, damage.before), (sequence("1-2"), Some(sequence("1-4"))));
            assert_eq!((damage.segment, damage.offset), (1, frames[2].start as u64));
            assert_eq!(damage.bytes as usize, frames[2].len());
            let name = format!("damaged/00000001-{}.bin", frames[2].start);
            assert_eq!(disk.read(&Path::new(QUEUE).join(name)).len(), frames[2].len());
            assert!(matches!(log.get(sequence("1-3")), Err(ReadError::Damaged(found)) if found == *damage));
            assert_eq!(&*log.get(sequence("1-4")).unwrap().unwrap().body, expected[3]);
            assert_eq!(log.count(Sequence::START, sequence("1-5")), 5);
            drop(log);
            // It stays known, though the segment is not read again.
            let (_, recovered) = open_memory(&disk, format);
            assert_eq!(recovered.damage, std::slice::from_ref(damage));
        }
    }
}

#[test]
fn a_flipped_byte_in_a_log_that_was_closed_is_damage_also_at_its_end() {
    for format in FORMATS {
        let expected = some_bodies(3);
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        for body in &expected {
            append(&log, body);
        }
        log.close().unwrap();
        let path = only_segment(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 5] ^= 4;
        fs::write(&path, bytes).unwrap();
        let (log, _) = open(directory.path(), format);
        let (entries, damage) = read(&log, Sequence::START);
        assert_eq!(bodies(&entries), expected[..2]);
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].lost, Some((sequence("1-3"), sequence("1-3"))));
        // Reported once, then the reader goes on.
        append(&log, "{}");
        log.sync().wait().unwrap();
        let (entries, damage) = read(&log, Sequence::START);
        assert_eq!((entries.len(), damage.len()), (3, 1));
    }
}

#[test]
fn one_copy_of_the_header_is_enough() {
    for format in FORMATS {
        let expected = some_bodies(3);
        let killed = killed(format, &expected);
        for copy in [0..1024, 1024..2048] {
            let (_disk, log, recovered) =
                open_memory_changed(&killed, format, |bytes| bytes[copy].fill(b'?'));
            assert_eq!(bodies(&read_all(&log)), expected);
            assert_eq!((recovered.torn, recovered.damage), (None, vec![]));
        }
    }
}

#[test]
fn a_segment_without_any_header_is_set_aside_and_its_loss_is_reported() {
    for format in FORMATS {
        let directory = many_segments(format);
        let (log, _) = open(directory.path(), format);
        let entries = read_all(&log);
        drop(log);
        let lost_segment = 1;
        fs::remove_file(directory.path().join("segments/00000002.index")).unwrap();
        let (changed, log, recovered) =
            open_changed(directory.path(), format, lost_segment, |bytes| bytes[..HEADER_BYTES].fill(b'?'));
        let (kept, damage) = read(&log, Sequence::START);
        assert_eq!(recovered.damage.len(), 1);
        let (first, last) = recovered.damage[0].lost.unwrap();
        let is_lost = |sequence: Sequence| first <= sequence && sequence <= last;
        let expected: Vec<_> = entries.iter().filter(|entry| !is_lost(entry.sequence)).cloned().collect();
        assert!(expected.len() < entries.len());
        assert_eq!(kept, expected);
        assert_eq!(damage.iter().map(|damage| damage.lost).collect::<Vec<_>>(), [Some((first, last))]);
        assert!(changed.path().join("damaged/00000002-0.bin").exists());
    }
}

#[test]
fn a_segment_that_is_gone_is_reported() {
    for format in FORMATS {
        let directory = many_segments(format);
        fs::remove_file(&segment_files(directory.path())[1]).unwrap();
        let (log, recovered) = open(directory.path(), format);
        assert_eq!(recovered.damage.len(), 1);
        let (first, last) = recovered.damage[0].lost.unwrap();
        let (entries, damage) = read(&log, Sequence::START);
        assert_eq!(damage.len(), 1);
        assert!(entries.iter().all(|entry| entry.sequence < first || entry.sequence > last));
        assert_eq!(entries.len() as u64, 300 - (last.counter() - first.counter() + 1));
    }
}

/// A closed log with 300 entries, some requeued, and marks, in several segments.
fn many_segments(format: Format) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), format);
    for number in 1..=300 {
        let origin = (number % 50 == 0).then(|| Sequence::new(1, number - 10).unwrap());
        let appended = log.append(NewEntry { origin, ..entry(&body(number, 1000)) }).unwrap();
        if number % 40 == 0 {
            log.mark(&mark(MarkKind::Parked, appended.sequence)).unwrap();
            log.mark(&mark(MarkKind::Cursor, appended.sequence)).unwrap();
        }
    }
    log.close().unwrap();
    assert!(segment_files(directory.path()).len() > 3);
    directory
}

fn expected_statements() -> (Vec<Sequence>, Vec<(Sequence, Sequence)>) {
    let at = |number| Sequence::new(1, number).unwrap();
    let marks = (1..=300).filter(|number| number % 40 == 0).map(at).collect();
    let origins = (1..=300).filter(|number| number % 50 == 0).map(|number| (at(number), at(number - 10)));
    (marks, origins.collect())
}

#[test]
fn marks_and_origins_come_from_the_sidecars_or_from_the_segments() {
    for format in FORMATS {
        let directory = many_segments(format);
        let sidecars = |path: &Path| -> Vec<PathBuf> {
            let names = fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|path| path.extension().is_some_and(|extension| extension == "index")).collect()
        };
        for what in ["kept", "removed", "damaged", "emptied", "exchanged"] {
            let copied = tempfile::tempdir().unwrap();
            copy(directory.path(), copied.path());
            assert!(sidecars(copied.path()).len() > 3);
            let first = fs::read(&sidecars(copied.path())[0]).unwrap();
            for path in sidecars(copied.path()) {
                match what {
                    "removed" => fs::remove_file(path).unwrap(),
                    "emptied" => fs::write(path, "").unwrap(),
                    // Whole, but of another segment.
                    "exchanged" => fs::write(path, &first).unwrap(),
                    "damaged" => {
                        let mut bytes = fs::read(&path).unwrap();
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 1;
                        fs::write(&path, bytes).unwrap();
                    }
                    _ => {}
                }
            }
            let (log, recovered) = open(copied.path(), format);
            let (marks, origins) = expected_statements();
            assert_eq!(recovered.marks.iter().map(|mark| mark.target).collect::<Vec<_>>(), marks, "{what}");
            assert_eq!(recovered.origins, origins, "{what}");
            assert_eq!(recovered.cursor, Some(mark(MarkKind::Cursor, sequence("1-280"))), "{what}");
            assert_eq!((recovered.torn, recovered.damage), (None, vec![]), "{what}");
            let counts = log.counts();
            assert_eq!((counts.entries, counts.requeued), (300, 6), "{what}");
            assert_eq!(counts.of(MarkKind::Parked), 7, "{what}");
            assert_eq!(counts.of(MarkKind::Cursor), 7, "{what}");
            assert_eq!(read_all(&log).len(), 300);
            // Written again, in the background.
            let segments = log.usage().segments as usize;
            wait_until("the sidecars are there again", || sidecars(copied.path()).len() >= segments - 1);
        }
    }
}

#[test]
fn damage_in_a_sealed_segment_never_cuts_it() {
    for format in FORMATS {
        let directory = many_segments(format);
        for sidecar_is_there in [true, false] {
            let copied = tempfile::tempdir().unwrap();
            copy(directory.path(), copied.path());
            if !sidecar_is_there {
                fs::remove_file(copied.path().join("segments/00000002.index")).unwrap();
            }
            // Everything from somewhere in the middle is as if it had never been written.
            let (_changed, log, recovered) = open_changed(copied.path(), format, 1, |bytes| {
                let prefill = if format == Format::Json { b'\n' } else { 0 };
                bytes[20_000..].fill(prefill);
            });
            let (entries, damage) = read(&log, Sequence::START);
            assert_eq!(damage.len(), 1, "{format:?} {sidecar_is_there}");
            let (first, last) = damage[0].lost.unwrap();
            assert_eq!(entries.len() as u64 + last.counter() - first.counter() + 1, 300);
            assert_eq!(recovered.damage.len(), usize::from(!sidecar_is_there));
            assert_eq!(recovered.torn, None);
            assert_eq!(log.counts().entries, 300);
        }
    }
}

#[test]
fn nothing_that_files_can_hold_makes_opening_or_reading_panic() {
    let seed = common::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for format in FORMATS {
        let directory = many_segments(format);
        for _ in 0..40 {
            let copied = tempfile::tempdir().unwrap();
            copy(directory.path(), copied.path());
            let names: Vec<PathBuf> = fs::read_dir(copied.path().join("segments"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            for _ in 0..random.usize(1..4) {
                let path = &names[random.usize(..names.len())];
                let mut bytes = fs::read(path).unwrap();
                if bytes.is_empty() {
                    continue;
                }
                let start = random.usize(..bytes.len());
                let end = (start + random.usize(1..5000)).min(bytes.len());
                match random.u8(..4) {
                    0 => bytes[start..end].fill(random.u8(..)),
                    1 => bytes.truncate(start),
                    2 => bytes[start] = random.u8(..),
                    _ => bytes.copy_within(start..end, 0),
                }
                fs::write(path, bytes).unwrap();
            }
            let Ok((log, _)) = Log::open(copied.path(), common::options(format)) else { continue };
            let (entries, _) = read(&log, log.retained_after());
            let known = |entry: &outlast_log::Entry| *entry.body == body(entry.sequence.counter(), 1000);
            assert!(entries.iter().all(known), "what is read is what was written");
            assert!(entries.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
            append(&log, "{}");
            log.close().unwrap();
        }
    }
}

#[test]
fn a_segment_that_was_never_begun_does_not_come_back_as_a_damaged_one() {
    // The power goes once while it is being begun and once while the log is opened again: its removal must not be lost
    // when the name of the next one is kept.
    for (format, prefill) in [(Format::Json, b'\n'), (Format::Bincode, 0)] {
        let disk = killed(format, &some_bodies(3));
        let segments = Path::new(QUEUE).join("segments");
        let file = disk.create(&segments.join(format!("00000002.{}", extension(format)))).unwrap();
        file.write_at(&vec![prefill; 64 * 1024], 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory(&segments).unwrap();
        let disk = disk.after_power_cut(0);
        let (log, recovered) = open_memory(&disk, format);
        assert_eq!((recovered.damage, log.usage().segments), (vec![], 2));
        let trace = disk.trace();
        let mut replay = trace.replay();
        while let Some((_, medium)) = replay.next() {
            for seed in 0..20 {
                let left = medium.after_power_loss(PowerLoss::any(seed)).0;
                let (_, recovered) = open_memory(&SimulatedDisk::holding(left, seed), format);
                assert_eq!(recovered.damage, []);
            }
        }
    }
}

#[test]
fn a_sealed_segment_that_is_cut_short_loses_its_entries_but_not_the_marks_that_its_sidecar_knows() {
    for format in FORMATS {
        for left in [2048, 2048 + 70] {
            let directory = tempfile::tempdir().unwrap();
            let (log, _) = open(directory.path(), format);
            let bodies = some_bodies(6);
            let sequences: Vec<Sequence> = bodies.iter().map(|body| append(&log, body)).collect();
            log.mark(&mark(MarkKind::Discarded, sequences[0])).unwrap();
            log.mark(&mark(MarkKind::Rejected, sequences[1])).unwrap();
            log.close().unwrap();
            let (log, healthy) = open(directory.path(), format);
            append(&log, "{}");
            log.close().unwrap();
            let file = segment_files(directory.path())[0].clone();
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(left).unwrap();
            for opening in 0..2 {
                let (log, recovered) = open(directory.path(), format);
                assert_eq!(recovered.marks, healthy.marks, "{format:?} {left} {opening}");
                assert_eq!(recovered.marks.len(), 2);
                let known: Vec<_> = recovered.damage.iter().filter_map(|damage| damage.lost).collect();
                let (entries, damage) = read(&log, Sequence::START);
                let read: Vec<_> = damage.iter().filter_map(|damage| damage.lost).collect();
                assert_eq!(read, known, "what is lost is named alike");
                assert_eq!(known.len(), 1);
                assert_eq!(known[0].1, sequences[5]);
                assert_eq!(entries.last().map(|entry| &*entry.body), Some("{}"));
                log.close().unwrap();
            }
        }
    }
}

#[test]
fn who_begins_to_read_at_a_segment_that_is_gone_is_told_of_it() {
    for format in FORMATS {
        let directory = many_segments(format);
        fs::remove_file(&segment_files(directory.path())[1]).unwrap();
        let (log, recovered) = open(directory.path(), format);
        let (first, last) = recovered.damage[0].lost.unwrap();
        let before = Sequence::new(1, first.counter() - 1).unwrap();
        for after in [before, first] {
            let (entries, damage) = read(&log, after);
            assert_eq!(damage.iter().map(|damage| damage.lost).collect::<Vec<_>>(), [Some((first, last))]);
            assert_eq!(entries.len() as u64, 300 - last.counter());
        }
        assert!(matches!(log.get(first), Err(ReadError::Damaged(_))));
        assert_eq!(read(&log, last).1, []);
    }
}
