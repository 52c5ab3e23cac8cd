//! `outlast config`: what the configuration is, means and should be.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Exit;
use super::arguments::{Global, Overrides, inputs};
use super::output::{Failure, print, print_json};
use crate::config::{self, Config, ConfigError, DEFAULT_FILE};
use crate::database;
use crate::http::Tls;
use crate::traces::Traces;

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

/// Explains one setting. When the configuration is wrong, this still says what would be right.
pub(super) fn explain(global: &Global, key: &str, overrides: &Overrides) -> Result<(), Failure> {
    let loaded = config::load(&inputs(global, Some(overrides)));
    let explanation =
        config::explain(key, loaded.as_ref().ok()).map_err(|why| Failure::new(Exit::Usage, why))?;
    if global.json {
        print_json(&explanation.json);
    } else {
        print(&explanation.text);
    }
    loaded.map(|_| ()).map_err(Failure::from)
}

/// Tries everything that a start would refuse, without starting anything.
pub(super) fn check(global: &Global, overrides: &Overrides) -> Result<(), Failure> {
    let checked = config::load(&inputs(global, Some(overrides))).map_err(|error| error.mistakes);
    let checked = checked.and_then(|loaded| {
        let mistakes = refused(&loaded.config);
        if mistakes.is_empty() { Ok(loaded) } else { Err(mistakes) }
    });
    let (file, mistakes) = match checked {
        Ok(loaded) => (loaded.file, Vec::new()),
        Err(mistakes) => (None, mistakes),
    };
    if global.json {
        print_json(&serde_json::json!({ "valid": mistakes.is_empty(), "file": file, "mistakes": mistakes }));
    }
    match (mistakes.is_empty(), global.json) {
        (true, true) => Ok(()),
        (true, false) => {
            let from = file.map_or_else(|| "no file is read".to_owned(), |file| file.display().to_string());
            print(&format!("the configuration is in order ({from})"));
            Ok(())
        }
        (false, true) => Err(Failure::new(Exit::Config, "")),
        (false, false) => Err(ConfigError { mistakes }.into()),
    }
}

/// What a start would refuse although every single value is right.
fn refused(config: &Config) -> Vec<String> {
    let tls = match (&config.server.tls_certificate, &config.server.tls_key) {
        (Some(certificate), Some(key)) => Tls::open(certificate, key).err(),
        _ => None,
    };
    let tls = tls.map(|why| format!("server.tls_certificate: {why}"));
    let database = database::open(&config.database, config.outlast.lanes == 1).err();
    let traces = Traces::start(&config.traces).err();
    config::refuse_open_door(config).into_iter().chain(tls).chain(traces).chain(database).collect()
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
