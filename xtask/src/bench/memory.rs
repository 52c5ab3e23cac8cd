//! Memory and start-up with millions of writes that wait.

use std::path::Path;
use std::time::Duration;

use super::Settings;
use super::drain::fill;
use super::http::{away, binary, start};
use super::report::{Bound, Goal, Section, Table, number};
use super::stats::Spread;
use super::workload::{DOCUMENT_BYTES, Workload};
use crate::Result;

/// From the start of the process to the first 200 of `/readyz`.
const READY_GOAL_S: f64 = 1.0;
/// Resident memory.
const MEMORY_GOAL_MIB: f64 = 128.0;
/// How long after it was ready its memory is looked at again.
const LATER: Duration = Duration::from_secs(10);

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let binary = binary()?;
    let directory = settings.directory.join("memory");
    std::fs::create_dir_all(&directory)?;
    eprintln!("  filling a queue with {} writes", settings.queued);
    fill(&directory.join("queue"), settings.queued, &Workload::new()?)?;
    let (mut rows, mut ready, mut most) = (Vec::new(), Vec::new(), Vec::new());
    let database = away()?;
    for round in 1..=settings.rounds {
        let mut server = start(&binary, &directory, &database)?;
        let at_start = mib(server.memory()?.resident);
        std::thread::sleep(LATER);
        let later = server.memory()?;
        let seconds = server.ready_after().as_secs_f64();
        eprintln!(
            "  round {round}/{}: ready after {seconds:.3} s, {:.1} MiB",
            settings.rounds,
            mib(later.resident)
        );
        ready.push(seconds);
        most.push(mib(later.peak));
        let cells = [seconds * 1000.0, at_start, mib(later.resident), mib(later.peak)].map(number);
        rows.push([&[format!("start {round}, database away")][..], &cells[..]].concat());
    }
    rows.push(draining(&binary, &directory)?);
    let header =
        ["", "ready after ms", "MiB when ready", "MiB 10 s later", "peak MiB"].map(str::to_owned).to_vec();
    let goal = |what: &str, bound, values: Vec<f64>, unit| {
        let what = format!("{what} with {} queued writes of {DOCUMENT_BYTES} bytes", settings.queued);
        Spread::of(values).map(|measured| Goal { what, bound: Bound::AtMost(bound), measured, unit })
    };
    let goals = [
        goal("ready", READY_GOAL_S, ready, " s"),
        goal("peak of resident memory", MEMORY_GOAL_MIB, most, " MiB"),
    ];
    Ok(Section {
        title: "Memory and start-up with a large backlog".to_owned(),
        tables: vec![Table { title: format!("{} queued writes", settings.queued), header, rows }],
        goals: goals.into_iter().flatten().collect(),
        notes: vec!["The queue's files may be in the page cache. While draining, the last column but one shows the memory after 10 s of draining into SQLite.".to_owned()],
    })
}

/// The same backlog on its way into SQLite.
fn draining(binary: &Path, directory: &Path) -> Result<Vec<String>> {
    let mut server = start(binary, directory, "sqlite://drained.db")?;
    let (seconds, at_start) = (server.ready_after().as_secs_f64(), server.memory()?.resident);
    std::thread::sleep(LATER);
    let later = server.memory()?;
    let left = server.metric("outlast_queue_writes")?;
    let cells = [seconds * 1000.0, mib(at_start), mib(later.resident), mib(later.peak)].map(number);
    let name = format!("draining into SQLite ({} left after 10 s)", number(left));
    Ok([&[name][..], &cells[..]].concat())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
