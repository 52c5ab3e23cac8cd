//! `cargo xtask bench apply`: for each database the same rows in every way, in one run: through Outlast and through the
//! database's own client.

use std::time::Instant;

use outlast::RecordId;

use super::Settings;
use super::callers::runtime;
use super::drain::{self, BATCH};
use super::lone::{self, gain_goal, goal};
use super::place::{Kind, Place};
use super::plain::{Plain, Row};
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use super::workload::Workload;
use crate::Result;

/// A backlog is drained over so many lanes, beside one.
const LANES: [u32; 2] = [2, 4];
/// What a drain must reach of the best transaction that a client can make.
const DRAIN_GOAL: f64 = 0.90;
/// A lone write may take so many times what its transaction takes by hand, and so many microseconds more.
const LONE_FACTOR: f64 = 1.05;
const LONE_MORE_US: f64 = 50.0;
/// A round of lone writes is so many short turns, so that a disk that slows down slows both of them.
const LONE_TURNS: usize = 10;

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let mut section = Section { title: "Rows in every way".to_owned(), ..Section::default() };
    for &kind in &settings.databases {
        calls(settings, kind, &mut section)?;
        backlog(settings, kind, &mut section)?;
    }
    section.notes = vec![
        "Of the calls: \"plain\" is one call of the database's own client for each row, which cannot tell afterwards \
         whether it took effect; \"by hand\" is the adapter's own call with one write and the position, in one flight."
            .to_owned(),
        format!(
            "A lone write and its transaction by hand take {LONE_TURNS} short turns in each round, so that a disk that \
             slows down slows both."
        ),
        "As many plain callers at once as go through Outlast are in the table. That 64 callers are served five times as fast \
         was asked for of PostgreSQL; the goals of the others are our own."
            .to_owned(),
        format!(
            "Of the backlog: {} rows. The client's own transactions have {BATCH} rows and a position, as Outlast's have; \
             they are ready in memory, while Outlast reads and decodes its log, from the end of a pause on. Before each round the system writes out \
             what earlier ones left in its memory.",
            settings.backlog
        ),
    ];
    Ok(section)
}

/// One caller and many, each waiting for its own write.
fn calls(settings: &Settings, kind: Kind, section: &mut Section) -> Result<()> {
    let callers = settings.callers;
    let bench = lone::Bench::open(settings, kind, "apply", callers)?.with_lanes(settings, LANES[1])?;
    let contenders =
        [(1, bench.plain(1)), (callers, bench.plain(callers)), (callers, bench.library(callers))];
    let over_lanes = bench.library_over_lanes(callers).map(|contender| (callers, contender));
    let contenders = contenders.into_iter().chain(over_lanes).map(|(callers, contender)| Contender {
        name: format!("{callers} x {}", contender.name),
        ..contender
    });
    let series = interleave(contenders.collect(), settings.rounds, settings.time)?;
    let (title, short) = (bench.place.title(), bench.place.short());
    let [plain, _, many, ..] = &series[..] else { return Err("a contender is missing".into()) };
    let what = format!("{short}: {callers} callers through Outlast to one call each of a plain one, rate");
    let many = goal(what, Bound::AtLeast(gain_goal(kind)), many, plain, Compare::Rate);
    let calls = Table::compare(format!("{title}: calls"), &series, 0, Compare::Rate);
    let lone = vec![bench.by_hand()?, bench.library(1), bench.client()];
    let lone = interleave(lone, settings.rounds * LONE_TURNS, settings.time / LONE_TURNS as u32)?;
    section.tables.push(Table::compare(format!("{title}: a lone write"), &lone, 0, Compare::Median));
    section.tables.push(calls);
    section.goals.extend(lone_goal(short, &lone[1], &lone[0]));
    section.goals.extend(many);
    bench.close();
    Ok(())
}

/// What a lone write takes beyond its part of the transaction by hand.
fn lone_goal(short: &str, lone: &Series, by_hand: &Series) -> Option<Goal> {
    let pairs = lone.samples.iter().zip(&by_hand.samples);
    let over = pairs.filter_map(|(lone, by_hand)| Some(lone.p50_us? - LONE_FACTOR * by_hand.p50_us?));
    Some(Goal {
        what: format!("{short}: median time of a lone write beyond {LONE_FACTOR} of its transaction by hand"),
        bound: Bound::AtMost(LONE_MORE_US),
        measured: Spread::of(over)?,
        unit: " µs",
    })
}

/// Many rows that lie ready.
fn backlog(settings: &Settings, kind: Kind, section: &mut Section) -> Result<()> {
    let runtime = runtime()?;
    let directory = settings.directory.join(format!("backlog-{kind:?}").to_ascii_lowercase());
    std::fs::create_dir_all(&directory)?;
    let place = Place::start(kind, &directory);
    let workload = Workload::new()?;
    let bench = drain::Bench {
        place: &place,
        runtime: &runtime,
        directory: &directory,
        backlog: settings.backlog,
        workload: workload.clone(),
    };
    let rows = || -> Vec<Row> {
        (0..settings.backlog).map(|_| (RecordId::generate(), workload.document().clone())).collect()
    };
    let plain = runtime.block_on(Plain::open(&place, "bulk", 1))?;
    let bulk = || -> Result<Sample> {
        let rows = rows();
        drain::write_out();
        runtime.block_on(async {
            let started = Instant::now();
            for (number, rows) in rows.chunks(BATCH).enumerate() {
                plain.bulk(rows, number as u64).await?;
            }
            Ok(Sample::of_total(rows.len(), started.elapsed()))
        })
    };
    let at_once = |way| -> Result<Sample> {
        let rows = rows();
        drain::write_out();
        runtime.block_on(async {
            let started = Instant::now();
            plain.at_once(way, &rows).await?;
            Ok(Sample::of_total(rows.len(), started.elapsed()))
        })
    };
    let (mut hand_round, mut drain_round) = (0, 0);
    let mut contenders = vec![
        Contender::new(
            format!("the client: transactions of {BATCH} rows, {}", plain.describe_bulk()),
            |_| bulk(),
        ),
        Contender::new(format!("the adapter: transactions of {BATCH} creates"), |_| {
            hand_round += 1;
            bench.by_hand(&format!("by_hand_{hand_round}"))
        }),
        Contender::new("Outlast drains its log", |_| {
            drain_round += 1;
            bench.drain(&format!("drain_{drain_round}"), 1)
        }),
    ];
    for lanes in LANES {
        let (bench, mut round) = (&bench, 0);
        contenders.push(Contender::new(format!("Outlast drains its log over {lanes} lanes"), move |_| {
            round += 1;
            bench.drain(&format!("drain_over_{lanes}_{round}"), lanes)
        }));
    }
    for &way in plain.ways_at_once() {
        let at_once = &at_once;
        contenders.push(Contender::new(format!("the client: {}", way.describe()), move |_| at_once(way)));
    }
    let series = interleave(contenders, settings.rounds, settings.time)?;
    section.tables.push(Table::compare(format!("{}: a backlog", place.title()), &series, 0, Compare::Rate));
    let what = format!("{}: draining to the client's transactions of {BATCH} rows, rate", place.short());
    section.goals.extend(goal(what, Bound::AtLeast(DRAIN_GOAL), &series[2], &series[0], Compare::Rate));
    Ok(())
}
