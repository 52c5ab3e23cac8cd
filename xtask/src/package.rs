//! `cargo xtask package`: the Debian package, with what the binary itself writes: manual pages and completions.

use std::fs;
use std::process::Command;

use crate::Result;
use crate::process::{self, cargo, target};

/// Builds it into the folder `debian` of the target folder.
pub(crate) fn run() -> Result<()> {
    let target = target()?;
    let release = ["build", "--locked", "--release", "--package", "outlast-server", "--bin", "outlast"];
    process::run(cargo(release).env("CARGO_TARGET_DIR", &target))?;

    let binary = target.join("release/outlast");
    let written = target.join("release/package");
    if written.exists() {
        // A command that is gone has no page.
        fs::remove_dir_all(&written)?;
    }
    fs::create_dir_all(&written)?;
    process::run(Command::new(&binary).arg("man").arg(written.join("man")))?;
    for (shell, name) in [("bash", "outlast.bash"), ("zsh", "_outlast"), ("fish", "outlast.fish")] {
        let script = Command::new(&binary).args(["completions", shell]).output()?;
        if !script.status.success() {
            return Err(
                format!("no completions for {shell}: {}", String::from_utf8_lossy(&script.stderr)).into()
            );
        }
        fs::write(written.join(name), script.stdout)?;
    }

    let package = ["deb", "--no-build", "--locked", "--package", "outlast-server"];
    process::run(cargo(package).env("CARGO_TARGET_DIR", &target))
        .map_err(|error| format!("{error}; is cargo-deb there? cargo install --locked cargo-deb"))?;
    Ok(())
}
