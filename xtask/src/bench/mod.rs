//! `cargo xtask bench`: every figure as the median over interleaved rounds, and as a ratio to what was measured beside it
//! in the same run.

mod append;
mod apply;
mod callers;
mod contents;
mod crowd;
mod dashboard;
mod drain;
mod floor;
mod http;
mod letters;
mod load;
mod log;
mod lone;
mod memory;
mod place;
mod plain;
mod report;
mod stats;
mod workload;

pub(crate) use log::{CellArguments, run_cell};

use std::path::{Path, PathBuf};
use std::time::Duration;

use place::Kind;
use report::Section;

use crate::Result;
use crate::machine;
use crate::process::{cargo, root, run as run_command, target};
use crate::surreal::{Build, SURREAL, surreal};

/// What to measure, and how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Topics
    #[arg(value_enum, default_value = "all")]
    topics: Vec<Topic>,
    /// Rounds of each contender
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds of a round
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    round_ms: u64,
    /// Concurrent callers and connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    callers: u16,
    /// Databases [default: sqlite, surrealdb; of the topic apply all of them]
    #[arg(long, value_enum, value_delimiter = ',')]
    databases: Vec<Kind>,
    /// Writes in the backlog that is drained
    #[arg(long, default_value_t = 100_000)]
    backlog: usize,
    /// Writes in the queue whose memory is looked at
    #[arg(long, default_value_t = 5_000_000)]
    queued: usize,
    /// Where files are put while measuring; should lie on a real disk [default: the target folder]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Another build of the server, whose outage is measured beside this one's
    #[arg(long, value_name = "BINARY")]
    beside: Vec<PathBuf>,
    /// Of the topic log: only these
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<log::Part>,
    /// Of the topic log: how many entries are pending
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 5_000_000, 10_000_000])]
    pending: Vec<usize>,
    /// Put the sections into docs/bench.md, docs/bench-apply.md or docs/bench-log.md
    #[arg(long)]
    write: bool,
}

impl Arguments {
    fn databases(&self) -> Vec<Kind> {
        match &self.databases[..] {
            [] if self.topics == [Topic::Apply] => vec![Kind::Sqlite, Kind::Surrealdb, Kind::Postgres],
            [] => vec![Kind::Sqlite, Kind::Surrealdb],
            chosen => chosen.to_vec(),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Topic {
    /// Everything
    All,
    /// Durable appends to the log
    Append,
    /// A lone healthy write
    Lone,
    /// Many callers at once
    Concurrent,
    /// Draining a backlog
    Drain,
    /// Writes over HTTP
    Http,
    /// Memory and start-up with a large backlog
    Memory,
    /// What an open dashboard costs writes over HTTP
    Dashboard,
    /// What honest clients notice of a thousand half-open connections
    Crowd,
    /// The first page of a hundred thousand dead letters, and retrying all of them
    Letters,
    /// The same rows through Outlast and through the database's own client; not among `all`
    Apply,
    /// The log alone, beside other logs; not among `all`
    Log,
}

/// What a page opens with.
const HEAD: &str = "# Speed and memory\n\nWritten by `cargo xtask bench TOPICS --write`, each section by itself. Each figure is the median over the rounds; contenders take turns (A B A B). Ratios are taken round by round, so that what else happens on the machine falls on both; \"min to max\" shows how far apart rounds were. Callers are in a closed loop: each does the next call when the former one has ended.\n";

impl Topic {
    /// The page that has its section.
    fn page(self) -> &'static str {
        match self {
            Self::Apply => "docs/bench-apply.md",
            Self::Log => "docs/bench-log.md",
            _ => "docs/bench.md",
        }
    }

    const EACH: [Self; 9] = [
        Self::Append,
        Self::Lone,
        Self::Concurrent,
        Self::Drain,
        Self::Http,
        Self::Memory,
        Self::Dashboard,
        Self::Crowd,
        Self::Letters,
    ];

    fn measure(self, settings: &Settings) -> Result<Section> {
        match self {
            Self::All | Self::Log => Err("it is measured on its own".into()),
            Self::Append => append::measure(settings),
            Self::Lone => lone::measure_lone(settings),
            Self::Concurrent => lone::measure_concurrent(settings),
            Self::Drain => drain::measure(settings),
            Self::Http => http::measure(settings),
            Self::Memory => memory::measure(settings),
            Self::Dashboard => dashboard::measure(settings),
            Self::Crowd => crowd::measure(settings),
            Self::Letters => letters::measure(settings),
            Self::Apply => apply::measure(settings),
        }
    }
}

/// How it is measured.
#[derive(Debug, Clone)]
struct Settings {
    rounds: usize,
    time: Duration,
    callers: usize,
    databases: Vec<Kind>,
    backlog: usize,
    queued: usize,
    beside: Vec<PathBuf>,
    /// Removed at the end.
    directory: PathBuf,
}

/// Measures and prints; builds itself again in release first.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if cfg!(debug_assertions) {
        return run_in_release(arguments);
    }
    if arguments.topics == [Topic::Log] {
        return log::run(arguments);
    }
    let base = arguments.directory.clone().map_or_else(target, Ok)?;
    std::fs::create_dir_all(&base)?;
    let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(&base)?;
    let all = arguments.topics.contains(&Topic::All);
    let topics = if all { Topic::EACH.to_vec() } else { arguments.topics.clone() };
    let mut failed = Vec::new();
    for topic in topics {
        eprintln!("{topic:?}");
        let facts = facts(directory.path(), true);
        match measure(topic, arguments, directory.path().join(format!("{topic:?}").to_ascii_lowercase())) {
            Ok(mut section) => {
                section.notes.push(facts);
                println!("{section}");
                if arguments.write {
                    report::write(&root().join(topic.page()), HEAD, &section)?;
                }
            }
            Err(error) => {
                eprintln!("error: {topic:?}: {error}");
                failed.push(format!("{topic:?}"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {}", failed.join(", ")).into()) }
}

/// Builds this program for release and runs that, with a SurrealDB server that is built for release, too.
fn run_in_release(arguments: &Arguments) -> Result<()> {
    eprintln!("building for release");
    let again = ["run", "--quiet", "--release", "--package", "xtask", "--"].map(Into::into);
    let mut command = cargo(again.into_iter().chain(std::env::args_os().skip(1)));
    let needs_surreal = arguments.topics != [Topic::Log] && arguments.databases().contains(&Kind::Surrealdb);
    if needs_surreal && std::env::var_os(SURREAL).is_none() {
        command.env(SURREAL, surreal(Build::Measuring)?);
    }
    run_command(&mut command)
}

/// In a thread and a folder of its own: what it leaves behind does not disturb the next topic, and a server that does
/// not start costs only this one.
fn measure(topic: Topic, arguments: &Arguments, directory: PathBuf) -> Result<Section> {
    std::fs::create_dir_all(&directory)?;
    let settings = Settings {
        rounds: usize::from(arguments.rounds),
        time: Duration::from_millis(arguments.round_ms),
        callers: usize::from(arguments.callers),
        databases: arguments.databases(),
        backlog: arguments.backlog,
        queued: arguments.queued,
        beside: arguments.beside.clone(),
        directory: directory.clone(),
    };
    let outcome = std::thread::spawn(move || topic.measure(&settings)).join();
    std::fs::remove_dir_all(directory)?;
    outcome.unwrap_or_else(|_| Err("it panicked; the reason stands above".into()))
}

/// By what and on what it was measured: in a line, because each section of a page may be of another run.
fn facts(directory: &Path, with_databases: bool) -> String {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let lines = machine::describe(directory).into_iter();
    let lines = lines.filter(|line| with_databases || !line.starts_with("SurrealDB"));
    lines.fold(format!("Measured by `cargo xtask {command}`"), |text, line| format!("{text}. {line}"))
}
