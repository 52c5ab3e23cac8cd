//! Opening: what the log, the dead letters and the marks say about the last run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use outlast_log::{Disk, Log, LogOptions, Mark, MarkKind, Recovered, Sequence};
use tokio::sync::{broadcast, mpsc};

use crate::clock::now_ms;
use crate::core::{Core, Parts};
use crate::database::Database;
use crate::dead::DeadLetterStore;
use crate::drainer::{Drainer, decided_by};
use crate::error::Error;
use crate::feed::Pending;
use crate::health::Monitor;
use crate::health::MonitorOptions;
use crate::kept::{Kept, Of};
use crate::lanes::CursorNote;
use crate::ledger::{Decided, Fated, Ledger, MarkBody, Waiting, key_of, keys_of};
use crate::metrics::Metrics;
use crate::offline::imports;
use crate::options::Options;
use crate::outage::{Outages, on_state_change};
use crate::write::WriteId;

/// Events kept for a listener that is slow.
const EVENTS_MAX: usize = 1024;
const NO_SPACE: &str = "there is no space to note which dead letters were retried: free some space";
/// Commands that may wait for the drainer.
const COMMANDS_MAX: usize = 64;

/// The queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log could not: the message says what to do.
    #[error(transparent)]
    Log(#[from] outlast_log::OpenError),
    /// What the last run left undone between log and dead letters could not be finished.
    #[error("the queue directory could not be brought in order: {0}")]
    Recovery(#[from] Error),
}

impl OpenError {
    /// Another process has the queue directory.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Log(outlast_log::OpenError::Locked { .. }))
    }
}

/// A core and its drainer, ready to run.
pub(crate) async fn open(
    disk: Arc<dyn Disk>,
    database: Arc<dyn Database>,
    options: Options,
) -> Result<(Arc<Core>, Drainer), OpenError> {
    let log_options = log_options(&options);
    // Before the log is opened: neither is touched when the other cannot be read.
    Log::check_keys(&*disk, &options.directory.join("dead"), &log_options)?;
    let (log, recovered) = Log::open_on(disk.clone(), &options.directory, log_options.clone())?;
    refuse_half_an_import(&options)?;
    let kept = Kept::open(disk.clone(), &options.directory);
    let dead =
        DeadLetterStore::open(disk, &options.directory.join("dead"), &log_options, options.redact.clone())?;
    let outages = Arc::new(Mutex::new(Outages::open(&options.directory)));
    let metrics = Arc::new(Metrics::new());
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let monitor_options = MonitorOptions {
        probe_interval: options.probe_interval,
        probe_max_interval: options.probe_max_interval,
        probe_timeout: options.probe_timeout,
        unavailable_timeout: options.unavailable_timeout,
    };
    let monitor = Monitor::new(monitor_options, on_state_change(&outages, &metrics, &events));
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let core =
        Core::new(Parts { options, database, log, dead, monitor, outages, kept, metrics, events, commands });
    tell(&recovered);
    tell_keys(&core);
    let bound = recovered.cursor.is_some();
    // After a power loss the last note may be old; but what the log has let go of was decided.
    let noted = recovered.cursor.as_ref().map_or(Sequence::START, |mark| mark.target);
    let mut note = recovered.cursor.as_ref().map_or_else(CursorNote::default, cursor_note);
    if !bound {
        // Nothing stands in a database yet: there is nothing to change.
        note.lanes = core.options.wanted_lanes();
    }
    core.reach_all(usize::from(note.lanes), noted.max(core.log.retained_after()));
    core.intake.start_after(recovered.last);
    rebuild(&core, &recovered);
    let strays = reconcile_dead_letters(&core).await?;
    for stretch in core.dead.unreadable() {
        core.note_lost(Of::DeadLetters, stretch);
    }
    count(&core, recovered.last, strays);
    let core = Arc::new(core);
    core.register_components();
    core.stand_as_before();
    let drainer = Drainer::new(core.clone(), inbox, bound, note);
    Ok((core, drainer))
}

/// How the log of these options is kept.
pub(crate) fn log_options(options: &Options) -> LogOptions {
    LogOptions {
        format: options.format,
        compression: options.compression,
        segment_bytes: options.segment_bytes,
        sync_interval: options.sync_interval,
        encryption: options.encryption.clone(),
        // An entry is the write and its envelope.
        entry_bytes_max: options.write_bytes_max.saturating_mul(2).saturating_add(64 << 10),
    }
}

/// Half an import would be delivered, and the other half could not be told from it any more.
fn refuse_half_an_import(options: &Options) -> Result<(), OpenError> {
    match imports::unfinished(&options.directory) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Error::Conflict(imports::UNFINISHED.into()).into()),
        Err(error) => Err(Error::Conflict(error.to_string()).into()),
    }
}

fn tell(recovered: &Recovered) {
    if let Some(torn) = &recovered.torn {
        tracing::info!(?torn, "the end of the log was torn and never synced: cut off");
    }
    for damage in &recovered.damage {
        tracing::error!(%damage, "the log is damaged; the damaged bytes are kept in damaged/");
    }
}

/// Which keys must be kept, and for how many segments.
fn tell_keys(core: &Core) {
    let Some(encryption) = core.encryption_status() else { return };
    let current = encryption.current.as_deref().unwrap_or("none: new segments are written in clear");
    tracing::info!(current, segments_in_clear = encryption.segments_in_clear, "the log can be encrypted");
    for key in encryption.keys {
        tracing::info!(key = key.id, segments = key.segments, "this key is needed");
    }
}

/// Fates, chains and barriers from the marks and origins in the log.
fn rebuild(core: &Core, recovered: &Recovered) {
    let mut ledger = core.ledger();
    let mut parked: BTreeMap<Sequence, MarkBody> = BTreeMap::new();
    for mark in &recovered.marks {
        let Some(decided) = decided_by(mark.kind) else { continue };
        let body = mark_body(mark);
        // It may be from before the fields were listed.
        let shown = |reason| core.options.redact.reason_about(reason, &body.records);
        let reason = body.reason.clone().map(shown).map(Box::new);
        ledger.decide(mark.target, Fated { decided, attempts: body.attempts, reason, time_ms: mark.time_ms });
        if decided == Decided::Parked && !core.kept.is_lost(mark.target) {
            parked.insert(mark.target, body);
        }
    }
    for (sequence, origin) in &recovered.origins {
        ledger.requeue(*origin, *sequence);
    }
    let waiting = parked.iter().filter(|(sequence, _)| {
        !ledger.is_requeued(**sequence)
            && ledger.fate(**sequence).is_some_and(|fated| fated.decided == Decided::Parked)
    });
    let waiting: Vec<(Sequence, &MarkBody)> = waiting.map(|(sequence, body)| (*sequence, body)).collect();
    for (sequence, body) in waiting {
        let keys: Vec<u64> = body.records.iter().map(key_of).collect();
        ledger.chains.park(body.first, Waiting { sequence, due_ms: body.due_ms.unwrap_or(0) }, &keys);
    }
    restore_barriers(core, &mut ledger, recovered, &parked);
}

/// Writes that were appended again and are not applied yet: nothing of their records may overtake them.
fn restore_barriers(
    core: &Core,
    ledger: &mut Ledger,
    recovered: &Recovered,
    parked: &BTreeMap<Sequence, MarkBody>,
) {
    for (sequence, origin) in &recovered.origins {
        if *sequence <= core.cursor() || ledger.fate(*sequence).is_some() {
            continue;
        }
        if let Some(body) = parked.get(origin) {
            let keys: Vec<u64> = body.records.iter().map(key_of).collect();
            ledger.chains.appended_again(body.first, *sequence, &keys);
        } else if ledger.fate(*origin).is_none()
            && let Ok(Some(entry)) = core.log.get(*sequence)
            && let Ok(pending) = Pending::decode(&entry)
        {
            // The log has let go of its former entry with the mark. It may also be a dead letter that was retried: what
            // follows it then waits for it, which is no harm.
            ledger.chains.appended_again(pending.first, *sequence, &keys_of(&pending.write));
        }
    }
}

pub(crate) fn mark_body(mark: &Mark) -> MarkBody {
    if mark.body.is_empty() {
        // Encrypted, and looked at without the key.
        return MarkBody {
            first: WriteId(mark.target),
            reason: None,
            attempts: 0,
            due_ms: None,
            records: Vec::new(),
        };
    }
    serde_json::from_str(&mark.body).unwrap_or_else(|error| {
        tracing::error!(%error, target = %mark.target, "the particulars of a mark cannot be understood");
        MarkBody { first: WriteId(mark.target), reason: None, attempts: 0, due_ms: None, records: Vec::new() }
    })
}

fn cursor_note(mark: &Mark) -> CursorNote {
    serde_json::from_str(&mark.body).unwrap_or_else(|error| {
        tracing::error!(%error, cursor = %mark.target, "the particulars of the cursor cannot be understood");
        CursorNote::default()
    })
}

/// A crash may have come between the two logs: a letter was stored and its mark was not, or a letter was appended
/// again and is still among the dead. Returns how many letters there are of writes that the log has lost: refused
/// before they were synced, and acknowledged to nobody.
async fn reconcile_dead_letters(core: &Core) -> Result<u64, OpenError> {
    let retained_after = core.log.retained_after();
    let mut marked = false;
    let mut strays = 0;
    let mut retried = Vec::new();
    for (id, sequence) in core.dead.sequences() {
        let (requeued, is_dead) = {
            let ledger = core.ledger();
            let is_dead = ledger.fate(sequence).is_some_and(|fated| fated.decided == Decided::Dead);
            (ledger.is_requeued(sequence), is_dead)
        };
        if requeued {
            retried.push(id);
        } else if !is_dead && sequence > retained_after && matches!(core.log.get(sequence), Ok(None)) {
            // A mark would decide, in the books, a write that is not there.
            strays += 1;
        } else if !is_dead && sequence > retained_after {
            core.ledger().chains.remove(id);
            let body = MarkBody { first: id, reason: None, attempts: 0, due_ms: None, records: Vec::new() };
            core.mark(MarkKind::Dead, sequence, &body).map_err(|failure| failed(&failure))?;
            marked = true;
        }
        if core.options.hold_record_on_dead_letter && !requeued {
            let letter = core.dead.read(id)?;
            core.ledger().chains.hold(&keys_of(&letter.write), id);
        }
    }
    if core.dead.take_out(&retried, MarkKind::Retried).await? < retried.len() {
        return Err(Error::LogFailed { reason: NO_SPACE.into(), outcome_unknown: false }.into());
    }
    let letters: std::collections::HashSet<Sequence> =
        core.dead.sequences().into_iter().map(|(_, sequence)| sequence).collect();
    core.ledger().settle_letters(|sequence| letters.contains(&sequence));
    if marked {
        core.log.sync().await.map_err(|failure| failed(&failure))?;
    }
    Ok(strays)
}

fn failed(failure: &outlast_log::Failure) -> OpenError {
    OpenError::Recovery(Error::LogFailed { reason: failure.reason.to_string(), outcome_unknown: false })
}

/// The terms of the accounting identity from what the log has counted.
fn count(core: &Core, last: Sequence, strays: u64) {
    let counts = core.log.counts();
    let cursor = core.cursor();
    let parked = core.ledger().chains.parked();
    let pending = core.undecided_between(cursor, last);
    let mut book = core.book();
    let terms = &mut book.terms;
    terms.accepted = (counts.entries + strays)
        .saturating_sub(counts.requeued)
        .saturating_sub(counts.of(MarkKind::Rejected))
        .saturating_sub(core.kept.losses().writes);
    terms.pending = pending;
    terms.parked = parked;
    terms.dead = core.dead.count();
    terms.discarded = counts.of(MarkKind::Discarded) + core.dead.discarded();
    terms.applied =
        terms.accepted.saturating_sub(terms.pending + terms.parked + terms.dead + terms.discarded);
    book.set_bytes(core.log.bytes(cursor));
    tracing::info!(
        event = "log_opened", queue = %core.log.queue_id(), epoch = core.log.epoch().number, %cursor, pending = book.terms.pending,
        parked = book.terms.parked, dead = book.terms.dead, at_ms = now_ms(), "the log is open"
    );
}
