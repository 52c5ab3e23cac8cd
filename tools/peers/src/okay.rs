//! `okaywal`: an entry is one commit, its chunks are the records.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use okaywal::{Configuration, Entry, EntryId, LogManager, LogVoid, SegmentReader, WriteAheadLog};

use crate::floor::{Records, Store};
use crate::{Peer, Read, Result, mib};

pub(crate) struct OkayWal(WriteAheadLog);

impl Store for OkayWal {
    fn commit(&mut self, records: &Records) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        for record in records.iter() {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }
}

impl Peer for OkayWal {
    fn create(directory: &Path, held: bool) -> Result<Self> {
        let configuration = Configuration::default_for(directory);
        let after = if held { u64::MAX } else { configuration.checkpoint_after_bytes };
        Ok(Self(configuration.checkpoint_after_bytes(after).open(LogVoid)?))
    }

    fn append(&self, _caller: usize, record: &[u8]) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }

    fn read(directory: &Path) -> Result<Read> {
        let entries = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let configuration = Configuration::default_for(directory).checkpoint_after_bytes(u64::MAX);
        let log = configuration.open(Counting(Arc::clone(&entries)))?;
        let opening = started.elapsed();
        let resident_when_open = mib("VmRSS");
        drop(log);
        let reading = opening.max(Duration::from_nanos(1));
        Ok(Read { entries: entries.load(Ordering::Relaxed), opening, reading, resident_when_open })
    }
}

/// Reads every record while the log is opened.
#[derive(Debug)]
struct Counting(Arc<AtomicU64>);

impl LogManager for Counting {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let chunks = entry.read_all_chunks()?.unwrap_or_default();
        self.0.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}
