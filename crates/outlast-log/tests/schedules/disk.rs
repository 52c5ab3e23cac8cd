//! The simulated disk, with a point before and after each call where another thread may go on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use outlast_log::{Disk, DiskFile, DiskLock};
use outlast_testkit::disk::SimulatedDisk;
use shuttle::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct ScheduledDisk {
    disk: SimulatedDisk,
    points: Arc<AtomicUsize>,
}

impl ScheduledDisk {
    pub(crate) fn new(disk: SimulatedDisk) -> Self {
        Self { disk, points: Arc::default() }
    }

    fn call<T>(&self, call: impl FnOnce(&SimulatedDisk) -> T) -> T {
        between(&self.points, || call(&self.disk))
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(ScheduledFile { file, points: self.points.clone() })
    }
}

/// Others may go on before the call, and while its caller does not know its outcome yet.
fn between<T>(points: &AtomicUsize, call: impl FnOnce() -> T) -> T {
    points.fetch_add(1, Ordering::SeqCst);
    let outcome = call();
    points.fetch_add(1, Ordering::SeqCst);
    outcome
}

impl Disk for ScheduledDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.call(|disk| disk.create_directory(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.call(|disk| disk.sync_directory(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.call(|disk| disk.list(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.call(|disk| disk.create(path))?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.call(|disk| disk.open(path))?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(|disk| disk.remove(path))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.call(|disk| disk.free_space(path))
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.call(|disk| disk.lock(path))
    }
}

#[derive(Debug)]
struct ScheduledFile {
    file: Arc<dyn DiskFile>,
    points: Arc<AtomicUsize>,
}

impl DiskFile for ScheduledFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        between(&self.points, || self.file.write_at(bytes, offset))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        between(&self.points, || self.file.read_at(buffer, offset))
    }

    fn sync(&self) -> io::Result<()> {
        between(&self.points, || self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        between(&self.points, || self.file.size())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        between(&self.points, || self.file.set_size(bytes))
    }
}
