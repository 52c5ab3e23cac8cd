//! What lies in a directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// All files below a directory with what is in them. One that goes meanwhile is left out: whoever the directory belongs to
/// may be at work.
///
/// # Panics
/// When something cannot be read.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            all.extend(files(&path));
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => drop(all.insert(path, bytes)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}: {error}", path.display()),
        }
    }
    all
}
