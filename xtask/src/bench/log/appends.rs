//! Durable appends by so many callers at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::super::callers::{runtime, tasks, threads};
use super::super::floor::{GroupFront, Prefilled};
use super::super::report::{Bound, Goal, Section, Table};
use super::super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use super::Settings;
use super::peers::PEERS;
use super::subject::{Kind, Subject};
use crate::Result;

/// How many callers.
const CALLERS: [usize; 4] = [1, 16, 64, 256];
/// What a lone caller must reach of the bare device's rate.
const LONE_GOAL: f64 = 0.95;
/// What tasks must reach of the bare file's rate behind the front, and how many of them.
const TASKS_GOAL: f64 = 0.90;
const TASKS: usize = 64;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callers {
    Threads,
    Tasks,
}

impl Callers {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Tasks => "tasks",
        }
    }
}

/// Everything that is compared.
struct Bench<'a> {
    settings: &'a Settings,
    runtime: Runtime,
    bare: Mutex<Prefilled>,
    front: Arc<GroupFront>,
    logs: Vec<Arc<Subject>>,
    /// As many as an entry takes in the json log.
    bytes: Arc<[u8]>,
}

/// Measures.
pub(super) fn measure(settings: &Settings, callers: Callers) -> Result<Section> {
    let directory = settings.directory.join(callers.name());
    let logs: Result<Vec<_>> = Kind::EACH.into_iter().map(|kind| Subject::open(kind, &directory)).collect();
    let logs = logs?;
    let frames = logs.iter().map(|log| log.frame_bytes()).collect::<Result<Vec<_>>>()?;
    let bench = Bench {
        settings,
        runtime: runtime()?,
        bare: Mutex::new(Prefilled::create(&directory.join("bare"))?),
        front: Arc::new(GroupFront::start(Prefilled::create(&directory.join("front"))?)?),
        logs,
        bytes: vec![b'x'; frames[0]].into(),
    };
    let mut section = Section::default();
    for number in CALLERS {
        let series = interleave(bench.contenders(callers, number), settings.rounds, settings.time)?;
        let title = format!("{number} {}", callers.name());
        section.tables.push(Table::compare(title, &series, 0, Compare::Rate));
        section.goals.extend(goals(callers, number, &series));
    }
    section.notes = notes(&frames);
    drop(bench);
    std::fs::remove_dir_all(directory)?;
    Ok(section)
}

fn notes(frames: &[usize]) -> Vec<String> {
    vec![
        format!(
            "An entry of 256 bytes takes {} bytes in a json log, {} in a bincode log; the bare file gets the {} bytes of the former, prefilled and written over from the front.",
            frames[0], frames[1], frames[0]
        ),
        "The front is one committing thread that takes all that waits, writes once, syncs once and wakes all: no numbering, no checksum, no encoding. Threads use raft-engine and okaywal directly, since these gather by themselves.".to_owned(),
        "The log prefills its further segments meanwhile, as in an outage, when nothing can be reclaimed. What a log has put off compressing is compressed before the next contender's turn, and not measured.".to_owned(),
    ]
}

impl Bench<'_> {
    fn contenders(&self, callers: Callers, number: usize) -> Vec<Contender<'_>> {
        let mut contenders = Vec::new();
        if number == 1 {
            contenders.push(Contender::new("bare device, one thread: pwrite and fdatasync", |time| {
                threads(1, time, |_| {
                    let mut file = self.bare.lock().map_err(|_| "a caller panicked")?;
                    Ok(file.append(&self.bytes)?)
                })
            }));
        }
        contenders.push(Contender::new("bare file behind the front", move |time| {
            self.through_front(callers, number, time)
        }));
        for log in &self.logs {
            contenders.push(Contender::new(format!("log ({})", log.kind.name()), move |time| {
                self.through_log(log, callers, number, time)
            }));
        }
        for peer in PEERS {
            let direct = peer.gathers && callers == Callers::Threads;
            let (way, name) = if direct { ("direct", "") } else { ("front", " behind the front") };
            contenders.push(Contender::new(format!("{}{name}", peer.name), move |time| {
                let (number, time) = (number.to_string(), time.as_millis().to_string());
                let arguments = [way, callers.name(), &number, &time];
                self.settings.peers.cell("append", peer.name, &arguments)
            }));
        }
        contenders
    }

    fn through_front(&self, callers: Callers, number: usize, time: Duration) -> Result<Sample> {
        let before = self.front.commits();
        let (front, bytes) = (&self.front, &self.bytes);
        let mut sample = match callers {
            Callers::Threads => threads(number, time, |_| front.append_blocking(bytes)),
            Callers::Tasks => {
                let (front, bytes) = (Arc::clone(front), Arc::clone(bytes));
                let append = move |_| {
                    let (front, bytes) = (Arc::clone(&front), Arc::clone(&bytes));
                    async move { front.append(&bytes).await }
                };
                tasks(&self.runtime, number, time, append)
            }
        }?;
        let commits = self.front.commits() - before;
        sample.more.push(("entries a sync", sample.calls as f64 / commits as f64));
        Ok(sample)
    }

    fn through_log(
        &self,
        log: &Arc<Subject>,
        callers: Callers,
        number: usize,
        time: Duration,
    ) -> Result<Sample> {
        let before = log.log.watermarks().syncs;
        let mut sample = match callers {
            Callers::Threads => threads(number, time, |_| log.blocking()),
            Callers::Tasks => {
                let log = Arc::clone(log);
                let append = move |_| {
                    let log = Arc::clone(&log);
                    async move { log.waiting().await }
                };
                tasks(&self.runtime, number, time, append)
            }
        }?;
        let syncs = log.log.watermarks().syncs - before;
        sample.more.push(("entries a sync", sample.calls as f64 / syncs as f64));
        // The next contender has nothing to do with it.
        log.kind.wait_until_compressed(&log.log);
        Ok(sample)
    }
}

fn goals(callers: Callers, number: usize, series: &[Series]) -> Vec<Goal> {
    let goal = match (callers, number) {
        (Callers::Threads, 1) => LONE_GOAL,
        (Callers::Tasks, TASKS) => TASKS_GOAL,
        _ => return Vec::new(),
    };
    let first = series.len() - PEERS.len();
    let mut goals = Vec::new();
    // No peer encrypts: what that costs is a figure and no race.
    let in_the_race = |one: &&Series| one.name.starts_with("log") && !one.name.contains("encrypted");
    for log in series[..first].iter().filter(in_the_race) {
        let mut add = |other: &Series, bound, measured: Option<Spread>| {
            let what = format!("{number} {}, {} to {}, rate", callers.name(), log.name, other.name);
            let bound = Bound::AtLeast(bound);
            goals.extend(measured.map(|measured| Goal { what, bound, measured, unit: "" }));
        };
        add(&series[0], goal, Compare::Rate.ratio(log, &series[0]));
        if number == TASKS {
            series[first..].iter().for_each(|peer| add(peer, 1.0, Compare::Rate.ratio(log, peer)));
        }
    }
    goals
}
