//! What `deploy/` ships fits the server: every series, setting, flag, path and port that it names exists.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod monitoring;
mod services;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A program of the system, or `None` when it is not installed, which is said aloud: then a test is skipped.
fn installed(program: &str, package: &str) -> Option<Command> {
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&searched).map(|path| path.join(program)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {program} is not installed (Debian's package {package})");
    }
    found.map(Command::new)
}

/// Asserts success; returns both outputs.
fn succeeded(what: &str, output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}:\n{text}");
    text
}
