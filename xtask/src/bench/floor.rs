//! The floor: the same bytes into a prefilled file with nothing around them, alone and behind a bare group front. The
//! front takes other stores as well: `tools/peers` builds this file, too.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::Result;

/// Written over from the front when its end is reached.
const FILE_BYTES: u64 = 64 << 20;

/// A file whose blocks are all allocated and written, so that a sync changes no metadata.
#[derive(Debug)]
pub(crate) struct Prefilled {
    file: File,
    offset: u64,
}

impl Prefilled {
    /// Makes it at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        let block = vec![b'\n'; 1 << 20];
        for _ in 0..FILE_BYTES / block.len() as u64 {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    /// One pwrite, one fdatasync.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.offset + bytes.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.file.sync_data()
    }
}

/// What is made durable with one sync.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Records {
    /// One more.
    pub(crate) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// All of them, without anything between them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One after the other.
    #[allow(dead_code, reason = "a bare file does not tell them apart, the peers do")]
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What the front commits to.
pub(crate) trait Store: Send + 'static {
    /// Returns when all of them are durable.
    fn commit(&mut self, records: &Records) -> Result<()>;
}

impl Store for Prefilled {
    fn commit(&mut self, records: &Records) -> Result<()> {
        Ok(self.append(records.bytes())?)
    }
}

#[derive(Debug, Default)]
struct Gathering {
    records: Records,
    waiting: Vec<oneshot::Sender<()>>,
    closing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    gathering: Mutex<Gathering>,
    work: Condvar,
    commits: AtomicU64,
}

impl Shared {
    fn gathering(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Group commit and nothing else: one thread takes all that waits, writes it once, syncs once, wakes all.
#[derive(Debug)]
pub(crate) struct GroupFront {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
}

impl GroupFront {
    /// In front of this store.
    pub(crate) fn start(mut store: impl Store) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_committer = Arc::clone(&shared);
        let commit = move || {
            let (mut records, mut waiting) = (Records::default(), Vec::new());
            while take(&for_committer, &mut records, &mut waiting) {
                // After a failure the senders are dropped, so their callers hear of it.
                let written = store.commit(&records).is_ok();
                for_committer.commits.fetch_add(1, Ordering::Relaxed);
                for caller in waiting.drain(..).filter(|_| written) {
                    // A caller that has gone misses nothing.
                    let _ = caller.send(());
                }
            }
        };
        let committer = std::thread::Builder::new().name("floor-committer".to_owned()).spawn(commit)?;
        Ok(Self { shared, committer: Some(committer) })
    }

    /// Ends when these bytes are synced.
    pub(crate) async fn append(&self, bytes: &[u8]) -> Result<()> {
        self.hand_over(bytes).await.map_err(|_| "the store could not be written".into())
    }

    /// The same for a thread, which waits.
    pub(crate) fn append_blocking(&self, bytes: &[u8]) -> Result<()> {
        self.hand_over(bytes).blocking_recv().map_err(|_| "the store could not be written".into())
    }

    /// How often it has committed.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    fn hand_over(&self, bytes: &[u8]) -> oneshot::Receiver<()> {
        let (sender, synced) = oneshot::channel();
        let is_first = {
            let mut gathering = self.shared.gathering();
            gathering.records.push(bytes);
            gathering.waiting.push(sender);
            gathering.waiting.len() == 1
        };
        if is_first {
            self.shared.work.notify_one();
        }
        synced
    }
}

/// Waits for something to gather and takes all of it; false when nothing more will come.
fn take(shared: &Shared, records: &mut Records, waiting: &mut Vec<oneshot::Sender<()>>) -> bool {
    records.clear();
    let idle = |gathering: &mut Gathering| gathering.waiting.is_empty() && !gathering.closing;
    let waited = shared.work.wait_while(shared.gathering(), idle);
    let mut gathering = waited.unwrap_or_else(PoisonError::into_inner);
    std::mem::swap(&mut gathering.records, records);
    std::mem::swap(&mut gathering.waiting, waiting);
    !waiting.is_empty()
}

impl Drop for GroupFront {
    fn drop(&mut self) {
        self.shared.gathering().closing = true;
        self.shared.work.notify_one();
        if let Some(committer) = self.committer.take() {
            // A panic there has been printed.
            let _ = committer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_wakes_every_caller_and_their_bytes_are_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let front = Arc::new(GroupFront::start(Prefilled::create(&path).unwrap()).unwrap());
        let runtime = super::super::callers::runtime().unwrap();
        runtime.block_on(async {
            let appends: Vec<_> = (0..100)
                .map(|number| {
                    let front = Arc::clone(&front);
                    tokio::spawn(async move { front.append(format!("{number:03}").as_bytes()).await })
                })
                .collect();
            for append in appends {
                append.await.unwrap().unwrap();
            }
        });
        let written = std::fs::read(&path).unwrap();
        let mut found: Vec<&[u8]> = written[..300].chunks(3).collect();
        found.sort_unstable();
        let expected: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
        assert_eq!(found, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    }
}
