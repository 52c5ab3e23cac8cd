//! One durable append, and 64 at once, against the bare file.

use std::fs;
use std::sync::Arc;

use outlast_log::{Format, Log, LogOptions, NewEntry};

use super::Settings;
use super::callers::{runtime, tasks, threads};
use super::floor::{GroupFront, Prefilled};
use super::report::{Section, Table};
use super::stats::{Compare, Contender, Series, interleave};
use super::workload::Workload;
use crate::Result;

/// Entries from which the size of one is worked out.
const SAMPLE: u64 = 1000;

/// A log in a folder of its own.
struct OpenLog {
    log: Log,
    /// With the sequence replaced by one of equal length, all bodies are alike: the log copies them anyway.
    body: String,
    name: &'static str,
}

impl OpenLog {
    fn open(settings: &Settings, format: Format) -> Result<Self> {
        let name = match format {
            Format::Json => "json",
            Format::Bincode => "bincode",
        };
        let directory = settings.directory.join(format!("log-{name}"));
        let (log, _) = Log::open(&directory, LogOptions { format, ..LogOptions::default() })?;
        Ok(Self { log, body: Workload::new()?.body()?, name })
    }

    fn entry(&self) -> NewEntry<'_> {
        NewEntry { body: &self.body, time_ms: 1_795_000_000_000, origin: None }
    }

    fn blocking(&self) -> Result<()> {
        let appended = self.log.append(self.entry())?;
        Ok(self.log.durable(appended.ticket).wait()?)
    }

    async fn waiting(&self) -> Result<()> {
        let appended = self.log.append(self.entry())?;
        Ok(self.log.durable(appended.ticket).await?)
    }

    /// How many bytes one entry takes in the file.
    fn frame_bytes(&self) -> Result<usize> {
        self.log.sync().wait()?;
        let before = self.log.usage().log_bytes;
        for _ in 0..SAMPLE {
            self.log.append(self.entry())?;
        }
        self.log.sync().wait()?;
        Ok(((self.log.usage().log_bytes - before) / SAMPLE) as usize)
    }
}

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let logs = [Format::Json, Format::Bincode].map(|format| OpenLog::open(settings, format).map(Arc::new));
    let [json, bincode] = logs;
    let (json, bincode) = (json?, bincode?);
    let frames = [json.frame_bytes()?, bincode.frame_bytes()?];
    let bytes: Arc<[u8]> = vec![b'x'; frames[0]].into();
    let single = single(settings, &json, &bincode, &bytes)?;
    let grouped = grouped(settings, &json, &bincode, &bytes)?;
    for name in ["log-json", "log-bincode", "bare", "front"] {
        let path = settings.directory.join(name);
        // What is left over goes with the folder.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    let notes = vec![
        format!(
            "A write with {} bytes of content takes {} bytes in a JSON log, {} in a bincode log; the bare file gets the {} bytes of the former.",
            super::workload::DOCUMENT_BYTES, frames[0], frames[1], frames[0]
        ),
        "The bare file is prefilled and written over from the front; the log makes and prefills its own further segments meanwhile, as it does in an outage, when nothing can be reclaimed.".to_owned(),
        "The front before the bare file is a committing thread that takes all that waits, writes once, syncs once and wakes all: no numbering, no checksum, no encoding.".to_owned(),
    ];
    Ok(Section {
        title: "Durable appends".to_owned(),
        tables: vec![
            Table::compare("One caller", &single, 0, Compare::Median),
            Table::compare("64 concurrent tasks", &grouped, 0, Compare::Rate),
        ],
        goals: Vec::new(),
        notes,
    })
}

fn single(
    settings: &Settings,
    json: &Arc<OpenLog>,
    bincode: &Arc<OpenLog>,
    bytes: &Arc<[u8]>,
) -> Result<Vec<Series>> {
    let runtime = runtime()?;
    let bare = std::sync::Mutex::new(Prefilled::create(&settings.directory.join("bare"))?);
    let front = Arc::new(GroupFront::start(Prefilled::create(&settings.directory.join("front"))?)?);
    let mut contenders = vec![Contender::new("bare file, one thread: pwrite and fdatasync", |time| {
        threads(1, time, |_| {
            let mut file = bare.lock().map_err(|_| "a caller panicked")?;
            Ok(file.append(bytes)?)
        })
    })];
    for log in [json, bincode] {
        let name = format!("log ({}), one thread", log.name);
        contenders.push(Contender::new(name, |time| threads(1, time, |_| log.blocking())));
    }
    contenders.push(Contender::new("bare file behind the front, one task", |time| {
        let (front, bytes) = (Arc::clone(&front), Arc::clone(bytes));
        let append = move |_| {
            let (front, bytes) = (Arc::clone(&front), Arc::clone(&bytes));
            async move { front.append(&bytes).await }
        };
        tasks(&runtime, 1, time, append)
    }));
    for log in [json, bincode] {
        let name = format!("log ({}), one task", log.name);
        let runtime = &runtime;
        contenders.push(Contender::new(name, move |time| log_tasks(runtime, log, 1, time)));
    }
    interleave(contenders, settings.rounds, settings.time)
}

fn grouped(
    settings: &Settings,
    json: &Arc<OpenLog>,
    bincode: &Arc<OpenLog>,
    bytes: &Arc<[u8]>,
) -> Result<Vec<Series>> {
    let runtime = runtime()?;
    let callers = settings.callers;
    let front = Arc::new(GroupFront::start(Prefilled::create(&settings.directory.join("front"))?)?);
    let mut contenders = vec![Contender::new("bare file behind the front", |time| {
        let (front, bytes) = (Arc::clone(&front), Arc::clone(bytes));
        let append = move |_| {
            let (front, bytes) = (Arc::clone(&front), Arc::clone(&bytes));
            async move { front.append(&bytes).await }
        };
        tasks(&runtime, callers, time, append)
    })];
    for log in [json, bincode] {
        let runtime = &runtime;
        contenders.push(Contender::new(format!("log ({})", log.name), move |time| {
            let before = log.log.watermarks();
            let mut sample = log_tasks(runtime, log, callers, time)?;
            let after = log.log.watermarks();
            let syncs = (after.syncs - before.syncs) as f64;
            sample
                .more
                .push(("entries a sync", (after.durable.as_u64() - before.durable.as_u64()) as f64 / syncs));
            Ok(sample)
        }));
    }
    interleave(contenders, settings.rounds, settings.time)
}

fn log_tasks(
    runtime: &tokio::runtime::Runtime,
    log: &Arc<OpenLog>,
    callers: usize,
    time: std::time::Duration,
) -> Result<super::stats::Sample> {
    let log = Arc::clone(log);
    let append = move |_| {
        let log = Arc::clone(&log);
        async move { log.waiting().await }
    };
    tasks(runtime, callers, time, append)
}
