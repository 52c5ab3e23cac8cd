//! A queue directory without a server: looked at, repaired, taken out and put in. Nothing here opens the queue except
//! [`import`]; the kernel's lock is held meanwhile.

mod accounting;
mod export;
mod fates;
mod import;
pub(crate) mod imports;
mod line;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast_log::inspect::{Action, Contents, InspectError, Inspection};
use outlast_log::{Key, KeyId, RealDisk};

pub use accounting::{Books, Check, Cursor};
pub use export::{Exported, Selection};
pub use import::{How, ImportError, Imported, Mapping, abandon, import};
pub use line::{ExportHeader, ExportLine, Status};
pub use report::{LogReport, Problem, Report, Verdict};

use fates::Fates;

/// Why a tool did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The directory: in use, no queue, not readable, of another version, or the disk said no.
    #[error(transparent)]
    Directory(#[from] InspectError),
    /// What is to be read is encrypted.
    #[error(
        "the files are encrypted with the key {}, which was not given: name the file that has it with --key-file, or as \
         queue.encryption_key_file", keys(.0)
    )]
    KeyMissing(Vec<KeyId>),
    /// What came out could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
}

impl OfflineError {
    /// Another process has the queue directory.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Directory(error) if error.is_locked())
    }
}

fn keys(missing: &[KeyId]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// A queue directory that no process has open.
#[derive(Debug)]
pub struct Queue {
    directory: PathBuf,
    log: Inspection,
    /// The dead letters; a queue that never had any may lack them.
    dead: Option<Inspection>,
}

impl Queue {
    /// Looks into the directory, in a way that cannot change anything. Keys that are needed and missing hide what is said
    /// in the files, nothing else.
    ///
    /// # Errors
    /// See [`OfflineError`]; the message says what to do.
    pub fn look(directory: &Path, keys: &[Key]) -> Result<Self, OfflineError> {
        Self::with(directory, |path| Inspection::open(path, keys))
    }

    fn with(
        directory: &Path,
        open: impl Fn(&Path) -> Result<Inspection, InspectError>,
    ) -> Result<Self, OfflineError> {
        let log = open(directory)?;
        let dead = match open(&directory.join("dead")) {
            Ok(dead) => Some(dead),
            Err(InspectError::NotALog { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { directory: directory.to_owned(), log, dead })
    }

    /// Whether everything in the files can be read with the keys that were given.
    ///
    /// # Errors
    /// [`OfflineError::KeyMissing`], with those that are missing.
    pub fn must_be_readable(&self) -> Result<(), OfflineError> {
        let mut missing = self.log.missing_keys();
        missing.extend(self.dead.iter().flat_map(Inspection::missing_keys));
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() { Ok(()) } else { Err(OfflineError::KeyMissing(missing)) }
    }

    /// Bytes that [`Queue::verify`] reads.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.dead.as_ref().map_or(0, Inspection::bytes)
    }

    /// The sidecars only: quick, and as good as they are.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn stat(&self) -> Result<Report, OfflineError> {
        let log = self.log.survey()?;
        let (dead, fates) = self.fates(&log)?;
        Ok(report::report(&self.directory, &log, dead.as_ref(), &fates, None))
    }

    /// Reads every byte, and proves the accounting identity from what it has read. `progress` hears of bytes.
    ///
    /// # Errors
    /// When the disk says no. What is damaged is no error: see [`Report::verdict`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Report, OfflineError> {
        Ok(self.read_everything(progress)?.0)
    }

    /// The report, and what it is made of.
    fn read_everything(
        &self,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Report, Contents, Option<Contents>), OfflineError> {
        let (_, fates) = self.fates(&self.log.survey()?)?;
        let mut tally = accounting::Tally::default();
        let log = self.log.verify(&mut |seen| tally.see(&fates, seen, progress))?;
        // Again with what a thorough look found: a sidecar may have been wrong.
        let (mut dead, fates) = self.fates(&log)?;
        if let Some(inspection) = &self.dead {
            dead = Some(inspection.verify(&mut |seen| accounting::bytes(seen, progress))?);
        }
        let report = report::report(&self.directory, &log, dead.as_ref(), &fates, Some(&tally));
        Ok((report, log, dead))
    }

    fn fates(&self, log: &Contents) -> Result<(Option<Contents>, Fates), OfflineError> {
        let dead = self.dead.as_ref().map(Inspection::survey).transpose()?;
        let fates = Fates::new(log, self.dead.as_ref().zip(dead.as_ref()))?;
        Ok((dead, fates))
    }
}

/// What a repair did, or would do.
#[derive(Debug)]
pub struct Repaired {
    /// What was found before.
    pub before: Report,
    /// What was done about it, in words.
    pub actions: Vec<String>,
    /// What is found afterwards; `None` for a dry run.
    pub after: Option<Report>,
}

/// Brings a queue directory in order: see [`outlast_log::inspect::Inspection::repair`]. With `dry_run` nothing is
/// changed.
///
/// # Errors
/// See [`OfflineError`]. What was done stays done; it can be run again.
pub fn repair(
    directory: &Path,
    keys: &[Key],
    dry_run: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Repaired, OfflineError> {
    let queue = if dry_run {
        Queue::look(directory, keys)?
    } else {
        Queue::with(directory, |path| Inspection::open_on(Arc::new(RealDisk), path, keys))?
    };
    // Not one log without the other, and not without knowing what is damaged.
    queue.must_be_readable()?;
    let (before, log, dead) = queue.read_everything(progress)?;
    let mut actions = Vec::new();
    let logs = [("", Some((&queue.log, &log))), ("dead letters: ", queue.dead.as_ref().zip(dead.as_ref()))];
    for (name, part) in logs {
        let Some((inspection, contents)) = part else { continue };
        let done: Vec<Action> =
            if dry_run { inspection.plan(contents) } else { inspection.repair(contents)? };
        actions.extend(done.iter().map(|action| format!("{name}{action}")));
    }
    drop(queue);
    let after = if dry_run { None } else { Some(Queue::look(directory, keys)?.verify(progress)?) };
    Ok(Repaired { before, actions, after })
}
