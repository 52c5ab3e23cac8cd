//! Segments come and go without anything being lost, reread or piled up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{
    FORMATS, append, bodies, body, entry, extension, mark, open, options, read_all, segment_files, sequence,
    wait_until,
};
use outlast_log::{
    AppendError, Entry, Format, Log, LogState, MarkKind, NewEntry, ReadError, ReadItem, Retention, Sequence,
};
use outlast_testkit::disk::{Fault, FaultKind, SimulatedDisk};

const NOTHING: Retention = Retention { time: Duration::ZERO, bytes: 0 };
const EVERYTHING: Retention = Retention { time: Duration::MAX, bytes: u64::MAX };

fn fill(log: &Log, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        append(log, &body(number, 1000));
    }
    log.sync().wait().unwrap();
}

fn at(counter: u64) -> Sequence {
    Sequence::new(1, counter).unwrap()
}

#[test]
fn counting_finding_and_measuring_are_exact_across_segments() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        fill(&log, 1..=200);
        drop(log);
        let (log, _) = open(directory.path(), format);
        fill(&log, 201..=300);
        let entries = read_all(&log);
        assert_eq!(entries.len(), 300);
        assert!(log.usage().segments > 4);
        assert_eq!(log.usage().entries, 300);
        for (index, entry) in entries.iter().enumerate().step_by(7) {
            assert_eq!(log.get(entry.sequence).unwrap().as_ref(), Some(entry));
            assert_eq!(log.count(Sequence::START, entry.sequence), index as u64 + 1);
            assert_eq!(log.count(entry.sequence, log.watermarks().last), 299 - index as u64);
            let bytes = log.bytes(entry.sequence);
            let exact = (299 - index as u64) * 1100;
            assert!(bytes.abs_diff(exact) < exact / 8 + 2 * 64 * 1024, "{bytes} {exact}");
        }
        assert_eq!(log.count(entries[50].sequence, entries[50].sequence), 0);
        assert_eq!(log.count(entries[50].sequence, entries[40].sequence), 0);
        assert_eq!(log.bytes(log.watermarks().last), 0);
        assert_eq!(log.count(Sequence::START, sequence("9-1")), 300);
    }
}

#[test]
fn a_group_gets_neighbouring_sequences_whole() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        thread::scope(|scope| {
            for thread in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    for round in 0..20 {
                        let texts: Vec<String> =
                            (0..5).map(|n| body(thread * 1000 + round * 5 + n, 500)).collect();
                        let group: Vec<NewEntry> = texts.iter().map(|text| entry(text)).collect();
                        let appended = log.append_all(&group).unwrap();
                        let counters: Vec<u64> = appended.iter().map(|one| one.sequence.counter()).collect();
                        assert!(counters.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                    }
                });
            }
        });
        assert_eq!(read_all(&log).len(), 800);
        assert_eq!(log.append_all(&[]), Ok(vec![]));
    }
}

#[test]
fn only_settled_segments_that_retention_does_not_hold_go() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        fill(&log, 1..=300);
        assert_eq!(log.reclaim(NOTHING).unwrap().segments, 0, "nothing is settled");
        log.settle(at(150));
        assert_eq!(log.reclaim(EVERYTHING).unwrap().segments, 0, "retention holds");
        let by_bytes = log.reclaim(Retention { time: Duration::MAX, bytes: 100_000 }).unwrap();
        assert!(by_bytes.segments >= 1 && by_bytes.bytes > 10_000, "{by_bytes:?}");
        let retained_after = log.retained_after();
        assert!(retained_after < at(150 - 60), "{retained_after}: about 100 kB of settled entries are kept");
        assert!(log.reclaim(NOTHING).unwrap().segments >= 1);
        let retained_after = log.retained_after();
        assert!(at(90) < retained_after && retained_after <= at(150));
        assert_eq!(log.watermarks().reclaimed, retained_after);
        assert_eq!(log.count(Sequence::START, at(300)), 300 - retained_after.counter());
        // Who begins before that is told so, and does not get a gap.
        let error = log.reader(Sequence::START).next().unwrap_err();
        assert!(matches!(error, ReadError::Reclaimed { retained_after: found } if found == retained_after));
        assert_eq!(log.get(at(1)).unwrap(), None);
        let entries = read_all(&log);
        assert_eq!(entries[0].sequence.counter(), retained_after.counter() + 1);
        log.close().unwrap();
        let (log, recovered) = open(directory.path(), format);
        assert_eq!(log.retained_after(), retained_after);
        assert_eq!(read_all(&log), entries);
        assert_eq!(log.counts().entries, 300, "what is reclaimed was there once");
        assert_eq!(recovered.damage, []);
    }
}

#[test]
fn a_log_that_is_all_settled_remembers_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    log.mark(&mark(MarkKind::Cursor, at(1))).unwrap();
    fill(&log, 1..=200);
    log.settle(at(200));
    log.close().unwrap();
    for epoch in 2..5 {
        let (log, recovered) = open(directory.path(), Format::Json);
        log.settle(at(200));
        log.reclaim(NOTHING).unwrap();
        assert_eq!(log.retained_after(), at(200));
        assert_eq!(recovered.last, at(200));
        assert_eq!(recovered.cursor, Some(mark(MarkKind::Cursor, at(1))), "it outlives its segment");
        assert_eq!((log.counts().entries, log.epoch().number), (200, epoch));
        assert_eq!(log.usage().segments, 1);
    }
    assert!(segment_files(directory.path()).len() <= 2);
}

#[test]
fn files_are_recycled_and_what_stood_in_them_never_comes_back() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        for round in 0..6 {
            fill(&log, round * 200 + 1..=round * 200 + 200);
            log.settle(at(round * 200 + 200));
            log.reclaim(NOTHING).unwrap();
            let entries = read_all(&log);
            let expected: Vec<String> =
                (log.retained_after().counter() + 1..=round * 200 + 200).map(|n| body(n, 1000)).collect();
            assert_eq!(bodies(&entries), expected);
        }
        assert!(segment_files(directory.path()).len() <= 2);
        let copied = tempfile::tempdir().unwrap();
        common::copy(directory.path(), copied.path());
        let (log, recovered) = open(copied.path(), format);
        assert_eq!((recovered.torn, recovered.damage), (None, vec![]));
        assert_eq!(log.watermarks().last, at(1200));
    }
}

#[test]
fn a_recycled_file_is_prefilled_before_it_is_a_segment_again() {
    for format in FORMATS {
        let disk = SimulatedDisk::new(1);
        let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options(format)).unwrap();
        fill(&log, 1..=200);
        let recycled = Path::new("/queue/segments/recycled");
        let spare = Path::new("/queue/segments/spare").with_extension(extension(format));
        // Otherwise the recycled file would become it at once.
        wait_until("there is a spare", || disk.exists(&spare));
        log.settle(at(200));
        assert!(log.reclaim(NOTHING).unwrap().segments > 0);
        assert!(disk.exists(recycled));
        // The spare at hand becomes a segment, and the recycled file the next spare.
        fill(&log, 201..=260);
        wait_until("there is a spare again", || !disk.exists(recycled) && disk.exists(&spare));
        let prefill = if format == Format::Json { b'\n' } else { 0 };
        assert!(disk.read(&spare).iter().all(|byte| *byte == prefill), "{format:?}");
    }
}

#[test]
fn a_reader_follows_the_writer_through_segments() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        thread::scope(|scope| {
            let writer = log.clone();
            scope.spawn(move || {
                for number in 1..=2000 {
                    append(&writer, &body(number, 300));
                }
            });
            let mut reader = log.reader(Sequence::START);
            let mut entries: Vec<Entry> = Vec::new();
            wait_until("everything is read", || {
                let before = entries.len();
                assert_eq!(reader.next_batch(100, 20_000, &mut entries).unwrap(), None);
                assert!(
                    entries.len() - before <= 67,
                    "20 kB are 66 bodies and the one that passes the bound"
                );
                // What is read may go, even the segment under the reader.
                log.settle(reader.after());
                log.reclaim(NOTHING).unwrap();
                entries.len() == 2000
            });
            let expected: Vec<String> = (1..=2000).map(|number| body(number, 300)).collect();
            assert_eq!(bodies(&entries), expected);
        });
    }
}

#[test]
fn a_slow_reader_is_told_when_its_segment_went() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        fill(&log, 1..=1000);
        let mut reader = log.reader(Sequence::START);
        assert!(matches!(reader.next().unwrap(), Some(ReadItem::Entry(entry)) if entry.sequence == at(1)));
        log.settle(at(1000));
        log.reclaim(NOTHING).unwrap();
        fill(&log, 1001..=1300); // into the recycled files
        let mut last = at(1);
        let error = loop {
            match reader.next() {
                // What it had read ahead is still right.
                Ok(Some(ReadItem::Entry(entry))) => {
                    assert_eq!(entry.sequence.counter(), last.counter() + 1);
                    assert_eq!(*entry.body, body(entry.sequence.counter(), 1000));
                    last = entry.sequence;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReadError::Reclaimed { .. }), "{error}");
    }
}

#[test]
fn a_reader_that_had_everything_of_a_segment_goes_on_when_it_went() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), format);
        append(&log, &body(1, 1000));
        let segments = log.usage().segments;
        // More marks behind the entry than are read ahead.
        while log.usage().segments == segments {
            let filler = outlast_log::Mark { body: body(0, 1000).into(), ..mark(MarkKind::Dead, at(1)) };
            log.mark(&filler).unwrap();
        }
        append(&log, &body(2, 1000));
        log.sync().wait().unwrap();
        let mut reader = log.reader(Sequence::START);
        assert!(matches!(reader.next().unwrap(), Some(ReadItem::Entry(entry)) if entry.sequence == at(1)));
        log.settle(at(1));
        assert_eq!(log.reclaim(NOTHING).unwrap().segments, 1);
        fill(&log, 3..=300); // into the recycled file
        let mut entries = Vec::new();
        assert_eq!(reader.next_batch(1000, usize::MAX, &mut entries).unwrap(), None);
        let expected: Vec<String> = (2..=300).map(|number| body(number, 1000)).collect();
        assert_eq!(bodies(&entries), expected);
    }
}

#[test]
fn on_a_full_disk_entries_are_refused_marks_go_on_and_space_heals_it() {
    for format in FORMATS {
        let disk = SimulatedDisk::new(5);
        let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options(format)).unwrap();
        wait_until("there is a spare", || log.usage().disk_bytes > 2 * 64 * 1024 - 1);
        disk.set_space_left(Some(0));
        let mut count = 0;
        let error = loop {
            match log.append(entry(&body(count + 1, 1000))) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, AppendError::NoSpace);
        assert!(count > 80, "two segments were there: {count}");
        assert!(matches!(log.state(), LogState::NoSpace { .. }));
        for _ in 0..20 {
            log.mark(&mark(MarkKind::Dead, at(1))).unwrap();
        }
        log.sync().wait().unwrap();
        assert_eq!(read_all(&log).len() as u64, count);
        disk.heal();
        wait_until("it has noticed", || log.state() == LogState::Ok);
        append(&log, &body(count + 1, 1000));
        assert_eq!(read_all(&log).len() as u64, count + 1);
        log.close().unwrap();
    }
}

#[test]
fn a_log_opens_on_a_full_disk_with_its_spare() {
    let disk = SimulatedDisk::new(6);
    let path = Path::new("/queue");
    let (log, _) = Log::open_on(Arc::new(disk.clone()), path, options(Format::Json)).unwrap();
    append(&log, "{}");
    wait_until("there is a spare", || log.usage().disk_bytes > 2 * 64 * 1024 - 1);
    log.close().unwrap();
    disk.set_space_left(Some(1000));
    let (log, _) = Log::open_on(Arc::new(disk.clone()), path, options(Format::Json)).unwrap();
    append(&log, "{}");
    assert_eq!(read_all(&log).len(), 2);
}

#[test]
fn a_write_without_space_waits_and_loses_nothing() {
    // On file systems that copy on write even a prefilled file may find no space.
    let disk = SimulatedDisk::new(7);
    let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options(Format::Json)).unwrap();
    wait_until("there is a spare", || log.usage().disk_bytes > 2 * 64 * 1024 - 1);
    disk.inject(Fault::always(FaultKind::NoSpace));
    let appended = log.append(entry(&body(1, 100))).unwrap();
    wait_until("it is noticed", || matches!(log.state(), LogState::NoSpace { .. }));
    assert_eq!(log.append(entry("{}")), Err(AppendError::NoSpace));
    disk.heal();
    log.durable(appended.ticket).wait().unwrap();
    assert_eq!(log.state(), LogState::Ok);
    assert_eq!(bodies(&read_all(&log)), [body(1, 100)]);
}
