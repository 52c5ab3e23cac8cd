//! `epochs.jsonl`: one line per opening of the log, durable before the first append of that opening. It is what makes
//! sequences unique for ever, and what tells our own mark in a database from a stranger's.

use std::collections::HashSet;
use std::io;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::checked;
use crate::disk::Disk;
use crate::entry::QueueId;
use crate::error::OpenError;
use crate::segment::Layout;
use crate::sync::{fill_random, system_now};
use crate::{Epoch, Sequence};

/// Every opening that is known.
#[derive(Debug)]
pub(crate) struct Epochs {
    pub(crate) queue: QueueId,
    /// The present one.
    pub(crate) current: Epoch,
    owners: HashSet<Box<str>>,
}

impl Epochs {
    pub(crate) fn is_owner(&self, owner: &str) -> bool {
        self.owners.contains(owner)
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    queue: QueueId,
    epoch: u32,
    owner: String,
    opened_at_ms: u64,
}

/// What the file says, before the new epoch is added.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) queue: Option<QueueId>,
    pub(crate) epochs: Vec<Epoch>,
    /// The file must be written anew: it is not there, or holds more than whole good lines.
    pub(crate) rewrite: bool,
    /// A last line that never became durable: where it begins.
    pub(crate) torn: Option<u64>,
    /// Offset and length of stretches of lines that are damaged. What was being written when the power went is not among
    /// them.
    pub(crate) damaged: Vec<(u64, u64)>,
    /// The whole file.
    bytes: Vec<u8>,
}

/// Reads the file; one that is not there has no lines.
pub(crate) fn read(disk: &dyn Disk, layout: &Layout) -> Result<Recorded, OpenError> {
    let path = layout.epochs();
    let bytes = match read_all(disk, layout) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Recorded { rewrite: true, ..Recorded::default() });
        }
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let mut recorded = Recorded::default();
    let mut offset = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let content = line.strip_suffix(b"\n").and_then(checked::from_line::<Line>);
        if let Some(Line { queue, epoch, owner, opened_at_ms }) = content {
            if *recorded.queue.get_or_insert(queue) != queue {
                let reason = "its lines name two different queues".to_owned();
                return Err(OpenError::Foreign { path, reason });
            }
            recorded.epochs.push(Epoch { number: epoch, owner, opened_at_ms });
        } else {
            recorded.rewrite = true;
            // The last line may be one that never became durable: then nothing was appended in its epoch.
            if offset + line.len() < bytes.len() {
                recorded.add_damaged(offset as u64, line.len() as u64);
            } else {
                recorded.torn = Some(offset as u64);
            }
        }
        offset += line.len();
    }
    recorded.bytes = bytes;
    Ok(recorded)
}

fn read_all(disk: &dyn Disk, layout: &Layout) -> io::Result<Vec<u8>> {
    let file = disk.open(&layout.epochs())?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(bytes)
}

impl Recorded {
    /// Damaged lines that follow one another are one stretch: each stretch is copied into a file of its own.
    fn add_damaged(&mut self, offset: u64, bytes: u64) {
        match self.damaged.last_mut() {
            Some((start, length)) if *start + *length == offset => *length += bytes,
            _ => self.damaged.push((offset, bytes)),
        }
    }

    /// Adds what the segments know: the file may have been lost or damaged.
    pub(crate) fn learn(&mut self, queue: QueueId, epoch: Epoch) {
        self.queue.get_or_insert(queue);
        if !self.epochs.iter().any(|known| known.number == epoch.number && known.owner == epoch.owner) {
            self.epochs.push(epoch);
            self.rewrite = true;
        }
    }

    /// Begins the next epoch and makes it durable.
    pub(crate) fn begin(self, disk: &dyn Disk, layout: &Layout) -> Result<Epochs, OpenError> {
        let number = self.epochs.iter().map(|epoch| epoch.number).max().unwrap_or(0).saturating_add(1);
        if Sequence::new(number, 1).is_none() {
            return Err(OpenError::Exhausted);
        }
        let path = layout.epochs();
        let random = random_128(&path)?;
        let queue = match self.queue {
            Some(queue) => queue,
            None => QueueId(uuid::Builder::from_random_bytes(random_128(&path)?.to_le_bytes()).into_uuid()),
        };
        let current =
            Epoch { number, owner: Uuid::from_u128(random).simple().to_string(), opened_at_ms: now_ms() };
        let mut epochs = self.epochs;
        epochs.push(current.clone());
        let written = if self.rewrite {
            rewrite(disk, layout, queue, &epochs)
        } else {
            add(disk, layout, queue, &current, self.bytes)
        };
        written.map_err(OpenError::io("write", &path))?;
        let owners = epochs.into_iter().map(|epoch| epoch.owner.into_boxed_str()).collect();
        Ok(Epochs { queue, current, owners })
    }
}

fn line(queue: QueueId, epoch: &Epoch) -> io::Result<Vec<u8>> {
    let Epoch { number, owner, opened_at_ms } = epoch.clone();
    let mut line = checked::to_line(&Line { queue, epoch: number, owner, opened_at_ms })?;
    line.push(b'\n');
    Ok(line)
}

/// The former lines are written again too: one whose sync failed can be read, from memory, and is not on the disk.
fn add(
    disk: &dyn Disk,
    layout: &Layout,
    queue: QueueId,
    epoch: &Epoch,
    mut bytes: Vec<u8>,
) -> io::Result<()> {
    bytes.extend(line(queue, epoch)?);
    let file = disk.open(&layout.epochs())?;
    file.write_at(&bytes, 0)?;
    file.sync()
}

pub(crate) fn rewrite(disk: &dyn Disk, layout: &Layout, queue: QueueId, epochs: &[Epoch]) -> io::Result<()> {
    let temporary = layout.directory.join("epochs.jsonl-new");
    let mut bytes = Vec::new();
    for epoch in epochs {
        bytes.extend(line(queue, epoch)?);
    }
    let file = disk.create(&temporary)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, &layout.epochs())?;
    disk.sync_directory(&layout.directory)
}

fn random_128(path: &std::path::Path) -> Result<u128, OpenError> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes).map_err(OpenError::io("make random numbers for", path))?;
    Ok(u128::from_le_bytes(bytes))
}

/// Unix milliseconds; 0 before 1970.
pub fn now_ms() -> u64 {
    system_now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
