//! The log against its specification: whatever is done, in whatever order, with crashes and faults in between, the log
//! says and holds what a list would (`specification.rs`).
//!
//! Operations are drawn at random, in both formats; a divergence is shrunk to the fewest operations that show it, and
//! kept in `proptest-regressions`. `OUTLAST_SEED` replays a run, `OUTLAST_EFFORT` multiplies its length.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod operations;
mod specification;

use std::cell::Cell;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{body, options};
use operations::{Crash, Operation, Setup, operations};
use outlast_log::{
    Entry, Log, LogOptions, Mark, MarkKind, NewEntry, ReadError, ReadItem, Reader, Recovered, Retention,
    Sequence,
};
use outlast_testkit::disk::{Fault, FaultKind, Fired, SimulatedDisk};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use specification::{Found, Item, Specification};

/// In CI, for an effort of 1.
const OPERATIONS_MIN: u64 = 100_000;
const CASES: u32 = 1600;

#[test]
fn the_log_holds_what_the_specification_holds() {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&common::seed().to_le_bytes());
    let cases = CASES * common::effort();
    let config = Config { cases, max_shrink_iters: 20_000, ..Config::with_source_file(file!()) };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let tally = Tally::default();
    let outcome = runner.run(&operations(), |(setup, operations)| {
        let mut both = Both::new(setup, &tally);
        for operation in &operations {
            both.act(operation);
        }
        both.act(&Operation::Read(0));
        both.act(&Operation::Reopen(setup));
        both.act(&Operation::Read(0));
        both.end();
        Ok(())
    });
    outcome.unwrap_or_else(|divergence| panic!("{divergence}"));
    let [io, no_space, short_writes, failed_syncs] = tally.fired.each_ref().map(Cell::get);
    // Past the harness, which would keep it for itself.
    let _ = writeln!(
        std::io::stderr(),
        "model operations: {} (crashes: {}, of which {} lost something that was not acknowledged; \
         segments reclaimed: {}; faults fired: {io} EIO, {no_space} no space, {short_writes} short writes, \
         {failed_syncs} failed syncs); every promise held",
        tally.operations.get(),
        tally.crashes.get(),
        tally.lost.get(),
        tally.reclaimed.get(),
    );
    assert!(tally.operations.get() >= OPERATIONS_MIN * u64::from(common::effort()));
    assert!(tally.lost.get() > 0 && tally.reclaimed.get() > 0);
    assert!(tally.fired.iter().all(|fired| fired.get() > 0), "every kind of fault has fired");
}

/// What happened, over all cases.
#[derive(Debug, Default)]
struct Tally {
    operations: Cell<u64>,
    crashes: Cell<u64>,
    lost: Cell<u64>,
    reclaimed: Cell<u64>,
    fired: [Cell<u64>; 4],
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// The log and its specification.
struct Both<'a> {
    tally: &'a Tally,
    disk: SimulatedDisk,
    log: Option<Log>,
    specified: Specification,
    /// Reads all the time, from wherever it is.
    follower: Option<Reader>,
    setup: Setup,
    /// A fault was set since the log was opened: calls may fail.
    faulty: bool,
    /// Space is short, also after the next opening.
    full: bool,
}

impl<'a> Both<'a> {
    fn new(setup: Setup, tally: &'a Tally) -> Self {
        let (disk, specified) = (SimulatedDisk::new(1), Specification::default());
        let mut both =
            Self { tally, disk, log: None, specified, follower: None, setup, faulty: false, full: false };
        both.open();
        both
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("it is open between two operations")
    }

    fn act(&mut self, operation: &Operation) {
        add(&self.tally.operations, 1);
        match *operation {
            Operation::Append { bytes, origin } => self.append(1, bytes, origin),
            Operation::AppendAll { count, bytes } => self.append(count, bytes, None),
            Operation::Mark { kind, target, bytes } => self.mark(kind, target, bytes),
            Operation::Sync => self.sync(),
            Operation::Settle(part) => {
                if let Some(upto) = self.sequence_at(part) {
                    self.specified.settle(upto);
                    self.log().settle(upto);
                }
            }
            Operation::Reclaim => self.reclaim(),
            Operation::Get(at) => self.get(at),
            Operation::Read(at) => self.read(at),
            Operation::Follow => self.follow(),
            Operation::Count(from, to) => self.count(from, to),
            Operation::Reopen(setup) => {
                let closed = self.log.take().unwrap().close();
                if self.may(closed).is_some() {
                    self.specified.sync();
                }
                self.setup = setup;
                self.open();
            }
            Operation::Crash(setup, crash) => self.crash(setup, crash),
            Operation::Fault(fault) => {
                self.faulty = true;
                self.disk.inject(fault);
            }
            Operation::Full(kilobytes) => {
                (self.faulty, self.full) = (true, true);
                self.disk.set_space_left(Some(u64::from(kilobytes) * 1024));
            }
            Operation::Space => {
                self.full = false;
                self.disk.set_space_left(None);
            }
        }
        self.check_numbers();
    }

    /// What a call gave; nothing if it failed, which it may only while there is a fault.
    fn may<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| assert!(self.faulty, "without any fault: {error}")).ok()
    }

    fn append(&mut self, count: usize, bytes: usize, origin: Option<u16>) {
        let number = self.specified.items().len() as u64;
        let origin = origin.and_then(|at| self.sequence_at(at));
        let texts: Vec<String> = (number..).take(count).map(|number| body(number, bytes)).collect();
        let new: Vec<NewEntry> =
            texts.iter().map(|body| NewEntry { body, time_ms: number, origin }).collect();
        let segments = self.log().usage().segments;
        // A group of one and a single one are the same thing.
        let appended = match &new[..] {
            [one] => self.log().append(*one).map(|appended| vec![appended]),
            all => self.log().append_all(all),
        };
        if let Some(appended) = self.may(appended) {
            let sequences: Vec<Sequence> = appended.iter().map(|appended| appended.sequence).collect();
            assert_eq!(sequences, self.specified.append(&new));
            self.note_rotation(segments, count);
        }
    }

    fn mark(&mut self, kind: MarkKind, target: u16, bytes: usize) {
        let number = self.specified.items().len() as u64;
        let target = self.sequence_at(target).unwrap_or_default();
        let mark = Mark { kind, target, time_ms: number, body: body(number, bytes).into() };
        let segments = self.log().usage().segments;
        let marked = self.log().mark(&mark);
        if self.may(marked).is_some() {
            self.specified.mark(mark);
            self.note_rotation(segments, 1);
        }
    }

    fn note_rotation(&mut self, segments_before: u64, items: usize) {
        if self.log().usage().segments > segments_before {
            self.specified.rotated(items);
        }
    }

    fn sync(&mut self) {
        let synced = self.log().sync().wait();
        if self.may(synced).is_some() {
            self.specified.sync();
        }
    }

    fn reclaim(&mut self) {
        // What is not written yet is not sealed.
        self.sync();
        let reclaimed = self.log().reclaim(Retention { time: Duration::ZERO, bytes: 0 });
        let reclaimed = self.may(reclaimed);
        self.specified.reclaim(reclaimed.is_none());
        add(&self.tally.reclaimed, reclaimed.map_or(0, |reclaimed| reclaimed.segments));
    }

    fn get(&mut self, at: u16) {
        self.sync();
        let Some(sequence) = self.sequence_at(at) else { return };
        let found = self.log().get(sequence);
        if let Some(found) = self.may(found).filter(|_| !self.faulty) {
            let expected = self.specified.entries().find(|entry| entry.sequence == sequence);
            assert_eq!(found.as_ref(), expected);
        }
    }

    /// Reads from somewhere, sometimes from before what is still there.
    fn read(&mut self, at: u16) {
        self.sync();
        let after = self.sequence_at(at).filter(|_| at > 0).unwrap_or(self.log().retained_after());
        let mut reader = self.log().reader(after);
        let found = drain(&mut reader);
        self.compare(after, found);
    }

    fn follow(&mut self) {
        self.sync();
        let mut follower =
            self.follower.take().unwrap_or_else(|| self.log().reader(self.specified.retained_after()));
        let after = follower.after();
        let found = drain(&mut follower);
        self.follower = Some(follower).filter(|_| found.is_ok());
        match found {
            // It had the file open before that left the log.
            Ok(found) if !self.faulty && after < self.specified.retained_after() => {
                let all = self.specified.items().iter().filter_map(Item::entry);
                assert!(found.iter().eq(all.filter(|entry| entry.sequence > after)));
            }
            found => self.compare(after, found),
        }
    }

    /// What a reader found behind `after`, when everything is written.
    fn compare(&self, after: Sequence, found: Result<Vec<Entry>, ReadError>) {
        let retained_after = self.specified.retained_after();
        if self.faulty {
            // Perhaps less, but nothing else.
            let all = self.specified.items().iter().filter_map(Item::entry);
            let mut expected = all.filter(|entry| entry.sequence > after);
            assert!(found.unwrap_or_default().iter().all(|entry| Some(entry) == expected.next()));
        } else if after < retained_after {
            assert!(
                matches!(found, Err(ReadError::Reclaimed { retained_after: at }) if at == retained_after)
            );
        } else {
            let expected = self.specified.entries().filter(|entry| entry.sequence > after);
            assert!(
                found.unwrap().iter().eq(expected),
                "a reader finds every entry, in order, as it was appended"
            );
        }
    }

    fn count(&self, from: u16, to: u16) {
        let (from, to) =
            (self.sequence_at(from).unwrap_or_default(), self.sequence_at(to).unwrap_or_default());
        let between = |entry: &&Entry| entry.sequence > from && entry.sequence <= to;
        let count = self.specified.entries().filter(between).count() as u64;
        assert!(self.faulty || self.log().count(from, to) == count);
    }

    /// Numbers that cost nothing, after every operation.
    fn check_numbers(&self) {
        let (log, specified) = (self.log(), &self.specified);
        let watermarks = log.watermarks();
        assert_eq!(watermarks.last, specified.last());
        assert!(watermarks.durable <= watermarks.appended && watermarks.appended <= watermarks.issued);
        assert_eq!(log.counts(), specified.counts());
        if !self.faulty {
            let entries = specified.entries().count() as u64;
            let counted = (log.count(Sequence::START, watermarks.last), log.usage().entries);
            assert_eq!((log.retained_after(), counted), (specified.retained_after(), (entries, entries)));
        }
    }

    fn crash(&mut self, setup: Setup, crash: Crash) {
        add(&self.tally.crashes, 1);
        let left = match crash {
            Crash::Kill => self.disk.after_kill(),
            Crash::Power { seed, .. } => self.disk.after_power_cut(seed),
        };
        // What the process still does is seen by nobody.
        self.disk.inject(Fault::always(FaultKind::Io));
        self.end();
        drop(self.log.take());
        self.disk = left;
        self.setup = setup;
        if let Crash::Power { seed, opening_cut_after: Some(calls) } = crash {
            self.disk.inject(Fault::always(FaultKind::Io).after(calls.into()));
            drop(self.try_open());
            self.disk = self.disk.after_power_cut(seed.wrapping_add(1));
        }
        let before = self.specified.items().len();
        self.full = false;
        self.open();
        add(&self.tally.lost, u64::from(self.specified.items().len() < before));
    }

    /// Before the disk is put away: what has happened to it.
    fn end(&self) {
        let Fired { io, no_space, short_writes, failed_syncs, .. } = self.disk.fired();
        for (counter, more) in self.tally.fired.iter().zip([io, no_space, short_writes, failed_syncs]) {
            add(counter, more);
        }
    }

    fn try_open(&self) -> Result<(Log, Recovered), outlast_log::OpenError> {
        let Setup { format, segment_bytes } = self.setup;
        let options = LogOptions { segment_bytes, ..options(format) };
        Log::open_on(Arc::new(self.disk.clone()), Path::new("/queue"), options)
    }

    /// Faults end where a log is opened, except that there may still be no space.
    fn open(&mut self) {
        if !self.full {
            self.disk.heal();
        }
        self.faulty = self.full;
        let opened = self.try_open();
        let (log, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.full, "without any fault: {error}");
                self.full = false;
                return self.open();
            }
        };
        assert_eq!(
            (recovered.damage, recovered.created),
            (vec![], self.specified.items().is_empty() && log.epoch().number == 1)
        );
        self.specified.open(&Found {
            epoch: log.epoch().number,
            counts: log.counts(),
            marks: &recovered.marks,
            retained_after: log.retained_after(),
        });
        assert_eq!(recovered.last, self.specified.last());
        assert_eq!(recovered.cursor.as_ref(), self.specified.cursor());
        let origins = self.specified.entries().filter_map(|entry| Some((entry.sequence, entry.origin?)));
        assert_eq!(recovered.origins, origins.collect::<Vec<_>>());
        self.follower = None;
        self.log = Some(log);
    }

    /// The sequence of some entry that was ever in the log.
    fn sequence_at(&self, at: u16) -> Option<Sequence> {
        let items = self.specified.items();
        let place = items.len() * usize::from(at) / usize::from(u16::MAX);
        items[..place].iter().rev().find_map(Item::entry).map(|entry| entry.sequence)
    }
}

/// Everything that is written behind where the reader stands.
fn drain(reader: &mut Reader) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    while let Some(item) = reader.next()? {
        match item {
            ReadItem::Entry(entry) => entries.push(entry),
            ReadItem::Damaged(damage) => panic!("nothing is damaged here, but {damage}"),
        }
    }
    Ok(entries)
}
