//! Healthy writes: a lone one through the library against the same transaction made by hand, and many at once against one
//! call each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast::{Outlast, RecordId};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::Settings;
use super::callers::{runtime, tasks, threads};
use super::place::{ByHand, Kind, Place, library, submit};
use super::plain::Plain;
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Sample, Series, interleave};
use super::workload::Workload;
use crate::Result;

/// Calls before the measuring begins: tables are made, files grow, caches fill.
const WARM_UP: Duration = Duration::from_millis(200);
/// A lone write may cost a tenth more than its transaction by hand.
const LONE_GOAL: f64 = 1.10;

/// One caller.
pub(super) fn measure_lone(settings: &Settings) -> Result<Section> {
    let mut section = Section { title: "A lone healthy write".to_owned(), ..Section::default() };
    for &kind in &settings.databases {
        let bench = Bench::open(settings, kind, "lone", 1)?;
        let by_hand = bench.by_hand()?;
        let contenders = vec![by_hand, bench.library(1), bench.plain(1)];
        let series = interleave(contenders, settings.rounds, settings.time)?;
        let (title, short) = (bench.place.title(), bench.place.short());
        section.tables.push(Table::compare(title, &series, 0, Compare::Median));
        let what = format!("{short}: through the library to the transaction by hand, median time of a call");
        section.goals.extend(goal(what, Bound::AtMost(LONE_GOAL), &series[1], &series[0], Compare::Median));
        bench.close();
    }
    section.notes.push(
        "By hand: the adapter's own call with one write and the position, as the library makes it."
            .to_owned(),
    );
    section.notes.push(
        "Plain: the same row without a position; it cannot tell afterwards whether it took effect."
            .to_owned(),
    );
    Ok(section)
}

/// Many callers.
pub(super) fn measure_concurrent(settings: &Settings) -> Result<Section> {
    let callers = settings.callers;
    let mut section = Section { title: format!("{callers} concurrent callers"), ..Section::default() };
    for &kind in &settings.databases {
        let bench = Bench::open(settings, kind, "concurrent", callers)?;
        let contenders = vec![bench.plain(callers), bench.library(callers)];
        let series = interleave(contenders, settings.rounds, settings.time)?;
        let (title, short) = (bench.place.title(), bench.place.short());
        section.tables.push(Table::compare(title, &series, 0, Compare::Rate));
        let what = format!("{short}: through the library to one plain call each, rate");
        let bound = Bound::AtLeast(gain_goal(kind));
        section.goals.extend(goal(what, bound, &series[1], &series[0], Compare::Rate));
        bench.close();
    }
    Ok(section)
}

/// What concurrency must gain. How much there is to gain depends on how long the disk takes to sync, which a lone caller
/// waits for each time.
pub(super) fn gain_goal(kind: Kind) -> f64 {
    match kind {
        Kind::Surrealdb => 4.0,
        Kind::Sqlite | Kind::Postgres => 5.0,
    }
}

pub(super) fn goal(
    what: String,
    bound: Bound,
    series: &Series,
    reference: &Series,
    by: Compare,
) -> Option<Goal> {
    let measured = by.ratio(series, reference)?;
    Some(Goal { what, bound, measured, unit: "" })
}

/// Everything that is compared on one kind of database, each with a database of its own.
pub(super) struct Bench {
    pub(super) place: Place,
    runtime: Runtime,
    workload: Workload,
    outlast: Outlast,
    /// The same with several lanes, where that was asked for.
    over_lanes: Option<(u32, Outlast)>,
    plain: Plain,
}

impl Bench {
    pub(super) fn open(settings: &Settings, kind: Kind, topic: &str, callers: usize) -> Result<Self> {
        let directory = settings.directory.join(format!("{topic}-{kind:?}").to_ascii_lowercase());
        std::fs::create_dir_all(&directory)?;
        let runtime = runtime()?;
        let workload = Workload::new()?;
        let place = Place::start(kind, &directory);
        let (outlast, plain) = runtime.block_on(async {
            let outlast = library(place.database("library").await?, &directory.join("queue"), 1).await?;
            Result::Ok((outlast, Plain::open(&place, "plain", callers).await?))
        })?;
        let bench = Self { place, runtime, workload, outlast, over_lanes: None, plain };
        (bench.library(callers).run)(WARM_UP)?;
        (bench.plain(callers).run)(WARM_UP)?;
        Ok(bench)
    }

    pub(super) fn by_hand(&self) -> Result<Contender<'_>> {
        let by_hand =
            self.runtime.block_on(async { ByHand::begin(self.place.database("by_hand").await?).await })?;
        let by_hand = Arc::new(Mutex::new(by_hand));
        let mut contender = Contender::new("by hand: one transaction, write and position", move |time| {
            let (by_hand, workload) = (Arc::clone(&by_hand), self.workload.clone());
            let call = move |_| {
                let (by_hand, write) = (Arc::clone(&by_hand), workload.write());
                async move { by_hand.lock().await.apply_one(write).await }
            };
            tasks(&self.runtime, 1, time, call)
        });
        (contender.run)(WARM_UP)?;
        Ok(contender)
    }

    /// What the database's own client would have to do to know afterwards what took effect.
    pub(super) fn client(&self) -> Contender<'_> {
        let mut position = 0;
        Contender::new("the client: one transaction, row and position", move |time| {
            self.runtime.block_on(async {
                let (started, mut nanos) = (Instant::now(), Vec::new());
                while started.elapsed() < time {
                    position += 1;
                    let row = (RecordId::generate(), self.workload.document().clone());
                    let before = Instant::now();
                    self.plain.bulk(std::slice::from_ref(&row), position).await?;
                    nanos.push(before.elapsed().as_nanos() as u64);
                }
                Sample::of_calls(nanos, started.elapsed())
            })
        })
    }

    /// Opens a second queue with so many lanes.
    pub(super) fn with_lanes(mut self, settings: &Settings, lanes: u32) -> Result<Self> {
        let queue = settings.directory.join(format!("lanes-{lanes}-{}", self.place.short()));
        let outlast = self
            .runtime
            .block_on(async { library(self.place.database("over_lanes").await?, &queue, lanes).await })?;
        self.over_lanes = Some((lanes, outlast));
        Ok(self)
    }

    pub(super) fn library(&self, callers: usize) -> Contender<'_> {
        self.through(&self.outlast, "through the library, applied".to_owned(), callers)
    }

    /// Through the queue with several lanes, if there is one.
    pub(super) fn library_over_lanes(&self, callers: usize) -> Option<Contender<'_>> {
        let (lanes, outlast) = self.over_lanes.as_ref()?;
        Some(self.through(outlast, format!("through the library over {lanes} lanes, applied"), callers))
    }

    fn through<'a>(&'a self, outlast: &'a Outlast, name: String, callers: usize) -> Contender<'a> {
        Contender::new(name, move |time| {
            let (outlast, workload) = (outlast.clone(), self.workload.clone());
            let call = move |_| {
                let (outlast, write) = (outlast.clone(), workload.write());
                async move { submit(&outlast, write).await }
            };
            tasks(&self.runtime, callers, time, call)
        })
    }

    pub(super) fn plain(&self, callers: usize) -> Contender<'_> {
        Contender::new(self.plain.describe(), move |time| self.plain_round(callers, time))
    }

    fn plain_round(&self, callers: usize, time: Duration) -> Result<Sample> {
        match &self.plain {
            Plain::Sqlite(plain) => threads(callers, time, |_| plain.insert(self.workload.document())),
            Plain::SurrealDb(plain) => {
                let (plain, workload) = (Arc::clone(plain), self.workload.clone());
                let call = move |caller| {
                    let (plain, workload) = (Arc::clone(&plain), workload.clone());
                    async move { plain.create(caller, workload.document()).await }
                };
                tasks(&self.runtime, callers, time, call)
            }
            Plain::Postgres(plain) => {
                let (plain, workload) = (Arc::clone(plain), self.workload.clone());
                let call = move |caller| {
                    let (plain, workload) = (Arc::clone(&plain), workload.clone());
                    async move { plain.insert(caller, workload.document()).await }
                };
                tasks(&self.runtime, callers, time, call)
            }
        }
    }

    pub(super) fn close(self) {
        // Nothing waits: a failure would lose nothing, and the figures are taken.
        let over_lanes = self.over_lanes.as_ref().map(|(_, outlast)| outlast);
        for outlast in std::iter::once(&self.outlast).chain(over_lanes) {
            let _ = self.runtime.block_on(outlast.shutdown(Duration::from_secs(10)));
        }
    }
}
