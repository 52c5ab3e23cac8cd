//! The SurrealDB servers of `tools/surreal` and `tools/surreal2`, which are built apart from the workspace.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::{cache, cargo, root, run};

/// The variable that names the binary of a server of 3.x.
pub(crate) const SURREAL: &str = "OUTLAST_SURREAL";

/// The variable that names the binary of a server of 2.x.
pub(crate) const SURREAL2: &str = "OUTLAST_SURREAL2";

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// A server of 3.x that is quick to build: for tests.
    Tests,
    /// The same, quick to run: for measuring.
    Measuring,
    /// The engine of 2.x in a server of our own, quick to build: for tests.
    TestsOnTwo,
}

/// The path of the binary, built if it is missing or was built from something else. That takes minutes.
///
/// What it was built from decides, not when: a fresh clone is newer than any build, and cargo would build for a quarter
/// of an hour because some variable of the environment differs.
pub(crate) fn surreal(build: Build) -> Result<PathBuf> {
    let (name, folder, flags, stamp) = match build {
        Build::Tests => ("surreal", "debug", &["test", "--locked", "--no-run"][..], "built-from"),
        Build::Measuring => {
            ("surreal", "release", &["build", "--locked", "--release"][..], "built-from-release")
        }
        Build::TestsOnTwo => ("surreal2", "debug", &["build", "--locked"][..], "surreal2-built-from"),
    };
    let (tool, target) = (root().join("tools").join(name), cache()?.join("surreal"));
    let binary = target.join(folder).join(name);
    let sources = text_of(["Cargo.toml", "Cargo.lock", "src/main.rs"].map(|name| tool.join(name)))?;
    if !is_built_from(&binary, &target.join(stamp), &sources) {
        run(cargo(flags).current_dir(tool).env("CARGO_TARGET_DIR", &target))?;
        std::fs::write(target.join(stamp), sources)?;
    }
    Ok(binary)
}

/// The tests of the engine within a process, built beside the server: there its crates are compiled already.
pub(crate) fn test_embedded() -> Result<()> {
    let target = cache()?.join("surreal");
    let mut tests = cargo(["test", "--locked", "--test", "embedded"]);
    tests.current_dir(root().join("tools/surreal")).env("CARGO_TARGET_DIR", target);
    // The engine's futures nest deeply, and more so with little optimisation.
    run(tests.env("RUST_MIN_STACK", "16777216"))
}

fn text_of(files: impl IntoIterator<Item = PathBuf>) -> Result<String> {
    let mut text = String::new();
    for file in files {
        text.push_str(&std::fs::read_to_string(file)?);
    }
    Ok(text)
}

/// Whether the binary is there and the stamp beside it says that it was built from these sources.
fn is_built_from(binary: &Path, stamp: &Path, sources: &str) -> bool {
    binary.exists() && std::fs::read_to_string(stamp).is_ok_and(|built| built == sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_built_again_when_it_is_missing_or_was_built_from_something_else() {
        let directory = tempfile::tempdir().unwrap();
        let [binary, stamp] = ["binary", "stamp"].map(|name| directory.path().join(name));
        assert!(!is_built_from(&binary, &stamp, "sources"));
        std::fs::write(&binary, "").unwrap();
        assert!(!is_built_from(&binary, &stamp, "sources"), "nobody knows what it was built from");
        std::fs::write(&stamp, "sources").unwrap();
        assert!(is_built_from(&binary, &stamp, "sources"));
        assert!(!is_built_from(&binary, &stamp, "other sources"));
    }
}
