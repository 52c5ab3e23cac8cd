//! `outlast config show` and `outlast config init`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::arguments::{Global, Overrides, inputs};
use super::output::{Failure, print, print_json};
use crate::config::{self, DEFAULT_FILE};

/// Prints every value with its source.
pub(super) fn show(global: &Global, overrides: &Overrides) -> Result<(), Failure> {
    let loaded = config::load(&inputs(global, Some(overrides)))?;
    if global.json {
        print_json(&config::as_json(&loaded));
    } else {
        print(&config::as_text(&loaded));
    }
    Ok(())
}

/// Writes a commented file where there is none.
pub(super) fn init(global: &Global, output: Option<&Path>) -> Result<(), Failure> {
    let path =
        output.or(global.config.as_deref()).map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(config::sample().as_bytes()));
    match written {
        Ok(()) => {
            if global.json {
                print_json(&serde_json::json!({ "written": path }));
            } else {
                print(&format!("wrote {}", path.display()));
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::failed(format!(
            "{} exists already and was left alone; name another file with --output",
            path.display()
        ))),
        Err(error) => Err(Failure::failed(format!("{} could not be written: {error}", path.display()))),
    }
}
