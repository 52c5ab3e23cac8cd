//! `POST /v1/bulk`: lines in, results out, both at once and in order, whatever happens in the middle.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;
use serde_json::{Value, json};
use support::Server;
use support::stream::Stream;

fn put(id: &str, n: u64) -> String {
    format!("{}\n", json!({ "op": "put", "collection": "a", "id": id, "data": { "n": n } }))
}

/// Adds a token to a record's list.
fn note(id: &str, token: u64) -> String {
    let statement = "UPDATE a SET data = json_insert(data, '$.tokens[#]', :token) WHERE id = :id";
    let touches = json!([{ "collection": "a", "id": id }]);
    let parameters = json!({ "id": id, "token": token });
    let line =
        json!({ "op": "statement", "statement": statement, "parameters": parameters, "touches": touches });
    format!("{line}\n")
}

/// Line, status, and the name of the problem.
fn short(result: &Value) -> (u64, String, String) {
    let problem = result.pointer("/problem/type").and_then(Value::as_str).unwrap_or_default();
    let problem = problem.strip_prefix("/problems/").unwrap_or_default().to_owned();
    (result["line"].as_u64().unwrap(), result["status"].as_str().unwrap().to_owned(), problem)
}

async fn all(server: &Server, headers: &[(&str, &str)], lines: &str) -> Vec<Value> {
    let mut stream = Stream::open(server.address, headers, None).await;
    assert!(stream.head().await.starts_with("HTTP/1.1 200 "));
    stream.send(lines).await;
    stream.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_is_answered_while_the_body_goes_on() {
    let server = Server::start().await;
    let mut stream = Stream::open(server.address, &[("prefer", "wait=20")], None).await;
    // The head of the answer does not wait for the first line either.
    let head = stream.head().await.to_ascii_lowercase();
    assert!(head.contains("content-type: application/x-ndjson"), "{head}");
    assert!(head.contains("preference-applied: wait=20"), "{head}");
    for n in 1..=5 {
        stream.send(&put("1", n)).await;
        let result = stream.result().await;
        assert_eq!((&result["line"], &result["status"]), (&n.into(), &"applied".into()), "{result}");
        assert_eq!(result["durability"], "database");
        let receipt = server.get(&format!("/v1/writes/{}", result["id"].as_str().unwrap())).await.json();
        assert_eq!(receipt["status"], "applied");
        assert_eq!(server.get("/v1/records/a/1").await.json()["n"], n);
    }
    // Half a line is no line yet; the last one needs no end.
    let line = put("2", 2);
    let (first, rest) = line.trim_end().split_at(10);
    stream.send(first).await;
    stream.send(&format!("{rest}\n\n \r\n{}", put("3", 3).trim_end())).await;
    let results: Vec<_> = stream.end().await.iter().map(short).collect();
    let applied = |line| (line, "applied".to_owned(), String::new());
    assert_eq!(results, [applied(6), applied(9)], "blank lines are counted");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("outlast_bulk_lines_total{status=\"applied\"} 7\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_wrong_fails_alone() {
    let server = Server::start_with(|config| config.server.max_body_bytes = 2048).await;
    let long = format!(
        "{{\"op\":\"put\",\"collection\":\"a\",\"id\":\"l\",\"data\":{{\"x\":\"{}\"}}}}",
        "x".repeat(3000)
    );
    let create = r#"{"op":"create","collection":"a","id":"c","data":{"n":18446744073709551616}}"#;
    let lines = [
        (create, "applied", ""),
        ("{\"op\":", "invalid", "malformed-json"),
        ("[]", "invalid", "invalid-request"),
        ("\u{1}", "invalid", "malformed-json"),
        (create, "rejected", "record-exists"),
        (&long, "invalid", "too-large"),
        (r#"{"op":"put","colection":"a","id":"1","data":{}}"#, "invalid", "invalid-request"),
        (r#"{"op":"put","collection":"a","id":"1","data":{},"operations":[]}"#, "invalid", "invalid-request"),
        (
            r#"{"operations":[{"op":"delete","collection":"a","id":"1"}],"id":"1"}"#,
            "invalid",
            "invalid-request",
        ),
        ("{\"operations\":[]}", "invalid", "invalid-request"),
        (r#"{"op":"statement","statement":"DELETE FROM a"}"#, "invalid", "invalid-request"),
        (r#"{"op":"put","collection":"outlast_keys","id":"1","data":{}}"#, "invalid", "invalid-request"),
        (
            r#"{"op":"put","collection":"a","id":"1","data":{},"idempotency_key":"ä"}"#,
            "invalid",
            "invalid-request",
        ),
        (r#"{"op":"patch","collection":"a","id":"none","data":{}}"#, "rejected", "record-not-found"),
        (
            r#"{"operations":[{"op":"put","collection":"a","id":"1","data":{}},{"op":"put","collection":"a","id":"2","data":{}}]}"#,
            "applied",
            "",
        ),
    ];
    let text = lines.map(|(line, ..)| line).join("\n");
    let results = all(&server, &[], &text).await;
    assert_eq!(results.len(), lines.len(), "{results:?}");
    for ((index, (line, status, problem)), result) in lines.iter().enumerate().zip(&results) {
        let expected = (index as u64 + 1, (*status).to_owned(), (*problem).to_owned());
        assert_eq!(short(result), expected, "{line}: {result}");
        // A problem is a whole one: what a request of its own would be answered with.
        assert_eq!(result.get("problem").is_some(), !problem.is_empty());
        assert!(problem.is_empty() || !result["problem"]["detail"].as_str().unwrap().is_empty(), "{result}");
    }
    assert!(results[4]["id"].is_string(), "a write that was refused has an id: {}", results[4]);
    let exact = server.get("/v1/records/a/c").await.body;
    assert!(exact.contains("18446744073709551616"), "{exact}");
    for id in ["1", "2"] {
        assert_eq!(server.get(&format!("/v1/records/a/{id}")).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_stream_of_lines_is_refused_before_it_is_read() {
    let server = Server::start().await;
    let post = async |headers: &[(&str, &str)]| server.send("POST", "/v1/bulk", headers, &put("1", 1)).await;
    for wrong in ["application/json", "text/plain", "", "application/x-ndjsonx"] {
        post(&[("content-type", wrong)]).await.problem(415, "unsupported-media-type");
    }
    post(&[]).await.problem(415, "unsupported-media-type");
    let lines = ("content-type", "application/x-ndjson");
    let why = post(&[lines, ("idempotency-key", "k")]).await.problem(400, "invalid-request");
    assert!(why.contains("\"idempotency_key\""), "{why}");
    assert_eq!(server.outlast.status().accounting.accepted, 0);
    for known in [
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines; charset=utf-8",
        "Application/X-NDJSON",
    ] {
        assert_eq!(post(&[("content-type", known)]).await.status, 200, "{known}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_take_effect_in_the_order_of_their_lines_also_when_the_queue_is_full_on_the_way() {
    const COUNT: u64 = 3000;
    // Neighbours are of one record mostly.
    let record = |n: u64| n / 7 % 3;
    let server = Server::start_with(|config| {
        config.server.allow_statements = true;
        // Many come to a full queue and wait there.
        config.outlast.max_writes = 7;
        config.outlast.block_when_full = Duration::from_secs(30);
    })
    .await;
    for id in ["0", "1", "2"] {
        assert_eq!(server.json("PUT", &format!("/v1/records/a/{id}"), "{\"tokens\":[]}").await.status, 200);
    }
    let lines: String = (0..COUNT).map(|n| note(&record(n).to_string(), n)).collect();
    let mut stream = Stream::open(server.address, &[], None).await;
    stream.head().await;
    let (mut reading, mut writing) = (stream.reading, stream.writing);
    let sending = tokio::spawn(async move {
        for piece in lines.as_bytes().chunks(10_000) {
            writing.send(std::str::from_utf8(piece).unwrap()).await.unwrap();
        }
        writing.end().await.unwrap();
        // Closing one half of the connection would end it.
        writing
    });
    for line in 1..=COUNT {
        let result = reading.next().await.unwrap();
        assert_eq!(short(&result), (line, "applied".to_owned(), String::new()), "{result}");
    }
    assert_eq!(reading.next().await, None);
    drop(sending.await.unwrap());
    for number in 0..3 {
        let tokens = server.get(&format!("/v1/records/a/{number}")).await.json()["tokens"].clone();
        let expected: Vec<u64> = (0..COUNT).filter(|n| record(*n) == number).collect();
        assert_eq!(tokens, json!(expected), "record {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_database_goes_in_the_middle_lines_are_queued_and_when_the_queue_is_full_they_say_so() {
    let server = Server::start_with(|config| config.outlast.max_writes = 5).await;
    let mut stream = Stream::open(server.address, &[], None).await;
    stream.head().await;
    stream.send(&put("before", 1)).await;
    assert_eq!(stream.result().await["status"], "applied");
    server.database.set(Temper::Away);
    for n in 0..5 {
        stream.send(&put(&format!("during-{n}"), n)).await;
        let result = stream.result().await;
        assert_eq!(result["status"], "queued", "{result}");
        assert!(result["durability"] == "log" && result["position"] == n, "{result}");
    }
    stream.send(&put("over", 1)).await;
    let result = stream.result().await;
    assert_eq!(short(&result), (7, "unavailable".to_owned(), "queue-full".to_owned()));
    let seconds = result["problem"]["retry_after_seconds"].as_u64().unwrap();
    assert!((1..=60).contains(&seconds), "{result}");
    server.database.set(Temper::Calm);
    eventually("the backlog drains", || server.outlast.status().accounting.pending == 0).await;
    eventually("writes are applied at once", || server.outlast.status().database.is_connected()).await;
    stream.send(&put("over", 2)).await;
    assert_eq!(short(&stream.result().await).1, "applied");
    assert!(stream.end().await.is_empty());
    for n in 0..5 {
        assert_eq!(server.get(&format!("/v1/records/a/during-{n}")).await.json()["n"], n);
    }
    assert_eq!(server.get("/v1/records/a/over").await.json()["n"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_stream_ends_at_the_line_that_is_not_accepted_so_that_none_overtakes_it() {
    let server = Server::start_with(|config| config.outlast.max_writes = 2).await;
    server.database.set(Temper::Away);
    let lines: String = (1..=20).map(|n| put("1", n)).collect();
    let strict = [("prefer", "handling=strict, respond-async")];
    let results: Vec<_> = all(&server, &strict, &lines).await.iter().map(short).collect();
    let expected = [
        (1, "queued", ""),
        (2, "queued", ""),
        (3, "unavailable", "queue-full"),
        (4, "ended", "line-not-accepted"),
    ];
    assert_eq!(
        results,
        expected.map(|(line, status, problem)| (line, status.to_owned(), problem.to_owned()))
    );
    assert_eq!(server.outlast.status().accounting.accepted, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_on_a_line_makes_it_take_effect_once() {
    let server = Server::start().await;
    let line = |key: &str, n: u64| {
        let data = json!({ "n": n });
        format!(
            "{}\n",
            json!({ "idempotency_key": key, "op": "put", "collection": "a", "id": "1", "data": data })
        )
    };
    let first = all(&server, &[], &line("one", 1)).await;
    let other = all(&server, &[], &line("two", 2)).await;
    assert_eq!(other[0]["status"], "applied");
    let again = all(&server, &[], &format!("{}{}", line("one", 1), line("one", 3))).await;
    assert_eq!((&again[0]["status"], &again[0]["replayed"]), (&"applied".into(), &true.into()), "{again:?}");
    assert_eq!(again[0]["id"], first[0]["id"]);
    assert_eq!(short(&again[1]), (2, "rejected".to_owned(), "idempotency-key-reused".to_owned()));
    assert_eq!(server.get("/v1/records/a/1").await.json()["n"], 2);
    // While it waits, its name is known as well.
    server.database.set(Temper::Away);
    let queued = all(&server, &[], &line("three", 3)).await;
    let again = all(&server, &[], &line("three", 3)).await;
    assert_eq!((&again[0]["status"], &again[0]["replayed"]), (&"queued".into(), &true.into()), "{again:?}");
    assert_eq!(again[0]["id"], queued[0]["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_trickles_ends_the_stream_and_keeps_what_was_accepted() {
    let server = Server::start_with(|config| config.server.body_timeout = Duration::from_millis(300)).await;
    let mut stream = Stream::open(server.address, &[], None).await;
    stream.head().await;
    stream.send(&put("1", 1)).await;
    assert_eq!(stream.result().await["status"], "applied");
    // Between lines there is more time, as long as the connection may be idle: the pause is the point.
    tokio::time::sleep(Duration::from_millis(600)).await;
    stream.send(&put("2", 2)).await;
    assert_eq!(stream.result().await["status"], "applied");
    let (mut reading, mut writing) = (stream.reading, stream.writing);
    let trickle = tokio::spawn(async move {
        while writing.send("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let ended = reading.next().await.unwrap();
    assert_eq!(short(&ended), (3, "ended".to_owned(), "request-timeout".to_owned()), "{ended}");
    assert!(ended["problem"]["detail"].as_str().unwrap().contains("server.body_timeout"), "{ended}");
    assert_eq!(reading.next().await, None);
    trickle.await.unwrap();
    assert_eq!(server.outlast.status().accounting.applied, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_ends() {
    let server = Server::start_with(|config| config.server.idle_timeout = Duration::from_millis(300)).await;
    let mut stream = Stream::open(server.address, &[], None).await;
    stream.head().await;
    let ended = stream.result().await;
    assert_eq!(short(&ended), (1, "ended".to_owned(), "request-timeout".to_owned()), "{ended}");
    assert!(ended["problem"]["detail"].as_str().unwrap().contains("server.idle_timeout"), "{ended}");
}

/// Such a client and the server would wait for each other for ever: the server does not take more while its results are
/// not read, and the client does not read before it has sent everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_only_when_it_has_sent_everything_is_told_how_far_it_came() {
    const LINES: u64 = 40_000;
    let server = Server::start_with(|config| config.server.body_timeout = Duration::from_secs(1)).await;
    let mut stream = Stream::open(server.address, &[("prefer", "respond-async")], Some(4096)).await;
    // Most are no writes: they cost nothing, their results are long, and so are they.
    let none = format!("{{\"op\":\"{}\"}}\n", "x".repeat(1000));
    for line in 1..=LINES {
        let text = if line % 100 == 0 { put(&line.to_string(), line) } else { none.clone() };
        stream.writing.send(&text).await.expect("the rest of the body is taken, and thrown away");
    }
    stream.writing.end().await.unwrap();
    stream.head().await;
    let mut results = stream.reading.rest().await;
    let ended = results.pop().unwrap();
    let (first, status, problem) = short(&ended);
    assert_eq!((status.as_str(), problem.as_str()), ("ended", "results-not-read"), "{ended}");
    assert!(first < LINES, "nothing was in the way: {ended}");
    assert_eq!(results.len() as u64, first - 1, "every line before has its result");
    let mut accepted = 0;
    for (result, line) in results.iter().zip(1..) {
        assert_eq!(result["line"], line);
        accepted += u64::from(result["status"] == "queued");
        assert_eq!(result["status"], if line % 100 == 0 { "queued" } else { "invalid" }, "{result}");
    }
    eventually("they are applied", || server.outlast.status().accounting.applied == accepted).await;
    assert_eq!(server.outlast.status().accounting.accepted, accepted, "and no other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut_and_nobody_else_notices() {
    let server = Server::start_with(|config| {
        config.server.body_timeout = Duration::from_secs(1);
        config.server.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let mut stream = Stream::open(server.address, &[("prefer", "respond-async")], Some(4096)).await;
    let sending = tokio::spawn(async move {
        let mut sent = 0_u64;
        while stream.writing.send("{\"op\":\"none\"}\n").await.is_ok() {
            sent += 1;
        }
        // The connection is held open to the end.
        drop(stream.reading);
        sent
    });
    let mut written = 0;
    while !sending.is_finished() {
        written += 1;
        let reply = server.json("PUT", "/v1/records/a/1", &json!({ "n": written }).to_string()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    println!(
        "{} lines were sent before it was cut, {written} writes of others were applied",
        sending.await.unwrap()
    );
    assert!(written > 10, "{written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_from_which_line_on_nothing_was_taken() {
    let mut server = Server::start().await;
    let mut stream = Stream::open(server.address, &[], None).await;
    stream.head().await;
    for n in 1..=3 {
        stream.send(&put("1", n)).await;
        assert_eq!(stream.result().await["status"], "applied");
    }
    server.ask_to_stop();
    let ended = stream.result().await;
    assert_eq!(short(&ended), (4, "ended".to_owned(), "shutting-down".to_owned()), "{ended}");
    assert!(ended["problem"]["retry_after_seconds"].is_u64());
    assert!(stream.end().await.is_empty());
    assert_eq!(server.stopped().await, 0, "no connection had to be cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let server = Server::start().await;
    let mut stream = Stream::open(server.address, &[("expect", "100-continue")], None).await;
    assert_eq!(stream.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.send(&put("1", 1)).await;
    assert!(stream.head().await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(stream.result().await["status"], "applied");
    assert!(stream.end().await.is_empty());
}
