//! How fast a backlog drains, against the adapter's best bulk transaction.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast::database::Item;
use outlast::{Sequence, WriteId};
use outlast_log::{Log, LogOptions, NewEntry};
use tokio::runtime::Runtime;

use super::Settings;
use super::callers::runtime;
use super::place::{ByHand, Place, library};
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Sample, interleave};
use super::workload::Workload;
use crate::Result;

/// Writes in one transaction, by hand and by default.
pub(super) const BATCH: usize = 500;
/// What a drain must reach of the bulk transaction's rate.
const GOAL: f64 = 0.80;
/// The longest that a backlog may take to drain.
const PATIENCE: Duration = Duration::from_mins(10);
/// Entries handed to the log at once when a backlog is made.
const CHUNK: usize = 1000;

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let mut section = Section { title: "Draining a backlog".to_owned(), ..Section::default() };
    let runtime = runtime()?;
    for &kind in &settings.databases {
        let directory = settings.directory.join(format!("drain-{kind:?}").to_ascii_lowercase());
        std::fs::create_dir_all(&directory)?;
        let place = Place::start(kind, &directory);
        let workload = Workload::new()?;
        let bench = Bench {
            place: &place,
            runtime: &runtime,
            directory: &directory,
            backlog: settings.backlog,
            workload,
        };
        let (mut hand_round, mut drain_round) = (0, 0);
        let contenders = vec![
            Contender::new(format!("by hand: transactions of {BATCH} creates and the position"), |_| {
                hand_round += 1;
                bench.by_hand(&format!("by_hand_{hand_round}"))
            }),
            Contender::new("the library drains", |_| {
                drain_round += 1;
                bench.drain(&format!("drain_{drain_round}"), 1)
            }),
        ];
        let series = interleave(contenders, settings.rounds, settings.time)?;
        let title = bench.place.title();
        section.tables.push(Table::compare(title, &series, 0, Compare::Rate));
        let what = format!("{}: draining to the transactions by hand, rate", bench.place.short());
        let measured = Compare::Rate.ratio(&series[1], &series[0]);
        section.goals.extend(measured.map(|measured| Goal {
            what,
            bound: Bound::AtLeast(GOAL),
            measured,
            unit: "",
        }));
    }
    section.notes.push(format!(
        "{} writes in the log from an earlier run, each round with a new database. Measured from the end of a pause until everything is applied: reading and decoding the log and the small first batches are part of it. By hand the writes lie ready in memory.",
        settings.backlog
    ));
    Ok(section)
}

pub(super) struct Bench<'a> {
    pub(super) place: &'a Place,
    pub(super) runtime: &'a Runtime,
    pub(super) directory: &'a Path,
    pub(super) backlog: usize,
    pub(super) workload: Workload,
}

impl Bench<'_> {
    pub(super) fn by_hand(&self, name: &str) -> Result<Sample> {
        let items: Result<Vec<Item>> = (1..=self.backlog).map(|number| self.item(number)).collect();
        let items = items?;
        self.runtime.block_on(async {
            let mut by_hand = ByHand::begin(self.place.database(name).await?).await?;
            write_out();
            let started = Instant::now();
            for batch in items.chunks(BATCH) {
                by_hand.apply(batch).await?;
            }
            Ok(Sample::of_total(items.len(), started.elapsed()))
        })
    }

    fn item(&self, number: usize) -> Result<Item> {
        let sequence = Sequence::from_u64(number as u64).ok_or("too many writes")?;
        Ok(Item { id: WriteId(sequence), write: Arc::new(self.workload.write()) })
    }

    /// Has a queue drained in which everything waits, over so many lanes. Outlast has been up for a while by then, as after
    /// an outage: a new log makes files for what it may have to take, 32 MiB each.
    pub(super) fn drain(&self, name: &str, lanes: u32) -> Result<Sample> {
        let queue = self.directory.join(name);
        let database = self.runtime.block_on(self.place.database(name))?;
        let open = || library(database.clone(), &queue, lanes);
        self.runtime.block_on(async {
            let outlast = open().await?;
            outlast.pause(None).await?;
            Result::Ok(outlast.shutdown(PATIENCE).await?)
        })?;
        fill(&queue, self.backlog, &self.workload)?;
        let sample = self.runtime.block_on(async {
            let outlast = open().await?;
            wait_until_ready(&queue).await?;
            write_out();
            let started = Instant::now();
            outlast.resume(None).await?;
            let drained = outlast.drain(PATIENCE).await?;
            let sample = Sample::of_total(self.backlog, started.elapsed());
            outlast.shutdown(Duration::from_secs(10)).await?;
            if drained { Ok(sample) } else { Err(format!("not drained within {PATIENCE:?}").into()) }
        });
        std::fs::remove_dir_all(&queue)?;
        sample
    }
}

/// Ends when the log has its next segment's file at hand.
async fn wait_until_ready(queue: &Path) -> Result<()> {
    let is_spare = |name: &OsStr| Path::new(name).file_stem().is_some_and(|stem| stem == "spare");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for file in std::fs::read_dir(queue.join("segments"))? {
            if is_spare(&file?.file_name()) {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("the log has no spare file after {PATIENCE:?}").into())
}

/// Has the system write out what was written before the measuring: a sync of a database would otherwise wait for the
/// files of others.
pub(super) fn write_out() {
    rustix::fs::sync();
}

/// Makes a queue in which so many writes wait, as an instance would have left it in an outage.
pub(super) fn fill(queue: &Path, writes: usize, workload: &Workload) -> Result<()> {
    let (log, _) = Log::open(queue, LogOptions::default())?;
    let bodies: Result<Vec<String>> = (0..CHUNK).map(|_| workload.body()).collect();
    let mut bodies = bodies?;
    let mut left = writes;
    while left > 0 {
        bodies.truncate(left);
        let entry = |body| NewEntry { body, time_ms: 1_795_000_000_000, origin: None };
        let entries: Vec<NewEntry<'_>> = bodies.iter().map(|body| entry(body.as_str())).collect();
        log.append_all(&entries)?;
        left -= bodies.len();
        // Creates of records that exist would be refused.
        for body in &mut bodies {
            *body = workload.body()?;
        }
    }
    log.sync().wait()?;
    Ok(log.close()?)
}
