//! Import: the lines of an export as new writes of a queue.
//!
//! The whole file is checked first; then its writes are appended, in an opening of the log that does nothing else. The
//! step is noted before that opening's first entry (see [`imports`](super::imports)), and its entries follow the plan
//! one by one. So after a crash the number of them says where to go on, and nothing is put in twice.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use outlast_log::{
    AppendError, Log, LogOptions, Mark, MarkKind, NewEntry, ReadItem, RealDisk, Recovered, Sequence,
};
use sha2::{Digest as _, Sha256};

use super::imports::{self, Step};
use super::line::{EXPORT_VERSION, ExportEnd, ExportHeader, ExportLine, Status};
use crate::clock::{now_ms, rfc3339};
use crate::dead::{Letter, SEGMENT_BYTES};
use crate::error::{Refusal, RefusalKind};
use crate::ledger::MarkBody;
use crate::open::log_options;
use crate::options::Options;
use crate::write::{LoggedWrite, LoggedWriteRef, Write, WriteId};

/// What may stand around a line: white space as JSON has it (RFC 8259, section 2), and no other.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];
/// Entries appended before they are synced and told.
const BATCH: usize = 1000;

/// What is taken, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Take dead letters as writes that wait.
    pub retry_dead: bool,
    /// Take writes that were applied as well.
    pub applied: bool,
    /// Take a file that is not whole, or from which lines were left out.
    pub partial: bool,
    /// Take a file that was imported before, or that comes from this very queue.
    pub again: bool,
}

/// Why nothing, or not everything, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is not what it should be: nothing was imported.
    #[error("line {line}: {why}; nothing was imported: correct the file, or export it again")]
    Malformed {
        /// From 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// It must not be done; the message says why and what to do. Nothing was imported.
    #[error("{0}")]
    Refused(String),
    /// The queue directory cannot be opened; the message says what to do.
    #[error(transparent)]
    Queue(#[from] outlast_log::OpenError),
    /// It was interrupted: what has come in is noted.
    #[error("the import was interrupted: {0}; run the same command again, it goes on where it stopped")]
    Interrupted(String),
    /// The file could not be read.
    #[error("the file could not be read: {0}")]
    File(#[from] io::Error),
}

impl ImportError {
    /// Another process has the queue directory.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Queue(outlast_log::OpenError::Locked { .. }))
    }
}

/// Which write became which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Mapping {
    /// The id that it had.
    pub from: WriteId,
    /// The id that it has now.
    pub to: WriteId,
    /// `pending` or `dead`.
    pub status: Status,
}

/// What was imported.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Imported {
    /// Into which queue.
    pub queue: String,
    /// From which queue.
    pub from_queue: String,
    /// Writes that wait now.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// Lines about writes whose fate was decided: left out.
    pub left_out: u64,
    /// Writes that an earlier, interrupted run had put in.
    pub resumed_at: u64,
    /// Writes that are missing in the file because they were damaged.
    pub lost: Vec<(WriteId, WriteId)>,
}

/// What is to be imported, in order.
struct Plan {
    header: ExportHeader,
    digest: String,
    /// Where the lines of writes are that are to wait, in the order in which they were first accepted.
    waiting: Vec<Place>,
    /// And those of dead letters.
    dead: Vec<Place>,
    left_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    id: Sequence,
    offset: u64,
    line: u64,
}

impl Plan {
    fn len(&self) -> u64 {
        (self.waiting.len() + self.dead.len()) as u64
    }

    fn place(&self, index: u64) -> Option<(Place, bool)> {
        let index = index as usize;
        match self.waiting.get(index) {
            Some(place) => Some((*place, false)),
            None => self.dead.get(index - self.waiting.len()).map(|place| (*place, true)),
        }
    }
}

/// Imports a file into the queue directory of these options, which need not exist. `progress` hears of bytes of the
/// file that were checked, then of those that were imported; `mapped` of every write once it is durable.
///
/// # Errors
/// See [`ImportError`].
pub fn import(
    file: &mut (impl Read + Seek),
    options: &Options,
    how: How,
    progress: &mut dyn FnMut(u64),
    mapped: &mut dyn FnMut(Mapping),
) -> Result<Imported, ImportError> {
    let log_options = log_options(options);
    let plan = check(file, how, &log_options, progress)?;
    must_be_free(&options.directory)?;
    check_keys(options, &log_options)?;
    let (log, recovered) = Log::open(&options.directory, log_options.clone())?;
    if log.queue_id().to_string() == plan.header.queue && !how.again {
        return Err(ImportError::Refused(
            "this file comes from this very queue: its writes are here already. Import it into another directory, or \
             say --again to have them twice"
                .into(),
        ));
    }
    let mut import = Import::open(&log, &recovered, options, &log_options, &plan, how)?;
    import.run(file, progress, mapped)?;
    Ok(Imported {
        queue: log.queue_id().to_string(),
        from_queue: plan.header.queue.clone(),
        waiting: plan.waiting.len() as u64,
        dead: plan.dead.len() as u64,
        left_out: plan.left_out,
        resumed_at: import.resumed_at,
        lost: plan.header.lost,
    })
}

/// Reads the whole file and decides what is taken from it.
fn check(
    file: &mut (impl Read + Seek),
    how: How,
    log_options: &LogOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Plan, ImportError> {
    let mut digest = Sha256::new();
    digest.update([u8::from(how.retry_dead), u8::from(how.applied)]);
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut text, mut offset, mut number) = (String::new(), 0, 0);
    let (mut header, mut end) = (None, None);
    let (mut waiting, mut dead, mut lines, mut left_out) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        text.clear();
        number += 1;
        let malformed = |why: String| ImportError::Malformed { line: number, why };
        let length = match reader.read_line(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(malformed("it is not UTF-8".into()));
            }
            length => length? as u64,
        };
        if length == 0 {
            break;
        }
        digest.update(text.as_bytes());
        progress(length);
        let place = offset;
        offset += length;
        let line = text.trim_matches(SPACE);
        if line.is_empty() {
            continue;
        }
        if end.is_some() {
            return Err(malformed("something follows the closing line".into()));
        }
        if header.is_none() {
            header = Some(parse_header(line).map_err(malformed)?);
        } else if line.starts_with("{\"outlast_export_end\"") {
            let parsed: Result<ExportEnd, _> = serde_json::from_str(line);
            end = Some(parsed.map_err(|error| malformed(error.to_string()))?.outlast_export_end);
        } else {
            lines += 1;
            let parsed = parse_line(line, log_options).map_err(malformed)?;
            let place = Place { id: parsed.id.0, offset: place, line: number };
            match parsed.status {
                Status::Pending | Status::Parked => waiting.push(place),
                Status::Applied if how.applied => waiting.push(place),
                Status::Dead if how.retry_dead => waiting.push(place),
                Status::Dead => dead.push(place),
                _ => left_out += 1,
            }
        }
    }
    let Some(header) = header else {
        return Err(ImportError::Malformed { line: 1, why: "the file is empty".into() });
    };
    if end != Some(lines) && !how.partial {
        let why = match end {
            None => "the file ends before its closing line, so it is not whole".to_owned(),
            Some(end) => format!("{end} lines were written to this file, {lines} are there"),
        };
        return Err(ImportError::Refused(format!("{why}; export it again, or say --partial")));
    }
    waiting.sort_unstable();
    dead.sort_unstable();
    for pair in waiting.windows(2).chain(dead.windows(2)) {
        if let [former, next] = pair
            && former.id == next.id
        {
            let why = format!("write {} stands in line {} already", next.id, former.line);
            return Err(ImportError::Malformed { line: next.line, why });
        }
    }
    Ok(Plan { header, digest: hex(&digest.finalize()), waiting, dead, left_out })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_header(line: &str) -> Result<ExportHeader, String> {
    let not_ours = |error| format!("this is not the first line of an export ({error})");
    let header: ExportHeader = serde_json::from_str(line).map_err(not_ours)?;
    if header.outlast_export != EXPORT_VERSION {
        return Err(format!(
            "this export has version {}, this program reads {EXPORT_VERSION}; use the program that wrote it",
            header.outlast_export
        ));
    }
    Ok(header)
}

fn parse_line(line: &str, log_options: &LogOptions) -> Result<ExportLine, String> {
    let parsed: ExportLine = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let write = parsed.to_write().map_err(|error| error.to_string())?;
    let bytes = body(&write, 0).len() as u64;
    let max = log_options.body_bytes_max().saturating_sub(1024);
    if bytes > max {
        return Err(format!(
            "this write has {bytes} bytes, the queue takes {max} (queue.write_bytes_max, queue.segment_bytes)"
        ));
    }
    Ok(parsed)
}

fn body(write: &Write, attempts: u32) -> String {
    serde_json::to_string(&LoggedWriteRef { first: None, attempts, write })
        .expect("names, numbers and documents that were parsed are JSON again")
}

/// A directory that is there is empty or a queue; a typing mistake must not make a queue of it.
fn must_be_free(directory: &Path) -> Result<(), ImportError> {
    let Ok(mut names) = std::fs::read_dir(directory) else { return Ok(()) };
    if directory.join("segments").is_dir() || names.next().is_none() {
        return Ok(());
    }
    let directory = directory.display();
    Err(ImportError::Refused(format!(
        "{directory} is neither empty nor a queue directory; name one that is, or one that does not exist"
    )))
}

/// An import under way.
struct Import<'a> {
    log: &'a Log,
    dead: Log,
    plan: &'a Plan,
    /// (epoch, index of its first entry in the plan), in order; the last one is the present opening.
    epochs: Vec<(u32, u64)>,
    /// Entries of the plan that are in the log.
    done: u64,
    resumed_at: u64,
    marked: HashSet<Sequence>,
    letters: HashSet<Sequence>,
    directory: &'a Path,
}

impl<'a> Import<'a> {
    fn open(
        log: &'a Log,
        recovered: &Recovered,
        options: &'a Options,
        log_options: &LogOptions,
        plan: &'a Plan,
        how: How,
    ) -> Result<Self, ImportError> {
        let directory = &options.directory;
        let unfinished = imports::unfinished(directory)?.unwrap_or_default();
        for step in imports::read(directory)? {
            if let Step::Finished { digest, at_ms, .. } = step
                && digest == plan.digest
                && !how.again
                && unfinished.is_empty()
            {
                let at = rfc3339(at_ms);
                return Err(ImportError::Refused(format!(
                    "this file was imported into this queue already, at {at}; say --again to have its writes twice"
                )));
            }
        }
        let (mut epochs, mut done) = (Vec::new(), 0);
        for step in &unfinished {
            let Step::Began { digest, epoch, from, .. } = step else { continue };
            if *digest != plan.digest {
                return Err(ImportError::Refused(format!("{}; this is another file", imports::UNFINISHED)));
            }
            epochs.push((*epoch, *from));
            done = *from + entries_of(log, *epoch)?;
        }
        let step = Step::Began {
            digest: plan.digest.clone(),
            epoch: log.epoch().number,
            from: done,
            waiting: plan.waiting.len() as u64,
            total: plan.len(),
            at_ms: now_ms(),
        };
        imports::add(directory, &step)?;
        epochs.push((log.epoch().number, done));
        let (dead, letters) = open_dead(directory, log_options)?;
        let is_dead = |mark: &&Mark| mark.kind == MarkKind::Dead;
        let marked = recovered.marks.iter().filter(is_dead).map(|mark| mark.target).collect();
        Ok(Self { log, dead, plan, epochs, done, resumed_at: done, marked, letters, directory })
    }

    /// The entry of this place in the plan.
    fn sequence(&self, index: u64) -> Option<Sequence> {
        let (epoch, from) = self.epochs.iter().rev().find(|(_, from)| *from <= index)?;
        Sequence::new(*epoch, index - from + 1)
    }

    fn run(
        &mut self,
        file: &mut (impl Read + Seek),
        progress: &mut dyn FnMut(u64),
        mapped: &mut dyn FnMut(Mapping),
    ) -> Result<(), ImportError> {
        let mut lines = Lines { reader: BufReader::with_capacity(1 << 20, file), at: None };
        let mut batch: Vec<(ExportLine, Sequence, bool)> = Vec::with_capacity(BATCH);
        for index in 0..self.plan.len() {
            let Some((place, is_dead)) = self.plan.place(index) else { break };
            let (line, length) = lines.read(place)?;
            progress(length);
            let sequence = if index < self.done {
                self.sequence(index).ok_or_else(|| interrupted("the epoch has no sequence left"))?
            } else {
                self.append(&line, is_dead)?
            };
            if is_dead && !self.marked.contains(&sequence) {
                self.log.mark(&dead_mark(&line, sequence)?).map_err(failed)?;
            }
            batch.push((line, sequence, is_dead));
            if batch.len() == BATCH {
                self.settle(&mut batch, mapped)?;
            }
        }
        self.settle(&mut batch, mapped)?;
        let writes = self.plan.len();
        let finished = Step::Finished { digest: self.plan.digest.clone(), writes, at_ms: now_ms() };
        imports::add(self.directory, &finished).map_err(interrupted)
    }

    fn append(&self, line: &ExportLine, is_dead: bool) -> Result<Sequence, ImportError> {
        let write = line.to_write().map_err(interrupted)?;
        let attempts = if is_dead || line.status == Status::Dead { 0 } else { line.attempts };
        let body = body(&write, attempts);
        let entry = NewEntry { body: &body, time_ms: line.accepted_ms, origin: None };
        Ok(self.log.append(entry).map_err(failed)?.sequence)
    }

    /// Makes durable what was appended: the entries with their marks, then the letters.
    fn settle(
        &mut self,
        batch: &mut Vec<(ExportLine, Sequence, bool)>,
        mapped: &mut dyn FnMut(Mapping),
    ) -> Result<(), ImportError> {
        self.log.sync().wait().map_err(interrupted)?;
        for (line, sequence, is_dead) in batch.iter() {
            if *is_dead && !self.letters.contains(sequence) {
                bury(&self.dead, &letter(line, *sequence)?)?;
            }
        }
        self.dead.sync().wait().map_err(interrupted)?;
        for (line, sequence, is_dead) in batch.drain(..) {
            let status = if is_dead { Status::Dead } else { Status::Pending };
            mapped(Mapping { from: line.id, to: WriteId(sequence), status });
        }
        Ok(())
    }
}

/// The entries of an opening that did nothing but import.
fn entries_of(log: &Log, epoch: u32) -> Result<u64, ImportError> {
    let start = Sequence::new(epoch, 0).unwrap_or_default();
    if log.retained_after() > start {
        return Err(ImportError::Refused(
            "an import was interrupted, and the log has given back what came in since: nobody can tell how far it \
             came. End it with `outlast log abandon-import`, and compare what is missing by hand"
                .into(),
        ));
    }
    Ok(log.count(start, Sequence::new(epoch + 1, 0).unwrap_or(start)))
}

/// Neither log is touched when the other cannot be read.
fn check_keys(options: &Options, log_options: &LogOptions) -> Result<(), ImportError> {
    Ok(Log::check_keys(&RealDisk, &options.directory.join("dead"), log_options)?)
}

/// The log of dead letters, and which entries have one.
fn open_dead(directory: &Path, options: &LogOptions) -> Result<(Log, HashSet<Sequence>), ImportError> {
    let options = LogOptions { segment_bytes: options.segment_bytes.min(SEGMENT_BYTES), ..options.clone() };
    let (log, _) = Log::open(&directory.join("dead"), options)?;
    let mut letters = HashSet::new();
    let mut reader = log.reader(log.retained_after());
    while let Some(item) = reader.next().map_err(interrupted)? {
        if let ReadItem::Entry(entry) = item
            && let Ok(letter) = serde_json::from_str::<Letter>(&entry.body)
        {
            letters.insert(letter.sequence.0);
        }
    }
    Ok((log, letters))
}

/// Lines of the file, mostly in its order.
struct Lines<R> {
    reader: BufReader<R>,
    /// Where the reader stands; unknown at first.
    at: Option<u64>,
}

impl<R: Read + Seek> Lines<R> {
    fn read(&mut self, place: Place) -> Result<(ExportLine, u64), ImportError> {
        match self.at {
            Some(at) => self.reader.seek_relative(place.offset.cast_signed() - at.cast_signed())?,
            None => {
                self.reader.seek(SeekFrom::Start(place.offset))?;
            }
        }
        let mut text = String::new();
        let length = self.reader.read_line(&mut text)? as u64;
        self.at = Some(place.offset + length);
        let line = serde_json::from_str(text.trim_matches(SPACE))
            .map_err(|error| interrupted(format!("line {} has changed meanwhile: {error}", place.line)))?;
        Ok((line, length))
    }
}

fn reason(line: &ExportLine) -> Refusal {
    line.reason.clone().unwrap_or_else(|| Refusal::new(RefusalKind::Other, "imported without its reason"))
}

fn dead_mark(line: &ExportLine, sequence: Sequence) -> Result<Mark, ImportError> {
    let (first, records) = (WriteId(sequence), Vec::new());
    let body = MarkBody { first, reason: Some(reason(line)), attempts: line.attempts, due_ms: None, records };
    let body = serde_json::to_string(&body).map_err(interrupted)?;
    let time_ms = line.died_ms.unwrap_or_else(now_ms);
    Ok(Mark { kind: MarkKind::Dead, target: sequence, time_ms, body: body.into() })
}

fn letter(line: &ExportLine, sequence: Sequence) -> Result<Letter, ImportError> {
    Ok(Letter {
        id: WriteId(sequence),
        sequence: WriteId(sequence),
        accepted_ms: line.accepted_ms,
        died_ms: line.died_ms.unwrap_or(line.accepted_ms),
        reason: reason(line),
        history: line.history.clone(),
        write: line.to_write().map_err(interrupted)?,
    })
}

fn bury(dead: &Log, letter: &Letter) -> Result<(), ImportError> {
    let body = serde_json::to_string(letter).map_err(interrupted)?;
    let entry = NewEntry { body: &body, time_ms: letter.accepted_ms, origin: None };
    dead.append(entry).map(drop).map_err(failed)
}

fn interrupted(error: impl std::fmt::Display) -> ImportError {
    ImportError::Interrupted(error.to_string())
}

fn failed(error: AppendError) -> ImportError {
    interrupted(error)
}

/// Ends an import that was interrupted with what has come in. Returns how many writes that are.
///
/// # Errors
/// See [`ImportError`].
pub fn abandon(options: &Options) -> Result<u64, ImportError> {
    let log_options = log_options(options);
    let directory = &options.directory;
    let Some(steps) = imports::unfinished(directory)? else {
        return Err(ImportError::Refused("no import into this queue directory is unfinished".into()));
    };
    check_keys(options, &log_options)?;
    let (log, recovered) = Log::open(directory, log_options.clone())?;
    let (dead, letters) = open_dead(directory, &log_options)?;
    let marks: HashMap<Sequence, &Mark> = recovered
        .marks
        .iter()
        .filter(|mark| mark.kind == MarkKind::Dead)
        .map(|mark| (mark.target, mark))
        .collect();
    let (mut writes, mut file) = (0, String::new());
    for step in steps {
        let Step::Began { digest, epoch, from, waiting, .. } = step else { continue };
        let entries = entries_of(&log, epoch).unwrap_or(0);
        for index in from.max(waiting)..from + entries {
            // A dead letter: its entry is in, its mark and its letter may be missing.
            let Some(sequence) = Sequence::new(epoch, index - from + 1) else { continue };
            finish_dead(&log, &dead, sequence, marks.get(&sequence).copied(), &letters)?;
        }
        writes = from + entries;
        file = digest;
    }
    log.sync().wait().map_err(interrupted)?;
    dead.sync().wait().map_err(interrupted)?;
    let at_ms = now_ms();
    imports::add(directory, &Step::Finished { digest: format!("abandoned {file}"), writes, at_ms })?;
    Ok(writes)
}

fn finish_dead(
    log: &Log,
    dead: &Log,
    sequence: Sequence,
    mark: Option<&Mark>,
    letters: &HashSet<Sequence>,
) -> Result<(), ImportError> {
    let Some(entry) = log.get(sequence).map_err(interrupted)? else { return Ok(()) };
    let logged: LoggedWrite = serde_json::from_str(&entry.body).map_err(interrupted)?;
    let known: Option<MarkBody> = mark.and_then(|mark| serde_json::from_str(&mark.body).ok());
    let line = ExportLine {
        id: WriteId(sequence),
        sequence: WriteId(sequence),
        status: Status::Dead,
        accepted_at: rfc3339(entry.time_ms),
        accepted_ms: entry.time_ms,
        later: None,
        attempts: known.as_ref().map_or(0, |body| body.attempts),
        reason: known.and_then(|body| body.reason),
        died_ms: mark.map(|mark| mark.time_ms),
        history: Vec::new(),
        operations: logged.write.operations().to_vec(),
        idempotency_key: logged.write.key().map(|key| key.key.clone()),
    };
    if mark.is_none() {
        log.mark(&dead_mark(&line, sequence)?).map_err(failed)?;
    }
    log.sync().wait().map_err(interrupted)?;
    if letters.contains(&sequence) { Ok(()) } else { bury(dead, &letter(&line, sequence)?) }
}
