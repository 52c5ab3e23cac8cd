//! The rules of the test kit, on a real SurrealDB server with its memory engine.

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{Fixture, Rules, Running};
use outlast_testkit::conformance::Fresh;
use outlast_testkit::surreal::SurrealServer;

struct Memory;

#[async_trait]
impl common::Place for Memory {
    async fn fresh(&self) -> Fresh {
        let Fixture { server, database, .. } = Fixture::new().await;
        Fresh { database: Arc::new(database), keep: Box::new(server) }
    }

    fn server(&self) -> Option<Running> {
        Some((SurrealServer::shared(), Box::new(())))
    }
}

outlast_testkit::conformance!(Rules(Memory));
