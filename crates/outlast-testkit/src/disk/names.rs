//! Names of files: which are durable, and what happened since.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::medium::{Left, Losses};

/// What one call does to names, as a whole.
#[derive(Debug, Clone)]
struct NameChange {
    removed: Option<PathBuf>,
    added: Option<PathBuf>,
    file: u64,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some(name) = &self.added {
            names.insert(name.clone(), self.file);
        }
    }

    fn names(&self) -> impl Iterator<Item = &PathBuf> {
        self.removed.iter().chain(&self.added)
    }

    fn is_in(&self, directory: &Path) -> bool {
        self.names().any(|name| name.parent() == Some(directory))
    }

    /// They are about the same name or the same file: their order cannot change.
    fn is_tied_to(&self, other: &Self) -> bool {
        self.file == other.file || self.names().any(|name| other.names().any(|theirs| theirs == name))
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    durable: BTreeMap<PathBuf, u64>,
    current: BTreeMap<PathBuf, u64>,
    unsynced: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.current.get(path).copied()
    }

    pub(super) fn is_durable(&self, path: &Path) -> bool {
        self.durable.contains_key(path)
            && !self.unsynced.iter().any(|change| change.names().any(|n| n == path))
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        if !self.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.current.keys().filter(|name| name.parent() == Some(directory));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    pub(super) fn create_directory(&mut self, path: &Path) {
        self.directories.extend(path.ancestors().map(Path::to_owned));
    }

    pub(super) fn add(&mut self, name: &Path, file: u64) {
        self.change(NameChange { removed: None, added: Some(name.to_owned()), file });
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        if let Some(file) = self.find(from) {
            self.change(NameChange { removed: Some(from.to_owned()), added: Some(to.to_owned()), file });
        }
    }

    pub(super) fn remove(&mut self, name: &Path) {
        if let Some(file) = self.find(name) {
            self.change(NameChange { removed: Some(name.to_owned()), added: None, file });
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    /// What happened in this directory becomes durable, with what that rests on.
    pub(super) fn sync(&mut self, directory: &Path) {
        let mut synced: Vec<NameChange> = Vec::new();
        let mut later = Vec::new();
        for change in self.unsynced.drain(..).rev() {
            if change.is_in(directory) || synced.iter().any(|after| after.is_tied_to(&change)) {
                synced.push(change);
            } else {
                later.push(change);
            }
        }
        synced.iter().rev().for_each(|change| change.apply(&mut self.durable));
        self.unsynced = later.into_iter().rev().collect();
    }

    /// The names after a power loss.
    pub(super) fn after_power_loss(
        &self,
        left: Left,
        random: &mut fastrand::Rng,
        losses: &mut Losses,
    ) -> Self {
        let all = self.unsynced.len();
        // A journal keeps their order. Nobody may rely on it: often any of them are lost.
        let first = match left {
            Left::Nothing => 0,
            Left::Everything => all,
            Left::Torn | Left::Any => random.usize(..=all),
        };
        let ordered = left != Left::Any || random.bool();
        let mut durable = self.durable.clone();
        let mut lost: Vec<&NameChange> = Vec::new();
        for (index, change) in self.unsynced.iter().enumerate() {
            let falls = if ordered { index >= first } else { random.bool() };
            if falls || lost.iter().any(|before| before.is_tied_to(change)) {
                lost.push(change);
            } else {
                change.apply(&mut durable);
                losses.reordered_names += u64::from(!lost.is_empty());
            }
        }
        losses.names += lost.len() as u64;
        Self {
            current: durable.clone(),
            durable,
            unsynced: Vec::new(),
            directories: self.directories.clone(),
        }
    }

    /// The names that are there now, with their files.
    pub(super) fn all(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.current.iter().map(|(name, file)| (name, *file))
    }
}
