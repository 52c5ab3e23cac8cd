//! Sealed segments are compressed behind everybody's back: whatever happens meanwhile, every entry reads as it was
//! written, and rot costs its block and nothing else.
//!
//! The power is cut at every call to the disk from opening to the last swap; readers hold files that are replaced and
//! overwritten; every byte of a compressed file is damaged, and its end cut off; space runs out at every place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::{FORMATS, append, bodies, body, mark, options, read, read_all, wait_until};
use outlast_log::inspect::{Finding, Inspection, Seen};
use outlast_log::{
    Compression, Damage, Disk, DiskFile, DiskLock, Entry, Format, Log, LogOptions, LogState, MarkKind,
    NewEntry, ReadItem, Recovered, Retention, Sequence,
};
use outlast_testkit::disk::{Fault, FaultKind, SimulatedDisk};

const NOTHING: Retention = Retention { time: Duration::ZERO, bytes: 0 };
/// Three blocks of entries in each, and two of the header.
const SEGMENT_BYTES: u64 = 160 * 1024;
const BODY_BYTES: usize = 4000;
/// So many fill two segments and begin a third.
const ENTRIES: u64 = 90;

fn with(format: Format, compression: Compression) -> LogOptions {
    LogOptions { compression, segment_bytes: SEGMENT_BYTES, ..options(format) }
}

fn queue() -> &'static Path {
    Path::new("/queue")
}

fn open(disk: &SimulatedDisk, format: Format, compression: Compression) -> (Log, Recovered) {
    Log::open_on(Arc::new(disk.clone()), queue(), with(format, compression)).unwrap()
}

fn segment(number: u64, format: Format, compression: Compression) -> PathBuf {
    let format = if format == Format::Json { "jsonl" } else { "bin" };
    let suffix = if compression == Compression::Zstd { ".zst" } else { "" };
    queue().join(format!("segments/{number:08}.{format}{suffix}"))
}

fn raw(number: u64, format: Format) -> PathBuf {
    segment(number, format, Compression::None)
}

fn compressed(number: u64, format: Format) -> PathBuf {
    segment(number, format, Compression::Zstd)
}

fn sidecar(number: u64) -> PathBuf {
    queue().join(format!("segments/{number:08}.index"))
}

fn temporary() -> PathBuf {
    queue().join("segments/compressing")
}

/// A closed log in three segments that are not compressed, and what is in it.
fn raw_log(format: Format) -> (SimulatedDisk, Vec<Entry>) {
    let disk = SimulatedDisk::new(1);
    let (log, _) = open(&disk, format, Compression::None);
    for number in 1..=ENTRIES {
        let text = body(number, BODY_BYTES);
        let origin = (number % 7 == 0).then(|| Sequence::new(1, number - 1).unwrap());
        let last = log.append(NewEntry { body: &text, time_ms: number, origin }).unwrap().sequence;
        if number % 5 == 0 {
            log.mark(&mark(MarkKind::Parked, last)).unwrap();
            log.mark(&mark(MarkKind::Cursor, last)).unwrap();
        }
    }
    let entries = read_all(&log);
    log.close().unwrap();
    assert!(disk.exists(&raw(3, format)) && !disk.exists(&raw(4, format)));
    (disk, entries)
}

fn wait_until_compressed(disk: &SimulatedDisk, format: Format) {
    wait_until("all is compressed", || {
        (1..=3).all(|number| disk.exists(&compressed(number, format)) && !disk.exists(&raw(number, format)))
    });
}

/// The same with all three compressed.
fn compressed_log(format: Format) -> (SimulatedDisk, Vec<Entry>) {
    let (disk, entries) = raw_log(format);
    let (log, _) = open(&disk, format, Compression::Zstd);
    wait_until_compressed(&disk, format);
    log.close().unwrap();
    // What is copied often should be small.
    for name in disk.list(&queue().join("segments")).unwrap() {
        if name.starts_with("spare") || name == "recycled" {
            disk.remove(&queue().join("segments").join(name)).unwrap();
        }
    }
    (disk.after_kill(), entries)
}

/// Every question that a log answers about what it holds.
fn answers(log: &Log, recovered: &Recovered, entries: &[Entry]) -> String {
    let ends = [Sequence::START, log.watermarks().last];
    let ends = ends.into_iter().chain(entries.iter().map(|entry| entry.sequence));
    let counts: Vec<_> =
        ends.map(|end| (log.count(Sequence::START, end), log.bytes(end), log.get(end).unwrap())).collect();
    format!(
        "{counts:?} {:?} {:?} {:?} {:?} {:?}",
        recovered.marks,
        recovered.origins,
        recovered.cursor,
        recovered.last,
        log.counts()
    )
}

#[test]
fn whatever_is_asked_has_the_same_answer_compressed() {
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        let (log, recovered) = open(&disk, format, Compression::None);
        let expected = answers(&log, &recovered, &entries);
        let (raw_bytes, log_bytes) = (log.usage().disk_bytes, log.usage().log_bytes);
        log.close().unwrap();

        let (log, recovered) = open(&disk, format, Compression::Zstd);
        wait_until_compressed(&disk, format);
        assert_eq!(answers(&log, &recovered, &entries), expected);
        assert_eq!(log.usage().log_bytes, log_bytes, "what may wait is not changed by how it is kept");
        assert!(log.usage().disk_bytes < raw_bytes, "{} {raw_bytes}", log.usage().disk_bytes);
        log.close().unwrap();

        // Also when it is off again, from the sidecars and without them.
        for number in [None, Some(1), Some(3)] {
            if let Some(number) = number {
                disk.remove(&sidecar(number)).unwrap();
            }
            let (log, recovered) = open(&disk, format, Compression::None);
            assert_eq!((recovered.torn, &recovered.damage), (None, &vec![]));
            assert_eq!(answers(&log, &recovered, &entries), expected);
            assert_eq!(read_all(&log), entries);
            log.close().unwrap();
        }
    }
}

#[test]
fn the_files_are_what_any_zstd_reader_reads() {
    for format in FORMATS {
        let (disk, _) = raw_log(format);
        let segments: Vec<Vec<u8>> = (1..=3).map(|number| disk.read(&raw(number, format))).collect();
        let (log, _) = open(&disk, format, Compression::Zstd);
        wait_until_compressed(&disk, format);
        log.close().unwrap();
        for (number, segment) in (1..).zip(segments) {
            let file = disk.read(&compressed(number, format));
            let mut bytes = Vec::with_capacity(2 * SEGMENT_BYTES as usize);
            zstd_safe::decompress(&mut bytes, &file).unwrap();
            let prefill = if format == Format::Json { b"\n\n" } else { b"\0\0" };
            assert!(segment.starts_with(&bytes) && !bytes.ends_with(prefill));
            assert!(segment[bytes.len()..].iter().all(|byte| *byte == prefill[0]));
        }
    }
}

#[test]
fn formats_and_compression_change_from_opening_to_opening() {
    let disk = SimulatedDisk::new(2);
    let mut expected = Vec::new();
    for round in 0..8 {
        let format = FORMATS[round % 2];
        let compression = if round % 4 < 2 { Compression::None } else { Compression::Zstd };
        let (log, recovered) = open(&disk, format, compression);
        assert_eq!((recovered.torn, recovered.damage), (None, vec![]));
        for number in 0..60 {
            expected.push(body(number, BODY_BYTES));
            append(&log, expected.last().unwrap());
        }
        assert_eq!(bodies(&read_all(&log)), expected);
        log.close().unwrap();
    }
    let names = disk.list(&queue().join("segments")).unwrap();
    let with = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    assert!(with(".jsonl.zst") > 0 && with(".bin.zst") > 0, "{names:?}");
}

#[test]
fn compressed_segments_leave_the_log_as_others_do() {
    for format in FORMATS {
        let (disk, entries) = compressed_log(format);
        let (log, _) = open(&disk, format, Compression::Zstd);
        log.settle(entries[50].sequence);
        let reclaimed = log.reclaim(NOTHING).unwrap();
        assert!(reclaimed.segments == 1 && reclaimed.bytes > SEGMENT_BYTES / 2, "{reclaimed:?}");
        assert!(!disk.exists(&compressed(1, format)) && !disk.exists(&sidecar(1)));
        let left = read_all(&log);
        assert!(!left.is_empty() && entries.ends_with(&left));
        log.settle(entries[89].sequence);
        log.reclaim(NOTHING).unwrap();
        log.close().unwrap();
        let (log, recovered) = open(&disk, format, Compression::Zstd);
        assert_eq!((recovered.last, recovered.damage), (entries[89].sequence, vec![]));
        assert_eq!(read_all(&log), []);
    }
}

#[test]
fn the_power_may_go_at_any_call_of_compressing() {
    let seed = common::seed();
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        let (mut calls, mut swapped, mut both) = (0, 0, 0);
        loop {
            let running = disk.after_kill();
            running.inject(Fault::always(FaultKind::Io).after(calls));
            let log = Log::open_on(Arc::new(running.clone()), queue(), with(format, Compression::Zstd));
            let done = || (1..=3).all(|number| !running.exists(&raw(number, format)));
            wait_until("the power went or all is done", || running.fired().io > 0 || done());
            let whole = running.fired().io == 0;
            for image in 0..3 {
                let mut left = running.after_power_cut(seed ^ calls ^ image << 32);
                swapped += u64::from(left.exists(&compressed(3, format)));
                both += u64::from(left.exists(&compressed(3, format)) && left.exists(&raw(3, format)));
                if image == 2 {
                    // And once more, while what is left is put in order.
                    left.inject(Fault::always(FaultKind::Io).after(calls % 40));
                    drop(Log::open_on(Arc::new(left.clone()), queue(), with(format, Compression::None)));
                    left = left.after_power_cut(seed ^ calls);
                }
                let (log, recovered) = open(&left, format, Compression::None);
                assert_eq!((recovered.torn, recovered.damage), (None, vec![]), "call {calls}");
                assert_eq!(read_all(&log), entries, "call {calls}");
                assert!(!left.exists(&temporary()));
                for number in 1..=3 {
                    assert!(left.exists(&raw(number, format)) != left.exists(&compressed(number, format)));
                }
            }
            drop(log);
            if whole {
                break;
            }
            calls += 1;
        }
        println!("{format:?}: {calls} calls, {swapped} images with a swap, {both} in the middle of one");
        assert!(calls > 60 && swapped > 10 && both > 0, "{calls} {swapped} {both}");
    }
}

/// A disk on which compressing can be held up, and which claims to have space.
#[derive(Debug)]
struct Gate {
    disk: SimulatedDisk,
    open: Mutex<bool>,
    opened: Condvar,
    /// Compressing has come to the gate.
    reached: AtomicBool,
    says_space: AtomicBool,
    /// Compressed files that were finished or given up.
    ended: AtomicU64,
}

impl Gate {
    fn new(disk: &SimulatedDisk) -> Arc<Self> {
        let (open, opened) = (Mutex::new(false), Condvar::new());
        let (reached, says_space) = (false.into(), false.into());
        Arc::new(Self { disk: disk.clone(), open, opened, reached, says_space, ended: 0.into() })
    }

    fn count_end(&self, path: &Path) {
        self.ended.fetch_add(u64::from(path == temporary()), Ordering::Relaxed);
    }

    fn set_open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Disk for Gate {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if path == temporary() {
            self.reached.store(true, Ordering::Relaxed);
            drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
        }
        self.disk.create(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        if self.says_space.load(Ordering::Relaxed) { Ok(1 << 40) } else { self.disk.free_space(path) }
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to).inspect(|()| self.count_end(from))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path).inspect(|()| self.count_end(path))
    }
    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.disk.lock(path)
    }
}

#[test]
fn a_reader_goes_on_when_its_file_is_replaced_and_overwritten() {
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        let gate = Gate::new(&disk);
        let (log, _) = Log::open_on(gate.clone(), queue(), with(format, Compression::Zstd)).unwrap();
        // One stands behind every entry, with the raw file open.
        let mut readers: Vec<_> = (0..entries.len())
            .map(|at| {
                let mut reader = log.reader(entries[at].sequence);
                if let Some(next) = entries.get(at + 1) {
                    assert_eq!(reader.next().unwrap(), Some(ReadItem::Entry(next.clone())));
                }
                reader
            })
            .collect();
        let held = disk.open(&raw(2, format)).unwrap();
        gate.set_open();
        wait_until_compressed(&disk, format);
        let more: Vec<String> = (100..220).map(|number| body(number, BODY_BYTES)).collect();
        for text in &more {
            append(&log, text);
        }
        log.sync().wait().unwrap();
        let mut header = [0; 64];
        held.read_at(&mut header, 0).unwrap();
        assert!(
            !header.starts_with(br#"{"outlast":1,"#) || !contains(&header, b"\"segment\":2"),
            "overwritten"
        );
        for (at, reader) in readers.iter_mut().enumerate() {
            let mut found = Vec::new();
            while let Some(item) = reader.next().unwrap() {
                match item {
                    ReadItem::Entry(entry) => found.push(entry.body),
                    ReadItem::Damaged(damage) => panic!("{damage}"),
                }
            }
            let rest = entries.iter().skip(at + 2).map(|entry| &*entry.body);
            let expected: Vec<&str> = rest.chain(more.iter().map(String::as_str)).collect();
            assert_eq!(found.iter().map(|body| &**body).collect::<Vec<_>>(), expected, "{at}");
        }
        assert_eq!(disk.list(&queue().join("damaged")).unwrap_or_default(), [] as [&str; 0]);
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn readers_writers_and_reclaiming_do_not_notice() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(directory.path(), with(format, Compression::Zstd)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let last = log.watermarks().last.counter();
                        let retained = log.retained_after().counter();
                        let at = Sequence::new(1, retained + (last - retained) / 2 + 1).unwrap();
                        if let Some(entry) = log.get(at).unwrap() {
                            assert_eq!(*entry.body, body(at.counter(), 1000));
                        }
                    }
                });
            }
            let writer = scope.spawn(|| {
                for number in 1..=3000 {
                    append(&log, &body(number, 1000));
                }
            });
            let mut reader = log.reader(Sequence::START);
            let mut read = 0;
            wait_until("everything is read", || {
                while let Some(item) = reader.next().unwrap() {
                    let ReadItem::Entry(entry) = item else { panic!("{item:?}") };
                    read += 1;
                    assert_eq!((entry.sequence.counter(), &*entry.body), (read, &*body(read, 1000)));
                    if read % 500 == 0 {
                        log.settle(Sequence::new(1, read - 450).unwrap());
                        log.reclaim(NOTHING).unwrap();
                    }
                }
                read == 3000
            });
            writer.join().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(log.state(), LogState::Ok);
        log.close().unwrap();
    }
}

/// Opens it and reads everything. What is missing must be exactly what is reported, and in one block.
fn check_damaged(disk: &SimulatedDisk, format: Format, entries: &[Entry], what: &str) -> Vec<Damage> {
    // New segments are small, so that opening is quick.
    let small = LogOptions { segment_bytes: 16 * 1024, ..options(format) };
    let (log, recovered) = Log::open_on(Arc::new(disk.clone()), queue(), small).unwrap();
    let (found, damage) = read(&log, Sequence::START);
    let mut lost = Vec::new();
    for stretch in &damage {
        if let Some((first, last)) = stretch.lost {
            lost.extend(first.counter()..=last.counter());
            assert!(stretch.after < first && stretch.before.is_none_or(|before| before > last), "{what}");
        }
    }
    let expected: Vec<_> = entries.iter().filter(|entry| !lost.contains(&entry.sequence.counter())).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{what}: {damage:?}");
    assert_eq!(recovered.last, entries.last().unwrap().sequence, "{what}");
    assert_eq!(log.count(Sequence::START, recovered.last), entries.len() as u64, "{what}");
    damage
}

#[test]
fn a_damaged_byte_costs_its_block_and_nothing_else() {
    for format in FORMATS {
        let (disk, entries) = compressed_log(format);
        let path = compressed(2, format);
        let file = disk.read(&path);
        let (mut harmless, mut hits) = (0, 0);
        for at in 0..file.len() {
            for bits in [1 << (at % 8), 0xff] {
                let rotten = disk.after_kill();
                rotten.change(&path, |bytes| bytes[at] ^= bits);
                let damage = check_damaged(&rotten, format, &entries, &format!("byte {at} ^ {bits:#x}"));
                let [stretch] = &damage[..] else {
                    assert_eq!(damage, []);
                    harmless += 1;
                    continue;
                };
                hits += 1;
                let (first, last) = stretch.lost.unwrap();
                let entries_lost = last.counter() - first.counter() + 1;
                // 64 KiB and the frame that passes them.
                assert!(stretch.segment == 2 && entries_lost <= 17 && stretch.bytes <= 69_000, "{stretch:?}");
                let copy = queue().join(format!("damaged/{:08}-{}.zst", 2, stretch.offset));
                let copy = rotten.read(&copy);
                let start = file.len() - rotten.read(&path).len();
                assert!(start == 0 && contains(&rotten.read(&path), &copy) && !contains(&file, &copy));
            }
        }
        println!("{format:?}: {} bytes, {hits} with a loss, {harmless} without", file.len());
        assert!(hits > 200 && harmless > 50);
    }
}

#[test]
fn a_lost_table_is_made_again_and_a_cut_file_names_what_it_lost() {
    for format in FORMATS {
        let (disk, entries) = compressed_log(format);
        let path = compressed(2, format);
        let size = disk.read(&path).len();
        let mut lost_before = u64::MAX;
        for left in 0..size {
            let cut = disk.after_kill();
            cut.truncate(&path, left);
            let damage = check_damaged(&cut, format, &entries, &format!("cut to {left}"));
            let lost: u64 = damage
                .iter()
                .filter_map(|stretch| stretch.lost)
                .map(|(first, last)| last.counter() - first.counter() + 1)
                .sum();
            assert!(lost <= lost_before, "{left}");
            lost_before = lost;
            if left + 20 > size {
                assert_eq!(damage, [], "only the table was hit");
            }
        }
    }
}

#[test]
fn several_places_at_once_are_told_apart_also_without_a_table() {
    let seed = common::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..300 {
        let format = FORMATS[round % 2];
        let (disk, entries) = compressed_log_once(format);
        let path = compressed(2, format);
        let size = disk.read(&path).len();
        let rotten = disk.after_kill();
        rotten.change(&path, |bytes| {
            bytes[size - 10] ^= 1;
            for _ in 0..random.usize(1..5) {
                // Behind the headers: without them and the sidecar nothing can be told.
                let at = random.usize(size / 2..size);
                let end = size.min(at + random.usize(1..60));
                bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
        });
        if random.bool() {
            rotten.remove(&sidecar(2)).unwrap();
        }
        check_damaged(&rotten, format, entries, &format!("round {round}"));
        check_damaged(&rotten, format, entries, &format!("round {round}, again"));
    }
}

/// Made once per format.
fn compressed_log_once(format: Format) -> &'static (SimulatedDisk, Vec<Entry>) {
    static LOGS: [std::sync::OnceLock<(SimulatedDisk, Vec<Entry>)>; 2] =
        [const { std::sync::OnceLock::new() }; 2];
    LOGS[usize::from(format == FORMATS[1])].get_or_init(|| compressed_log(format))
}

#[test]
fn of_two_files_of_one_segment_the_one_that_is_whole_stays() {
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        let bytes = disk.read(&raw(2, format));
        let (log, _) = open(&disk, format, Compression::Zstd);
        wait_until_compressed(&disk, format);
        log.close().unwrap();
        let file = disk.create(&raw(2, format)).unwrap();
        file.write_at(&bytes, 0).unwrap();
        let size = disk.read(&compressed(2, format)).len();
        for damaged in [None, Some(100), Some(size / 2), Some(size - 40), Some(size - 1)] {
            let both = disk.after_kill();
            if let Some(at) = damaged {
                both.flip(&compressed(2, format), at, 3);
            }
            assert_eq!(check_damaged(&both, format, &entries, "both"), []);
            assert_eq!(both.exists(&raw(2, format)), damaged.is_some(), "{damaged:?}");
            assert_eq!(both.exists(&compressed(2, format)), damaged.is_none(), "{damaged:?}");
        }
    }
}

#[test]
fn the_tools_look_into_compressed_segments_and_repair_beside_them() {
    let is_zst = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "zst");
    let inspect = |disk: &SimulatedDisk| Inspection::open_on(Arc::new(disk.clone()), queue(), &[]).unwrap();
    for format in FORMATS {
        let (disk, entries) = compressed_log(format);
        let inspection = inspect(&disk);
        let mut seen = Vec::new();
        let mut see = |item: Seen<'_>| {
            if let Seen::Entry { sequence, .. } = item {
                seen.push(sequence);
            }
        };
        let contents = inspection.verify(&mut see).unwrap();
        assert_eq!(contents.findings, []);
        assert_eq!(seen, entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>());
        let kept: Vec<_> = contents.segments.iter().map(|segment| segment.compression).collect();
        assert_eq!(kept[..3], [Compression::Zstd; 3]);
        assert_eq!(contents.segments[1].file_bytes, disk.read(&compressed(2, format)).len() as u64);
        drop(inspection);

        // Two blocks: a copy of the header, and entries.
        let at = disk.read(&compressed(2, format)).len() * 3 / 4;
        disk.flip(&compressed(2, format), 60, 1);
        disk.flip(&compressed(2, format), at, 1);
        let inspection = inspect(&disk);
        let found = inspection.verify(&mut |_| {}).unwrap();
        let is_copy = |finding: &&Finding| matches!(finding, Finding::HeaderCopy { segment: 2, copy: 1, .. });
        let is_loss = |finding: &&Finding| matches!(finding, Finding::Damage { known: false, .. });
        assert_eq!(found.findings.iter().filter(is_copy).count(), 1, "{:?}", found.findings);
        assert_eq!(found.findings.iter().filter(is_loss).count(), 1, "{:?}", found.findings);
        inspection.repair(&found).unwrap();
        drop(inspection);
        let again = inspect(&disk).verify(&mut |_| {}).unwrap();
        assert_eq!(again.findings.iter().filter(is_loss).count(), 0, "{:?}", again.findings);
        let copies = disk.list(&queue().join("damaged")).unwrap();
        assert!(copies.iter().any(|name| name.starts_with("00000002-") && is_zst(name)), "{copies:?}");
        let damage = check_damaged(&disk, format, &entries, "repaired");
        assert_eq!(damage.len(), 1);
    }
}

#[test]
fn damaged_segments_are_not_compressed() {
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        disk.flip(&raw(2, format), 100_000, 2);
        let (log, _) = open(&disk, format, Compression::Zstd);
        let others = || [1, 3].iter().all(|number| !disk.exists(&raw(*number, format)));
        wait_until("the others are compressed", others);
        log.close().unwrap();
        assert!(disk.exists(&raw(2, format)) && !disk.exists(&temporary()));
        let damage = check_damaged(&disk, format, &entries, "raw");
        assert!(damage.len() == 1 && damage[0].bytes < 5000, "{damage:?}");
    }
}

#[test]
fn without_space_segments_stay_as_they_are_and_nothing_fails() {
    for format in FORMATS {
        let (disk, entries) = raw_log(format);
        let largest = 40 * 1024;
        let (mut none, mut all) = (0, 0);
        for space in (0..largest).step_by(256) {
            let disk = disk.after_kill();
            let gate = Gate::new(&disk);
            let (log, _) = Log::open_on(gate.clone(), queue(), with(format, Compression::Zstd)).unwrap();
            // Only compressing is to meet the end of the space, and only where it writes.
            wait_until("there is a spare", || log.usage().disk_bytes > 4 * SEGMENT_BYTES);
            wait_until("compressing has begun", || gate.reached.load(Ordering::Relaxed));
            gate.says_space.store(true, Ordering::Relaxed);
            disk.set_space_left(Some(space));
            gate.set_open();
            append(&log, &body(91, BODY_BYTES));
            wait_until("each was tried", || gate.ended.load(Ordering::Relaxed) == 3);
            let found = read_all(&log);
            assert_eq!(log.state(), LogState::Ok);
            assert_eq!((found.len(), &found[..entries.len()]), (91, &entries[..]));
            log.close().unwrap();
            if disk.fired().no_space > 0 {
                none += 1;
            } else {
                all += 1;
            }
            disk.heal();
            assert!(!disk.exists(&temporary()), "{space}");
            let (log, recovered) = open(&disk, format, Compression::Zstd);
            assert_eq!((recovered.torn, recovered.damage), (None, vec![]));
            assert_eq!(read_all(&log), found);
        }
        println!("{format:?}: no space in {none} cases, enough in {all}");
        assert!(none > 5, "{none} {all}");
    }
}
