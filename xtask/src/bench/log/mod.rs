//! `cargo xtask bench log`: the log beside the bare device and beside its best peers, in the same run.

mod appends;
mod backlog;
mod batches;
mod cell;
mod peers;
mod subject;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use cell::{Arguments as CellArguments, run as run_cell};
use peers::Peers;

use super::report::{self, Section};
use super::{Arguments, facts};
use crate::Result;
use crate::process::{root, target};

/// What the file opens with.
const HEAD: &str = "# The log: speed and memory\n\nWritten by `cargo xtask bench log --write`; with `--parts` only those sections are measured again. Figures are medians over the rounds; contenders take turns (A B A B), and ratios are taken round by round, so that what else happens on the machine falls on all of them. Callers are in a closed loop. Peers are used as libraries (`tools/peers`), each cell in a process of its own. Entries have 256 bytes that do not compress well.\n\nOn a machine that does other things, run it under `chrt -r 1`: otherwise a sync that takes 0.1 ms is noticed only at the next tick of the scheduler, after up to 4 ms. The kernel's own workers do not get that priority: raft-engine and SQLite, whose growing files need them, are then shown too slow, and handing over between threads costs a lone caller more than it does on a quiet machine.\n";

/// A section of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Durable appends by threads
    Threads,
    /// Durable appends by async tasks
    Tasks,
    /// Batches of 1000
    Batches,
    /// Opening and reading what is pending
    Backlog,
}

impl Part {
    const EACH: [Self; 4] = [Self::Threads, Self::Tasks, Self::Batches, Self::Backlog];

    fn title(self) -> &'static str {
        match self {
            Self::Threads => "Durable appends by threads",
            Self::Tasks => "Durable appends by async tasks",
            Self::Batches => "Durable batches of 1000",
            Self::Backlog => "Opening and reading back",
        }
    }
}

/// How it is measured.
#[derive(Debug)]
struct Settings {
    rounds: usize,
    time: Duration,
    pending: Vec<usize>,
    /// Removed at the end.
    directory: PathBuf,
    peers: Peers,
}

/// Measures and prints the parts that were asked for.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let base = arguments.directory.clone().map_or_else(target, Ok)?;
    std::fs::create_dir_all(&base)?;
    let directory = tempfile::Builder::new().prefix("bench-log-").tempdir_in(&base)?;
    let settings = Settings {
        rounds: usize::from(arguments.rounds),
        time: Duration::from_millis(arguments.round_ms),
        pending: arguments.pending.clone(),
        directory: directory.path().to_owned(),
        peers: Peers::build(directory.path())?,
    };
    let parts = if arguments.parts.is_empty() { Part::EACH.to_vec() } else { arguments.parts.clone() };
    for part in parts {
        eprintln!("{part:?}");
        let facts = facts(directory.path(), false);
        let mut section = measure(part, &settings)?;
        part.title().clone_into(&mut section.title);
        section.notes.push(facts);
        println!("{section}");
        if arguments.write {
            report::write(&root().join("docs/bench-log.md"), HEAD, &section)?;
        }
    }
    Ok(())
}

fn measure(part: Part, settings: &Settings) -> Result<Section> {
    match part {
        Part::Threads => appends::measure(settings, appends::Callers::Threads),
        Part::Tasks => appends::measure(settings, appends::Callers::Tasks),
        Part::Batches => batches::measure(settings),
        Part::Backlog => backlog::measure(settings),
    }
}
