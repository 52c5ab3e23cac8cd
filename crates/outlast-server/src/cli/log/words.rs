//! A report on a queue directory, in words.

use std::fmt::Write as _;

use outlast::offline::{LogReport, Report, Verdict};

use crate::cli::output::{grouped, safe, size};

pub(super) fn report(report: &Report) -> String {
    let mut text = String::new();
    let logs = [Some(&report.log), report.dead_letters.as_ref()];
    let hidden = logs.into_iter().flatten().any(|log| log.hidden_segments > 0);
    let verdict = match report.verdict {
        Verdict::Clean if hidden => {
            "nothing is wrong as far as can be told without the key: checksums, sequences and counts"
        }
        Verdict::Clean if report.every_byte_read => "clean: every byte was read",
        Verdict::Clean => {
            "nothing is wrong as far as the sidecars tell; `outlast log verify` reads every byte"
        }
        Verdict::Torn => {
            "torn: a crash cut the end off; nothing acknowledged was in it, the next start cuts it off"
        }
        Verdict::Damaged => "DAMAGED",
    };
    let _ = writeln!(text, "{}: {verdict}", report.directory.display());
    let _ = writeln!(text, "Queue:     {}", report.queue.as_deref().unwrap_or("unknown"));
    let _ = writeln!(text, "Log:       {}", log(&report.log));
    if let Some((first, last)) = &report.log.opened_at {
        let epochs = grouped(report.log.epochs);
        let _ = writeln!(text, "Openings:  {epochs}, the first at {first}, the last at {last}");
    }
    if let Some(dead) = &report.dead_letters {
        let _ = writeln!(text, "Dead log:  {}", log(dead));
    }
    accounts(&mut text, report);
    for problem in &report.problems {
        let _ = writeln!(text, "{}: {}: {}", problem.severity, problem.part, safe(&problem.message, 400));
    }
    if report.verdict == Verdict::Damaged {
        let directory = report.directory.display();
        let _ = writeln!(
            text,
            "Copy the directory away first; then see `outlast log repair --dry-run {directory}`."
        );
    }
    text
}

fn accounts(text: &mut String, report: &Report) {
    let books = &report.accounting;
    let terms = &books.terms;
    let _ = writeln!(
        text,
        "Accounts:  {} accepted = {} applied + {} pending + {} parked + {} dead + {} discarded: {}",
        grouped(terms.accepted),
        grouped(terms.applied),
        grouped(terms.pending),
        grouped(terms.parked),
        grouped(terms.dead),
        grouped(terms.discarded),
        if books.holds { "holds" } else { "DOES NOT HOLD" }
    );
    let _ = writeln!(text, "           {}", books.certainty);
    if books.lost > 0 {
        let _ = writeln!(text, "Lost:      {} writes that were not known to be applied", grouped(books.lost));
    }
    for check in &books.checks {
        let word = if check.holds { "yes" } else { "NO" };
        let _ = writeln!(text, "  {word:3}  {} ({})", check.what, check.detail);
    }
}

fn log(log: &LogReport) -> String {
    let formats = match (log.json_segments, log.bincode_segments) {
        (_, 0) => "json".to_owned(),
        (0, _) => "bincode".to_owned(),
        (json, bincode) => format!("{json} json, {bincode} bincode"),
    };
    let entries = match (&log.oldest, &log.newest) {
        (Some(oldest), Some(newest)) => format!(
            "{} entries ({oldest} to {newest}), {:.0} B each",
            grouped(log.entries),
            log.bytes_per_entry
        ),
        _ => "no entries".to_owned(),
    };
    let ever = grouped(log.entries_ever);
    let encrypted = match log.encrypted_segments {
        0 => String::new(),
        encrypted => format!(", {} encrypted", grouped(encrypted)),
    };
    format!(
        "{} segments ({formats}{encrypted}), {} of files, {entries}, {ever} ever",
        grouped(log.segments),
        size(log.file_bytes)
    )
}
