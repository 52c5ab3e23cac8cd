//! A browser to test pages with, and what drives it: Chromium, Node.js and npm, as Debian has them.

use std::path::PathBuf;

/// Whether there are all three; prints a line that begins with `SKIPPED: ` when one is missing. Where `$CI` is set there
/// must be.
///
/// # Panics
/// When one is missing and `$CI` is set.
pub fn is_installed() -> bool {
    let missing: Vec<&str> = ["node", "npm"].into_iter().filter(|name| program(name).is_none()).collect();
    if missing.is_empty() && chromium().is_some() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "no Chromium, Node.js or npm: .ci/run installs them");
    println!("SKIPPED: no browser (apt-get install chromium nodejs npm, or set OUTLAST_CHROMIUM)");
    false
}

/// The browser: what `OUTLAST_CHROMIUM` names, or Debian's.
pub fn chromium() -> Option<PathBuf> {
    std::env::var_os("OUTLAST_CHROMIUM").map(PathBuf::from).or_else(|| program("chromium"))
}

/// A program in the path.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}
