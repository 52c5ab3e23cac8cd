//! `GET /v1/queue/writes`: the server searches what waits, a bounded part of it for each answer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outlast::{Refusal, RefusalKind};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;
use serde_json::{Value, json};
use support::Server;
use support::stream::Stream;

fn put(collection: &str, id: u64) -> String {
    format!("{}\n", json!({ "op": "put", "collection": collection, "id": id.to_string(), "data": {} }))
}

async fn queue(server: &Server, lines: String, count: u64) {
    let mut stream = Stream::open(server.address, &[("prefer", "respond-async")], None).await;
    stream.head().await;
    let (mut reading, mut writing) = (stream.reading, stream.writing);
    let sending = tokio::spawn(async move {
        for piece in lines.as_bytes().chunks(50_000) {
            writing.send(std::str::from_utf8(piece).unwrap()).await.unwrap();
        }
        writing.end().await.unwrap();
        // Closing one half of the connection would end it.
        writing
    });
    for _ in 0..count {
        assert_eq!(reading.next().await.unwrap()["status"], "queued");
    }
    drop(sending.await.unwrap());
}

/// Pages until there is no next one: the ids on each.
async fn pages(server: &Server, filter: &str) -> Vec<Vec<String>> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/queue/writes?{filter}{after}")).await.json();
        let ids =
            page["writes"].as_array().unwrap().iter().map(|write| write["id"].as_str().unwrap().to_owned());
        pages.push(ids.collect());
        assert!(pages.len() < 1000, "pages have no end: {filter}");
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return pages,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_in_a_long_queue_looks_at_a_part_of_it_for_each_answer_and_finds_everything() {
    const COUNT: u64 = 25_000;
    let server = Server::start().await;
    server.outlast.pause(None).await.unwrap();
    let collection = |n: u64| if n.is_multiple_of(12_000) { "rare" } else { "usual" };
    let lines: String = (0..COUNT).map(|n| put(collection(n), n)).collect();
    queue(&server, lines, COUNT).await;
    let found = pages(&server, "collection=rare").await;
    assert_eq!(
        found.iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 1, 1],
        "10,000 entries are looked at for each"
    );
    assert_eq!(pages(&server, "collection=none").await.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 0]);
    // Each write once, whatever the page.
    let all = pages(&server, "limit=999").await;
    let ids: Vec<&String> = all.iter().flatten().collect();
    assert_eq!((ids.len() as u64, ids.iter().collect::<BTreeSet<_>>().len() as u64), (COUNT, COUNT));
    assert_eq!(pages(&server, &format!("write={}", ids[20_000])).await, [[ids[20_000].clone()]]);
    assert_eq!(pages(&server, "record=24999&op=put&status=pending&newer_than=1h").await.concat().len(), 1);
    assert_eq!(pages(&server, "older_than=1h").await.concat().len(), 0);
}

/// A write that was appended again stands at another place than its id says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_behind_writes_that_were_refused_and_came_again() {
    let server = Server::start_with(|config| {
        config.outlast.max_attempts = 1000;
        config.outlast.backoff = Duration::from_millis(20);
        config.outlast.backoff_max = Duration::from_millis(20);
    })
    .await;
    server.database.judge(|write| {
        let bad = write.records().any(|record| record.collection.as_str() == "bad");
        bad.then(|| (Refusal::new(RefusalKind::Constraint, "not yet"), true))
    });
    server.outlast.pause(None).await.unwrap();
    let lines: String = (0..5).map(|n| put("bad", n)).collect();
    queue(&server, lines, 5).await;
    server.outlast.resume(None).await.unwrap();
    let attempts = async || {
        let page: Value = server.get("/v1/queue/writes").await.json();
        page["writes"].as_array().unwrap().iter().map(|write| write["attempts"].as_u64().unwrap()).min()
    };
    outlast_testkit::found("each was tried twice", async || attempts().await.filter(|least| *least >= 2))
        .await;
    server.database.set(Temper::Away);
    eventually("the database is away", || !server.outlast.status().database.is_connected()).await;
    let ids: BTreeSet<String> = pages(&server, "limit=1").await.concat().into_iter().collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert_eq!(pages(&server, "limit=2&collection=bad").await.concat().len(), 5);
    let first = ids.into_iter().next().unwrap();
    assert_eq!(pages(&server, &format!("write={first}")).await.concat(), [first]);
    let parked = pages(&server, "status=parked").await.concat().len();
    let pending = pages(&server, "status=pending").await.concat().len();
    assert_eq!(parked + pending, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_wrong_says_what_would_be_right() {
    let server = Server::start().await;
    for (query, why) in [
        ("collection=a-b", "not a valid name"),
        ("write=7", "\"write\""),
        ("status=applied", "pending or parked"),
        ("op=upsert", "create, put, patch, delete, statement"),
        ("older_than=10", "for example 200ms"),
        ("newer_than=", "\"newer_than\""),
        ("state=parked", "use collection, record"),
        ("op=put&op=put", "more than once"),
    ] {
        let detail = server.get(&format!("/v1/queue/writes?{query}")).await.problem(400, "invalid-request");
        assert!(detail.contains(why), "{query}: {detail}");
    }
}
