//! What a disk holds: files and names, durable and not yet. Pure data: the disk applies what it is told, and so does a
//! replay.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::file::File;
use super::names::Names;
use super::trace::Change;

/// What a power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Everything,
    /// In each file everything up to a write that is torn between two sectors; names up to some change.
    Torn,
    /// Any sectors and any changes of names.
    Any,
}

/// A loss of power.
#[derive(Debug, Clone, Copy)]
pub struct PowerLoss {
    /// What is left.
    pub left: Left,
    /// What the device writes whole: 512 or 4096 bytes.
    pub sector: usize,
    /// Decides whatever is open.
    pub seed: u64,
}

impl PowerLoss {
    /// Any sectors of 512 bytes and any changes of names are left.
    pub const fn any(seed: u64) -> Self {
        Self { left: Left::Any, sector: 512, seed }
    }
}

/// What a power loss took, so that a test can see that it took something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Writes that were lost whole.
    pub writes: u64,
    /// Writes of which a part was lost.
    pub torn: u64,
    /// Changes of a size that were lost.
    pub sizes: u64,
    /// Changes of names that were lost.
    pub names: u64,
    /// Changes of names that were kept though an earlier one was lost.
    pub reordered_names: u64,
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.torn += other.torn;
        self.sizes += other.sizes;
        self.names += other.names;
        self.reordered_names += other.reordered_names;
    }
}

/// Files and names. Cheap to clone: bytes are shared until one of both is written.
#[derive(Debug, Clone, Default)]
pub struct Medium {
    files: HashMap<u64, File>,
    next_file: u64,
    pub(super) names: Names,
}

impl Medium {
    pub(super) fn file(&self, file: u64) -> &File {
        &self.files[&file]
    }

    pub(super) fn file_mut(&mut self, file: u64) -> &mut File {
        self.files.entry(file).or_default()
    }

    /// Makes the change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateDirectory(path) => self.names.create_directory(path),
            Change::SyncDirectory(path) => self.names.sync(path),
            Change::Create(path) => self.create(path),
            Change::Rename { from, to } => self.names.rename(from, to),
            Change::Remove(path) => self.names.remove(path),
            Change::Write { file, offset, bytes } => self.file_mut(*file).write(*offset as usize, bytes),
            Change::SetSize { file, bytes } => self.file_mut(*file).set_size(*bytes as usize),
            Change::Sync { file } => self.file_mut(*file).sync(),
            Change::FailedSync { file, seed } => self.file_mut(*file).fail_sync(*seed),
            Change::Rot { file, bytes } => {
                self.file_mut(*file).rot(|all| *all = bytes.to_vec());
            }
        }
    }

    /// An old file of this name is emptied.
    fn create(&mut self, path: &Path) {
        if let Some(old) = self.names.find(path) {
            self.file_mut(old).set_size(0);
            return;
        }
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        self.names.add(path, file);
    }

    /// What is left when the power is lost now, and what was lost with it.
    pub fn after_power_loss(&self, loss: PowerLoss) -> (Self, Losses) {
        let mut random = fastrand::Rng::with_seed(loss.seed);
        let mut losses = Losses::default();
        let names = self.names.after_power_loss(loss.left, &mut random, &mut losses);
        let mut files = HashMap::new();
        for (_, file) in names.all() {
            files.insert(file, self.files[&file].after_power_loss(loss, &mut random, &mut losses));
        }
        (Self { files, next_file: self.next_file, names }, losses)
    }

    /// The same for everything that reads would show, names and bytes.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, file) in self.names.all() {
            name.hash(&mut hasher);
            self.files[&file].current().hash(&mut hasher);
        }
        hasher.finish()
    }
}
