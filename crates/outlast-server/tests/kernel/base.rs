//! A database that can be put out of reach, on a disk of its own, so to speak: nothing that happens to the queue
//! happens to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outlast_testkit::history::Seen;

use super::e2e;

/// An SQLite database. It is away while a file stands where its directory should be.
#[derive(Debug)]
pub(crate) struct Base {
    here: PathBuf,
    elsewhere: PathBuf,
}

impl Base {
    pub(crate) fn new(directory: &Path) -> Self {
        let base = Self { here: directory.join("base"), elsewhere: directory.join("base-elsewhere") };
        fs::create_dir(&base.here).unwrap();
        base
    }

    pub(crate) fn url(&self) -> String {
        e2e::sqlite_url(&self.here)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.here.join("database.db")
    }

    pub(crate) fn put(&self, away: bool) {
        if away {
            self.take_away();
        } else {
            self.give_back();
        }
    }

    /// Only while no server runs: one that has the files open would keep them.
    pub(crate) fn take_away(&self) {
        if self.here.is_dir() {
            fs::rename(&self.here, &self.elsewhere).unwrap();
            fs::write(&self.here, "the database is elsewhere").unwrap();
        }
    }

    pub(crate) fn give_back(&self) {
        if self.here.is_file() {
            fs::remove_file(&self.here).unwrap();
            fs::rename(&self.elsewhere, &self.here).unwrap();
        }
    }

    pub(crate) fn seen(&self) -> BTreeMap<String, Seen> {
        e2e::in_sqlite(&self.file())
    }
}
