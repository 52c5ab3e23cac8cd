//! Import of arbitrary files: the first byte says how, the rest is the file.
//!
//! A file is imported or refused with a reason. Of a refused file nothing is in the queue. Of an imported one every write
//! that was announced is in the queue as the file has it, nothing else is, the queue passes `verify`, and the same file is
//! not imported a second time.

#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use outlast::Operation;
use outlast::offline::{
    ExportLine, How, ImportError, Imported, Mapping, Queue, Selection, Status, Verdict, import,
};
use outlast::options::Options;
use serde_json::Value;

/// Small, so that making a log costs little; the only limits that a file of a few kilobytes can meet.
const SEGMENT_BYTES: u64 = 64 * 1024;
const WRITE_BYTES_MAX: u64 = 2 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&how, file)) = input.split_first() else { return };
    let how =
        How { retry_dead: how & 1 != 0, applied: how & 2 != 0, partial: how & 4 != 0, again: how & 8 != 0 };
    let home = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })
        .expect("a directory is made");
    let options = Options {
        segment_bytes: SEGMENT_BYTES,
        write_bytes_max: WRITE_BYTES_MAX,
        ..Options::new(home.path().join("queue"))
    };
    match imported(file, &options, how) {
        Ok((summary, mapped)) => judge(file, &options, how, &summary, &mapped),
        Err(ImportError::Malformed { .. } | ImportError::Refused(_)) => {
            assert!(!options.directory.exists(), "it was refused, and something was made of it");
        }
        Err(other) => panic!("the disk does not fail, but: {other}"),
    }
});

fn imported(file: &[u8], options: &Options, how: How) -> Result<(Imported, Vec<Mapping>), ImportError> {
    let mut mapped = Vec::new();
    let summary =
        import(&mut Cursor::new(file), options, how, &mut |_| (), &mut |mapping| mapped.push(mapping))?;
    Ok((summary, mapped))
}

fn judge(file: &[u8], options: &Options, how: How, summary: &Imported, mapped: &[Mapping]) {
    let wanted = lines(file);
    let found = exported(options);
    assert_eq!((found.len(), mapped.len() as u64), (mapped.len(), summary.waiting + summary.dead));
    for (line, mapping) in found.iter().zip(mapped) {
        assert_eq!(line.sequence, mapping.to, "they stand in the order in which they were announced");
        let status = if mapping.status == Status::Dead { Status::Dead } else { Status::Pending };
        assert_eq!(line.status, status);
        let is_it = |other: &&ExportLine| {
            other.id == mapping.from
                && same(&other.operations, &line.operations)
                && other.idempotency_key == line.idempotency_key
                && other.accepted_ms == line.accepted_ms
        };
        assert!(wanted.iter().any(|other| is_it(&other)), "{line:?} does not stand in the file");
    }
    let dead = found.iter().filter(|line| line.status == Status::Dead).count() as u64;
    assert_eq!(dead, summary.dead);
    let queue = Queue::look(&options.directory, &[]).expect("it can be looked at");
    let report = queue.verify(&mut |_| ()).expect("the disk does not fail");
    assert_eq!(report.verdict, Verdict::Clean, "{report:?}");
    drop(queue);
    match imported(file, options, How { again: false, ..how }) {
        Err(ImportError::Refused(_)) => {}
        other => panic!("it was imported twice: {other:?}"),
    }
}

/// White space between the tokens of a document is not kept, nor a member that repeats the record's id.
fn same(theirs: &[Operation], ours: &[Operation]) -> bool {
    let plain = |operation: &Operation| {
        let mut value = serde_json::to_value(operation).expect("it was read from JSON");
        let id = value.get("id").cloned();
        if let Some(data) = value.get_mut("data").and_then(Value::as_object_mut)
            && data.get("id") == id.as_ref()
        {
            data.remove("id");
        }
        value
    };
    theirs.iter().map(plain).eq(ours.iter().map(plain))
}

/// The lines about writes: whatever else stands there is no such line.
fn lines(file: &[u8]) -> Vec<ExportLine> {
    file.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn exported(options: &Options) -> Vec<ExportLine> {
    let queue = Queue::look(&options.directory, &[]).expect("it can be looked at");
    let mut out = Vec::new();
    queue.export(&Selection::all(), &mut out, &mut |_| ()).expect("the disk does not fail");
    lines(&out)
}
