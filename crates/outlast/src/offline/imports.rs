//! `imports.jsonl`: which files were imported, and how far. Each line is synced before what it announces happens, so
//! that an import which was interrupted goes on where it stopped, and none is done twice by mistake.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its name in the queue directory.
pub(super) const FILE: &str = "imports.jsonl";

/// What is said while one is not finished.
pub(crate) const UNFINISHED: &str = "an import into this queue directory was interrupted: run the same \
     `outlast log import` again, it goes on where it stopped; or keep what has come in with `outlast log \
     abandon-import`";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    /// From here on the entries of this epoch are those of the plan, in its order, from `from` on.
    Began {
        /// Of the file and of what is taken from it.
        digest: String,
        /// The opening of the log; it does nothing else.
        epoch: u32,
        /// Entries of the plan that were in before.
        from: u64,
        /// Of so many entries the first ones wait; the others are dead letters.
        waiting: u64,
        total: u64,
        at_ms: u64,
    },
    /// Everything is in and synced.
    Finished { digest: String, writes: u64, at_ms: u64 },
}

/// Every step; a last line that is torn announced nothing.
pub(crate) fn read(directory: &Path) -> io::Result<Vec<Step>> {
    let text = match fs::read_to_string(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut steps = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(step) => steps.push(step),
            Err(_) if index + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(error) => {
                let what = format!("line {} of {FILE} is damaged: {error}", index + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
    Ok(steps)
}

/// The steps of the import that is not finished, if there is one.
pub(crate) fn unfinished(directory: &Path) -> io::Result<Option<Vec<Step>>> {
    let mut open = Vec::new();
    for step in read(directory)? {
        match step {
            Step::Began { .. } => open.push(step),
            Step::Finished { .. } => open.clear(),
        }
    }
    Ok(Some(open).filter(|open| !open.is_empty()))
}

/// Adds a step; durable when this returns.
pub(crate) fn add(directory: &Path, step: &Step) -> io::Result<()> {
    let steps: Vec<Step> = read(directory)?;
    let mut bytes = Vec::new();
    for step in steps.iter().chain([step]) {
        serde_json::to_writer(&mut bytes, step)?;
        bytes.push(b'\n');
    }
    // As a whole, so that a line that was torn does not stay in the way.
    let temporary = directory.join("imports.jsonl-new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}
