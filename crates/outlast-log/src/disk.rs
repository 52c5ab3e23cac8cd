//! The seam to the disk: everything the log does to files goes through [`Disk`] and [`DiskFile`], so that the test
//! kit can put a disk here that forgets, reorders, tears, fails and rots.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// Only the owner may look into a queue.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What the log needs of a file system. Paths are those that the log was opened with, extended.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes the directory with its parents, mode 0700, and makes their names durable; nothing happens if it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes what was created, renamed and removed in this directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in the directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// A new and empty file, mode 0600, for reading and writing; an old one of this name is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, for reading and writing; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name in place of whatever had that name. Open files follow.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Bytes that this process may still write in the file system of this directory.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Takes the lock file for as long as the returned value lives; `WouldBlock` if somebody else has it.
    fn lock(&self, path: &Path) -> io::Result<DiskLock>;
}

/// An open file. Several threads may use it at once.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Writes all of it. After an error any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads up to as many bytes as the buffer has; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes what was written durable, with as much metadata as reading it back needs (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// The size of the file in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file to this size, or extends it with zeros.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
}

/// Holds a lock until it is dropped.
pub struct DiskLock(#[expect(dead_code, reason = "held, never read")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_directory(parent)?;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            // Somebody else was quicker; if it is a file, what comes next will say so.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            created => created.and_then(|()| self.sync_directory(parent)),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            // A name that is not unicode is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        // `mode` counts only for a new file, and the umask takes away from it.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        lock_file(file)
    }
}

/// Takes the kernel's lock on an open lock file; `WouldBlock` if somebody else has it.
pub(crate) fn lock_file(file: File) -> io::Result<DiskLock> {
    match file.try_lock() {
        Ok(()) => Ok(DiskLock::new(LockedFile(file))),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Unlocks when it is dropped: closing alone would leave the lock to a child process between its fork and its exec,
/// since both have the same open file, and opening the log again would then find it locked (flock(2)).
struct LockedFile(File);

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Should it fail, closing the file releases the lock as well, if later.
        let _ = self.0.unlock();
    }
}

#[derive(Debug)]
pub(crate) struct RealFile(pub(crate) File);

impl DiskFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_holder_also_while_a_child_process_still_has_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = File::create(&path).unwrap();
        // What a fork does: the same open file once more.
        let inherited = file.try_clone().unwrap();
        let lock = lock_file(file).unwrap();
        assert_eq!(RealDisk.lock(&path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(lock);
        RealDisk.lock(&path).expect("nobody holds it any more");
        drop(inherited);
    }
}
