//! The accounting identity, from the files alone: `accepted = applied + pending + parked + dead + discarded`.

use std::fmt::Write as _;

use outlast_log::inspect::{Contents, Finding, Seen};
use outlast_log::{MarkKind, Sequence};
use serde::Serialize;

use super::fates::Fates;
use super::line::{Status, before};
use crate::clock::rfc3339;
use crate::status::Accounting;
use crate::write::{LoggedWrite, WriteId};

/// How many entries that cannot be understood are named.
const NAMED_MAX: usize = 20;

/// What was seen on a walk through every entry.
#[derive(Debug, Default)]
pub(super) struct Tally {
    seen: u64,
    by_status: [u64; Status::ALL.len()],
    /// Entries whose checksum is right and whose content is no write.
    pub not_understood: Vec<Sequence>,
}

impl Tally {
    pub(super) fn see(&mut self, fates: &Fates, seen: Seen<'_>, progress: &mut dyn FnMut(u64)) {
        bytes(seen, progress);
        let Seen::Entry { sequence, body, .. } = seen else { return };
        self.seen += 1;
        self.by_status[fates.status(sequence) as usize] += 1;
        if body.is_empty() {
            return; // encrypted, and the key was not given
        }
        if self.not_understood.len() < NAMED_MAX && serde_json::from_str::<LoggedWrite>(body).is_err() {
            self.not_understood.push(sequence);
        }
    }

    fn of(&self, status: Status) -> u64 {
        self.by_status[status as usize]
    }
}

pub(super) fn bytes(seen: Seen<'_>, progress: &mut dyn FnMut(u64)) {
    if let Seen::Bytes(bytes) = seen {
        progress(bytes);
    }
}

/// The last note of how far the database was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cursor {
    /// The watermark at that moment.
    pub sequence: WriteId,
    /// When (RFC 3339).
    pub noted_at: String,
}

/// Something that two independent places in the files must agree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub what: &'static str,
    /// Whether it does.
    pub holds: bool,
    /// The numbers.
    pub detail: String,
}

/// The terms of the identity, and how well they are known.
#[derive(Debug, Clone, Serialize)]
pub struct Books {
    /// The terms.
    #[serde(flatten)]
    pub terms: Accounting,
    /// Whether everything in the files agrees with them.
    pub holds: bool,
    /// What was compared.
    pub checks: Vec<Check>,
    /// How far the database was when that was last noted; `None` when it never was.
    pub cursor: Option<Cursor>,
    /// Writes among the pending and parked ones whose bytes are damaged: they cannot be delivered.
    pub lost: u64,
    /// Writes refused to callers who were still waiting: never accepted.
    pub rejected: u64,
    /// What is certain, and what only the database knows.
    pub certainty: String,
}

/// The books of a queue. `tally` is what a walk through every entry has seen.
pub(super) fn books(log: &Contents, dead: Option<&Contents>, fates: &Fates, tally: Option<&Tally>) -> Books {
    let counts = log.counts;
    let dead_counts = dead.map(|dead| dead.counts).unwrap_or_default();
    let retained = counts.entries.saturating_sub(log.reclaimed.entries);
    let decided = fates.ledger.decided_between(fates.cursor, log.last);
    let accepted = (counts.entries + fates.strays)
        .saturating_sub(counts.requeued)
        .saturating_sub(counts.of(MarkKind::Rejected));
    // Those of a segment that is missing were accepted as well, whatever became of their bytes.
    let missing: u64 = log.findings.iter().filter_map(missing_entries).map(|lost| behind(lost, fates)).sum();
    let pending = (log.count(fates.cursor, log.last) + missing).saturating_sub(decided);
    let mut terms = Accounting {
        accepted,
        applied: 0,
        pending,
        parked: fates.parked(log),
        dead: fates.letters.len() as u64 + fates.hidden,
        discarded: counts.of(MarkKind::Discarded) + dead_counts.of(MarkKind::Discarded),
    };
    let elsewhere = terms.pending + terms.parked + terms.dead + terms.discarded;
    terms.applied = accepted.saturating_sub(elsewhere);
    let letters = letters_check(log, dead_counts, fates);
    let mut checks = vec![headers_check(log), letters];
    checks.push(Check {
        what: "accepted is at least what waits, is dead or was discarded",
        holds: accepted >= elsewhere,
        detail: format!("{accepted} accepted, {elsewhere} not applied"),
    });
    if let Some(tally) = tally {
        checks.extend(walk_checks(log, fates, tally, terms, retained));
    }
    Books {
        holds: checks.iter().all(|check| check.holds),
        checks,
        cursor: log
            .cursor
            .as_ref()
            .map(|mark| Cursor { sequence: WriteId(mark.target), noted_at: rfc3339(mark.time_ms) }),
        lost: lost_waiting(log, fates),
        rejected: counts.of(MarkKind::Rejected),
        certainty: certainty(log, fates, terms),
        terms,
    }
}

/// The header of every segment counts what was put into the log before it.
fn headers_check(log: &Contents) -> Check {
    let breaks = |finding: &&Finding| {
        matches!(finding, Finding::MarksLost { .. } | Finding::Contradiction { .. })
            || matches!(finding, Finding::Damage { damage, .. } if damage.segment > 0 && damage.offset == 0)
    };
    let broken = log.findings.iter().filter(breaks).count();
    Check {
        what: "every header counts what stands before it",
        holds: broken == 0,
        detail: format!("{} segments, {broken} contradictions", log.segments.len()),
    }
}

/// A dead letter is a mark in one log and an entry in another.
fn letters_check(log: &Contents, dead: outlast_log::Counts, fates: &Fates) -> Check {
    let marked = log.counts.of(MarkKind::Dead) + fates.unmarked;
    let live = fates.letters.len() as u64 + fates.retried + fates.not_understood + fates.hidden;
    let gone = dead.of(MarkKind::Retried) + dead.of(MarkKind::Discarded);
    Check {
        what: "every write that is marked dead is a dead letter, was retried or was discarded",
        // A stray may have been taken out since: then nothing tells it from the others any more.
        holds: (marked..=marked + gone).contains(&dead.entries.saturating_sub(fates.strays))
            && dead.entries == live + gone,
        detail: format!(
            "{marked} marked, {} never synced, {} stored, {live} left, {gone} taken out",
            fates.strays, dead.entries
        ),
    }
}

fn walk_checks(log: &Contents, fates: &Fates, tally: &Tally, terms: Accounting, retained: u64) -> [Check; 3] {
    let lost = retained.saturating_sub(tally.seen);
    let named: u64 = log.lost().map(|(first, last)| log_count(first, last)).sum();
    let waiting = lost_pending(log, fates);
    let applied = tally.of(Status::Applied);
    let reclaimed = log.reclaimed.entries.saturating_sub(log.reclaimed.requeued);
    let most = applied + lost + reclaimed;
    let exact = if reclaimed == 0 && lost == 0 { terms.applied == applied } else { true };
    [
        Check {
            what: "every entry that was put in is read, or named as lost",
            holds: tally.seen + lost == retained && (lost == 0) == (named == 0),
            detail: format!("{retained} put in, {} read, {lost} lost", tally.seen),
        },
        Check {
            what: "as many writes wait as are read behind the cursor",
            holds: terms.pending == tally.of(Status::Pending) + waiting,
            detail: format!(
                "{} pending by the counters, {} read, {waiting} lost",
                terms.pending,
                tally.of(Status::Pending)
            ),
        },
        Check {
            what: "accepted = applied + pending + parked + dead + discarded, with every term counted on its own",
            holds: exact && (applied..=most).contains(&terms.applied) && terms.holds(),
            detail: format!(
                "{} = {} + {} + {} + {} + {}; applied: {applied} read, up to {reclaimed} are no longer in the files",
                terms.accepted, terms.applied, terms.pending, terms.parked, terms.dead, terms.discarded
            ),
        },
    ]
}

/// How many entries two bounds have between them; across epochs at least those of the last.
fn log_count(first: Sequence, last: Sequence) -> u64 {
    if first.epoch() == last.epoch() { last.as_u64() - first.as_u64() + 1 } else { last.counter() }
}

/// Lost entries behind the cursor that nothing is decided about.
fn lost_pending(log: &Contents, fates: &Fates) -> u64 {
    let undecided = |lost: (Sequence, Sequence)| {
        let decided = fates.ledger.decided_between(before(lost.0).max(fates.cursor), lost.1);
        behind(lost, fates).saturating_sub(decided)
    };
    log.lost().map(undecided).sum()
}

/// The entries of a segment that is missing as a whole.
fn missing_entries(finding: &Finding) -> Option<(Sequence, Sequence)> {
    match finding {
        Finding::Damage { damage, .. } if damage.segment > 0 && damage.offset == 0 => damage.lost,
        _ => None,
    }
}

/// How many of these entries are behind the cursor.
fn behind((first, last): (Sequence, Sequence), fates: &Fates) -> u64 {
    let first = first.max(Sequence::from_u64(fates.cursor.as_u64() + 1).unwrap_or(first));
    if first > last { 0 } else { log_count(first, last) }
}

/// The same with those that are parked.
fn lost_waiting(log: &Contents, fates: &Fates) -> u64 {
    let is_lost = |sequence: Sequence| log.lost().any(|(first, last)| (first..=last).contains(&sequence));
    let mut parked: Vec<Sequence> =
        log.marks.iter().filter(|mark| mark.kind == MarkKind::Parked).map(|mark| mark.target).collect();
    parked.sort_unstable();
    parked.dedup();
    let parked = parked
        .into_iter()
        .filter(|sequence| fates.status(*sequence) == Status::Parked && is_lost(*sequence))
        .count() as u64;
    lost_pending(log, fates) + parked
}

fn certainty(log: &Contents, fates: &Fates, terms: Accounting) -> String {
    let mut text = as_to_the_cursor(log, fates, terms);
    if fates.hidden > 0 {
        let _ = write!(
            text,
            "; {} dead letters are encrypted and their key was not given: which writes they are was not looked at",
            fates.hidden
        );
    }
    text
}

fn as_to_the_cursor(log: &Contents, fates: &Fates, terms: Accounting) -> String {
    let Some(cursor) = &log.cursor else {
        return "certain: this queue never had a position in a database, so nothing was applied".to_owned();
    };
    let Accounting { pending, .. } = terms;
    let (at, noted) = (cursor.target, rfc3339(cursor.time_ms));
    let gap = if fates.cursor < log.retained_after {
        let after = log.retained_after;
        format!("; the log begins only after {after}, so what lies between is in the database or is missing")
    } else {
        String::new()
    };
    if pending == 0 && gap.is_empty() {
        return format!(
            "certain, unless the database has come back older since: it had everything up to {at} at {noted}"
        );
    }
    format!(
        "certain up to {at}, which the database had at {noted}{gap}; whether it has some of the {pending} pending \
         writes too, only its table outlast_position knows"
    )
}
