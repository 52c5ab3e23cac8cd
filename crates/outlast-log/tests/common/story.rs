//! One queue and what is known about it: what was put in, what was acknowledged, and from which change of its disk on.
//! After every step both threads of the log come to rest, so that the same steps make the same calls to the disk in
//! the same order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_log::{
    AppendError, CloseError, Failure, Format, Log, LogOptions, LogState, Mark, MarkKind, NewEntry, OpenError,
    ReadError, ReadItem, Retention, Sequence,
};
use outlast_testkit::disk::SimulatedDisk;

use super::oracle::kept;
use super::{body, entry, mark, wait_until};

pub const QUEUE: &str = "/queue";
const NO_RETENTION: Retention = Retention { time: Duration::ZERO, bytes: 0 };

/// What is done to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Append(usize),
    /// So many entries of so many bytes.
    Batch(usize, usize),
    Sync,
    Read,
    /// Everything is settled, and a cursor says so.
    Settle,
    Park,
    DeadLetter,
    Reclaim,
    /// Appends until a new segment begins.
    Rotate,
    Reopen,
    /// The process dies, the machine does not.
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Entry(Sequence, String),
    Mark(Mark),
}

/// What holds from one change of the disk on.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// After so many changes.
    pub since: usize,
    /// So many items are acknowledged, and no more than so many were put in.
    pub durable: usize,
    pub issued: usize,
    /// Everything up to here may have been reclaimed, and up to here it was.
    pub settled: Sequence,
    pub reclaimed: Sequence,
    /// So many openings have told their owner.
    pub owners: usize,
    /// The greatest sequence that was ever given, whether it is still there or not.
    pub given: Sequence,
}

#[derive(Debug)]
pub struct Story {
    pub disk: SimulatedDisk,
    pub options: LogOptions,
    /// Whether the log's threads come to rest after each step. Otherwise they run as they like.
    pub rests: bool,
    pub log: Option<Log>,
    /// Everything that was put in, in order.
    pub items: Vec<Item>,
    pub owners: Vec<String>,
    /// In the order of changes.
    known: Vec<Known>,
}

/// Why a step was not done, or not wholly.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a test fails")]
pub enum Trouble {
    /// The log could not be opened; there is none.
    Open(OpenError),
    /// There is no space at the moment.
    NoSpace,
    /// The log has failed.
    Failed(Failure),
    /// Something could not be read, which is no reason for the log to fail.
    Read(ReadError),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AppendError> for Trouble {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Self::NoSpace,
            AppendError::Failed(failure) => Self::Failed(failure),
            other => panic!("{other}"),
        }
    }
}

impl Story {
    /// Begins on an empty disk.
    pub fn begin(options: LogOptions, seed: u64, rests: bool) -> Self {
        let mut story = Self::on(SimulatedDisk::new(seed), options, rests);
        story.open().unwrap();
        story
    }

    /// Nothing is known, and nothing is open yet.
    pub fn on(disk: SimulatedDisk, options: LogOptions, rests: bool) -> Self {
        let known = vec![Known::default()];
        Self { disk, options, rests, log: None, items: Vec::new(), owners: Vec::new(), known }
    }

    /// What becomes of it when the power is lost after so many changes and this is left.
    pub fn after_power_loss(&self, changes: usize, left: SimulatedDisk) -> Self {
        let known = self.known_after(changes);
        let mut story = Self {
            items: self.items[..known.issued].to_vec(),
            owners: self.owners[..known.owners].to_vec(),
            known: vec![Known { since: 0, ..known }],
            ..Self::on(left, self.options.clone(), self.rests)
        };
        story.open().unwrap();
        story
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// Opens the log and forgets what was lost: the end of what was not acknowledged.
    pub fn open(&mut self) -> Result<(), Trouble> {
        let disk = Arc::new(self.disk.clone());
        let (log, recovered) =
            Log::open_on(disk, Path::new(QUEUE), self.options.clone()).map_err(Trouble::Open)?;
        let kept = kept(self, self.now(), &log, &recovered);
        self.items.truncate(kept);
        self.known.iter_mut().for_each(|known| known.issued = known.issued.min(kept));
        self.owners.push(log.epoch().owner.clone());
        self.log = Some(log);
        // What an opening has shown stays, whatever comes.
        self.learn(|known| known.durable = kept);
        self.rest();
        Ok(())
    }

    fn now(&self) -> &Known {
        self.known.last().unwrap()
    }

    fn learn(&mut self, what: impl FnOnce(&mut Known)) {
        let (issued, owners) = (self.items.len(), self.owners.len());
        let mut known = Known { since: self.disk.position(), issued, owners, ..self.now().clone() };
        what(&mut known);
        self.known.push(known);
    }

    /// What holds after so many changes. What the next step gives may have been given already.
    pub fn known_after(&self, changes: usize) -> Known {
        let behind = self.known.partition_point(|known| known.since <= changes);
        let known = &self.known[behind - 1];
        let next = self.known.get(behind).unwrap_or(known);
        Known { issued: next.issued.max(known.issued), given: next.given, ..known.clone() }
    }

    pub fn act(&mut self, op: Op) {
        self.attempt(op).unwrap();
    }

    /// Does it as far as the disk lets it. What was acknowledged is noted in any case.
    pub fn attempt(&mut self, op: Op) -> Result<(), Trouble> {
        match op {
            Op::Append(bytes) => self.append(1, bytes),
            Op::Batch(count, bytes) => self.append(count, bytes),
            Op::Sync => self.sync(),
            Op::Read => self.read(),
            Op::Settle => {
                let last = self.log().watermarks().last;
                self.mark(MarkKind::Cursor, last)?;
                self.log().settle(last);
                self.learn(|known| known.settled = last);
                Ok(())
            }
            Op::Park => self.mark(MarkKind::Parked, self.log().watermarks().last),
            Op::DeadLetter => self.mark(MarkKind::Dead, self.log().watermarks().last),
            Op::Reclaim => {
                self.log().reclaim(NO_RETENTION)?;
                let reclaimed = self.log().retained_after();
                self.learn(|known| known.reclaimed = reclaimed);
                Ok(())
            }
            Op::Rotate => {
                let segments = self.log().usage().segments;
                while self.log().usage().segments == segments {
                    self.append(1, self.options.segment_bytes as usize * 7 / 16)?;
                }
                Ok(())
            }
            Op::Reopen => {
                self.close()?;
                self.open()
            }
            Op::Kill => {
                self.restart();
                self.open()
            }
        }
    }

    /// The process dies and another one is about to start on what it has written, on a disk without faults.
    pub fn restart(&mut self) {
        // What the old process does from now on happens to another disk.
        let left = self.disk.after_kill();
        drop(self.log.take());
        self.disk = left;
        self.known = vec![Known { since: 0, ..self.now().clone() }];
    }

    pub fn close(&mut self) -> Result<(), Trouble> {
        let Err(CloseError::Failed(failure)) = self.log.take().unwrap().close() else {
            let all = self.items.len();
            self.learn(|known| known.durable = all);
            return Ok(());
        };
        Err(Trouble::Failed(failure))
    }

    fn append(&mut self, count: usize, bytes: usize) -> Result<(), Trouble> {
        let first = self.items.len() as u64;
        let texts: Vec<String> = (first..).take(count).map(|number| body(number, bytes)).collect();
        let entries: Vec<NewEntry> = texts.iter().map(|text| entry(text)).collect();
        let appended = self.log().append_all(&entries)?;
        let mut given = self.now().given;
        for (appended, text) in appended.iter().zip(texts) {
            assert!(appended.sequence > given, "{} was given before", appended.sequence);
            given = appended.sequence;
            self.items.push(Item::Entry(given, text));
        }
        self.learn(|known| known.given = given);
        self.rest();
        Ok(())
    }

    fn mark(&mut self, kind: MarkKind, target: Sequence) -> Result<(), Trouble> {
        let text = body(self.items.len() as u64, 40);
        let mark = Mark { body: text.into(), ..mark(kind, target) };
        self.log().mark(&mark)?;
        self.items.push(Item::Mark(mark));
        self.learn(|_| ());
        self.rest();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        let log = self.log();
        let mut outcome = None;
        // While a write finds no space it waits, and so would we.
        let before = self.disk.fired().no_space;
        wait_until("it is durable, or cannot be", || {
            outcome = log.sync().wait_until(Instant::now());
            let now = log.watermarks();
            outcome.is_some() || now.appended < now.issued && self.disk.fired().no_space > before
        });
        outcome.ok_or(Trouble::NoSpace)??;
        let all = self.items.len();
        self.learn(|known| known.durable = all);
        Ok(())
    }

    /// Reads it all: nothing may be shown as damaged because the disk would not tell.
    fn read(&self) -> Result<(), Trouble> {
        let mut reader = self.log().reader(self.log().retained_after());
        while let Some(item) = reader.next().map_err(Trouble::Read)? {
            assert!(matches!(item, ReadItem::Entry(_)), "{item:?}");
        }
        Ok(())
    }

    /// Waits until neither the committer nor the keeper has anything to do, and notes what they have made durable: a
    /// new segment makes everything before it so, and tells who waits.
    fn rest(&mut self) {
        if self.rests {
            wait_until("the log rests", || self.log().state() != LogState::Ok || self.is_at_rest());
        }
        let now = self.log().watermarks();
        let durable = self.items.len() - (now.issued.as_u64() - now.durable.as_u64()) as usize;
        if durable > self.now().durable {
            self.learn(|known| known.durable = durable);
        }
    }

    fn is_at_rest(&self) -> bool {
        let now = self.log().watermarks();
        let segments = Path::new(QUEUE).join("segments");
        let spare = match self.options.format {
            Format::Json => "spare.jsonl",
            Format::Bincode => "spare.bin",
        };
        if now.appended != now.issued || !self.disk.is_durable(&segments.join(spare)) {
            return false;
        }
        let names: Vec<PathBuf> =
            self.disk.names(&segments).into_iter().filter(|name| is_segment(name)).collect();
        let Some((_, sealed)) = names.split_last() else { return false };
        // One that could not be written is not missed.
        let has_sidecar = |name: &PathBuf| self.disk.exists(&name.with_extension("index"));
        self.disk.fired().errors() > 0 || sealed.iter().all(has_sidecar)
    }
}

fn is_segment(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    stem.parse::<u64>().is_ok() && matches!(extension, Some("jsonl" | "bin"))
}
