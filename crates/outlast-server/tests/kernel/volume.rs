//! File systems of our own: small ones, and one whose power can be cut.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`: the file system stops at once, and
/// what its journal has not committed is gone. Perl is part of every Debian; our crates have no unsafe code to do it.
const CUT: &str =
    "open(my $d, '<', $ARGV[0]) or die $!; my $f = pack('L', 2); ioctl($d, 0x8004587d, $f) or die $!;";
/// Written and not synced before the power is cut.
const CANARY: &str = "nobody has synced this";
/// Names the directories of volumes, with the number of the process that made them.
const PREFIX: &str = "outlast-volume-";
/// The longest that a file system is waited for to let go of what was open in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted file system; unmounted and removed when it is dropped, also by a failing test.
#[derive(Debug)]
pub(crate) struct Volume {
    kind: Kind,
    mount: PathBuf,
    directory: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In a file, through a loop device that goes when it is unmounted.
    Ext4,
    /// In memory.
    Tmpfs { mib: u64 },
}

impl Volume {
    /// An ext4 file system of so many MiB.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub(crate) fn ext4(mib: u64) -> Result<Self, String> {
        let volume = Self::new(Kind::Ext4)?;
        let image = File::create(volume.image()).map_err(|error| error.to_string())?;
        image.set_len(mib * 1024 * 1024).map_err(|error| error.to_string())?;
        let mkfs = [OsStr::new("-q"), "-F".as_ref(), "-m".as_ref(), "0".as_ref()];
        run("mkfs.ext4", mkfs.into_iter().chain([volume.image().as_ref()]))?;
        volume.mount()?;
        Ok(volume)
    }

    /// A tmpfs of so many MiB.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub(crate) fn tmpfs(mib: u64) -> Result<Self, String> {
        let volume = Self::new(Kind::Tmpfs { mib })?;
        volume.mount()?;
        Ok(volume)
    }

    fn new(kind: Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting needs root".to_owned());
        }
        unmount_what_is_left();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let directory =
            tempfile::Builder::new().prefix(&prefix).tempdir().map_err(|error| error.to_string())?;
        let mount = directory.path().join("mount");
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        Ok(Self { kind, mount, directory })
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> Result<(), String> {
        let (source, options) = match self.kind {
            Kind::Ext4 => (self.image(), "loop".to_owned()),
            Kind::Tmpfs { mib } => ("tmpfs".into(), format!("size={mib}m")),
        };
        let kind = if self.kind == Kind::Ext4 { "ext4" } else { "tmpfs" };
        let options = [OsStr::new("-t"), kind.as_ref(), "-o".as_ref(), options.as_ref()];
        run("mount", options.into_iter().chain([source.as_ref(), self.mount.as_ref()]))
    }

    /// The power goes: nothing more reaches the disk, and what was not synced is lost with the next mount.
    pub(crate) fn cut_power(&self) {
        let canary = self.mount.join("canary");
        // A file that is replaced would be flushed by the file system, to be kind to programs that forget to.
        let _ = fs::remove_file(&canary);
        fs::write(&canary, CANARY).unwrap();
        run("perl", [OsStr::new("-e"), CUT.as_ref(), self.mount.as_ref()]).unwrap();
    }

    /// The power is back: mounts again, from what the disk has. Proves that the cut took something.
    pub(crate) fn remount(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = run("umount", [&self.mount]) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mount().unwrap();
        let left = fs::read_to_string(self.mount.join("canary")).unwrap_or_default();
        assert_ne!(left, CANARY, "the power was not cut: what nobody synced is still there");
    }

    /// Fills what is left to the last byte, with a file that somebody else may have put there.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        let mut length = 64 * 1024;
        while length > 0 {
            if file.write_all(&vec![b'x'; length]).is_err() {
                length /= 2;
            }
        }
    }

    /// Gives back what [`Volume::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A failing test may have left a server in it: lazily then, so that it goes when that one does.
        let _ =
            run("umount", [&self.mount]).or_else(|_| run("umount", [OsStr::new("-l"), self.mount.as_ref()]));
    }
}

/// Unmounts what tests have left that were killed themselves.
fn unmount_what_is_left() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let process = mount.split(PREFIX).nth(1).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = run("umount", ["-l", mount]);
        }
    }
}

/// Runs a program of the system to its end.
///
/// # Errors
/// That it is missing, or what it said.
pub(crate) fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), String> {
    // Debian keeps those for administrators where other users do not look.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let said = || format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}
