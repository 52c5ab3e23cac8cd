//! Other durable logs, one measurement a process. See README.md.

#[path = "../../../xtask/src/bench/callers.rs"]
mod callers;
#[path = "../../../xtask/src/bench/contents.rs"]
mod contents;
#[path = "../../../xtask/src/bench/floor.rs"]
#[expect(dead_code, reason = "the bare file is measured by xtask")]
mod floor;
mod okay;
mod raft;
mod sqlite;
#[path = "../../../xtask/src/bench/stats.rs"]
#[expect(dead_code, reason = "rounds are compared by xtask")]
mod stats;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contents::contents;
use floor::{GroupFront, Records, Store};
use stats::Sample;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Entries in a commit while a store is filled, and read at once.
const BATCH: usize = 1000;
/// Files are made, caches are filled.
const WARM_UP: Duration = Duration::from_millis(100);

/// A store under measurement.
trait Peer: Store + Sync + Sized {
    /// A new one. Either nothing leaves it, or everything does as soon as it lets go of it.
    fn create(directory: &Path, held: bool) -> Result<Self>;

    /// One durable append by one of several threads, if the store gathers those by itself.
    fn append(&self, caller: usize, record: &[u8]) -> Result<()>;

    /// Opens it and reads everything: how long either took, and the memory in between.
    fn read(directory: &Path) -> Result<Read>;
}

/// What reading found.
struct Read {
    entries: u64,
    opening: Duration,
    reading: Duration,
    resident_when_open: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(sample) => {
            println!("{}", line(&sample));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Sample> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.get(1).map(String::as_str) {
        Some("okaywal") => measure::<okay::OkayWal>(&arguments),
        Some("raft-engine") => measure::<raft::RaftEngine>(&arguments),
        Some("sqlite") => measure::<sqlite::Sqlite>(&arguments),
        _ => Err("see README.md".into()),
    }
}

fn measure<P: Peer>(arguments: &[String]) -> Result<Sample> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["append", _, directory, way, kind, callers, time] => {
            let peer = P::create(Path::new(directory), false)?;
            let (callers, time) = (callers.parse()?, milliseconds(time)?);
            match (way, kind) {
                ("direct", "threads") => direct(&peer, callers, time),
                ("front", "threads") => through_front(peer, true, callers, time),
                ("front", "tasks") => through_front(peer, false, callers, time),
                _ => Err("a store cannot be awaited without the front".into()),
            }
        }
        ["batch", _, directory, held, entries, time] => {
            let peer = P::create(Path::new(directory), held == "held")?;
            batches(peer, entries.parse()?, milliseconds(time)?)
        }
        ["fill", _, directory, entries] => fill(P::create(Path::new(directory), true)?, entries.parse()?),
        ["read", _, directory, entries] => {
            let read = P::read(Path::new(directory))?;
            if read.entries != entries.parse::<u64>()? {
                return Err(format!("{} entries were read, there are {entries}", read.entries).into());
            }
            let mut sample = Sample::of_total(read.entries as usize, read.reading);
            sample.more = vec![
                ("open ms", read.opening.as_secs_f64() * 1000.0),
                ("MiB when open", read.resident_when_open),
                ("peak MiB", mib("VmHWM")),
            ];
            Ok(sample)
        }
        _ => Err("see README.md".into()),
    }
}

fn milliseconds(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(text.parse()?))
}

fn direct(peer: &impl Peer, callers: usize, time: Duration) -> Result<Sample> {
    let contents = contents();
    let append = |caller| peer.append(caller, contents[fastrand::usize(..contents.len())].as_bytes());
    callers::threads(callers, WARM_UP, append)?;
    callers::threads(callers, time, append)
}

fn through_front(peer: impl Peer, in_threads: bool, callers: usize, time: Duration) -> Result<Sample> {
    let contents: Arc<[String]> = contents().into();
    let front = Arc::new(GroupFront::start(peer)?);
    let runtime = callers::runtime()?;
    let run = |time| {
        if in_threads {
            return callers::threads(callers, time, |_| {
                front.append_blocking(contents[fastrand::usize(..contents.len())].as_bytes())
            });
        }
        let (front, contents) = (Arc::clone(&front), Arc::clone(&contents));
        let append = move |_| {
            let (front, contents) = (Arc::clone(&front), Arc::clone(&contents));
            async move { front.append(contents[fastrand::usize(..contents.len())].as_bytes()).await }
        };
        callers::tasks(&runtime, callers, time, append)
    };
    run(WARM_UP)?;
    let before = front.commits();
    let mut sample = run(time)?;
    let appends = sample.calls as f64;
    sample.more.push(("entries a sync", appends / (front.commits() - before) as f64));
    Ok(sample)
}

fn batches(mut peer: impl Peer, entries: usize, time: Duration) -> Result<Sample> {
    let mut source = Source::new(entries);
    callers::repeat(WARM_UP, || peer.commit(source.next()))?;
    callers::repeat(time, || peer.commit(source.next())).map(|sample| sample.times(entries))
}

fn fill(mut peer: impl Peer, entries: usize) -> Result<Sample> {
    let mut source = Source::new(BATCH);
    let started = Instant::now();
    for _ in 0..entries / BATCH {
        peer.commit(source.next())?;
    }
    Ok(Sample::of_total(entries / BATCH * BATCH, started.elapsed()))
}

/// Batches made ahead, so that making them is not measured.
struct Source(Vec<Records>, usize);

impl Source {
    fn new(entries: usize) -> Self {
        let contents = contents();
        let batch = |_| {
            let mut records = Records::default();
            (0..entries).for_each(|_| records.push(contents[fastrand::usize(..contents.len())].as_bytes()));
            records
        };
        Self((0..16).map(batch).collect(), 0)
    }

    fn next(&mut self) -> &Records {
        self.1 += 1;
        &self.0[self.1 % self.0.len()]
    }
}

/// A figure of this process's memory.
fn mib(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn line(sample: &Sample) -> String {
    let more: serde_json::Map<_, _> =
        sample.more.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    serde_json::json!({
        "rate": sample.rate, "p50_us": sample.p50_us, "p99_us": sample.p99_us, "more": more,
    })
    .to_string()
}
