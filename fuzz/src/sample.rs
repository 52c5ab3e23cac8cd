//! A log to be damaged: three segments, killed. The first has its sidecar, the second lost it, the third ends where it
//! was written last.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outlast_log::fuzzing::{Decoded, Item, decode};
use outlast_log::{Disk, Entry, Format, Log, LogOptions, Mark, MarkKind, NewEntry, OpenError, Recovered};

use crate::disk::{Medium, SimulatedDisk};

pub const QUEUE: &str = "/queue";
pub const HEADER_BYTES: usize = 2048;
pub const SEGMENTS: usize = 3;

pub struct Sample {
    pub format: Format,
    pub medium: Medium,
    pub entries: Vec<Entry>,
    /// The segments, then what lies beside them.
    pub files: Vec<PathBuf>,
    /// Of each segment: where its entries are.
    pub frames: [Vec<(Range<usize>, Entry)>; SEGMENTS],
}

pub fn open(disk: &SimulatedDisk, format: Format) -> Result<(Log, Recovered), OpenError> {
    let options = LogOptions {
        format,
        segment_bytes: 16 * 1024,
        sync_interval: Duration::from_secs(3600),
        ..LogOptions::default()
    };
    Log::open_on(Arc::new(disk.clone()), Path::new(QUEUE), options)
}

impl Sample {
    pub fn new(format: Format) -> Self {
        let disk = SimulatedDisk::new(1);
        let (log, _) = open(&disk, format).expect("a new log opens");
        let mut number = 0;
        while log.usage().segments < SEGMENTS as u64 || log.usage().log_bytes < 36 * 1024 {
            let body = format!("{{\"n\":{number},\"p\":\"{}\"}}", "x".repeat(number * 97 % 1500));
            let new = NewEntry { body: &body, time_ms: 7, origin: None };
            let sequence = log.append(new).expect("it takes it").sequence;
            if number % 5 == 1 {
                let kind = MarkKind::ALL[number % 6];
                log.mark(&Mark { kind, target: sequence, time_ms: 7, body: "{}".into() })
                    .expect("it takes it");
            }
            log.sync().wait().expect("it syncs");
            number += 1;
        }
        let extension = if format == Format::Json { "jsonl" } else { "bin" };
        let path = |name: String| Path::new(QUEUE).join("segments").join(name);
        let mut files: Vec<PathBuf> =
            (1..=SEGMENTS).map(|number| path(format!("{number:08}.{extension}"))).collect();
        files.push(path("00000001.index".to_owned()));
        files.push(Path::new(QUEUE).join("epochs.jsonl"));
        files.push(path(format!("spare.{extension}")));
        while !files.iter().all(|file| disk.exists(file)) {
            std::thread::yield_now();
        }
        let killed = disk.after_kill();
        drop(log);
        let second = path("00000002.index".to_owned());
        if killed.exists(&second) {
            killed.remove(&second).expect("it is there");
        }
        let frames = [0, 1, 2].map(|index| entries(format, &killed.read(&files[index])));
        let entries = frames.iter().flatten().map(|(_, entry)| entry.clone()).collect();
        Self { format, medium: killed.medium(), entries, files, frames }
    }
}

fn entries(format: Format, bytes: &[u8]) -> Vec<(Range<usize>, Entry)> {
    let header = String::from_utf8_lossy(&bytes[..HEADER_BYTES / 2]);
    let (_, salt) = header.split_once("\"salt\":\"").expect("a header has a salt");
    let salt = u64::from_str_radix(&salt[..16], 16).expect("of sixteen digits");
    let (mut entries, mut at) = (Vec::new(), HEADER_BYTES);
    while let Decoded::Item(item, length) = decode(format, salt, &bytes[at..]) {
        if let Item::Entry(entry) = item {
            entries.push((at..at + length, entry));
        }
        at += length;
    }
    entries
}
