//! `raft-engine`: an append is a batch of entries of one raft group, written with `sync = true`.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::floor::{Records, Store};
use crate::{BATCH, Peer, Read, Result, mib};

/// The group of what is committed by one thread.
const GROUP: u64 = 1;
/// So many threads may append at once.
const GROUPS: usize = 1024;

pub(crate) struct RaftEngine {
    engine: Engine,
    /// The last index of each group.
    last: Vec<Mutex<u64>>,
}

/// A record behind its index.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.get_value().first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

fn indexed(index: u64, record: &[u8]) -> BytesValue {
    let mut entry = BytesValue::new();
    entry.set_value([&index.to_le_bytes()[..], record].concat());
    entry
}

impl RaftEngine {
    fn open(directory: &Path) -> Result<Engine> {
        let dir = directory.to_string_lossy().into_owned();
        Ok(Engine::open(Config { dir, ..Config::default() })?)
    }

    fn write<'a>(&self, group: u64, records: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let mut last = self.last[group as usize].lock().map_err(|_| "a caller panicked")?;
        let entries: Vec<BytesValue> = (*last + 1..).zip(records).map(|(at, it)| indexed(at, it)).collect();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Indexed>(group, &entries)?;
        self.engine.write(&mut batch, true)?;
        *last += entries.len() as u64;
        Ok(())
    }
}

impl Store for RaftEngine {
    fn commit(&mut self, records: &Records) -> Result<()> {
        self.write(GROUP, records.iter())
    }
}

impl Peer for RaftEngine {
    fn create(directory: &Path, _held: bool) -> Result<Self> {
        let last = (0..GROUPS).map(|_| Mutex::new(0)).collect();
        Ok(Self { engine: Self::open(directory)?, last })
    }

    fn append(&self, caller: usize, record: &[u8]) -> Result<()> {
        self.write(caller as u64 % GROUPS as u64, std::iter::once(record))
    }

    fn read(directory: &Path) -> Result<Read> {
        let started = Instant::now();
        let engine = Self::open(directory)?;
        let opening = started.elapsed();
        let resident_when_open = mib("VmRSS");
        let started = Instant::now();
        let last = engine.last_index(GROUP).unwrap_or(0);
        let (mut next, mut entries, mut batch) = (1, 0, Vec::with_capacity(BATCH));
        while next <= last {
            let end = (next + BATCH as u64).min(last + 1);
            engine.fetch_entries_to::<Indexed>(GROUP, next, end, None, &mut batch)?;
            entries += batch.len() as u64;
            batch.clear();
            next = end;
        }
        Ok(Read { entries, opening, reading: started.elapsed(), resident_when_open })
    }
}
