//! The files of a database: which file stands under the path, making it, and keeping a stale write-ahead log away
//! from a file that replaced ours.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Tells one file from another, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    /// A new file may get the number of one that was removed; where the file system keeps it, the time of birth
    /// tells.
    born: Option<SystemTime>,
}

impl FileId {
    /// Of the file that stands under `path` now (links followed); `None` when there is none.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from_metadata(&metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cfg(unix)]
    fn from_metadata(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }

    /// Elsewhere an open file cannot be replaced: there is nothing to tell apart.
    #[cfg(not(unix))]
    fn from_metadata(_: &fs::Metadata) -> Self {
        Self { device: 0, inode: 0, born: None }
    }
}

/// What an open connection holds: enough to notice that something else stands there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// The database file.
    pub(crate) database: FileId,
    /// Its write-ahead log, if there was one just after opening.
    pub(crate) log: Option<FileId>,
    /// Where the log lies: beside the file that a link points to, not beside the link.
    pub(crate) log_path: PathBuf,
}

/// How the files under the path compare to those that were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The same files.
    Same,
    /// No file.
    Gone,
    /// Another database file, or another write-ahead log.
    Replaced,
}

impl OpenFiles {
    /// Of the database that was just opened at `path`.
    pub(crate) fn record(path: &Path, database: FileId) -> io::Result<Self> {
        let log_path = beside(&fs::canonicalize(path)?, "-wal");
        let log = FileId::of(&log_path)?;
        Ok(Self { database, log, log_path })
    }

    /// Whether these files are still the ones under `path`: two calls of `stat`, about a microsecond each.
    pub(crate) fn standing(&self, path: &Path) -> io::Result<Standing> {
        match FileId::of(path)? {
            None => return Ok(Standing::Gone),
            Some(now) if now != self.database => return Ok(Standing::Replaced),
            Some(_) => {}
        }
        if self.log.is_some() && FileId::of(&self.log_path)? != self.log {
            return Ok(Standing::Replaced);
        }
        Ok(Standing::Same)
    }

    /// Moves our log away from a database file that is not the one it belongs to. To be called when all of our
    /// connections are closed. A log that we never had open belongs to whoever put it there, and stays.
    ///
    /// Returns where it was moved to.
    pub(crate) fn set_log_aside(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        if FileId::of(path)? == Some(self.database) {
            return Ok(None);
        }
        let Some(ours) = self.log else { return Ok(None) };
        if FileId::of(&self.log_path)? != Some(ours) {
            return Ok(None);
        }
        let aside = beside(&self.log_path, ".replaced");
        fs::rename(&self.log_path, &aside)?;
        sync_directory(parent(&self.log_path))?;
        Ok(Some(aside))
    }
}

/// Makes an empty file (for SQLite a new database), readable by its owner alone, and the directories above it.
/// Durable when it returns.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    make_directories(parent(path))?;
    match owner_only().open(path) {
        Ok(file) => {
            file.sync_all()?;
            sync_directory(parent(path))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn make_directories(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    make_directories(parent(directory))?;
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(parent(directory))
}

fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_our_own_log_is_moved_away_from_a_file_that_replaced_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let log = directory.path().join("a.db-wal");
        fs::write(&path, "ours").unwrap();
        fs::write(&log, "our log").unwrap();
        let files = OpenFiles::record(&path, FileId::of(&path).unwrap().unwrap()).unwrap();
        assert_eq!(files.standing(&path).unwrap(), Standing::Same);
        assert_eq!(files.set_log_aside(&path).unwrap(), None, "still our file");

        let copy = directory.path().join("copy.db");
        fs::write(&copy, "older").unwrap();
        fs::rename(&copy, &path).unwrap();
        assert_eq!(files.standing(&path).unwrap(), Standing::Replaced);
        let aside = files.set_log_aside(&path).unwrap().unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), "our log");
        assert!(!log.exists());

        fs::write(&log, "the log that came with the copy").unwrap();
        assert_eq!(files.set_log_aside(&path).unwrap(), None);
        assert!(log.exists());
        fs::remove_file(&path).unwrap();
        assert_eq!(files.standing(&path).unwrap(), Standing::Gone);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_database_belongs_to_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x/y/a.db");
        create(&path).unwrap();
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(directory.path().join("x")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
