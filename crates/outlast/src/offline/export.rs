//! Export: what stands in the files, as lines of JSON.

use std::io::Write as _;

use outlast_log::Sequence;
use outlast_log::inspect::Seen;

use super::accounting::books;
use super::fates::Fates;
use super::line::{EXPORT_VERSION, ExportEnd, ExportHeader, ExportLine, Status};
use super::{OfflineError, Queue};
use crate::clock::{rfc3339, rfc3339_now};
use crate::dead::Letter;
use crate::write::{LoggedWrite, WriteId};

/// Which entries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Those whose fate is not decided.
    pub waiting: bool,
    /// Dead letters.
    pub dead: bool,
    /// All others.
    pub decided: bool,
    /// Only from this sequence on.
    pub from: Option<Sequence>,
    /// Only up to this sequence.
    pub to: Option<Sequence>,
    /// How far the database is, if somebody has looked; otherwise the last cursor counts.
    pub watermark: Option<Sequence>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self { waiting: true, dead: true, decided: true, ..Self::default() }
    }

    fn takes(&self, status: Status, sequence: Sequence) -> bool {
        let wanted = match status {
            Status::Pending | Status::Parked => self.waiting,
            Status::Dead => self.dead,
            _ => self.decided,
        };
        wanted && self.from.is_none_or(|from| from <= sequence) && self.to.is_none_or(|to| sequence <= to)
    }
}

/// What came out.
#[derive(Debug)]
pub struct Exported {
    /// The first line.
    pub header: ExportHeader,
    /// Lines about entries.
    pub lines: u64,
    /// Entries that match their checksum and are no writes: they are left out.
    pub not_understood: u64,
}

impl Queue {
    /// Writes what is selected as lines of JSON: a header, a line per entry, a closing line.
    ///
    /// # Errors
    /// When the disk or the output says no.
    pub fn export(
        &self,
        selection: &Selection,
        out: &mut dyn std::io::Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Exported, OfflineError> {
        let mut out = std::io::BufWriter::new(out);
        let mut begun = false;
        let mut lines = 0;
        let exported = self.walk(selection, progress, &mut |header, line| {
            if !begun {
                begun = true;
                write_line(&mut out, header)?;
            }
            if let Some(line) = line {
                lines += 1;
                write_line(&mut out, line)?;
            }
            Ok(true)
        })?;
        write_line(&mut out, &ExportEnd { outlast_export_end: lines })?;
        out.flush()?;
        Ok(exported)
    }

    /// Hands every selected entry to `each`, which says whether to go on; the header comes with each, and once alone
    /// before the first.
    ///
    /// # Errors
    /// When the disk says no, or `each` does.
    pub fn walk(
        &self,
        selection: &Selection,
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(&ExportHeader, Option<&ExportLine>) -> std::io::Result<bool>,
    ) -> Result<Exported, OfflineError> {
        self.must_be_readable()?;
        let log = self.log.verify(&mut |seen| super::accounting::bytes(seen, progress))?;
        let (dead_contents, mut fates) = self.fates(&log)?;
        let from = match (selection.watermark, &log.cursor) {
            (Some(_), _) => "given",
            (None, Some(_)) => "cursor",
            (None, None) => "none",
        };
        fates.cursor = selection.watermark.unwrap_or(fates.cursor);
        let header = ExportHeader {
            outlast_export: EXPORT_VERSION,
            queue: log.queue.map(|queue| queue.to_string()).unwrap_or_default(),
            exported_at: rfc3339_now(),
            watermark: WriteId(fates.cursor),
            watermark_from: from.to_owned(),
            last: WriteId(log.last),
            accounting: books(&log, dead_contents.as_ref(), &fates, None).terms,
            lost: log.lost().map(|(first, last)| (WriteId(first), WriteId(last))).collect(),
        };
        let mut walk = Walk { selection, each, header, lines: 0, not_understood: 0, ended: Ok(true) };
        walk.hand_over(None);
        self.log.entries(&log, &mut |seen| {
            super::accounting::bytes(seen, progress);
            walk.entry(&fates, seen);
        })?;
        if let (Some(dead), Some(contents)) = (&self.dead, &dead_contents) {
            dead.entries(contents, &mut |seen| walk.letter(&fates, seen))?;
        }
        walk.ended?;
        Ok(Exported { header: walk.header, lines: walk.lines, not_understood: walk.not_understood })
    }
}

fn write_line(out: &mut impl std::io::Write, line: &impl serde::Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

struct Walk<'a> {
    selection: &'a Selection,
    each: &'a mut dyn FnMut(&ExportHeader, Option<&ExportLine>) -> std::io::Result<bool>,
    header: ExportHeader,
    lines: u64,
    not_understood: u64,
    /// Whether to go on, or why not.
    ended: std::io::Result<bool>,
}

impl Walk<'_> {
    fn hand_over(&mut self, line: Option<&ExportLine>) {
        self.lines += u64::from(line.is_some());
        self.ended = (self.each)(&self.header, line);
    }

    fn entry(&mut self, fates: &Fates, seen: Seen<'_>) {
        let Seen::Entry { sequence, time_ms, body, .. } = seen else { return };
        let status = fates.status(sequence);
        // A dead letter is told from where it is kept, with its history.
        if !matches!(self.ended, Ok(true))
            || status == Status::Dead
            || !self.selection.takes(status, sequence)
        {
            return;
        }
        let Ok(logged) = serde_json::from_str::<LoggedWrite>(body) else {
            self.not_understood += 1;
            return;
        };
        let decision = fates.ledger.fate(sequence);
        let line = ExportLine {
            id: logged.first.unwrap_or(WriteId(sequence)),
            sequence: WriteId(sequence),
            status,
            accepted_at: rfc3339(time_ms),
            accepted_ms: time_ms,
            later: fates.ledger.later(sequence).map(WriteId),
            attempts: decision.map_or(logged.attempts, |decision| decision.attempts.max(logged.attempts)),
            reason: decision.and_then(|decision| decision.reason.as_deref().cloned()),
            died_ms: None,
            history: Vec::new(),
            operations: logged.write.operations().to_vec(),
            idempotency_key: logged.write.key().map(|key| key.key.clone()),
        };
        self.hand_over(Some(&line));
    }

    fn letter(&mut self, fates: &Fates, seen: Seen<'_>) {
        let Seen::Entry { sequence, body, .. } = seen else { return };
        let Ok(letter) = serde_json::from_str::<Letter>(body) else {
            self.not_understood += 1;
            return;
        };
        let listed = fates.letters.get(&letter.id).is_some_and(|(stored_at, _)| *stored_at == sequence);
        if !matches!(self.ended, Ok(true))
            || !listed
            || !self.selection.takes(Status::Dead, letter.sequence.0)
        {
            return;
        }
        let line = ExportLine {
            id: letter.id,
            sequence: letter.sequence,
            status: Status::Dead,
            accepted_at: rfc3339(letter.accepted_ms),
            accepted_ms: letter.accepted_ms,
            later: None,
            attempts: letter.history.len() as u32,
            reason: Some(letter.reason),
            died_ms: Some(letter.died_ms),
            history: letter.history,
            operations: letter.write.operations().to_vec(),
            idempotency_key: letter.write.key().map(|key| key.key.clone()),
        };
        self.hand_over(Some(&line));
    }
}
