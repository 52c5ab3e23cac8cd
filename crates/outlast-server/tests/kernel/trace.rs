//! System calls of the server that fail, or at which it is killed: by `strace`, without code in the product.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::volume::run;

/// How many segments behind the present ones a fault waits for.
const SEGMENTS_AHEAD: u64 = 100;
/// The longest that `strace` is waited for to write its last line.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a file is for: of a call with two files, the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `segments/00000007.jsonl`, those that are there and those to come.
    Segment,
    /// A sidecar that is being written.
    NewSidecar,
    Sidecar,
    Prefilling,
    /// A spare that waits to become a segment.
    Spare,
    Recycled,
    /// The directory of the segments.
    Directory,
    Epochs,
    /// A segment of the dead letters that is still to be made: opening syncs the present one.
    DeadSegment,
    /// SQLite's write-ahead log.
    DatabaseLog,
}

impl Role {
    fn paths(self, queue: &Path, database: &Path) -> Vec<PathBuf> {
        let segments = queue.join("segments");
        let from = |first: u64, directory: &Path, extension: &str| -> Vec<PathBuf> {
            let last = numbers(directory).max().unwrap_or(0) + SEGMENTS_AHEAD;
            (first..=last).map(|number| directory.join(format!("{number:08}.{extension}"))).collect()
        };
        let numbered = |directory: &Path, extension: &str| {
            from(numbers(directory).min().unwrap_or(1), directory, extension)
        };
        match self {
            Self::Segment => numbered(&segments, "jsonl"),
            Self::NewSidecar => numbered(&segments, "index-new"),
            Self::Sidecar => numbered(&segments, "index"),
            Self::Prefilling => vec![segments.join("prefilling")],
            Self::Spare => vec![segments.join("spare.jsonl")],
            Self::Recycled => vec![segments.join("recycled")],
            Self::Directory => vec![segments],
            Self::Epochs => vec![queue.join("epochs.jsonl")],
            Self::DeadSegment => {
                let segments = queue.join("dead/segments");
                from(numbers(&segments).max().unwrap_or(0) + 1, &segments, "jsonl")
            }
            Self::DatabaseLog => vec![database.with_extension("db-wal")],
        }
    }
}

/// The numbers of the segments in a directory.
fn numbers(directory: &Path) -> impl Iterator<Item = u64> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.get(..8)?.parse().ok())
}

/// What is to happen at a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// `fdatasync`
    pub(crate) call: &'static str,
    /// On which files.
    pub(crate) role: Role,
    /// `error=EIO`, `signal=KILL`
    pub(crate) inject: &'static str,
    /// The how-manyeth such call of a thread, or `FIRST..LAST`.
    pub(crate) when: &'static str,
}

/// A server runs under `strace`, which waits for the call.
#[derive(Debug)]
pub(crate) struct Trace {
    fault: Fault,
    file: PathBuf,
}

/// # Errors
/// Why this machine does not allow it.
pub(crate) fn can_trace() -> Result<(), String> {
    run("strace", ["-f", "-o", "/dev/null", "-e", "trace=none", "true"])
}

impl Fault {
    /// The command under which the server has to be started, and where its trace will be found.
    pub(crate) fn wrapper(self, directory: &Path, queue: &Path, database: &Path) -> (Vec<String>, Trace) {
        let file = directory.join("trace");
        // Another server may have left one.
        let _ = fs::remove_file(&file);
        // -D: the server stays the process that was started, and `strace` is its grandchild.
        let mut words = ["strace", "-D", "-f", "-y", "-o"].map(str::to_owned).to_vec();
        words.push(file.display().to_string());
        // Stops the server only at this call. A signal would not be delivered so.
        if !self.inject.starts_with("signal") {
            words.push("--seccomp-bpf".to_owned());
        }
        for path in self.role.paths(queue, database) {
            words.extend(["-P".to_owned(), path.display().to_string()]);
        }
        let Self { call, inject, when, .. } = self;
        words.extend(["-e".to_owned(), format!("trace={call}")]);
        words.extend(["-e".to_owned(), format!("inject={call}:{inject}:when={when}")]);
        (words, Trace { fault: self, file })
    }
}

impl Trace {
    /// The calls that were seen, in order; only this one is traced, and only on files of the role.
    pub(crate) fn calls(&self) -> Vec<String> {
        let begins = format!(" {}(", self.fault.call);
        let resumes = format!("<... {} resumed>", self.fault.call);
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(&begins) || line.contains(&resumes));
        lines.map(str::to_owned).collect()
    }

    /// Waits until the trace of a process that has ended is whole.
    pub(crate) fn ended(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.file).unwrap_or_default();
            // The main thread, which has the number of the process, is the last to go.
            let process = text.lines().next().and_then(|line| line.split(' ').next()).unwrap_or_default();
            if text.lines().last().is_some_and(|line| line.contains("+++")) && !process.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "strace did not finish:\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The call at which the process was killed: it never returned.
    pub(crate) fn killed_at(&self) -> Option<String> {
        let calls = self.calls();
        let last = calls.iter().rfind(|call| call.ends_with("= ?") || call.contains("<unfinished"))?;
        let thread = last.split(' ').next()?;
        let begins = format!("{}(", self.fault.call);
        calls.iter().rfind(|call| call.starts_with(thread) && call.contains(&begins)).cloned()
    }

    /// How many calls failed because of the fault.
    pub(crate) fn injected(&self) -> usize {
        self.calls().iter().filter(|call| call.contains("(INJECTED")).count()
    }
}
