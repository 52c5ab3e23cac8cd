//! [`Kept`]: what a restart must know and no log says. Delivery is paused; which acknowledged writes cannot be read back.
//!
//! In `state.json` in the queue directory, written beside and renamed, so that a crash leaves the old or the new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outlast_log::{Disk, Sequence};
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339_now;
use crate::status::Losses;
use crate::write::WriteId;

const FILE: &str = "state.json";
/// Stretches that are remembered, so that what is read again is not counted again. The oldest are forgotten first.
const STRETCHES_MAX: usize = 1000;

/// In which log something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// The writes that wait.
    Queue,
    /// Dead letters.
    DeadLetters,
}

/// Until when delivery is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// Milliseconds since 1970; without it until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// From the first to the last, both included.
type Stretch = (WriteId, WriteId);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Pause>,
    losses: Losses,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost_writes: Vec<Stretch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost_letters: Vec<Stretch>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Kept {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    state: Mutex<State>,
}

impl Kept {
    /// Reads the file. One that cannot be understood is told and left aside: it holds nothing that a write depends on.
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        let state = read(&*disk, &directory.join(FILE)).unwrap_or_else(|error| {
            let path = directory.join(FILE);
            tracing::error!(%error, path = %path.display(), "a pause and earlier losses are not known any more");
            let _ = disk.rename(&path, &path.with_extension("json.damaged"));
            State::default()
        });
        Self { disk, directory: directory.to_owned(), state: Mutex::new(state) }
    }

    pub(crate) fn paused(&self) -> Option<Pause> {
        self.lock().paused
    }

    /// Durable when this returns.
    ///
    /// # Errors
    /// When the file could not be written: it holds until the next start only.
    pub(crate) fn set_paused(&self, paused: Option<Pause>) -> io::Result<()> {
        let mut state = self.lock();
        if state.paused == paused {
            return Ok(());
        }
        state.paused = paused;
        self.save(&state)
    }

    /// Acknowledged writes that could not be read back, ever.
    pub(crate) fn losses(&self) -> Losses {
        self.lock().losses.clone()
    }

    /// These cannot be read back. Returns how many of them were not known to be lost.
    pub(crate) fn lose(&self, of: Of, (first, last): (Sequence, Sequence)) -> u64 {
        let mut state = self.lock();
        let stretches = match of {
            Of::Queue => &mut state.lost_writes,
            Of::DeadLetters => &mut state.lost_letters,
        };
        let (mut from, mut to, mut known) = (first, last, 0);
        stretches.retain(|(other_first, other_last)| {
            let (other_first, other_last) = (other_first.0, other_last.0);
            let apart = other_last < first || last < other_first;
            if !apart {
                known += length((first.max(other_first), last.min(other_last)));
                (from, to) = (from.min(other_first), to.max(other_last));
            }
            apart
        });
        let new = length((first, last)).saturating_sub(known);
        stretches.push((WriteId(from), WriteId(to)));
        if stretches.len() > STRETCHES_MAX {
            stretches.remove(0);
        }
        if new > 0 {
            state.losses.writes += new;
            state.losses.last_at = Some(rfc3339_now());
            if let Err(error) = self.save(&state) {
                tracing::error!(%error, writes = new, "that writes are lost is not noted for the next start");
            }
        }
        new
    }

    /// Whether this write is known to be lost.
    pub(crate) fn is_lost(&self, sequence: Sequence) -> bool {
        self.lock().lost_writes.iter().any(|(first, last)| (first.0..=last.0).contains(&sequence))
    }

    /// How many writes that wait here are known to be lost.
    pub(crate) fn lost_between(&self, after: Sequence, to: Sequence) -> u64 {
        let state = self.lock();
        let within = |(first, last): &Stretch| {
            let from = first.0.as_u64().max(after.as_u64() + 1);
            (last.0.as_u64().min(to.as_u64()) + 1).saturating_sub(from)
        };
        state.lost_writes.iter().map(within).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, state: &State) -> io::Result<()> {
        let beside = self.directory.join("state.json-new");
        let file = self.disk.create(&beside)?;
        file.write_at(&serde_json::to_vec(state)?, 0)?;
        file.sync()?;
        self.disk.rename(&beside, &self.directory.join(FILE))?;
        self.disk.sync_directory(&self.directory)
    }
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<State> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX).min(1 << 20)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(serde_json::from_slice(&bytes)?)
}

/// How many sequences these are.
pub(crate) fn length((first, last): (Sequence, Sequence)) -> u64 {
    (last.counter() + 1).saturating_sub(first.counter())
}

/// The parts of a stretch in which none is to be left out.
pub(crate) fn parts(
    (first, last): (Sequence, Sequence),
    is_out: impl Fn(Sequence) -> bool,
) -> Vec<(Sequence, Sequence)> {
    let mut parts: Vec<(Sequence, Sequence)> = Vec::new();
    let mut joins = false;
    for counter in first.counter()..=last.counter() {
        let Some(sequence) = Sequence::new(first.epoch(), counter) else { break };
        match parts.last_mut() {
            _ if is_out(sequence) => {
                joins = false;
                continue;
            }
            Some((_, last)) if joins => *last = sequence,
            _ => parts.push((sequence, sequence)),
        }
        joins = true;
    }
    parts
}

#[cfg(test)]
mod tests {
    use outlast_log::RealDisk;

    use super::*;

    fn stretch(first: u64, last: u64) -> (Sequence, Sequence) {
        (Sequence::new(1, first).unwrap(), Sequence::new(1, last).unwrap())
    }

    #[test]
    fn what_is_lost_is_counted_once_however_often_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Kept::open(Arc::new(RealDisk), directory.path());
        let kept = open();
        assert_eq!(kept.lose(Of::Queue, stretch(10, 19)), 10);
        assert_eq!(kept.lose(Of::Queue, stretch(10, 19)), 0, "read again");
        assert_eq!(kept.lose(Of::Queue, stretch(15, 24)), 5, "the rot has spread");
        assert_eq!(kept.lose(Of::DeadLetters, stretch(10, 10)), 1, "another log");
        let again = open();
        assert_eq!(again.losses(), kept.losses());
        assert_eq!(again.losses().writes, 16);
        assert_eq!(again.lose(Of::Queue, stretch(10, 24)), 0, "after a restart");
        let between = |after, to| {
            let sequence = |counter| Sequence::new(1, counter).unwrap();
            again.lost_between(sequence(after), sequence(to))
        };
        assert_eq!((between(0, 100), between(9, 24), between(10, 12), between(24, 100)), (15, 15, 2, 0));
        assert_eq!(again.lose(Of::Queue, stretch(5, 30)), 11);
    }

    #[test]
    fn what_is_decided_is_left_out_of_a_stretch() {
        let out = |sequence: Sequence| [10, 13, 16].contains(&sequence.counter());
        assert_eq!(parts(stretch(10, 16), out), [stretch(11, 12), stretch(14, 15)]);
        assert_eq!(parts(stretch(11, 12), out), [stretch(11, 12)]);
        assert_eq!(parts(stretch(13, 13), out), []);
    }

    #[test]
    fn a_pause_survives_a_restart_and_a_file_that_is_damaged_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Kept::open(Arc::new(RealDisk), directory.path());
        assert_eq!(open().paused(), None);
        let pause = Some(Pause { until_ms: Some(5) });
        open().set_paused(pause).unwrap();
        assert_eq!(open().paused(), pause);
        std::fs::write(directory.path().join(FILE), b"{\"pau").unwrap();
        assert_eq!(open().paused(), None);
        assert!(directory.path().join("state.json.damaged").exists());
    }
}
