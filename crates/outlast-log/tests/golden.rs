//! The files of versions 1 and 2 are read for ever: `tests/data/v1` and `v2` were written once and are opened here by
//! today's code. Those of version 2 have encrypted segments, of two keys and in clear side by side.
//!
//! What is read (by looking, and by opening) is compared with `expected.json` beside the files. The directories have
//! several openings and segments, every kind of mark, origins, unicode, a reclaimed front, damage that is known and
//! damage that is not, a torn tail, and a log of dead letters. That today's writer still gives the same bytes for the
//! same content is tested in `src/tests/golden.rs`. New files, for a new version only, are written by
//! `OUTLAST_GOLDEN=DIRECTORY cargo test -p outlast-log --test golden -- --ignored`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{FORMATS, body, copy, encrypted, key, only_decrypt, segment_files, sequence, wait_until};
use outlast_log::inspect::{Finding, Inspection, Seen};
use outlast_log::{
    Damage, Encryption, Entry, Format, Log, LogOptions, Mark, MarkKind, NewEntry, ReadItem, Retention,
    Sequence,
};
use serde_json::{Value, json};

const TIME_MS: u64 = 1_763_911_111_111;

fn data(version: &str, format: Format) -> PathBuf {
    let name = if format == Format::Json { "json" } else { "bincode" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version).join(name)
}

const VERSIONS: [&str; 2] = ["v1", "v2"];

fn options(format: Format) -> LogOptions {
    with(format, only_decrypt(&[1, 2]))
}

fn with(format: Format, encryption: Encryption) -> LogOptions {
    LogOptions { segment_bytes: 16 * 1024, encryption, ..common::options(format) }
}

/// Everything that can be read of a log, without opening it and after opening it.
fn everything(directory: &Path, format: Format) -> Value {
    let mut looked = Vec::new();
    let inspection = Inspection::open(directory, &[key(1), key(2)]).unwrap();
    let contents = inspection.verify(&mut |_| {}).unwrap();
    inspection
        .entries(&contents, &mut |item| {
            if let Seen::Entry { sequence, time_ms, origin, body } = item {
                looked.push(Entry { sequence, time_ms, origin, body: body.into() });
            }
        })
        .unwrap();
    drop(inspection);
    let (log, recovered) = Log::open(directory, options(format)).unwrap();
    let (mut read, mut damage) = (Vec::new(), Vec::new());
    let mut reader = log.reader(log.retained_after());
    while let Some(item) = reader.next().unwrap() {
        match item {
            ReadItem::Entry(entry) => read.push(entry),
            ReadItem::Damaged(stretch) => damage.push(stretch),
        }
    }
    assert!(looked == read, "looking and opening read the same entries");
    assert_eq!(recovered.marks, contents.marks);
    assert_eq!(recovered.origins, contents.origins);
    assert_eq!(recovered.cursor, contents.cursor);
    assert_eq!(recovered.last, contents.last);
    for epoch in &contents.epochs {
        assert!(log.is_owner(&epoch.owner));
    }
    assert_eq!(log.queue_id().to_string(), contents.queue.unwrap().to_string());
    json!({
        "queue": log.queue_id().to_string(),
        "epochs": contents.epochs.iter().map(|epoch| json!([epoch.number, epoch.owner, epoch.opened_at_ms])).collect::<Vec<_>>(),
        "retained_after": contents.retained_after.to_string(),
        "entries": read.iter().map(entry_value).collect::<Vec<_>>(),
        "marks": recovered.marks.iter().map(mark_value).collect::<Vec<_>>(),
        "cursor": recovered.cursor.as_ref().map(mark_value),
        "last": recovered.last.to_string(),
        "counts": [contents.counts.entries, contents.counts.requeued],
        "counted_marks": contents.counts.marks,
        "damage_on_opening": recovered.damage.iter().map(damage_value).collect::<Vec<_>>(),
        "damage_on_reading": damage.iter().map(damage_value).collect::<Vec<_>>(),
        "torn": recovered.torn.map(|torn| json!([torn.segment, torn.offset, torn.bytes])),
        "findings": contents.findings.iter().map(Finding::to_string).collect::<Vec<_>>(),
        "formats": contents.segments.iter().map(|info| format!("{} {:?} {}", info.number, info.format, info.log_bytes)).collect::<Vec<_>>(),
    })
}

fn entry_value(entry: &Entry) -> Value {
    let origin = entry.origin.map(|origin| origin.to_string());
    json!({ "sequence": entry.sequence.to_string(), "time": entry.time_ms, "origin": origin, "body": entry.body })
}

fn mark_value(mark: &Mark) -> Value {
    json!([mark.kind.as_str(), mark.target.to_string(), mark.time_ms, mark.body])
}

fn damage_value(damage: &Damage) -> Value {
    json!([
        damage.segment,
        damage.offset,
        damage.bytes,
        damage.lost.map(|(first, last)| format!("{first}..{last}"))
    ])
}

#[test]
fn the_files_of_every_version_are_read_as_they_were_written() {
    for (version, format) in VERSIONS.into_iter().flat_map(|version| FORMATS.map(|format| (version, format)))
    {
        let original = data(version, format);
        let directory = tempfile::tempdir().unwrap();
        copy(&original, directory.path());
        for (name, log) in [("queue", directory.path().to_owned()), ("dead", directory.path().join("dead"))] {
            let expected = fs::read_to_string(original.join(format!("expected-{name}.json"))).unwrap();
            let expected: Value = serde_json::from_str(&expected).unwrap();
            let found = everything(&log, format);
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&found[key], value, "{version} {format:?} {name}: {key}");
            }
            assert_eq!(found.as_object().unwrap().len(), expected.as_object().unwrap().len());
        }
    }
}

#[test]
fn the_files_of_every_version_have_everything_that_the_format_has() {
    for (version, format) in VERSIONS.into_iter().flat_map(|version| FORMATS.map(|format| (version, format)))
    {
        let original = data(version, format);
        let expected: Value =
            serde_json::from_slice(&fs::read(original.join("expected-queue.json")).unwrap()).unwrap();
        for kind in MarkKind::ALL {
            assert!(expected["counted_marks"][kind as usize].as_u64().unwrap() > 0, "{kind:?}");
        }
        let text = expected.to_string();
        for part in ["🦀", "\"origin\":\"", "reported before", "is torn", "damaged; lost: "] {
            assert!(text.contains(part), "{part}");
        }
        for list in ["damage_on_opening", "damage_on_reading"] {
            assert!(!expected[list].as_array().unwrap().is_empty(), "{list}");
        }
        assert!(expected["epochs"].as_array().unwrap().len() >= 3);
        assert!(expected["formats"].as_array().unwrap().len() >= 4);
        assert_ne!(expected["retained_after"], "0-0");
        let bytes = size(&original);
        assert!(bytes < 140 * 1024, "{bytes}");
        let inspection = Inspection::open(&original, &[key(1), key(2)]).unwrap();
        let contents = inspection.survey().unwrap();
        let mut keys: Vec<_> = contents.segments.iter().map(|segment| segment.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), if version == "v1" { 1 } else { 3 }, "{keys:?}");
    }
}

fn size(directory: &Path) -> u64 {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { size(&path) } else { fs::metadata(path).unwrap().len() })
        .sum()
}

/// A write as Outlast puts it into the log.
fn write_body(number: u64) -> String {
    let data = body(number, 60 + (number as usize * 37) % 250);
    match number % 7 {
        0 => format!(r#"{{"write":{{"operations":[{{"op":"put","collection":"日本","id":"ä {number}","data":{data}}}]}}}}"#)
            .replace("日本", "people"),
        1 => format!(r#"{{"write":{{"operations":[{{"op":"create","collection":"people","id":"🦀{number}","data":{{"n":1.50,"t":"\u0000\n日本"}}}}]}}}}"#),
        2 => format!(r#"{{"write":{{"operations":[{{"op":"delete","collection":"people","id":"{number}"}},{{"op":"patch","collection":"people","id":"x","data":{data}}}],"idempotency":{{"key":"key-{number}","fingerprint":"00"}}}}}}"#),
        _ => format!(r#"{{"write":{{"operations":[{{"op":"put","collection":"people","id":"{number}","data":{data}}}]}}}}"#),
    }
}

fn mark_about(kind: MarkKind, target: Sequence) -> Mark {
    let body = format!(
        r#"{{"first":"{target}","reason":{{"kind":"constraint","message":"größer als erlaubt"}},"attempts":1,"due_ms":{TIME_MS},"records":[{{"collection":"people","id":"x"}}]}}"#
    );
    let body = if kind == MarkKind::Cursor { "{\"bound\":true}".to_owned() } else { body };
    Mark { kind, target, time_ms: TIME_MS + 7, body: body.into() }
}

fn fill(log: &Log, count: u64, marks: bool) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    for number in 0..count {
        let text = write_body(number);
        let appended = log.append(NewEntry { body: &text, time_ms: TIME_MS + number, origin: None }).unwrap();
        sequences.push(appended.sequence);
        if marks && number % 4 == 0 {
            let kind = MarkKind::ALL[(number / 4 % 6) as usize];
            log.mark(&mark_about(kind, appended.sequence)).unwrap();
            if kind == MarkKind::Parked {
                let text =
                    text.replacen('{', &format!("{{\"first\":\"{}\",\"attempts\":1,", appended.sequence), 1);
                let again =
                    NewEntry { body: &text, time_ms: TIME_MS + number, origin: Some(appended.sequence) };
                sequences.push(log.append(again).unwrap().sequence);
            }
        }
    }
    log.sync().wait().unwrap();
    sequences
}

/// Turns a byte within the frame of this entry over.
fn damage(directory: &Path, segment: usize, text: &str) {
    let path = segment_files(directory)[segment].clone();
    let mut bytes = fs::read(&path).unwrap();
    // In an encrypted one: somewhere.
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    let at = at.unwrap_or(bytes.len() / 2);
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The files as a killed process leaves them, without the spare.
fn kill(log: Log, from: &Path, to: &Path, format: Format) {
    let spare = from.join("segments").join(if format == Format::Json { "spare.jsonl" } else { "spare.bin" });
    wait_until("the spare is there", || spare.exists());
    copy(from, to);
    drop(log);
    fs::remove_file(to.join("segments").join(spare.file_name().unwrap())).unwrap();
}

#[test]
#[ignore = "writes the files of a new version"]
fn write_the_golden_files() {
    let target = std::env::var_os("OUTLAST_GOLDEN").expect("OUTLAST_GOLDEN names a directory");
    // Of the second version every opening has another way.
    let ways = match Path::new(&target).file_name().and_then(|name| name.to_str()) {
        Some("v1") => {
            [Encryption::default(), Encryption::default(), Encryption::default(), Encryption::default()]
        }
        _ => [encrypted(&[1]), encrypted(&[2, 1]), only_decrypt(&[1, 2]), encrypted(&[1, 2])],
    };
    for format in FORMATS {
        let work = tempfile::tempdir().unwrap();
        let queue = work.path().join("queue");
        let open = |format, way: usize| Log::open(&queue, with(format, ways[way].clone())).unwrap().0;
        // Something that is reclaimed, then every kind of mark over several segments.
        let log = open(format, 0);
        let sequences = fill(&log, 40, true);
        log.close().unwrap();
        let log = open(format, 1);
        log.settle(sequences[sequences.len() - 1]);
        let gone = log.reclaim(Retention { time: Duration::ZERO, bytes: 0 }).unwrap();
        assert!(gone.segments > 0);
        fill(&log, 64, true);
        log.close().unwrap();
        // Rot before the sidecar is made again is known; rot behind it is not.
        let files = segment_files(&queue);
        damage(&queue, 0, r#""id":"5""#);
        fs::remove_file(files[0].with_extension("index")).unwrap();
        let other = if format == Format::Json { Format::Bincode } else { Format::Json };
        let log = open(other, 2);
        fill(&log, 9, true);
        log.close().unwrap();
        damage(&queue, 1, r#""id":"6"#);
        // The end is torn.
        let log = open(format, 3);
        fill(&log, 8, false);
        log.mark(&mark_about(MarkKind::Cursor, sequence("3-2"))).unwrap();
        log.sync().wait().unwrap();
        let last = log.append(NewEntry { body: &write_body(3), time_ms: TIME_MS, origin: None }).unwrap();
        log.durable(last.ticket).wait().unwrap();
        let killed = work.path().join("killed");
        kill(log, &queue, &killed, format);
        let path = segment_files(&killed).pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let end =
            bytes.iter().rposition(|byte| *byte != if format == Format::Json { b'\n' } else { 0 }).unwrap();
        bytes[end - 40..].fill(if format == Format::Json { b'\n' } else { 0 });
        fs::write(&path, bytes).unwrap();
        // Dead letters: one live, one retried, one discarded.
        let dead = killed.join("dead");
        let (log, _) = Log::open(&dead, with(format, ways[1].clone())).unwrap();
        for (number, kind) in [(1, None), (2, Some(MarkKind::Retried)), (3, Some(MarkKind::Discarded))] {
            let letter = format!(
                r#"{{"id":"3-{number}","sequence":"3-{number}","accepted_ms":{TIME_MS},"died_ms":{TIME_MS},"reason":{{"kind":"exists","message":"es gibt ihn schon: 🦀"}},"history":[{{"at":"2025-11-23T15:18:31.111Z","reason":{{"kind":"exists","message":"schon da"}}}}],"write":{{"operations":[{{"op":"create","collection":"people","id":"{number}","data":{{"v":{number}}}}}]}}}}"#
            );
            let stored = log.append(NewEntry { body: &letter, time_ms: TIME_MS, origin: None }).unwrap();
            if let Some(kind) = kind {
                log.mark(&Mark { kind, target: stored.sequence, time_ms: TIME_MS, body: "{}".into() })
                    .unwrap();
            }
        }
        log.close().unwrap();
        let spare =
            dead.join("segments").join(if format == Format::Json { "spare.jsonl" } else { "spare.bin" });
        let _ = fs::remove_file(spare);
        for name in ["lock", "dead/lock"] {
            fs::remove_file(killed.join(name)).unwrap();
        }
        let name = if format == Format::Json { "json" } else { "bincode" };
        let target = Path::new(&target).join(name);
        let _ = fs::remove_dir_all(&target);
        copy(&killed, &target);
        for (name, log) in [("queue", killed.clone()), ("dead", dead)] {
            let expected = serde_json::to_string(&everything(&log, format)).unwrap();
            fs::write(target.join(format!("expected-{name}.json")), expected + "\n").unwrap();
        }
    }
}
