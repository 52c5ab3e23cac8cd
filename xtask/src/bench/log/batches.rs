//! Batches of 1000 entries, each batch with one sync.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use outlast_log::NewEntry;

use super::super::callers::repeat;
use super::super::floor::Prefilled;
use super::super::report::{Bound, Goal, Section, Table};
use super::super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use super::Settings;
use super::peers::PEERS;
use super::subject::{Kind, Subject};
use crate::Result;

/// Entries in a batch.
const BATCH: usize = 1000;
/// What a json log must reach; a bincode log must reach the best peer.
const JSON_GOAL: f64 = 1_000_000.0;
/// How often everything is let go of where that is measured, too: by another thread, as the drainer does it.
const FREE_EVERY: Duration = Duration::from_millis(5);

/// Whether what was appended stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Held,
    Freed,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Freed => "freed",
        }
    }
}

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let directory = settings.directory.join("batches");
    let logs: Result<Vec<_>> = Kind::EACH.into_iter().map(|kind| Subject::open(kind, &directory)).collect();
    let logs = logs?;
    let bytes = vec![b'x'; logs[0].frame_bytes()? * BATCH];
    let mut bare = Prefilled::create(&directory.join("bare"))?;
    let mut section = Section::default();
    for fate in [Fate::Held, Fate::Freed] {
        let mut contenders = vec![Contender::new("bare device: pwrite and fdatasync", |time| {
            Ok(repeat(time, || Ok(bare.append(&bytes)?))?.times(BATCH))
        })];
        for log in &logs {
            let name = format!("log ({})", log.kind.name());
            contenders.push(Contender::new(name, move |time| through_log(log, fate, time)));
        }
        // Only okaywal lets go of anything by itself.
        for peer in PEERS.into_iter().filter(|peer| fate == Fate::Held || peer.name == "okaywal") {
            contenders.push(Contender::new(peer.name, move |time| {
                let (batch, time) = (BATCH.to_string(), time.as_millis().to_string());
                settings.peers.cell("batch", peer.name, &[fate.name(), &batch, &time])
            }));
        }
        let series = interleave(contenders, settings.rounds, settings.time)?;
        let title = match fate {
            Fate::Held => "Everything stays, as in an outage",
            Fate::Freed => "Everything is let go of at once, files are used again",
        };
        section.tables.push(Table::compare(title, &series, 0, Compare::Rate));
        section.goals.extend(goals(fate, &series));
    }
    section.notes = vec![
        "One caller. The bare device gets the bytes of a json log, prefilled and written over from the front.".to_owned(),
        format!("The log prefills as much as it fills, meanwhile and on the same disk. Let go of: settled and reclaimed by another thread every {} ms; okaywal discards at its checkpoints, in a thread of its own, too.", FREE_EVERY.as_millis()),
    ];
    drop(logs);
    std::fs::remove_dir_all(directory)?;
    Ok(section)
}

fn through_log(log: &Arc<Subject>, fate: Fate, time: Duration) -> Result<Sample> {
    // What the former round left would fill the disk.
    log.free()?;
    let batches: Vec<Vec<NewEntry<'_>>> =
        (0..16).map(|_| (0..BATCH).map(|_| log.entry()).collect()).collect();
    let turn = Cell::new(0);
    let over = AtomicBool::new(fate == Fate::Held);
    let sample = thread::scope(|scope| {
        let freeing = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                log.free()?;
                thread::sleep(FREE_EVERY);
            }
            Result::Ok(())
        });
        let sample = repeat(time, || {
            turn.set(turn.get() + 1);
            log.batch(&batches[turn.get() % batches.len()])
        });
        over.store(true, Ordering::Relaxed);
        freeing.join().map_err(|_| "the thread that lets go panicked")??;
        sample
    })?;
    Ok(sample.times(BATCH))
}

fn goals(fate: Fate, series: &[Series]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |what: String, bound, measured: Option<Spread>, unit| {
        let what = format!("batches that are {}, {what}", fate.name());
        goals.extend(measured.map(|measured| Goal { what, bound: Bound::AtLeast(bound), measured, unit }));
    };
    let peers = series.iter().filter(|one| PEERS.iter().any(|peer| peer.name == one.name));
    let named = |kind: Kind| series.iter().find(|one| one.name == format!("log ({})", kind.name()));
    let (Some(json), Some(bincode)) = (named(Kind::Json), named(Kind::Bincode)) else { return Vec::new() };
    add(json.name.clone(), JSON_GOAL, Spread::of(json.samples.iter().map(|sample| sample.rate)), "/s");
    for peer in peers {
        let what = format!("{} to {}, rate", bincode.name, peer.name);
        add(what, 1.0, Compare::Rate.ratio(bincode, peer), "");
    }
    goals
}
