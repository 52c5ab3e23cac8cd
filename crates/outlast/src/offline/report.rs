//! What `verify` and `stat` tell, in one shape for people and machines.

use std::path::{Path, PathBuf};

use outlast_log::Format;
use outlast_log::inspect::{Contents, Finding, Severity};
use serde::Serialize;

use super::accounting::{Books, Tally, books};
use super::fates::Fates;
use super::imports;
use crate::clock::rfc3339;
use crate::write::WriteId;

/// Files and directories of a queue beside those of its log.
const OURS: [&str; 14] = [
    "segments",
    "damaged",
    "dead",
    "lock",
    "epochs.jsonl",
    "epochs.jsonl-new",
    "outages.jsonl",
    "state.json",
    "state.json-new",
    "state.json.damaged",
    "audit.jsonl",
    "audit.old.jsonl",
    imports::FILE,
    "imports.jsonl-new",
];

/// The answer in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong, or nothing that is not known and reported.
    Clean,
    /// The end is torn, as a crash leaves it; nothing acknowledged was in it. Opening cuts it off.
    Torn,
    /// Something is damaged, missing, or contradicts itself.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `log` or `dead letters`.
    pub part: &'static str,
    /// `note`, `torn` or `damaged`.
    pub severity: &'static str,
    /// What, in words.
    pub message: String,
    /// In which segment, where it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u64>,
    /// Where in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The first and the last of the entries that are lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<(WriteId, WriteId)>,
}

/// One log in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogReport {
    /// Files of the log.
    pub segments: u64,
    /// Those in the json format.
    pub json_segments: u64,
    /// Those in the bincode format.
    pub bincode_segments: u64,
    /// The size of those files.
    pub file_bytes: u64,
    /// Bytes of log in them.
    pub log_bytes: u64,
    /// Entries in them, damaged ones included.
    pub entries: u64,
    /// Bytes of log per entry, marks and headers included.
    pub bytes_per_entry: f64,
    /// Entries that were ever put in.
    pub entries_ever: u64,
    /// The oldest entry in the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<WriteId>,
    /// The newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<WriteId>,
    /// Those that are encrypted.
    pub encrypted_segments: u64,
    /// Those among them whose key was not given: what is said in them was not looked at.
    pub hidden_segments: u64,
    /// When the oldest and the newest file were begun (RFC 3339).
    pub begun_at: Option<(String, String)>,
    /// Openings that are known.
    pub epochs: u64,
    /// When it was first and last opened (RFC 3339).
    pub opened_at: Option<(String, String)>,
}

/// Everything that is told about a queue directory.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which directory.
    pub directory: PathBuf,
    /// Whose it is.
    pub queue: Option<String>,
    /// The answer in a word.
    pub verdict: Verdict,
    /// Whether every byte was read.
    pub every_byte_read: bool,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
    /// The accounting identity.
    pub accounting: Books,
    /// The log of writes.
    pub log: LogReport,
    /// The log of dead letters, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<LogReport>,
}

pub(super) fn report(
    directory: &Path,
    log: &Contents,
    dead: Option<&Contents>,
    fates: &Fates,
    tally: Option<&Tally>,
) -> Report {
    let accounting = books(log, dead, fates, tally);
    let mut problems: Vec<Problem> = log.findings.iter().map(|finding| problem("log", finding)).collect();
    problems
        .extend(dead.iter().flat_map(|dead| &dead.findings).map(|finding| problem("dead letters", finding)));
    problems.extend(beyond_the_log(directory, fates, tally));
    let severity = log.severity().max(dead.and_then(Contents::severity));
    let found = problems.iter().any(|problem| problem.severity == "damaged");
    let known = log.findings.iter().chain(dead.iter().flat_map(|dead| &dead.findings)).any(is_known);
    let verdict = match severity {
        // What is known to be lost is missing in the books as well.
        Some(Severity::Damaged) => Verdict::Damaged,
        _ if found || !accounting.holds && !known => Verdict::Damaged,
        Some(Severity::Torn) => Verdict::Torn,
        Some(Severity::Note) | None => Verdict::Clean,
    };
    Report {
        directory: directory.to_owned(),
        queue: log.queue.map(|queue| queue.to_string()),
        verdict,
        every_byte_read: tally.is_some(),
        problems,
        accounting,
        log: log_report(log),
        dead_letters: dead.map(log_report),
    }
}

fn is_known(finding: &Finding) -> bool {
    matches!(finding, Finding::Damage { known: true, .. } | Finding::MarksLost { known: true, .. })
}

fn problem(part: &'static str, finding: &Finding) -> Problem {
    let severity = match finding.severity() {
        Severity::Note => "note",
        Severity::Torn => "torn",
        Severity::Damaged => "damaged",
    };
    let (segment, offset, bytes, lost) = match finding {
        Finding::Damage { damage, .. } => (
            Some(damage.segment),
            Some(damage.offset),
            Some(damage.bytes),
            damage.lost.map(|(first, last)| (WriteId(first), WriteId(last))),
        ),
        Finding::Torn(torn) => (Some(torn.segment), Some(torn.offset), Some(torn.bytes), None),
        Finding::TornEpochs { offset } => (None, Some(*offset), None, None),
        Finding::Wrapping { segment, offset } => (Some(*segment), Some(*offset), None, None),
        Finding::NeverBegun { segment }
        | Finding::MarksLost { segment, .. }
        | Finding::HeaderCopy { segment, .. }
        | Finding::SidecarMissing { segment }
        | Finding::SidecarWrong { segment, .. }
        | Finding::SidecarAlone { segment }
        | Finding::Contradiction { segment } => (Some(*segment), None, None, None),
        Finding::SegmentMissing { segment, entries } => {
            (Some(*segment), None, None, entries.map(|(first, last)| (WriteId(first), WriteId(last))))
        }
        Finding::EpochsIncomplete { .. }
        | Finding::KeyMissing { .. }
        | Finding::Leftover { .. }
        | Finding::Foreign { .. } => (None, None, None, None),
    };
    Problem { part, severity, message: finding.to_string(), segment, offset, bytes, lost }
}

/// What the log itself cannot know.
fn beyond_the_log(directory: &Path, fates: &Fates, tally: Option<&Tally>) -> Vec<Problem> {
    let plain = |part, severity, message| Problem {
        part,
        severity,
        message,
        segment: None,
        offset: None,
        bytes: None,
        lost: None,
    };
    let mut problems = Vec::new();
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut foreign: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !OURS.contains(&name.as_str()))
        .collect();
    foreign.sort();
    for name in foreign {
        problems.push(plain("log", "note", format!("{name} is none of the queue's files")));
    }
    for sequence in tally.into_iter().flat_map(|tally| &tally.not_understood) {
        problems.push(plain(
            "log",
            "damaged",
            format!("entry {sequence} matches its checksum and is no write"),
        ));
    }
    if fates.not_understood > 0 {
        let message = format!("{} dead letters match their checksums and are none", fates.not_understood);
        problems.push(plain("dead letters", "damaged", message));
    }
    if fates.unmarked + fates.retried > 0 {
        let message = format!(
            "{} dead letters were stored or taken out when the process ended: the next start finishes that",
            fates.unmarked + fates.retried
        );
        problems.push(plain("dead letters", "note", message));
    }
    if let Ok(Some(_)) = imports::unfinished(directory) {
        problems.push(plain("log", "note", imports::UNFINISHED.to_owned()));
    }
    problems
}

fn log_report(log: &Contents) -> LogReport {
    let sum = |of: fn(&outlast_log::inspect::SegmentInfo) -> u64| log.segments.iter().map(of).sum::<u64>();
    let in_format =
        |format: Format| log.segments.iter().filter(|segment| segment.format == format).count() as u64;
    let entries = log.count(log.retained_after, log.last);
    let with_entries = || log.segments.iter().filter(|segment| segment.counts.entries > 0);
    let log_bytes = sum(|segment| segment.log_bytes);
    let ends = |times: Vec<u64>| Some((rfc3339(*times.first()?), rfc3339(*times.last()?)));
    LogReport {
        segments: log.segments.len() as u64,
        json_segments: in_format(Format::Json),
        bincode_segments: in_format(Format::Bincode),
        file_bytes: sum(|segment| segment.file_bytes),
        log_bytes,
        entries,
        bytes_per_entry: if entries == 0 { 0.0 } else { log_bytes as f64 / entries as f64 },
        entries_ever: log.counts.entries,
        oldest: with_entries().next().map(|segment| WriteId(segment.first)),
        newest: with_entries().next_back().map(|segment| WriteId(segment.last)),
        encrypted_segments: log.segments.iter().filter(|segment| segment.key.is_some()).count() as u64,
        hidden_segments: log.segments.iter().filter(|segment| !segment.is_readable).count() as u64,
        begun_at: ends(log.segments.iter().map(|segment| segment.created_at_ms).collect()),
        epochs: log.epochs.len() as u64,
        opened_at: ends(log.epochs.iter().map(|epoch| epoch.opened_at_ms).collect()),
    }
}
