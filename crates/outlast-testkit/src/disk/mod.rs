//! [`SimulatedDisk`]: a disk in memory that behaves as badly as real ones may.
//!
//! # Faults
//!
//! - **Power loss** at any call. Of what was not synced, anything may be left: nothing, everything, any sectors of 512 or
//!   4096 bytes in any order of writing, a write torn at such a boundary, a size without its bytes (they are zeros) or
//!   bytes without their size. A lost overwrite shows what stood there before: prefill, or the frames of a recycled file.
//! - **Names** are apart from files: a create, rename or remove that its directory's sync has not followed may be lost,
//!   also when a later one is kept, as long as they have no name and no file in common. Syncing a file does not keep its
//!   name, syncing a directory does not keep another one's names.
//! - **Errors** of any call by its ordinal, once or for ever: EIO; no space, after a part was written; a short write; a
//!   failed sync, after which the dirty pages are dropped: reads still show them, later syncs succeed, and the power
//!   loss shows that they were never written.
//! - **A full disk**, a disk that stalls, **rot**: flipped bits and cut files.
//!
//! # What may be relied on
//!
//! - What was synced stays until it is overwritten. A sector is written whole or not at all, and holds what was last
//!   written to it at some instant: never a later write without an earlier one to the same sector.
//! - A rename is whole. A directory that was made is durable with its parents' names, as [`Disk::create_directory`] says.
//! - A file that is cut has lost what was behind the cut, once its size is durable; until then all of it may be back.
//!
//! Every call that changes something is recorded, so that one run of a workload gives the state of the disk at every
//! instant of it ([`Replay`]). What it does is decided by its seed and by the order of calls alone.

mod fault;
mod file;
mod medium;
mod names;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outlast_log::{Disk, DiskFile, DiskLock};

pub use fault::{Fault, FaultKind, Fired, Repeat};
pub use medium::{Left, Losses, Medium, PowerLoss};
pub use trace::{Change, Replay, Trace};

use fault::{Faults, Verb};

/// See the module.
#[derive(Debug, Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    medium: Medium,
    trace: Trace,
    faults: Faults,
    random: fastrand::Rng,
    /// By the path of the lock file.
    locks: HashMap<PathBuf, Weak<()>>,
    /// Files on which this process has seen a sync fail.
    failed: HashSet<u64>,
}

impl SimulatedDisk {
    /// An empty disk. The seed decides what failed writes and syncs leave.
    pub fn new(seed: u64) -> Self {
        Self::holding(Medium::default(), seed)
    }

    /// A disk that holds this, with a process that has just started on it.
    pub fn holding(medium: Medium, seed: u64) -> Self {
        let trace = Trace::new(medium.clone());
        let random = fastrand::Rng::with_seed(seed);
        Self(Arc::new(Mutex::new(State {
            medium,
            trace,
            faults: Faults::default(),
            random,
            locks: HashMap::new(),
            failed: HashSet::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes calls fail from now on.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.add(fault);
    }

    /// Bytes by which files may still grow; `None` for no bound.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.state().faults.space_left = bytes;
    }

    /// Bytes by which files may still grow, if there is a bound.
    pub fn space_left(&self) -> Option<u64> {
        self.state().faults.space_left
    }

    /// While it is set, writes do not return.
    pub fn set_stalled(&self, stalled: bool) {
        self.state().faults.stalled = stalled;
    }

    /// Takes every fault back; what fired stays counted.
    pub fn heal(&self) {
        self.state().faults.heal();
    }

    /// What has gone wrong so far.
    pub fn fired(&self) -> Fired {
        self.state().faults.fired
    }

    /// Calls so far that a fault of this kind could have hit.
    pub fn calls(&self, kind: FaultKind) -> u64 {
        self.state().faults.calls(kind)
    }

    /// The changes made so far, in order, since the disk was made.
    pub fn trace(&self) -> Trace {
        self.state().trace.clone()
    }

    /// How many changes have been made so far: a place in the trace.
    pub fn position(&self) -> usize {
        self.state().trace.changes.len()
    }

    /// What it holds now.
    pub fn medium(&self) -> Medium {
        self.state().medium.clone()
    }

    /// What is left after the process was killed now: everything that it has written.
    pub fn after_kill(&self) -> Self {
        Self::holding(self.medium(), 0)
    }

    /// What is left after the power was lost now.
    pub fn after_power_loss(&self, loss: PowerLoss) -> Self {
        Self::holding(self.medium().after_power_loss(loss).0, loss.seed)
    }

    /// What is left after the power was lost now: of what was not synced, any part.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        self.after_power_loss(PowerLoss::any(seed))
    }

    /// Whether this name is there now.
    pub fn exists(&self, path: &Path) -> bool {
        self.state().medium.names.find(path).is_some()
    }

    /// The files that are in this directory now, in the order of their names.
    pub fn names(&self, directory: &Path) -> Vec<PathBuf> {
        let state = self.state();
        let names = state.medium.names.all().map(|(name, _)| name);
        names.filter(|name| name.parent() == Some(directory)).cloned().collect()
    }

    /// All files that are there now, in the order of their names.
    pub fn all_names(&self) -> Vec<PathBuf> {
        let state = self.state();
        let mut names: Vec<PathBuf> = state.medium.names.all().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Whether this name will be there after any power loss.
    pub fn is_durable(&self, path: &Path) -> bool {
        self.state().medium.names.is_durable(path)
    }

    /// The bytes of a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        let file = state.medium.names.find(path).expect("the file is there");
        state.medium.file(file).current().to_vec()
    }

    /// Changes the bytes of a file behind everybody's back: rot.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.medium.names.find(path).expect("the file is there");
        state.faults.fired.rot += 1;
        let bytes = state.medium.file_mut(file).rot(change);
        state.trace.add(Change::Rot { file, bytes });
    }

    /// Flips one bit of a file: rot.
    ///
    /// # Panics
    /// When there is no such file, or no such byte in it.
    pub fn flip(&self, path: &Path, offset: usize, bit: u8) {
        self.change(path, |bytes| bytes[offset] ^= 1 << bit);
    }

    /// Cuts a file: rot.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn truncate(&self, path: &Path, bytes: usize) {
        self.change(path, |all| all.truncate(bytes));
    }
}

impl State {
    /// Counts the call; an error if it fails without having done anything.
    fn call(&mut self, verb: Verb) -> io::Result<()> {
        match self.faults.strike(verb) {
            Some(kind) => Err(kind.error()),
            None => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        self.medium.apply(&change);
        self.trace.add(change);
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.medium.names.find(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// How many of these bytes may be written here.
    fn room(&mut self, file: u64, offset: u64, bytes: usize) -> usize {
        let size = self.medium.file(file).current().len() as u64;
        let end = offset + bytes as u64;
        let Some(left) = &mut self.faults.space_left else { return bytes };
        let fits = end.min(size.max(offset) + *left);
        *left -= fits.saturating_sub(size.max(offset));
        (fits - offset) as usize
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Verb::Create)?;
        state.change(Change::CreateDirectory(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Verb::Sync)?;
        state.change(Change::SyncDirectory(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.call(Verb::Read)?;
        state.medium.names.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Verb::Create)?;
        state.medium.names.list(path.parent().unwrap_or(path))?;
        state.change(Change::Create(path.to_owned()));
        let file = state.find(path)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Verb::Read)?;
        let file = state.find(path)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Verb::Create)?;
        state.find(from)?;
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Verb::Remove)?;
        state.find(path)?;
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        // Not counted: a metric asks for it too, at any time.
        Ok(self.state().faults.space_left.unwrap_or(1 << 40))
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut state = self.state();
        state.call(Verb::Read)?;
        if state.locks.get(path).is_some_and(|held| held.strong_count() > 0) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let held = Arc::new(());
        state.locks.insert(path.to_owned(), Arc::downgrade(&held));
        Ok(DiskLock::new(held))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: u64,
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        while self.disk.state().faults.stalled {
            std::thread::yield_now();
        }
        let mut state = self.disk.state();
        let struck = state.faults.strike(Verb::Write);
        let part = match struck {
            None => bytes.len(),
            Some(FaultKind::Io | FaultKind::FailedSync | FaultKind::FailedRead) => 0,
            Some(FaultKind::NoSpace | FaultKind::ShortWrite) => state.random.usize(..bytes.len().max(1)),
        };
        let written = state.room(self.file, offset, part);
        if written > 0 {
            let bytes = bytes[..written].into();
            state.change(Change::Write { file: self.file, offset, bytes });
        }
        match struck {
            Some(kind) => Err(kind.error()),
            None if written < bytes.len() => {
                state.faults.fired.no_space += 1;
                Err(FaultKind::NoSpace.error())
            }
            None => Ok(()),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call(Verb::Read)?;
        let rest = state.medium.file(self.file).current().get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let file = self.file;
        if state.failed.contains(&file) {
            state.faults.fired.syncs_after_failure += 1;
        }
        if let Some(kind) = state.faults.strike(Verb::Sync) {
            let seed = state.random.u64(..);
            state.change(Change::FailedSync { file, seed });
            state.failed.insert(file);
            return Err(kind.error());
        }
        state.change(Change::Sync { file });
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.call(Verb::Read)?;
        Ok(state.medium.file(self.file).current().len() as u64)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call(Verb::Write)?;
        state.change(Change::SetSize { file: self.file, bytes });
        Ok(())
    }
}
