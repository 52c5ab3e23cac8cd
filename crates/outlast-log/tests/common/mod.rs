//! What the tests of the log share: short ways to open, append and read.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

pub mod oracle;
pub mod story;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outlast_log::{
    Damage, Encryption, Entry, Format, Key, Log, LogOptions, Mark, MarkKind, NewEntry, ReadItem, Recovered,
    Sequence,
};

pub const FORMATS: [Format; 2] = [Format::Json, Format::Bincode];
/// Longer than anything here takes, shorter than anybody's patience.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Small segments, and no sync that nobody asked for.
pub fn options(format: Format) -> LogOptions {
    LogOptions {
        format,
        segment_bytes: 64 * 1024,
        sync_interval: Duration::from_hours(1),
        ..LogOptions::default()
    }
}

/// A key, the same for each number.
pub fn key(number: u8) -> Key {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

/// New segments are encrypted with the first of these keys.
pub fn encrypted(keys: &[u8]) -> Encryption {
    Encryption { keys: keys.iter().map(|number| key(*number)).collect(), only_decrypt: false }
}

/// The keys are there, but new segments are written in clear.
pub fn only_decrypt(keys: &[u8]) -> Encryption {
    Encryption { only_decrypt: true, ..encrypted(keys) }
}

pub fn open(directory: &Path, format: Format) -> (Log, Recovered) {
    Log::open(directory, options(format)).unwrap()
}

pub fn entry(body: &str) -> NewEntry<'_> {
    NewEntry { body, time_ms: 1_763_911_111_111, origin: None }
}

pub fn append(log: &Log, body: &str) -> Sequence {
    log.append(entry(body)).unwrap().sequence
}

pub fn mark(kind: MarkKind, target: Sequence) -> Mark {
    Mark { kind, target, time_ms: 1_763_911_111_222, body: "{}".into() }
}

pub fn sequence(text: &str) -> Sequence {
    text.parse().unwrap()
}

/// A body of this many bytes that is different for every number.
pub fn body(number: u64, bytes: usize) -> String {
    let start = format!("{{\"n\":{number},\"p\":\"");
    let fill = bytes.saturating_sub(start.len() + 2);
    format!("{start}{}\"}}", "x".repeat(fill))
}

/// Everything behind `after`, with what is damaged.
pub fn read(log: &Log, after: Sequence) -> (Vec<Entry>, Vec<Damage>) {
    let mut reader = log.reader(after);
    let (mut entries, mut damage) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next().unwrap() {
        match item {
            ReadItem::Entry(entry) => entries.push(entry),
            ReadItem::Damaged(stretch) => damage.push(stretch),
        }
    }
    (entries, damage)
}

/// Everything that was appended, which must be whole.
pub fn read_all(log: &Log) -> Vec<Entry> {
    log.sync().wait().unwrap();
    let (entries, damage) = read(log, log.retained_after());
    assert_eq!(damage, []);
    entries
}

pub fn bodies(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| &*entry.body).collect()
}

/// What a process that is killed now would leave: the files as they are.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if let Err(error) = fs::copy(entry.path(), &to) {
            // The keeper may have renamed it meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

/// The segment files, in order.
pub fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "jsonl" || extension == "bin")
                && path.file_stem().is_some_and(|stem| stem.to_string_lossy().parse::<u64>().is_ok())
        })
        .collect();
    files.sort();
    files
}

/// Of the names of segment files.
pub fn extension(format: Format) -> &'static str {
    if format == Format::Json { "jsonl" } else { "bin" }
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// The seed of a randomised test: from `OUTLAST_SEED`, or a new one. Printed, and shown when the test fails.
pub fn seed() -> u64 {
    let seed =
        std::env::var("OUTLAST_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("OUTLAST_SEED={seed}");
    seed
}

/// How many times longer than in CI a test runs: from `OUTLAST_EFFORT`.
pub fn effort() -> u32 {
    std::env::var("OUTLAST_EFFORT").map_or(1, |text| text.parse().expect("OUTLAST_EFFORT is a number"))
}
