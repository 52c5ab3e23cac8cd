//! The rules of the test kit, on a real SurrealDB server that keeps files and syncs them (SurrealKV).

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use common::{Fixture, Rules, Running};
use outlast_testkit::conformance::Fresh;
use outlast_testkit::surreal::{Storage, SurrealServer};

struct Files;

/// A server and the directory that it keeps its data in.
struct Kept {
    server: Arc<SurrealServer>,
    _directory: tempfile::TempDir,
}

/// A server for all rules.
fn shared() -> Arc<Kept> {
    static SHARED: Mutex<Weak<Kept>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let directory = tempfile::tempdir().unwrap();
        let server = Arc::new(SurrealServer::start(Storage::File(directory.path().join("data"))));
        let kept = Arc::new(Kept { server, _directory: directory });
        *shared = Arc::downgrade(&kept);
        kept
    })
}

#[async_trait]
impl common::Place for Files {
    async fn fresh(&self) -> Fresh {
        let kept = shared();
        let fixture = Fixture::on(Arc::clone(&kept.server)).await;
        Fresh { database: Arc::new(fixture.database), keep: Box::new(kept) }
    }

    fn server(&self) -> Option<Running> {
        let kept = shared();
        Some((Arc::clone(&kept.server), Box::new(kept)))
    }
}

outlast_testkit::conformance!(Rules(Files));
