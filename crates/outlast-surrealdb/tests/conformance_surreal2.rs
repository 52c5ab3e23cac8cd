//! The rules of the test kit, on the engine and the protocol of SurrealDB 2.x (`tools/surreal2`), except what its storage
//! (SurrealKV, in memory and in files) cannot keep: it lets two transactions that write one record both commit, once in
//! some dozens of races, and forgets the second change of a record in one transaction. See decision 0020.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use common::{Fixture, Rules, Running};
use outlast::database::{ApplyError, Database};
use outlast::{Document, Operation, RecordName, Write};
use outlast_testkit::conformance::Fresh;
use outlast_testkit::surreal::{Release, Storage, SurrealServer};
use serde_json::json;

struct Two;

/// A server for all rules.
fn shared() -> Arc<SurrealServer> {
    static SHARED: Mutex<Weak<SurrealServer>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(SurrealServer::start_release(Release::Two, Storage::Memory));
        *shared = Arc::downgrade(&server);
        server
    })
}

#[async_trait]
impl common::Place for Two {
    async fn fresh(&self) -> Fresh {
        let Fixture { server, database, .. } = Fixture::on(shared()).await;
        Fresh { database: Arc::new(database), keep: Box::new(server) }
    }

    fn server(&self) -> Option<Running> {
        Some((shared(), Box::new(())))
    }

    fn record(&self) -> &'static str {
        "type::thing"
    }

    fn is_sound(&self) -> bool {
        false
    }
}

outlast_testkit::conformance!(Rules(Two));

/// Without Outlast: why every write gets a transaction of its own on 2.x. A release that keeps the second change may get
/// batches again.
#[test]
fn a_record_changed_twice_in_a_transaction_comes_back_with_the_first_change_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut server =
        SurrealServer::start_release(Release::Two, Storage::File(directory.path().join("store")));
    server.sql("", "", "DEFINE NAMESPACE n; USE NS n; DEFINE DATABASE d;");
    let twice = "BEGIN; UPSERT a:1 SET n = 1; UPSERT a:1 SET n = 2; COMMIT;";
    assert!(server.sql("n", "d", twice).iter().all(|row| row["status"] == "OK"));
    let n = |server: &SurrealServer| server.query("n", "d", "RETURN (SELECT VALUE n FROM ONLY a:1)");
    assert_eq!(n(&server), json!(2));
    server.restart();
    assert_eq!(n(&server), json!(1));
}

#[tokio::test]
async fn every_write_gets_a_transaction_of_its_own_and_one_that_changes_a_record_twice_is_refused() {
    let fixture = Fixture::on(shared()).await;
    assert_eq!(fixture.database.batch_writes_max(), 1);
    let put = |text: &str| Operation::Put {
        record: RecordName { collection: "a".parse().unwrap(), id: "1".parse().unwrap() },
        data: Document::parse(text).unwrap(),
    };
    let twice = Write::new(vec![put(r#"{"n":1}"#), put(r#"{"n":2}"#)]).unwrap();
    let refused = fixture.apply(vec![twice]).await.unwrap_err();
    let ApplyError::Rejected { index: 0, reason, retryable: false } = refused else { panic!("{refused}") };
    assert!(reason.message.contains("as two writes"), "{reason:?}");
    fixture.apply(vec![Write::new(vec![put(r#"{"n":1}"#)]).unwrap()]).await.unwrap();
}
