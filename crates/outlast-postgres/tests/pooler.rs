//! Through PgBouncer in transaction mode, where each transaction may meet another session of the server: nothing may be
//! missing there, left behind there or grown stale there.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use common::{Fixture, after, create, items, patch, put, statement};
use outlast::database::{ApplyError, Database, LaneId};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::pooler::{Pooler, is_installed};
use outlast_testkit::postgres::url;

#[tokio::test(flavor = "multi_thread")]
async fn batches_reads_and_refusals_work_whichever_session_they_meet() {
    if !is_installed() {
        return;
    }
    let db = Fixture::new().await;
    let pooler = Pooler::start(&db.server);
    let through =
        || Postgres::from_url(&url(&pooler.authority(), &db.name), PostgresOptions::default()).unwrap();
    let clients = [through(), through(), through()];
    db.query(
        "CREATE TABLE t (id text PRIMARY KEY, n integer); CREATE TABLE sessions (pid integer, kept bigint); \
         CREATE TABLE documents (id text PRIMARY KEY, data jsonb)",
    );
    // Two at a time, so that both sessions of the pooler are used, and by both.
    tokio::join!(rounds(&db, &clients, 0), rounds(&db, &clients, 1));
    assert_eq!(db.query("SELECT count(*) FROM t"), "60");
    assert_eq!(db.query("SELECT count(DISTINCT pid) FROM sessions"), "2", "both sessions were used");
    assert_eq!(db.query("SELECT max(kept) FROM sessions"), "0", "nothing is left in a session");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE '%in transaction%'";
    assert_eq!(db.query(left), "0", "no transaction is left open");
}

async fn rounds(db: &Fixture, clients: &[Postgres], number: u16) {
    let lane = LaneId::new("pooled", number);
    let mut position = clients[0].take_over(&lane, None, "me").await.unwrap();
    for round in 0_u64..30 {
        // The table changes under sessions that have used it before.
        if number == 0 && round % 7 == 3 {
            let kind = if round % 2 == 0 { "bigint" } else { "integer" };
            db.query(&format!("ALTER TABLE t ADD COLUMN m{round} text, ALTER COLUMN n TYPE {kind}"));
        }
        let client = &clients[usize::try_from(round % 3).unwrap()];
        let id = format!("{number}-{round}");
        let good = || {
            vec![
                create("t", &id, "{}"),
                patch("t", &id, &format!("{{\"n\":{round}}}")),
                put("documents", &id, "{\"n\":1}"),
                statement(
                    "INSERT INTO sessions SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements)",
                    "{}",
                ),
            ]
        };
        let next = after(&position, 10);
        let bad = [good(), vec![patch("t", "nobody", "{}")]].concat();
        let refused = client.apply(&lane, &position, next, &items(&position, bad)).await;
        assert!(matches!(refused, Err(ApplyError::Rejected { index: 4, .. })), "{refused:?}");
        client.apply(&lane, &position, next, &items(&position, good())).await.unwrap();
        position.sequence.0 = next;
        let read = client.get(&common::collection("t"), &id.parse().unwrap()).await.unwrap().unwrap();
        assert!(read.as_str().contains(&format!("\"n\":{round}")), "{read:?}");
        client.probe().await.unwrap();
    }
}
