//! The engine within this process keeps the same rules. `tools/surreal` runs this, where the engine is compiled already:
//! `cargo xtask ci embedded`.

#![cfg(feature = "surrealdb-embedded")]
#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{Rules, after, create, items};
use outlast::database::{Database, LaneId};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::conformance::Fresh;

struct Within;

#[async_trait]
impl common::Place for Within {
    async fn fresh(&self) -> Fresh {
        let database = SurrealDb::from_url("mem://", SurrealOptions::default()).unwrap();
        database.probe().await.unwrap();
        Fresh { database: Arc::new(database), keep: Box::new(()) }
    }
}

// In memory nothing is there any more after closing, so the rules run on files.
struct Files;

#[async_trait]
impl common::Place for Files {
    async fn fresh(&self) -> Fresh {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("surrealkv://{}", directory.path().join("data").display());
        let database = SurrealDb::from_url(&url, SurrealOptions::default()).unwrap();
        database.probe().await.unwrap();
        Fresh { database: Arc::new(database), keep: Box::new(directory) }
    }
}

outlast_testkit::conformance!(Rules(Files));

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_in_memory_applies_and_reads() {
    let fresh = common::Place::fresh(&Within).await;
    let lane = LaneId::new("queue", 0);
    let position = fresh.database.take_over(&lane, None, "me").await.unwrap();
    let batch = items(&position, vec![create("a", "1", r#"{"n":18446744073709551615}"#)]);
    fresh.database.apply(&lane, &position, after(&position, 1), &batch).await.unwrap();
    let found = fresh.database.get(&common::collection("a"), &"1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(found.as_str(), r#"{"n":18446744073709551615}"#);
    assert_eq!(fresh.database.describe(), "mem://");
}
