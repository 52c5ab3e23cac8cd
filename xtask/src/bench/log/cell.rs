//! What is measured in a process of its own, so that its memory is that of nothing else.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outlast_log::{Log, NewEntry, Sequence};

use super::super::contents::contents;
use super::super::stats::Sample;
use super::subject::{Kind, TIME_MS};
use crate::Result;

/// Entries handed over or read at once.
const BATCH: usize = 1000;
const BATCH_BYTES: usize = 4 << 20;
/// Of the bare file.
const BLOCK_BYTES: usize = 256 << 10;

/// One cell; prints a line of JSON.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_enum)]
    what: What,
    /// A kind of log, or `bare`
    store: String,
    directory: PathBuf,
    entries: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    Fill,
    Read,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { what, store, directory, entries } = arguments;
    let kind = Kind::EACH.into_iter().find(|kind| kind.name() == store);
    let sample = match (what, kind) {
        (_, None) if store != "bare" => return Err(format!("there is no store {store}").into()),
        (What::Fill, None) => fill_bare(directory, *entries),
        (What::Fill, Some(kind)) => fill(kind, directory, *entries),
        (What::Read, None) => read_bare(directory, *entries),
        (What::Read, Some(kind)) => read(kind, directory, *entries),
    }?;
    let more: serde_json::Map<_, _> =
        sample.more.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    println!("{}", serde_json::json!({ "rate": sample.rate, "more": more }));
    Ok(())
}

fn fill(kind: Kind, directory: &Path, entries: usize) -> Result<Sample> {
    let (log, _) = Log::open(directory, kind.options())?;
    let contents = contents();
    let entry = |body| NewEntry { body, time_ms: TIME_MS, origin: None };
    let batch: Vec<NewEntry<'_>> =
        contents.iter().cycle().take(BATCH).map(|body| entry(body.as_str())).collect();
    let started = Instant::now();
    for _ in 0..entries / BATCH {
        log.append_all(&batch)?;
    }
    log.sync().wait()?;
    let sample = Sample::of_total(entries, started.elapsed());
    // Closing the log would end it.
    kind.wait_until_compressed(&log);
    log.close()?;
    Ok(sample)
}

fn read(kind: Kind, directory: &Path, entries: usize) -> Result<Sample> {
    let started = Instant::now();
    let (log, _) = Log::open(directory, kind.options())?;
    let opening = started.elapsed();
    let resident = mib("VmRSS");
    let started = Instant::now();
    let mut reader = log.reader(Sequence::START);
    let (mut batch, mut found) = (Vec::with_capacity(BATCH), 0);
    loop {
        if let Some(damage) = reader.next_batch(BATCH, BATCH_BYTES, &mut batch)? {
            return Err(format!("damage: {damage:?}").into());
        }
        if batch.is_empty() {
            break;
        }
        found += batch.len();
        batch.clear();
    }
    done(entries, found, started.elapsed(), opening, resident)
}

fn done(entries: usize, found: usize, time: Duration, opening: Duration, resident: f64) -> Result<Sample> {
    if found != entries {
        return Err(format!("{found} entries were read, there are {entries}").into());
    }
    let mut sample = Sample::of_total(found, time);
    sample.more = vec![
        ("open ms", opening.as_secs_f64() * 1000.0),
        ("MiB when open", resident),
        ("peak MiB", mib("VmHWM")),
    ];
    Ok(sample)
}

fn fill_bare(directory: &Path, entries: usize) -> Result<Sample> {
    let contents = contents();
    let started = Instant::now();
    let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(directory.join("bare"))?);
    for content in contents.iter().cycle().take(entries) {
        file.write_all(&(content.len() as u32).to_le_bytes())?;
        file.write_all(content.as_bytes())?;
    }
    file.into_inner()?.sync_data()?;
    Ok(Sample::of_total(entries, started.elapsed()))
}

fn read_bare(directory: &Path, entries: usize) -> Result<Sample> {
    let started = Instant::now();
    let mut file = BufReader::with_capacity(BLOCK_BYTES, File::open(directory.join("bare"))?);
    let opening = started.elapsed();
    let resident = mib("VmRSS");
    let started = Instant::now();
    let mut batch: Vec<Box<[u8]>> = Vec::with_capacity(BATCH);
    let mut found = 0;
    while found < entries {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let mut record = vec![0; u32::from_le_bytes(length) as usize].into_boxed_slice();
        file.read_exact(&mut record)?;
        batch.push(record);
        found += 1;
        if batch.len() == BATCH {
            batch.clear();
        }
    }
    done(entries, found, started.elapsed(), opening, resident)
}

/// A figure of this process's memory.
fn mib(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
