//! Other logs, measured by a program of its own (`tools/peers`), and figures that come from other processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::stats::Sample;
use crate::Result;
use crate::process::{cargo, root, run, shown, target};

/// What a cell may report beside its rate.
const FIGURES: [&str; 4] = ["entries a sync", "open ms", "MiB when open", "peak MiB"];

/// A peer, and whether it gathers what several threads append by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) gathers: bool,
}

/// All of them.
pub(super) const PEERS: [Peer; 3] = [
    Peer { name: "raft-engine", gathers: true },
    Peer { name: "sqlite", gathers: false },
    Peer { name: "okaywal", gathers: true },
];

/// The program.
#[derive(Debug)]
pub(super) struct Peers {
    program: PathBuf,
    directory: PathBuf,
}

impl Peers {
    /// Builds it; its files will be in `directory`.
    pub(super) fn build(directory: &Path) -> Result<Self> {
        let manifest = root().join("tools/peers/Cargo.toml");
        let target = target()?.join("peers");
        let mut build = cargo(["build", "--quiet", "--release", "--locked", "--manifest-path"]);
        run(build.arg(manifest).arg("--target-dir").arg(&target))?;
        Ok(Self { program: target.join("release/peers"), directory: directory.join("peers") })
    }

    /// One cell, in a directory that is removed afterwards.
    pub(super) fn cell(&self, what: &str, peer: &str, arguments: &[&str]) -> Result<Sample> {
        std::fs::create_dir_all(&self.directory)?;
        let directory = tempfile::tempdir_in(&self.directory)?;
        self.cell_in(directory.path(), what, peer, arguments)
    }

    /// One cell in this directory.
    pub(super) fn cell_in(
        &self,
        directory: &Path,
        what: &str,
        peer: &str,
        arguments: &[&str],
    ) -> Result<Sample> {
        sample_of(Command::new(&self.program).args([what, peer]).arg(directory).args(arguments))
    }
}

/// Runs a program that prints one line of JSON with what it measured.
pub(super) fn sample_of(command: &mut Command) -> Result<Sample> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", shown(command), output.status).into());
    }
    let line: Value = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_f64();
    let figure = |name: &'static str| Some((name, number(line.get("more")?.get(name)?)?));
    Ok(Sample {
        rate: line.get("rate").and_then(number).ok_or("a cell printed no rate")?,
        p50_us: line.get("p50_us").and_then(number),
        p99_us: line.get("p99_us").and_then(number),
        more: FIGURES.into_iter().filter_map(figure).collect(),
        ..Sample::default()
    })
}
