//! `outlast log export`, `list` and `show`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use outlast::Sequence;
use outlast::offline::{ExportLine, Exported, OfflineError, Queue, Selection};
use outlast::options::Options;
use outlast::redact::Redaction;
use serde_json::{Value, json};

use super::{Choice, failure, look};
use crate::cli::arguments::Global;
use crate::cli::output::{Failure, grouped, json_out, print, print_json, safe, table};
use crate::cli::progress::Progress;
use crate::cli::queue::{text, what};

/// What the flags choose; without any `all`, or what waits.
pub(super) fn selection(
    choice: Choice,
    all: bool,
    from: Option<Sequence>,
    to: Option<Sequence>,
) -> Selection {
    let none = !choice.pending && !choice.dead && !choice.all;
    let everything = choice.all || none && all;
    Selection {
        waiting: choice.pending || everything || none,
        dead: choice.dead || everything,
        decided: everything,
        from,
        to,
        watermark: choice.watermark,
    }
}

pub(super) fn run(
    global: &Global,
    options: &Options,
    selection: &Selection,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let queue = look(options)?;
    // Before a file is made for it.
    queue.must_be_readable().map_err(|error| failure(&error))?;
    // Read once to know the fates, and once to tell them.
    let progress = Progress::bytes(global.json, "exporting", queue.bytes() * 2);
    let mut add = |bytes| progress.add(bytes);
    let exported = match output {
        None => queue.export(selection, &mut json_out(), &mut add),
        Some(path) => to_file(&queue, selection, path, &mut add)?,
    };
    progress.end();
    let exported = match exported {
        // A reader that has gone (`| head`) has what it wanted.
        Err(OfflineError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        exported => exported.map_err(|error| failure(&error))?,
    };
    match (output, global.json) {
        (Some(path), true) => {
            print_json(&json!({ "written": path, "lines": exported.lines, "header": exported.header }));
        }
        (Some(path), false) => print(&summary(&exported, &format!(" to {}", path.display()))),
        (None, true) => {}
        (None, false) => eprintln!("{}", summary(&exported, "")),
    }
    if exported.not_understood > 0 {
        let left_out = exported.not_understood;
        return Err(Failure::failed(format!(
            "{left_out} entries match their checksums and are no writes: they are left out; see `outlast log verify`"
        )));
    }
    Ok(())
}

fn to_file(
    queue: &Queue,
    selection: &Selection,
    path: &Path,
    add: &mut dyn FnMut(u64),
) -> Result<Result<Exported, OfflineError>, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!(
            "{} exists already and was left alone; name another file with --output",
            path.display()
        )),
        _ => Failure::failed(format!("{} could not be written: {error}", path.display())),
    })?;
    let exported = queue.export(selection, &mut file, add);
    Ok(exported.and_then(|exported| {
        file.flush()?;
        file.sync_all()?;
        Ok(exported)
    }))
}

fn summary(exported: &Exported, to: &str) -> String {
    let header = &exported.header;
    let lost = if header.lost.is_empty() {
        String::new()
    } else {
        format!(" ({} stretches of entries are damaged and missing)", header.lost.len())
    };
    let doubt = if header.watermark_from == "cursor" && header.accounting.pending > 0 {
        format!(
            "\nEverything up to {} counts as applied, as last noted; the database may have more: if the process did not \
             end cleanly, look into its table outlast_position and say --watermark.",
            header.watermark
        )
    } else {
        String::new()
    };
    format!("exported {} entries{to}{lost}{doubt}", grouped(exported.lines))
}

pub(super) fn list(
    global: &Global,
    options: &Options,
    selection: &Selection,
    after: Option<Sequence>,
    limit: usize,
    redaction: &Redaction,
) -> Result<(), Failure> {
    let queue = look(options)?;
    let mut lines: Vec<Value> = Vec::new();
    let walked = queue.walk(selection, &mut |_| {}, &mut |_, line| {
        if let Some(line) = line.filter(|line| after.is_none_or(|after| line.sequence.0 > after)) {
            lines.push(shown(line, redaction)?);
        }
        Ok(lines.len() <= limit)
    });
    walked.map_err(|error| failure(&error))?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let next = lines.last().filter(|_| more).map(|line| text(line, "sequence"));
    if global.json {
        print_json(&json!({ "writes": lines, "next": next }));
        return Ok(());
    }
    if lines.is_empty() {
        print("nothing of that is in the files");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    print(&table(&["ID", "SEQUENCE", "STATUS", "ACCEPTED", "WHAT", "LAST REFUSAL"], &rows));
    if let Some(next) = next {
        print(&format!("more: outlast log list --after {next}"));
    }
    Ok(())
}

fn row(line: &Value) -> Vec<String> {
    let reason = line.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default();
    vec![
        text(line, "id"),
        text(line, "sequence"),
        text(line, "status"),
        text(line, "accepted_at"),
        what(line),
        safe(reason, 60),
    ]
}

pub(super) fn show(options: &Options, id: Sequence, redaction: &Redaction) -> Result<(), Failure> {
    let queue = look(options)?;
    let mut found = Value::Null;
    let walked = queue.walk(&Selection::all(), &mut |_| {}, &mut |_, line| {
        // The last one counts: a write that was appended again is where it stands now.
        if let Some(line) = line.filter(|line| line.id.0 == id) {
            found = shown(line, redaction)?;
        }
        Ok(true)
    });
    walked.map_err(|error| failure(&error))?;
    if found.is_null() {
        return Err(Failure::failed(format!(
            "write {id} is not in the files: it was never accepted, or decided so long ago that it was given back"
        )));
    }
    print_json(&found);
    Ok(())
}

/// A line as people see it.
fn shown(line: &ExportLine, redaction: &Redaction) -> serde_json::Result<Value> {
    let mut line = line.clone();
    line.reason = line.reason.map(|reason| redaction.reason(reason, &line.operations));
    for attempt in &mut line.history {
        attempt.reason = redaction.reason(attempt.reason.clone(), &line.operations);
    }
    let redacted = redaction.hide(&mut line.operations);
    let mut value = serde_json::to_value(line)?;
    if redacted {
        value["redacted"] = json!(true);
    }
    Ok(value)
}
