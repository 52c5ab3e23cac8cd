//! Opening with so many entries pending, and reading them all back.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::report::{Bound, Goal, Section, Table, number};
use super::super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use super::Settings;
use super::peers::{PEERS, sample_of};
use super::subject::Kind;
use crate::Result;

/// Peers are compared up to here: with more they take minutes, or gigabytes of memory.
const PEERS_MAX: usize = 1_000_000;
const OPEN_GOAL_MS: f64 = 250.0;
const MEMORY_GOAL_MIB: f64 = 32.0;
const READ_GOAL: f64 = 1_500_000.0;

/// Something with a backlog.
struct Store<'a> {
    settings: &'a Settings,
    name: String,
    /// The argument of the cell, or the peer.
    argument: &'static str,
    is_peer: bool,
    directory: PathBuf,
    entries: usize,
    disk_bytes: u64,
}

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let mut section = Section::default();
    for &entries in &settings.pending {
        let directory = settings.directory.join("backlog");
        let stores = fill_all(settings, &directory, entries)?;
        let contenders =
            stores.iter().map(|store| Contender::new(store.name.clone(), move |_| store.read())).collect();
        let series = interleave(contenders, settings.rounds, settings.time)?;
        let title = format!("{} pending entries", number(entries as f64));
        section.tables.push(Table::compare(title, &series, 0, Compare::Rate));
        if Some(&entries) == settings.pending.iter().max() {
            section.goals = goals(entries, &series);
        }
        std::fs::remove_dir_all(directory)?;
    }
    section.notes = vec![
        "Each round is a new process that opens the store and reads every entry, 1000 at once, in order and with its checksum tested. The files are in the page cache. okaywal reads while it opens, and only then.".to_owned(),
        "Bare file: each entry behind its length, read in blocks of 256 KiB, each copied out.".to_owned(),
        "Bytes on disk: of everything in the directory, for the log with the spare segment (32 MiB).".to_owned(),
    ];
    Ok(section)
}

fn fill_all<'a>(settings: &'a Settings, directory: &Path, entries: usize) -> Result<Vec<Store<'a>>> {
    let mut stores = vec![("bare file".to_owned(), "bare", false)];
    stores.extend(Kind::EACH.map(|kind| (format!("log ({})", kind.name()), kind.name(), false)));
    if entries <= PEERS_MAX {
        stores.extend(PEERS.map(|peer| (peer.name.to_owned(), peer.name, true)));
    }
    let filled = stores.into_iter().map(|(name, argument, is_peer)| {
        let directory = directory.join(argument);
        std::fs::create_dir_all(&directory)?;
        let mut store = Store { settings, name, argument, is_peer, directory, entries, disk_bytes: 0 };
        let sample = store.cell("fill")?;
        eprintln!("  filled {} with {entries}: {:.0}/s", store.name, sample.rate);
        store.disk_bytes = size(&store.directory)?;
        Ok(store)
    });
    filled.collect()
}

impl Store<'_> {
    fn cell(&self, what: &str) -> Result<Sample> {
        let entries = self.entries.to_string();
        if self.is_peer {
            return self.settings.peers.cell_in(&self.directory, what, self.argument, &[&entries]);
        }
        let mut command = Command::new(std::env::current_exe()?);
        sample_of(command.args(["cell", what, self.argument]).arg(&self.directory).arg(entries))
    }

    fn read(&self) -> Result<Sample> {
        let mut sample = self.cell("read")?;
        sample.more.push(("bytes on disk each", self.disk_bytes as f64 / self.entries as f64));
        Ok(sample)
    }
}

fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn goals(entries: usize, series: &[Series]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for log in series.iter().filter(|one| one.name.starts_with("log")) {
        let figure = |name: &str| {
            let values = log.samples.iter().flat_map(|sample| &sample.more);
            Spread::of(values.filter(|(other, _)| *other == name).map(|(_, value)| *value))
        };
        let mut add = |what: &str, bound, measured: Option<Spread>, unit| {
            let what = format!("{what} {} pending entries, {}", number(entries as f64), log.name);
            goals.extend(measured.map(|measured| Goal { what, bound, measured, unit }));
        };
        add("opening", Bound::AtMost(OPEN_GOAL_MS), figure("open ms"), " ms");
        add("resident memory with", Bound::AtMost(MEMORY_GOAL_MIB), figure("peak MiB"), " MiB");
        let rates = Spread::of(log.samples.iter().map(|sample| sample.rate));
        add("reading back", Bound::AtLeast(READ_GOAL), rates, "/s");
    }
    goals
}
