//! What is appended is there again, byte by byte, whoever opens the log next and in whatever format.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::{fs, io};

use common::{FORMATS, append, bodies, copy, entry, mark, open, options, read_all, segment_files, sequence};
use outlast_log::{AppendError, Format, Log, LogOptions, MarkKind, NewEntry, OpenError, Sequence};
use outlast_testkit::disk::SimulatedDisk;

const BODIES: [&str; 5] = [
    "{}",
    r#"{"a":1.0000000000000000001,"b":[null,true,"\u0000\n\\"]}"#,
    r#"{"日本語":"🦀 Ünïcödé \ud83e\udd80","e":"é"}"#,
    r#"{"crc32c":"00000000"}"#,
    r#"[1,"},\"crc32c\":\"deadbeef\"}"]"#,
];

#[test]
fn bodies_come_back_exactly() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, recovered) = open(directory.path(), format);
        assert!(recovered.created);
        assert_eq!(recovered.last, Sequence::START);
        let mut expected = Vec::new();
        for (index, body) in BODIES.into_iter().enumerate() {
            let origin = (index % 2 == 1).then(|| sequence("1-1"));
            let new = NewEntry { body, time_ms: u64::MAX - index as u64, origin };
            expected.push((log.append(new).unwrap().sequence, new.time_ms, origin, body));
        }
        log.sync().wait().unwrap();
        let check = |log: &Log| {
            let entries = read_all(log);
            let found: Vec<_> = entries.iter().map(|e| (e.sequence, e.time_ms, e.origin, &*e.body)).collect();
            assert_eq!(found, expected);
            for entry in entries {
                assert_eq!(log.get(entry.sequence).unwrap(), Some(entry));
            }
            assert_eq!(log.get(Sequence::START).unwrap(), None);
            assert_eq!(log.get(sequence("1-6")).unwrap(), None);
        };
        check(&log);
        log.close().unwrap();
        let (log, recovered) = open(directory.path(), format);
        assert!(!recovered.created);
        assert_eq!(recovered.last, sequence("1-5"));
        assert_eq!(
            recovered.origins,
            [(sequence("1-2"), sequence("1-1")), (sequence("1-4"), sequence("1-1"))]
        );
        assert_eq!((recovered.torn, recovered.damage), (None, vec![]));
        check(&log);
    }
}

#[test]
fn a_killed_process_leaves_everything_that_was_written() {
    for format in FORMATS {
        let (directory, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (log, _) = open(directory.path(), format);
        for body in BODIES {
            append(&log, body);
        }
        log.mark(&mark(MarkKind::Parked, sequence("1-2"))).unwrap();
        log.sync().wait().unwrap();
        copy(directory.path(), killed.path());
        let (log, recovered) = open(killed.path(), format);
        assert_eq!(bodies(&read_all(&log)), BODIES);
        assert_eq!(recovered.marks, [mark(MarkKind::Parked, sequence("1-2"))]);
        assert_eq!(recovered.torn, None);
    }
}

#[test]
fn both_formats_stand_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    for (index, format) in [FORMATS[0], FORMATS[1], FORMATS[0]].into_iter().enumerate() {
        let (log, _) = open(directory.path(), format);
        append(&log, BODIES[index]);
        assert_eq!(bodies(&read_all(&log)), BODIES[..=index]);
        log.close().unwrap();
    }
}

#[test]
fn each_opening_is_an_epoch_and_its_owner_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let mut owners = Vec::new();
    let mut queue = None;
    for number in 1..=4 {
        let (log, _) = open(directory.path(), Format::Json);
        assert_eq!(log.epoch().number, number);
        assert_eq!(append(&log, "{}"), Sequence::new(number, 1).unwrap());
        owners.push(log.epoch().owner.clone());
        assert_eq!(*queue.get_or_insert(log.queue_id()), log.queue_id());
        assert!(owners.iter().all(|owner| log.is_owner(owner)));
        assert!(!log.is_owner("somebody"));
    }
    owners.dedup();
    assert_eq!(owners.len(), 4);
}

#[test]
fn owners_and_epochs_survive_the_loss_of_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    append(&log, "{}");
    let (owner, queue) = (log.epoch().owner.clone(), log.queue_id());
    log.close().unwrap();
    fs::remove_file(directory.path().join("epochs.jsonl")).unwrap();
    let (log, recovered) = open(directory.path(), Format::Json);
    assert!(!recovered.created);
    assert_eq!((log.epoch().number, log.queue_id()), (2, queue));
    assert!(log.is_owner(&owner));
}

#[test]
fn owners_of_openings_that_left_nothing_survive_a_power_loss() {
    let open = |disk: SimulatedDisk| {
        Log::open_on(Arc::new(disk), Path::new("/queue"), options(Format::Json)).unwrap().0
    };
    let disk = SimulatedDisk::new(1);
    // Each may stand in the database as the owner of its position, though nothing is left of its segment.
    let owners: Vec<String> = (0..5).map(|_| open(disk.clone()).epoch().owner.clone()).collect();
    for seed in 0..20 {
        let log = open(disk.after_power_cut(seed));
        assert!(owners.iter().all(|owner| log.is_owner(owner)), "{seed}");
    }
}

#[test]
fn a_torn_line_in_the_epochs_file_is_dropped_and_a_damaged_one_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("epochs.jsonl");
    for _ in 0..3 {
        open(directory.path(), Format::Json);
    }
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.len();
    bytes.extend_from_within(..50);
    fs::write(&path, &bytes).unwrap();
    let (log, recovered) = open(directory.path(), Format::Json);
    assert_eq!((log.epoch().number, recovered.damage.len()), (4, 0));
    drop(log);
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.split(|byte| *byte == b'\n').count(), 5);
    bytes[whole / 2] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (log, recovered) = open(directory.path(), Format::Json);
    assert_eq!(log.epoch().number, 5);
    assert_eq!(recovered.damage.iter().map(|damage| damage.segment).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_damaged_stretch_of_many_lines_is_reported_and_kept_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("epochs.jsonl");
    for _ in 0..3 {
        open(directory.path(), Format::Json);
    }
    let mut bytes = fs::read(&path).unwrap();
    let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes.splice(first..first, std::iter::repeat_n(b'\n', 10_000));
    fs::write(&path, &bytes).unwrap();
    let (log, recovered) = open(directory.path(), Format::Json);
    assert_eq!(log.epoch().number, 4);
    let found: Vec<_> = recovered.damage.iter().map(|it| (it.segment, it.offset, it.bytes)).collect();
    assert_eq!(found, [(0, first as u64, 10_000)]);
    assert_eq!(fs::read_dir(directory.path().join("damaged")).unwrap().count(), 1);
}

#[test]
fn restarts_in_a_loop_do_not_pile_up_files() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    append(&log, "{}");
    log.mark(&mark(MarkKind::Cursor, sequence("1-1"))).unwrap();
    log.close().unwrap();
    for _ in 0..10 {
        let (log, recovered) = open(directory.path(), Format::Json);
        assert_eq!(recovered.cursor, Some(mark(MarkKind::Cursor, sequence("1-1"))));
        assert_eq!(recovered.last, sequence("1-1"));
        log.close().unwrap();
    }
    assert_eq!(segment_files(directory.path()).len(), 2);
    let (log, _) = open(directory.path(), Format::Json);
    assert_eq!(log.counts().entries, 1);
    assert_eq!(append(&log, "{}"), sequence("12-1"));
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    let error = Log::open(directory.path(), options(Format::Json)).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    let clone = log.clone();
    log.close().unwrap();
    assert_eq!(clone.append(entry("{}")), Err(AppendError::Closed));
    open(directory.path(), Format::Json);
}

#[test]
fn only_the_owner_may_look_into_a_queue() {
    let directory = tempfile::tempdir().unwrap();
    let queue = directory.path().join("a/b/queue");
    let (log, _) = open(&queue, Format::Json);
    append(&log, "{}");
    log.close().unwrap();
    let mut open_directories = vec![queue];
    while let Some(path) = open_directories.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            open_directories.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    // The kernel lets root write anywhere, so a file in the way stands for all such errors, and /proc for a
    // read-only place.
    assert!(Log::open(&file.join("queue"), LogOptions::default()).is_err());
    if let Err(error @ OpenError::NotWritable { .. }) =
        Log::open(Path::new("/sys/queue"), LogOptions::default())
    {
        assert!(
            error.to_string().contains("/sys/queue") && error.to_string().contains("choose another"),
            "{error}"
        );
    }
}

#[test]
fn a_segment_of_another_queue_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&one, &other] {
        let (log, _) = open(directory.path(), Format::Json);
        append(&log, "{}");
    }
    let name = "segments/00000001.jsonl";
    fs::copy(one.path().join(name), other.path().join(name)).unwrap();
    let error = Log::open(other.path(), options(Format::Json)).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn a_later_version_of_the_layout_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), Format::Json);
    let path = &segment_files(directory.path())[0];
    let mut bytes = fs::read(path).unwrap();
    let mut line = br#"{"outlast":3,"other":"fields""#.to_vec();
    line.push(b',');
    let sum = crc32c::crc32c(&line);
    line.extend(format!("\"crc32c\":\"{sum:08x}\"}}").bytes());
    line.resize(1023, b' ');
    line.push(b'\n');
    bytes[..1024].copy_from_slice(&line);
    fs::write(path, &bytes).unwrap();
    let error = Log::open(directory.path(), options(Format::Json)).unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { reason, .. } if reason.contains("version 3")), "{error}");
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[test]
fn what_cannot_be_kept_is_refused_before_it_has_a_sequence() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    let much = format!("\"{}\"", "x".repeat(60_000));
    assert!(matches!(log.append(entry(&much)), Err(AppendError::TooLarge { .. })));
    let half = format!("\"{}\"", "x".repeat(30_000));
    assert!(matches!(log.append_all(&[entry(&half), entry(&half)]), Err(AppendError::TooLarge { .. })));
    assert_eq!(log.append(entry("{\n}")), Err(AppendError::InvalidBody));
    assert_eq!(log.append_all(&[entry("{}"), entry("")]), Err(AppendError::InvalidBody));
    assert_eq!(append(&log, "{}"), sequence("1-1"));
    assert_eq!(read_all(&log).len(), 1);
}

#[test]
fn jq_reads_json_segments() -> io::Result<()> {
    if Command::new("jq").arg("--version").output().is_err() {
        eprintln!("skipped: jq is not installed");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let (log, _) = open(directory.path(), Format::Json);
    for body in &BODIES[1..] {
        append(&log, body);
    }
    log.mark(&mark(MarkKind::Dead, sequence("1-1"))).unwrap();
    log.sync().wait().unwrap();
    let output = Command::new("jq").arg("-c").arg(".kind").args(segment_files(directory.path())).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kinds = String::from_utf8(output.stdout).unwrap();
    assert_eq!(kinds.lines().filter(|line| *line == "\"write\"").count(), 4);
    assert_eq!(kinds.lines().filter(|line| *line == "\"dead\"").count(), 1);
    Ok(())
}
