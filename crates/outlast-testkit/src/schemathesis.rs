//! Schemathesis: asks a server by its own `OpenAPI` document, and holds the answers against it. A Python program, in the
//! versions that `schemathesis.txt` pins by hash, in an environment of its own beside the other tools.
#![allow(clippy::panic, reason = "a tool for tests: its panic is the message of a failed test")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const REQUIREMENTS: &str = include_str!("schemathesis.txt");

/// The program, installed if it is not yet; `None` where there is no Python that could run it, and then a line that begins
/// with `SKIPPED: ` is printed. Where `$CI` is set there must be one.
///
/// # Panics
/// When it cannot be installed, or there is no Python and `$CI` is set.
pub fn program() -> Option<PathBuf> {
    if !is_possible() {
        assert!(std::env::var_os("CI").is_none(), "no Python with venv: .ci/run installs it");
        println!("SKIPPED: no Python for schemathesis (apt-get install python3-venv)");
        return None;
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    let place = home.join(".cache/outlast/schemathesis");
    fs::create_dir_all(&place).expect("the folder of tools can be made");
    // Several tests begin at the same time.
    let lock = File::create(place.join("lock")).expect("the folder of tools can be written");
    lock.lock().expect("a lock on a file of ours");
    let (program, installed) = (place.join("venv/bin/schemathesis"), place.join("installed.txt"));
    if fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) && program.exists() {
        return Some(program);
    }
    install(&place);
    fs::write(installed, REQUIREMENTS).expect("the folder of tools can be written");
    Some(program)
}

/// Whether there is a Python that can make an environment for it.
pub fn is_possible() -> bool {
    let python = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    python.is_ok_and(|output| output.status.success())
}

fn install(place: &Path) {
    let requirements = place.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).expect("the folder of tools can be written");
    let venv = place.join("venv");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let exactly = ["--require-hashes", "--only-binary", ":all:", "--requirement"];
    run(Command::new(venv.join("bin/python")).args(pip).args(exactly).arg(requirements));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
