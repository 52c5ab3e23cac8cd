//! The files of a log are looked at without opening it: what is wrong is named, nothing is changed, and a repair throws
//! nothing valid away.
//!
//! A log with several openings and segments is made once per format, then copied, changed and looked at. What a changed
//! copy gives after its repair is compared with what the original had.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{FORMATS, append, body, copy, mark, read, segment_files, sequence, wait_until};
use outlast_log::inspect::{Action, Contents, Finding, Inspection, ReadOnlyDisk, Seen, Severity};
use outlast_log::{
    Compression, Disk, Entry, Format, Log, LogOptions, MarkKind, NewEntry, RealDisk, Recovered,
};
use outlast_testkit::files;

/// With the smallest segments.
fn options(format: Format) -> LogOptions {
    LogOptions { segment_bytes: 16 * 1024, ..common::options(format) }
}

fn open(directory: &Path, format: Format) -> (Log, Recovered) {
    Log::open(directory, options(format)).unwrap()
}

/// Three openings, more than one segment in the second, every kind of mark. `closed`: the last one was closed.
fn make(directory: &Path, format: Format, closed: bool) -> Vec<Entry> {
    for epoch in 1..=3_u64 {
        let (log, _) = open(directory, format);
        for number in 0..[6, 90, 5][epoch as usize - 1] {
            let appended = append(&log, &body(epoch * 1000 + number, 30 + (number as usize * 53) % 700));
            if number % 5 == 0 {
                let kind = MarkKind::ALL[(number / 5 % 6) as usize];
                log.mark(&mark(kind, appended)).unwrap();
                log.append(NewEntry { body: "{\"ä\":1}", time_ms: 7, origin: Some(appended) }).unwrap();
            }
        }
        log.sync().wait().unwrap();
        if epoch < 3 || closed {
            log.close().unwrap();
        } else {
            // Killed: the files stay as they are, with the keeper's spare whole.
            let spare = directory.join("segments").join(if format == Format::Json {
                "spare.jsonl"
            } else {
                "spare.bin"
            });
            wait_until("the spare is there", || spare.exists());
            let killed = tempfile::tempdir().unwrap();
            copy(directory, killed.path());
            drop(log);
            fs::remove_dir_all(directory).unwrap();
            copy(killed.path(), directory);
        }
    }
    let kept = tempfile::tempdir().unwrap();
    copy(directory, kept.path());
    let (log, _) = open(kept.path(), format);
    read(&log, sequence("0-0")).0
}

fn verify(directory: &Path) -> Contents {
    Inspection::open(directory, &[]).unwrap().verify(&mut |_| {}).unwrap()
}

fn repair(directory: &Path) -> Vec<Action> {
    let inspection = Inspection::open_on(Arc::new(RealDisk), directory, &[]).unwrap();
    let contents = inspection.verify(&mut |_| {}).unwrap();
    inspection.repair(&contents).unwrap()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_healthy_log_is_clean_and_looking_changes_nothing() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let expected = make(directory.path(), format, true);
        let before = files(directory.path());
        let inspection = Inspection::open(directory.path(), &[]).unwrap();
        let (mut seen, mut bytes) = (Vec::new(), 0);
        let contents = inspection
            .verify(&mut |item| match item {
                Seen::Bytes(more) => bytes += more,
                Seen::Entry { sequence, body, .. } => seen.push((sequence, body.to_owned())),
            })
            .unwrap();
        assert_eq!(contents.findings, []);
        assert_eq!(bytes, inspection.bytes());
        let entries: Vec<_> = expected.iter().map(|entry| (entry.sequence, entry.body.to_string())).collect();
        assert_eq!(seen, entries);
        seen.clear();
        inspection
            .entries(&contents, &mut |item| {
                if let Seen::Entry { sequence, body, .. } = item {
                    seen.push((sequence, body.to_owned()));
                }
            })
            .unwrap();
        assert_eq!(seen, entries);
        let survey = inspection.survey().unwrap();
        assert_eq!(survey.counts, contents.counts);
        assert_eq!((survey.marks, survey.origins), (contents.marks, contents.origins));
        assert_eq!(survey.segments, contents.segments);
        assert_eq!(contents.counts.entries, expected.len() as u64);
        assert!(contents.segments.len() >= 4, "{:?}", contents.segments);
        drop(inspection);
        assert_eq!(files(directory.path()), before);
    }
}

#[test]
fn a_killed_log_is_no_worse_than_a_note_and_a_torn_end_is_told_from_damage() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let expected = make(directory.path(), format, false);
        let contents = verify(directory.path());
        assert!(matches!(contents.findings[..], [Finding::SidecarMissing { .. }]), "{:?}", contents.findings);
        let segment = contents.segments.last().unwrap();
        let path = segment_files(directory.path()).pop().unwrap();
        change(&path, |bytes| {
            let end = segment.log_bytes as usize;
            bytes[end - 9..end].fill(if format == Format::Json { b'\n' } else { 0 });
        });
        let contents = verify(directory.path());
        assert_eq!(contents.severity(), Some(Severity::Torn), "{:?}", contents.findings);
        repair(directory.path());
        let after = verify(directory.path());
        assert!(matches!(after.findings[..], [Finding::SidecarMissing { .. }]), "{:?}", after.findings);
        let (log, recovered) = open(directory.path(), format);
        assert!(recovered.torn.is_none() && recovered.damage.is_empty());
        assert!(read(&log, sequence("0-0")).0 == expected[..expected.len() - 1]);
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed_and_a_repair_loses_nothing_but_what_it_names() {
    let mut random = fastrand::Rng::with_seed(common::seed());
    let mut fired = 0;
    for format in FORMATS {
        let original = tempfile::tempdir().unwrap();
        let expected = make(original.path(), format, true);
        let names: Vec<PathBuf> = files(original.path())
            .into_keys()
            .filter(|path| !path.ends_with("lock") && !path.to_string_lossy().contains("spare"))
            .collect();
        for name in names {
            for _ in 0..3 {
                let directory = tempfile::tempdir().unwrap();
                copy(original.path(), directory.path());
                let path = directory.path().join(name.strip_prefix(original.path()).unwrap());
                let mut place = 0;
                change(&path, |bytes| {
                    place = random.usize(..bytes.len());
                    bytes[place] ^= 1 << random.u8(..8);
                });
                let what = format!("{} at {place}", path.display());
                let before = files(directory.path());
                let found = verify(directory.path());
                assert_eq!(files(directory.path()), before, "{what}");
                let torn_epoch = path.ends_with("epochs.jsonl");
                assert!(
                    found.severity() == Some(Severity::Damaged)
                        || torn_epoch && found.severity() == Some(Severity::Torn),
                    "{what}: {:?}",
                    found.findings
                );
                fired += 1;
                repair(directory.path());
                let after = verify(directory.path());
                assert!(after.severity() <= Some(Severity::Note), "{what}: {:?}", after.findings);
                assert_eq!(after.marks.len(), found.marks.len(), "{what}: marks are lost");
                let lost: Vec<_> = found.lost().collect();
                let is_lost = |entry: &&Entry| {
                    !lost.iter().any(|(first, last)| *first <= entry.sequence && entry.sequence <= *last)
                };
                let left: Vec<Entry> = expected.iter().filter(is_lost).cloned().collect();
                assert!(expected.len() - left.len() <= 1, "{what}: one bit costs one entry: {lost:?}");
                let (log, _) = open(directory.path(), format);
                assert!(read(&log, sequence("0-0")).0 == left, "{what}");
            }
        }
    }
    assert!(fired >= 2 * 3 * 9, "{fired}");
}

#[test]
fn no_flipped_bit_of_a_compressed_segment_goes_unnoticed_and_its_neighbours_stay() {
    let mut random = fastrand::Rng::with_seed(common::seed());
    let (mut noticed, mut tried) = (0, 0);
    for format in FORMATS {
        let original = tempfile::tempdir().unwrap();
        let expected = make(original.path(), format, true);
        let compressed = LogOptions { compression: Compression::Zstd, ..options(format) };
        let zst = || {
            let all =
                fs::read_dir(original.path().join("segments")).unwrap().map(|entry| entry.unwrap().path());
            all.filter(|path| path.extension().is_some_and(|extension| extension == "zst"))
                .collect::<Vec<_>>()
        };
        let (log, _) = Log::open(original.path(), compressed).unwrap();
        wait_until("segments are compressed", || zst().len() >= 4);
        log.close().unwrap();
        assert_eq!(verify(original.path()).severity(), None);
        for name in zst() {
            let length = fs::metadata(&name).unwrap().len() as usize;
            // The first tag, the table at the end, and somewhere between.
            let mut places = vec![random.usize(..28), length - 1 - random.usize(..28)];
            places.extend((0..5).map(|_| random.usize(..length)));
            for place in places {
                tried += 1;
                let directory = tempfile::tempdir().unwrap();
                copy(original.path(), directory.path());
                let path = directory.path().join(name.strip_prefix(original.path()).unwrap());
                change(&path, |bytes| bytes[place] ^= 1 << random.u8(..8));
                let found = verify(directory.path());
                let what = format!("{} at {place}", path.display());
                if found.severity().is_none() {
                    // A bit that zstd does not use: each block closes with a checksum, so what is read is the same.
                    let (log, _) = open(directory.path(), format);
                    assert!(read(&log, sequence("0-0")).0 == expected, "{what}");
                    continue;
                }
                noticed += 1;
                assert_eq!(found.severity(), Some(Severity::Damaged), "{what}");
                repair(directory.path());
                let after = verify(directory.path());
                assert!(after.severity() <= Some(Severity::Note), "{what}: {:?}", after.findings);
                assert_eq!(after.marks.len(), found.marks.len(), "{what}: marks are lost");
                let lost: Vec<_> = found.lost().collect();
                let stays = |entry: &&Entry| {
                    !lost.iter().any(|(first, last)| (*first..=*last).contains(&entry.sequence))
                };
                let left: Vec<Entry> = expected.iter().filter(stays).cloned().collect();
                let (log, _) = open(directory.path(), format);
                assert!(read(&log, sequence("0-0")).0 == left, "{what}: {:?}", found.findings);
            }
        }
    }
    assert!(noticed >= tried * 9 / 10, "{noticed} of {tried}");
}

#[test]
fn a_sidecar_that_contradicts_its_segment_is_told_and_written_again() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), format, true);
        let path = directory.path().join("segments/00000001.index");
        let good = fs::read(&path).unwrap();
        // Behind the header stand the end, the last sequence and the time of sealing, then the number of entries.
        let header = 28 + u64::from_le_bytes(good[20..28].try_into().unwrap()) as usize;
        for place in [header, header + 24] {
            change(&path, |bytes| {
                bytes[place] ^= 1;
                let sum = crc32c::crc32c(&bytes[20..]).to_le_bytes();
                bytes[8..12].copy_from_slice(&sum);
            });
            let found = verify(directory.path());
            assert!(
                found.findings.iter().any(|finding| matches!(finding, Finding::SidecarWrong { .. })),
                "{found:?}"
            );
            repair(directory.path());
            assert_eq!(verify(directory.path()).severity(), None);
        }
    }
}

#[test]
fn a_missing_segment_is_named_with_its_entries_and_known_after_a_repair() {
    for format in FORMATS {
        for with_sidecar in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            make(directory.path(), format, true);
            let healthy = verify(directory.path());
            let gone = &healthy.segments[1];
            fs::remove_file(&segment_files(directory.path())[1]).unwrap();
            if with_sidecar {
                fs::remove_file(directory.path().join(format!("segments/{:08}.index", gone.number))).unwrap();
            }
            let found = verify(directory.path());
            assert_eq!(found.severity(), Some(Severity::Damaged));
            assert_eq!(found.lost().collect::<Vec<_>>(), [(gone.first, gone.last)]);
            let orphan =
                found.findings.iter().any(|finding| matches!(finding, Finding::SegmentMissing { .. }));
            assert_eq!(orphan, !with_sidecar);
            repair(directory.path());
            let after = verify(directory.path());
            assert_eq!(after.severity(), Some(Severity::Note), "{:?}", after.findings);
            assert_eq!(after.lost().collect::<Vec<_>>(), [(gone.first, gone.last)], "it is still told");
        }
    }
}

#[test]
fn a_sealed_segment_that_was_cut_short_keeps_the_marks_that_its_sidecar_knows() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let expected = make(directory.path(), format, true);
        let healthy = verify(directory.path());
        let path = segment_files(directory.path())[0].clone();
        change(&path, |bytes| bytes.truncate(2048 + 100));
        let found = verify(directory.path());
        assert_eq!(found.marks, healthy.marks);
        assert_eq!(found.severity(), Some(Severity::Damaged));
        repair(directory.path());
        assert_eq!(verify(directory.path()).severity(), Some(Severity::Note));
        let (log, recovered) = open(directory.path(), format);
        assert_eq!(recovered.marks, healthy.marks);
        let (entries, damage) = read(&log, sequence("0-0"));
        let lost: Vec<_> = found.lost().collect();
        assert_eq!(lost, damage.iter().filter_map(|damage| damage.lost).collect::<Vec<_>>());
        let is_lost =
            |entry: &&Entry| lost.iter().any(|(first, last)| (*first..=*last).contains(&entry.sequence));
        let left: Vec<Entry> = expected.iter().filter(|entry| !is_lost(entry)).cloned().collect();
        assert_eq!(entries.len(), left.len());
        assert!(entries == left && !lost.is_empty());
    }
}

#[test]
fn a_dry_run_says_what_a_repair_does_and_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    make(directory.path(), Format::Json, true);
    for path in segment_files(directory.path()) {
        change(&path, |bytes| {
            bytes[10] ^= 1;
            bytes[2100] ^= 1;
        });
    }
    change(&directory.path().join("epochs.jsonl"), |bytes| bytes[5] ^= 1);
    fs::write(directory.path().join("segments/prefilling"), "x").unwrap();
    let before = files(directory.path());
    let inspection = Inspection::open(directory.path(), &[]).unwrap();
    let contents = inspection.verify(&mut |_| {}).unwrap();
    let planned = inspection.plan(&contents);
    assert!(inspection.repair(&contents).is_err(), "the disk of a dry run refuses");
    drop(inspection);
    assert_eq!(files(directory.path()), before);
    assert_eq!(repair(directory.path()), planned);
    for wanted in
        ["copy 1 of the header", "damaged bytes", "epochs.jsonl anew", "prefilling", "reported.jsonl"]
    {
        assert!(planned.iter().any(|action| action.to_string().contains(wanted)), "{wanted}: {planned:?}");
    }
    assert!(verify(directory.path()).severity() <= Some(Severity::Note));
    // The epoch of the damaged line is known from its segments: it is still one of ours.
    let (log, _) = open(directory.path(), Format::Json);
    for epoch in &contents.epochs {
        assert!(log.is_owner(&epoch.owner));
    }
}

#[test]
fn a_log_in_use_a_directory_that_is_none_and_an_unknown_version_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Inspection::open(path, &[]).unwrap_err().to_string();
    assert!(refused(&directory.path().join("nowhere")).contains("there is no such directory"));
    assert!(refused(directory.path()).contains("has no segments/; name the directory"));
    let (log, _): (Log, _) = Log::open(&directory.path().join("queue"), options(Format::Json)).unwrap();
    append(&log, "{}");
    log.sync().wait().unwrap();
    let error = Inspection::open(&directory.path().join("queue"), &[]).unwrap_err();
    assert!(error.is_locked() && error.to_string().contains("is in use by another process; stop"));
    log.close().unwrap();
    let file = segment_files(&directory.path().join("queue"))[0].clone();
    assert!(refused(&file).contains("it is a file"));
    change(&file, |bytes| {
        for copy in [0, 1024] {
            let line = String::from_utf8(bytes[copy..copy + 1023].to_vec()).unwrap();
            let line = line.trim_end().replacen("\"outlast\":1", "\"outlast\":9", 1);
            let (covered, _) = line.split_once("\"crc32c\"").unwrap();
            let line = format!("{covered}\"crc32c\":\"{:08x}\"}}", crc32c::crc32c(covered.as_bytes()));
            bytes[copy..copy + line.len()].copy_from_slice(line.as_bytes());
        }
    });
    let said = refused(&directory.path().join("queue"));
    assert!(said.contains("version 9") && said.contains("use the program that wrote it"), "{said}");
}

#[test]
fn the_disk_for_looking_refuses_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    let disk = ReadOnlyDisk;
    assert!(disk.create(&path).is_err() && disk.remove(&path).is_err() && disk.rename(&path, &path).is_err());
    assert!(disk.create_directory(&directory.path().join("d")).is_err());
    assert!(disk.open(&path).unwrap().write_at(b"y", 0).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"x");
}
