//! The disk of a machine that can be switched off: its calls take time, and after the switch nothing reaches the disk.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outlast_log::simulation::sleep;
use outlast_log::{Disk, DiskFile, DiskLock};
use outlast_testkit::disk::SimulatedDisk;

#[derive(Debug, Clone)]
pub struct Machine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: SimulatedDisk,
    off: AtomicBool,
    dice: Mutex<fastrand::Rng>,
}

impl Machine {
    pub fn new(disk: SimulatedDisk, seed: u64) -> Self {
        let dice = Mutex::new(fastrand::Rng::with_seed(seed));
        Self(Arc::new(Inner { disk, off: AtomicBool::new(false), dice }))
    }

    pub fn disk(&self) -> &SimulatedDisk {
        &self.0.disk
    }

    /// One number for all that is on the disk now.
    pub fn contents(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for path in self.disk().all_names() {
            (&path, self.disk().read(&path)).hash(&mut hasher);
        }
        hasher.finish()
    }

    pub fn switch_off(&self) {
        self.0.off.store(true, Ordering::SeqCst);
    }

    fn works(&self) -> io::Result<()> {
        if self.0.off.load(Ordering::SeqCst) { Err(io::Error::other("the machine is off")) } else { Ok(()) }
    }

    /// A thread of the log waits for the disk; anything may happen meanwhile.
    fn takes(&self, micros: u64) -> io::Result<()> {
        self.works()?;
        let time = {
            let mut dice = self.0.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let slow = if dice.u8(..) == 0 { 100 } else { 1 };
            Duration::from_micros(dice.u64(..=micros) * slow)
        };
        sleep(time);
        self.works()
    }
}

impl Disk for Machine {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.works()?;
        self.disk().create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.takes(2000)?;
        self.disk().sync_directory(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.works()?;
        self.disk().list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.works()?;
        Ok(Arc::new(MachineFile { file: self.disk().create(path)?, machine: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.works()?;
        Ok(Arc::new(MachineFile { file: self.disk().open(path)?, machine: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.works()?;
        self.disk().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.works()?;
        self.disk().remove(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.disk().free_space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.works()?;
        self.disk().lock(path)
    }
}

#[derive(Debug)]
struct MachineFile {
    machine: Machine,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for MachineFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.machine.takes(200)?;
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.machine.works()?;
        self.file.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.takes(4000)?;
        self.file.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.machine.works()?;
        self.file.size()
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.machine.works()?;
        self.file.set_size(bytes)
    }
}
