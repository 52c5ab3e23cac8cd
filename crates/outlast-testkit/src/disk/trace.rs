//! What was done to a disk, in order: enough to build its state at every instant.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::medium::Medium;

/// A call that changed something, as far as it did.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names of calls and of their arguments")]
pub enum Change {
    CreateDirectory(PathBuf),
    SyncDirectory(PathBuf),
    Create(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
    Write { file: u64, offset: u64, bytes: Arc<[u8]> },
    SetSize { file: u64, bytes: u64 },
    Sync { file: u64 },
    FailedSync { file: u64, seed: u64 },
    Rot { file: u64, bytes: Arc<[u8]> },
}

/// Bytes are shown by their number: salts, owners and times in them are different in every run.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDirectory(path) => write!(f, "create directory {}", path.display()),
            Self::SyncDirectory(path) => write!(f, "sync directory {}", path.display()),
            Self::Create(path) => write!(f, "create {}", path.display()),
            Self::Rename { from, to } => write!(f, "rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::Write { file, offset, bytes } => {
                write!(f, "write {} bytes to file {file} at {offset}", bytes.len())
            }
            Self::SetSize { file, bytes } => write!(f, "set the size of file {file} to {bytes}"),
            Self::Sync { file } => write!(f, "sync file {file}"),
            Self::FailedSync { file, .. } => write!(f, "fail to sync file {file}"),
            Self::Rot { file, .. } => write!(f, "rot in file {file}"),
        }
    }
}

/// Where a disk began, and every change since.
#[derive(Debug, Clone)]
pub struct Trace {
    start: Medium,
    /// In order.
    pub changes: Vec<Change>,
}

impl Trace {
    pub(super) fn new(start: Medium) -> Self {
        Self { start, changes: Vec::new() }
    }

    pub(super) fn add(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// The disk at every instant: before the first change, and after each.
    pub fn replay(&self) -> Replay<'_> {
        Replay { trace: self, medium: self.start.clone(), done: None }
    }

    /// One line per change: the same for runs that did the same.
    pub fn lines(&self) -> Vec<String> {
        self.changes.iter().map(|change| format!("{change:?}")).collect()
    }
}

/// Goes through the instants of a trace.
#[derive(Debug)]
pub struct Replay<'a> {
    trace: &'a Trace,
    medium: Medium,
    /// How many changes have been made; `None` before the first instant.
    done: Option<usize>,
}

impl Replay<'_> {
    /// The next instant: how many changes have been made, and what the disk holds. `None` behind the last.
    #[expect(clippy::should_implement_trait, reason = "what it lends out lives only until the next call")]
    pub fn next(&mut self) -> Option<(usize, &Medium)> {
        let done = match self.done {
            None => 0,
            Some(done) => {
                self.medium.apply(self.trace.changes.get(done)?);
                done + 1
            }
        };
        self.done = Some(done);
        Some((done, &self.medium))
    }
}
