//! The status table of the design (section 9), case by case, against a server over SQLite with a temper.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use outlast::{Operation, Refusal, RefusalKind};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;
use support::{JSON, Server};

/// Away, and known to be away.
async fn outage(server: &Server) {
    server.database.set(Temper::Away);
    let outlast = server.outlast.clone();
    eventually("the outage is noticed", || !outlast.is_healthy()).await;
}

async fn drained(server: &Server) {
    let outlast = server.outlast.clone();
    eventually("nothing waits", || outlast.status().queue.writes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_writes_answer_201_200_and_204() {
    let server = Server::start().await;
    let created =
        server.json("POST", "/v1/records/users/4%2F2", r#"{"name":"Zoë","n":18446744073709551615}"#).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("location"), "/v1/records/users/4%2F2");
    assert_eq!(created.header("write-status"), "applied");
    assert!(created.header("write-id").contains('-'));
    assert_eq!(created.body, r#"{"id":"4/2","n":18446744073709551615,"name":"Zoë"}"#);

    let put = server.json("PUT", "/v1/records/users/4%2F2", r#"{"id":"4/2","x":1.0}"#).await;
    assert_eq!((put.status, put.body.as_str()), (200, r#"{"id":"4/2","x":1.0}"#));
    let patched = server.json("PATCH", "/v1/records/users/4%2F2", r#"{"x":null,"y":{"z":[]}}"#).await;
    assert_eq!((patched.status, patched.body.as_str()), (200, r#"{"id":"4/2","y":{"z":[]}}"#));
    let read = server.get("/v1/records/users/4%2F2").await;
    assert_eq!((read.status, &read.body), (200, &patched.body));

    for _ in 0..2 {
        let deleted = server.send("DELETE", "/v1/records/users/4%2F2", &[], "").await;
        assert_eq!((deleted.status, deleted.body.as_str()), (204, ""), "absent is fine");
    }
    server.get("/v1/records/users/4%2F2").await.problem(404, "not-found");

    let anywhere = server.json("POST", "/v1/records/users", "{}").await;
    assert_eq!(anywhere.status, 201);
    assert_eq!(server.get(anywhere.header("location")).await.body, anywhere.body);
    let id = anywhere.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(&id[14..15], "7", "UUID version 7: {id}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preferences_are_followed_and_told() {
    let server = Server::start().await;
    let send = async |method: &str, prefer: &str, body: &str| {
        server.send(method, "/v1/records/users/1", &[JSON, ("prefer", prefer)], body).await
    };
    let minimal = send("PUT", "return=minimal", "{}").await;
    assert_eq!((minimal.status, minimal.body.as_str()), (204, ""));
    assert_eq!(minimal.header("preference-applied"), "return=minimal");
    assert_eq!(send("PATCH", "return=minimal", "{}").await.status, 204);
    assert_eq!(send("PUT", "return=representation", "{}").await.status, 200);

    let queued = send("PUT", "respond-async", r#"{"a":1}"#).await;
    assert_eq!(queued.status, 202);
    assert_eq!(queued.header("preference-applied"), "respond-async");
    assert_eq!(queued.header("write-status"), "queued");
    let receipt = queued.json();
    assert_eq!(queued.header("location"), format!("/v1/writes/{}", receipt["id"].as_str().unwrap()));
    assert_eq!(queued.header("write-id"), receipt["id"].as_str().unwrap());
    assert!(["log", "database"].contains(&receipt["durability"].as_str().unwrap()), "{receipt}");
    let decided = server.get(&format!("{}?wait=10s", queued.header("location"))).await.json();
    assert_eq!(decided["status"], "applied");
    assert_eq!(decided["durability"], "database");
    assert_eq!(receipt.get("record"), None, "whoever chose the id knows it");

    let headers = [JSON, ("prefer", "respond-async")];
    let created = server.send("POST", "/v1/records/users", &headers, r#"{"a":2}"#).await;
    assert_eq!(created.status, 202);
    assert_eq!(created.header("location"), format!("/v1/writes/{}", created.header("write-id")));
    let record = &created.json()["record"];
    assert_eq!(record["collection"], "users");
    server.get(&format!("{}?wait=10s", created.header("location"))).await;
    let made = server.get(&format!("/v1/records/users/{}", record["id"].as_str().unwrap())).await;
    assert_eq!((made.status, &made.json()["a"]), (200, &2.into()), "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_queues_writes_and_turns_reads_away_with_an_estimate() {
    let server = Server::start().await;
    assert_eq!(server.json("PUT", "/v1/records/users/1", r#"{"v":0}"#).await.status, 200);
    outage(&server).await;
    let queued = server.json("PUT", "/v1/records/users/1", r#"{"v":1}"#).await;
    assert_eq!(queued.status, 202, "{queued:?}");
    assert_eq!(queued.json()["status"], "pending");
    assert!(queued.json()["position"].is_u64());
    server.get("/v1/records/users/1").await.problem(503, "database-unavailable");
    server.get("/v1/records/users").await.problem(503, "database-unavailable");

    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200, "writes are durably accepted");
    let health = server.get("/health").await.json();
    assert_ne!(health["status"], "pass");
    assert!(!health["checks"]["database"][0]["output"].as_str().unwrap().is_empty());
    let waiting = server.get("/v1/queue/writes").await.json();
    assert_eq!(waiting["writes"][0]["operations"][0]["op"], "put");
    let one = server.get(&format!("/v1/queue/writes/{}", queued.header("write-id"))).await.json();
    assert_eq!(one["operations"][0]["data"]["v"], 1);
    assert_eq!(server.get("/v1/outages").await.json()["outages"][0]["id"], 1);
    assert_eq!(server.get("/v1/outages/1").await.json()["writes_queued"], 1);
    server.get("/v1/outages/7").await.problem(404, "not-found");

    server.database.set(Temper::Calm);
    drained(&server).await;
    assert_eq!(server.get("/v1/records/users/1").await.json()["v"], 1);
    assert_eq!(server.get(queued.header("location")).await.json()["status"], "applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_may_demand_the_database() {
    let server = Server::start_with(|config| {
        config.server.readiness = outlast_server::config::Readiness::Database;
    })
    .await;
    assert_eq!(server.get("/readyz").await.status, 200);
    outage(&server).await;
    let reply = server.get("/readyz").await;
    assert_eq!(reply.status, 503);
    assert!((1..=60).contains(&reply.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_fails_health_and_may_reject_writes() {
    let server = Server::start_with(|config| {
        config.outlast.unavailable_timeout = Duration::from_millis(50);
        config.outlast.after_timeout = outlast::AfterTimeout::Reject;
    })
    .await;
    outage(&server).await;
    let outlast = server.outlast.clone();
    eventually("the outage is critical", || outlast.health().level() == outlast::health::Level::Critical)
        .await;
    let health = server.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["status"], "fail");
    assert!((1..=60).contains(&health.header("retry-after").parse::<u64>().unwrap()));
    server.json("PUT", "/v1/records/users/1", "{}").await.problem(503, "database-unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_caller_is_told_each_kind_of_refusal_with_its_status() {
    let server = Server::start().await;
    server.json("PUT", "/v1/records/users/1", "{}").await;
    server.json("POST", "/v1/records/users/1", "{}").await.problem(409, "record-exists");
    server.json("PATCH", "/v1/records/users/none", "{}").await.problem(404, "record-not-found");
    for (kind, status, name) in [
        (RefusalKind::Constraint, 422, "refused-constraint"),
        (RefusalKind::Schema, 422, "refused-schema"),
        (RefusalKind::Permission, 422, "refused-permission"),
        (RefusalKind::Statement, 422, "refused-statement"),
        (RefusalKind::Other, 422, "refused"),
        (RefusalKind::TooLarge, 413, "refused-too-large"),
    ] {
        server.database.judge(move |_| Some((Refusal::new(kind, "the database's own words"), false)));
        let reply = server.json("PUT", "/v1/records/users/2", "{}").await;
        assert!(reply.problem(status, name).contains("the database's own words"));
        assert_eq!(reply.json()["reason"], kind.as_str());
        let id = reply.json()["write"].as_str().unwrap().to_owned();
        assert_eq!(server.get(&format!("/v1/writes/{id}")).await.json()["status"], "rejected");
    }
    server.database.acquit();
    assert_eq!(server.get("/v1/dead-letters").await.json()["total"], 0, "their callers know");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_by_reason_and_can_be_retried_or_discarded() {
    let server = Server::start_with(|config| {
        config.outlast.max_attempts = 1;
        config.outlast.storm_threshold = 1000;
    })
    .await;
    server.database.judge(|write| {
        let bad = |operation: &Operation| {
            operation.records().iter().any(|record| record.collection.as_str() == "bad")
        };
        write
            .operations()
            .iter()
            .any(bad)
            .then(|| (Refusal::new(RefusalKind::Constraint, "no such thing"), false))
    });
    let mut ids = Vec::new();
    for id in 0..3 {
        let path = format!("/v1/records/bad/{id}");
        let reply = server.send("PUT", &path, &[JSON, ("prefer", "respond-async")], r#"{"v":1}"#).await;
        ids.push(reply.header("write-id").to_owned());
    }
    for id in &ids {
        let receipt = server.get(&format!("/v1/writes/{id}?wait=30s")).await.json();
        assert_eq!(receipt["status"], "dead", "{receipt}");
        assert_eq!(receipt["reason"]["kind"], "constraint");
    }
    let list = server.get("/v1/dead-letters?kind=constraint&collection=bad&limit=2").await.json();
    assert_eq!(list["total"], 3);
    assert_eq!(list["groups"][0]["count"], 3);
    assert_eq!(list["letters"].as_array().unwrap().len(), 2);
    let next = list["next"].as_str().unwrap();
    let rest = server.get(&format!("/v1/dead-letters?limit=2&after={next}")).await.json();
    assert_eq!(rest["letters"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v1/dead-letters?kind=schema").await.json()["total"], 0);
    server.get("/v1/dead-letters?kind=odd").await.problem(400, "invalid-request");
    let letter = server.get(&format!("/v1/dead-letters/{}", ids[0])).await.json();
    assert_eq!(letter["history"][0]["reason"]["message"], "no such thing");

    server.database.acquit();
    assert_eq!(server.send("POST", &format!("/v1/dead-letters/{}/retry", ids[0]), &[], "").await.status, 200);
    let receipt = server.get(&format!("/v1/writes/{}?wait=30s", ids[0])).await.json();
    assert_eq!(receipt["status"], "applied", "{receipt}");
    let discarded = server.send("POST", &format!("/v1/dead-letters/{}/discard", ids[1]), &[], "").await;
    assert_eq!((discarded.status, &discarded.json()["status"]), (200, &"discarded".into()));
    server.get(&format!("/v1/dead-letters/{}", ids[1])).await.problem(404, "not-found");
    assert_eq!(server.get("/v1/dead-letters").await.json()["total"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_sent_again_under_its_key_takes_effect_once() {
    let server = Server::start().await;
    let send = async |method: &str, path: &str, key: &str, body: &str| {
        server.send(method, path, &[JSON, ("idempotency-key", key)], body).await
    };
    let first = send("POST", "/v1/records/orders", "\"k-1\"", r#"{"n":1}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, ""));
    let again = send("POST", "/v1/records/orders", "k-1", r#"{"n":1}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"));
    assert_eq!(
        (again.header("location"), again.body.as_str()),
        (first.header("location"), first.body.as_str())
    );
    assert_eq!(again.header("write-id"), first.header("write-id"));
    assert_eq!(server.get("/v1/records/orders").await.json()["records"].as_array().unwrap().len(), 1);
    send("POST", "/v1/records/orders", "k-1", r#"{"n":2}"#).await.problem(422, "idempotency-key-reused");
    send("PUT", "/v1/records/orders/1", "k-1", "{}").await.problem(422, "idempotency-key-reused");
    send("PUT", "/v1/records/orders/1", "", "{}").await.problem(400, "invalid-request");
    send("PUT", "/v1/records/orders/1", &"k".repeat(256), "{}").await.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_takes_effect_completely_or_not_at_all() {
    let server = Server::start().await;
    let both = r#"{"operations":[
        {"op":"create","collection":"a","id":"1","data":{"n":9007199254740993}},
        {"op":"put","collection":"b","id":"1","data":{}}]}"#;
    let applied = server.json("POST", "/v1/transactions", both).await;
    assert_eq!((applied.status, &applied.json()["status"]), (200, &"applied".into()));
    assert!(server.get("/v1/records/a/1").await.body.contains("9007199254740993"));
    let half = both.replace("\"b\",\"id\":\"1\"", "\"b\",\"id\":\"2\"");
    server.json("POST", "/v1/transactions", &half).await.problem(409, "record-exists");
    server.get("/v1/records/b/2").await.problem(404, "not-found");

    for bad in [
        r#"{"operations":[]}"#,
        r#"{"operations":[{"op":"put","collection":"a","id":"1"}]}"#,
        r#"{"operations":[{"op":"put","collection":"outlast_keys","id":"1","data":{}}]}"#,
        r#"{"operations":[{"op":"statement","statement":"DELETE FROM a"}]}"#,
        r#"{"operations":[],"more":1}"#,
        r"[]",
    ] {
        server.json("POST", "/v1/transactions", bad).await.problem(400, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_taken_only_where_the_configuration_says_so() {
    let server = Server::start_with(|config| config.server.allow_statements = true).await;
    server.json("PUT", "/v1/records/a/1", r#"{"n":1}"#).await;
    let body = r#"{"operations":[{"op":"statement","statement":"UPDATE a SET data = json_set(data, '$.n', :n) WHERE id = :id",
        "parameters":{"n":5,"id":"1"},"touches":[{"collection":"a","id":"1"}]}]}"#;
    assert_eq!(server.json("POST", "/v1/transactions", body).await.status, 200);
    assert_eq!(server.get("/v1/records/a/1").await.json()["n"], 5);
    let wrong = r#"{"operations":[{"op":"statement","statement":"UPDTE a"}]}"#;
    server.json("POST", "/v1/transactions", wrong).await.problem(422, "refused-statement");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_filter_by_equality_and_come_in_pages() {
    let server = Server::start().await;
    for (id, body) in [
        ("1", r#"{"age":3,"name":"Ann"}"#),
        ("2", r#"{"age":"3","name":"Ann"}"#),
        ("3", r#"{"age":3,"name":"Bob","ok":true}"#),
        ("4", r#"{"age":null,"name":"Ann Lee"}"#),
    ] {
        assert_eq!(server.json("PUT", &format!("/v1/records/p/{id}"), body).await.status, 200);
    }
    let ids = async |query: &str| -> Vec<String> {
        let reply = server.get(&format!("/v1/records/p?{query}")).await.json();
        reply["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| record["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("").await, ["1", "2", "3", "4"]);
    assert_eq!(ids("age=3").await, ["1", "3"]);
    assert_eq!(ids("age=%223%22").await, ["2"]);
    assert_eq!(ids("name=Ann&age=3").await, ["1"]);
    assert_eq!(ids("name=Ann+Lee").await, ["4"]);
    assert_eq!(ids("ok=true").await, ["3"]);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/v1/records/p?limit=3{cursor}")).await.json();
        seen.extend(page["records"].as_array().unwrap().iter().map(|record| record["id"].clone()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["1", "2", "3", "4"]);
    assert_eq!(server.get("/v1/records/nothing").await.json()["records"], serde_json::json!([]));
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=zz", "age=[1]", "a-b=1", "id=1"] {
        server.get(&format!("/v1/records/p?{bad}")).await.problem(400, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_records_ends_at_its_limit_or_at_8_mib() {
    let server = Server::start().await;
    let page = async |query: &str| {
        let page = server.get(&format!("/v1/records/{query}")).await;
        assert!(page.body.len() <= 8 << 20, "{query}: {}", page.body.len());
        let page = page.json();
        (page["records"].as_array().unwrap().len(), page["next"].as_str().map(str::to_owned))
    };
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(1_000_000));
    for id in 0..10 {
        assert_eq!(server.json("PUT", &format!("/v1/records/large/{id}"), &large).await.status, 200);
    }
    let (records, next) = page("large").await;
    assert_eq!(records, 8);
    assert_eq!(page(&format!("large?cursor={}", next.unwrap())).await, (2, None));

    // More than the database is asked for at once.
    let operations: Vec<_> = (0..250)
        .map(|id| serde_json::json!({ "op": "put", "collection": "small", "id": format!("{id:03}"), "data": {} }))
        .collect();
    for operations in operations.chunks(50) {
        let body = serde_json::json!({ "operations": operations }).to_string();
        assert_eq!(server.json("POST", "/v1/transactions", &body).await.status, 200);
    }
    assert_eq!(page("small?limit=1000").await, (250, None));
    assert_eq!(page("small?limit=250").await, (250, None));
    let (records, next) = page("small?limit=202").await;
    assert_eq!(records, 202);
    assert_eq!(page(&format!("small?limit=48&cursor={}", next.unwrap())).await, (48, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_pauses_resumes_throttles_and_drains() {
    let server = Server::start().await;
    let paused = server.json("POST", "/v1/queue/pause", r#"{"for":"10m"}"#).await;
    assert_eq!((paused.status, &paused.json()["lane"]["state"]), (200, &"paused".into()));
    assert!(paused.json()["lane"]["until"].is_string());
    assert_eq!(server.json("PUT", "/v1/records/a/1", "{}").await.status, 202);
    let cancelled = server.json("PUT", "/v1/records/a/2", "{}").await;
    let receipt = server.send("DELETE", cancelled.header("location"), &[], "").await;
    assert_eq!((receipt.status, &receipt.json()["status"]), (200, &"discarded".into()), "{receipt:?}");
    server.json("POST", "/v1/queue/drain", "{}").await.problem(409, "conflict");
    for _ in 0..2 {
        let resumed = server.send("POST", "/v1/queue/resume", &[], "").await;
        assert_eq!((resumed.status, &resumed.json()["lane"]["state"]), (200, &"running".into()));
    }
    let drained = server.json("POST", "/v1/queue/drain", r#"{"for":"30s"}"#).await.json();
    assert_eq!(drained, serde_json::json!({ "drained": true, "writes": 0 }));
    assert_eq!(server.get("/v1/records/a/1").await.status, 200);
    server.get("/v1/records/a/2").await.problem(404, "not-found");
    let applied = server.json("PUT", "/v1/records/a/3", "{}").await;
    let path = format!("/v1/writes/{}", applied.header("write-id"));
    server.send("DELETE", &path, &[], "").await.problem(409, "conflict");

    server.json("POST", "/v1/queue/throttle", r#"{"writes_per_second":1000}"#).await;
    assert_eq!(server.get("/v1/queue").await.json()["queue"]["throttle"], 1000);
    server.json("POST", "/v1/queue/throttle", r#"{"writes_per_second":null}"#).await;
    assert!(server.get("/v1/queue").await.json()["queue"]["throttle"].is_null());
    for (path, bad) in [
        ("throttle", r#"{"writes_per_second":0}"#),
        ("throttle", "{}"),
        ("pause", r#"{"for":"10"}"#),
        ("pause", r#"{"fro":"10m"}"#),
        ("resume", r#"{"decision":"maybe"}"#),
    ] {
        server.json("POST", &format!("/v1/queue/{path}"), bad).await.problem(400, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_said_with_its_numbers_and_harms_nothing_accepted() {
    let server = Server::start_with(|config| config.outlast.max_writes = 2).await;
    outage(&server).await;
    for id in 0..2 {
        assert_eq!(server.json("PUT", &format!("/v1/records/a/{id}"), "{}").await.status, 202);
    }
    let full = server.json("PUT", "/v1/records/a/9", "{}").await;
    assert!(full.problem(503, "queue-full").contains("queue.max_writes"));
    assert_eq!((&full.json()["writes"], &full.json()["writes_max"]), (&2.into(), &2.into()));
    server.database.set(Temper::Calm);
    drained(&server).await;
    assert_eq!(server.get("/v1/records/a").await.json()["records"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_is_refused_with_what_would_be_right() {
    let server = Server::start().await;
    let malformed = server.json("PUT", "/v1/records/a/1", "{\"a\":1,\n  oops}").await;
    malformed.problem(400, "malformed-json");
    assert_eq!((&malformed.json()["line"], &malformed.json()["column"]), (&2.into(), &3.into()));
    server.json("PUT", "/v1/records/a/1", "").await.problem(400, "malformed-json");
    server.json("PUT", "/v1/records/a/1", "[1]").await.problem(400, "invalid-request");
    server.json("PUT", "/v1/records/a/1", r#"{"id":"2"}"#).await.problem(400, "invalid-request");
    server.json("PUT", "/v1/records/a/1?x=1", "{}").await.problem(400, "invalid-request");
    for name in ["a-b", "1a", "outlast_keys", "OUTLAST_position", "a%3BDROP%20TABLE%20a", &"a".repeat(64)] {
        let reply = server.json("PUT", &format!("/v1/records/{name}/1"), "{}").await;
        assert!(!reply.problem(400, "invalid-request").is_empty());
    }
    server
        .json("PUT", &format!("/v1/records/a/{}", "x".repeat(257)), "{}")
        .await
        .problem(400, "invalid-request");
    server.json("PUT", "/v1/records/a/%00", "{}").await.problem(400, "invalid-request");
    server.json("PUT", "/v1/records/a/%ff", "{}").await.problem(400, "invalid-request");
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data"]
    {
        let reply = server.send("PUT", "/v1/records/a/1", &[("content-type", content_type)], "{}").await;
        reply.problem(415, "unsupported-media-type");
    }
    server.send("PUT", "/v1/records/a/1", &[], "{}").await.problem(415, "unsupported-media-type");
    for content_type in
        ["application/json; charset=utf-8", "application/merge-patch+json", "Application/JSON"]
    {
        let reply = server.send("PUT", "/v1/records/a/1", &[("content-type", content_type)], "{}").await;
        assert_eq!(reply.status, 200, "{content_type}");
    }
    server.get("/v1/writes/x").await.problem(400, "invalid-request");
    server.get("/v1/writes/9-9").await.problem(404, "not-found");
    server.get("/v1/writes/9-9?wait=soon").await.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_listens_is_told_of_an_outage_as_it_happens() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let mut read_until = async |what: &str| {
        while !text.contains(what) {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer);
            let count =
                tokio::time::timeout(Duration::from_secs(30), read).await.expect("an event in time").unwrap();
            assert!(count > 0, "the stream ended before {what}: {text}");
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    };
    read_until(": listening").await;
    outage(&server).await;
    read_until("event: outage_started").await;
    server.database.set(Temper::Calm);
    read_until("event: outage_ended").await;
    // A stream must not hold up the end.
    assert_eq!(server.stopped().await, 0);
}
