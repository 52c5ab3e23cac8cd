//! `outlast log import` and `abandon-import`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use outlast::offline::{self, How, ImportError, Mapping};
use outlast::options::Options;
use serde_json::json;

use crate::cli::Exit;
use crate::cli::arguments::Global;
use crate::cli::output::{Failure, grouped, print, print_json, print_json_text};
use crate::cli::progress::Progress;

pub(super) fn run(global: &Global, file: &Path, options: &Options, how: How) -> Result<(), Failure> {
    let mut file = open(file)?;
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    // Read once to be checked, and once to be imported.
    let progress = Progress::bytes(global.json, "importing", bytes * 2);
    let mut mapped = |mapping: Mapping| {
        if global.json {
            // A reader that has gone is no reason to stop in the middle.
            print_json_text(&json!(mapping).to_string());
        }
    };
    let imported = offline::import(&mut file, options, how, &mut |bytes| progress.add(bytes), &mut mapped)
        .map_err(|error| failure(&error))?;
    progress.end();
    if global.json {
        print_json_text(&json!({ "imported": imported }).to_string());
        return Ok(());
    }
    let resumed = if imported.resumed_at > 0 {
        format!("; {} of them were in already, from a run that was interrupted", grouped(imported.resumed_at))
    } else {
        String::new()
    };
    print(&format!(
        "imported {} writes that wait and {} dead letters into {} ({} were decided and left out{resumed})",
        grouped(imported.waiting),
        grouped(imported.dead),
        options.directory.display(),
        grouped(imported.left_out)
    ));
    if !imported.lost.is_empty() {
        let stretches = imported.lost.len();
        print(&format!(
            "{stretches} stretches of writes were damaged where they come from: see the file's first line"
        ));
    }
    Ok(())
}

pub(super) fn abandon(global: &Global, options: &Options) -> Result<(), Failure> {
    let writes = offline::abandon(options).map_err(|error| failure(&error))?;
    if global.json {
        print_json(&json!({ "kept": writes }));
    } else {
        print(&format!("the import is ended; {} writes of it have come in and stay", grouped(writes)));
    }
    Ok(())
}

fn failure(error: &ImportError) -> Failure {
    let exit = match error {
        error if error.is_locked() => Exit::Locked,
        ImportError::Malformed { .. } => Exit::Data,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// The file, or standard input as one.
pub(in crate::cli) fn open(path: &Path) -> Result<File, Failure> {
    let cannot = |error: io::Error| Failure::failed(format!("{} could not be read: {error}", path.display()));
    if path != Path::new("-") {
        return File::open(path).map_err(cannot);
    }
    spool().map_err(|error| {
        Failure::failed(format!("standard input could not be kept while it is checked: {error}"))
    })
}

/// Standard input as a file without a name: it is read whole before anything is taken from it.
fn spool() -> io::Result<File> {
    let name = format!("outlast-import-{}", uuid::Uuid::new_v4());
    let path = std::env::temp_dir().join(name);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.flush()?;
    Ok(file)
}
