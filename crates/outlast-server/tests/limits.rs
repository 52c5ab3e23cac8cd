//! Limits of size, time and number: each is explicit, and nothing beyond it is accepted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::{Duration, Instant};

use support::{JSON, Server, parse, raw, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A body of exactly so many bytes.
fn body(bytes: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8))
}

fn put(length: &str, body: &str) -> String {
    format!(
        "PUT /v1/records/a/1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{length}\r\n{body}"
    )
}

fn chunked(body: &str, size: usize) -> String {
    let chunks = body
        .as_bytes()
        .chunks(size)
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()));
    put("transfer-encoding: chunked\r\n", &chunks.chain(["0\r\n\r\n".to_owned()]).collect::<String>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let max = 4096;
    let server = Server::start_with(|config| config.server.max_body_bytes = max as u64).await;
    for (size, status) in [(max - 1, 200), (max, 200), (max + 1, 413), (max * 7, 413), (max * 40, 413)] {
        let body = body(size);
        assert_eq!(body.len(), size);
        let announced =
            raw(server.address, put(&format!("content-length: {size}\r\n"), &body).as_bytes()).await;
        let in_pieces = raw(server.address, chunked(&body, 1000).as_bytes()).await;
        for reply in [announced, in_pieces] {
            let reply = reply.unwrap_or_else(|| panic!("no answer to {size} bytes"));
            assert_eq!(reply.status, status, "{size} bytes: {reply:?}");
            if status == 413 {
                assert!(reply.problem(413, "too-large").contains("server.max_body_bytes"));
            }
        }
    }
    // Not even the beginning of it is waited for.
    let head = put("content-length: 99999999\r\nexpect: 100-continue\r\n", "");
    raw(server.address, head.as_bytes()).await.unwrap().problem(413, "too-large");
    assert_eq!(server.outlast.status().accounting.accepted, 4, "only what was answered with 200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_larger_than_the_log_takes_is_refused_before_it_is_accepted() {
    let server = Server::start_with(|config| config.outlast.write_bytes_max = 1024).await;
    let reply = server.json("PUT", "/v1/records/a/1", &body(2048)).await;
    assert!(reply.problem(413, "too-large").contains("queue.write_bytes_max"));
    assert_eq!(server.outlast.status().accounting.accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_trickles_in_is_cut_off() {
    let server = Server::start_with(|config| config.server.header_timeout = Duration::from_millis(300)).await;
    for beginning in ["", "G", "GET /livez HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let trickle = tokio::spawn(async move {
            while !beginning.is_empty() && writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_mins(1)).await;
        });
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), reading.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{beginning:?} was never cut");
        trickle.abort();
    }
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_in_gets_408_and_nothing_is_accepted() {
    let server = Server::start_with(|config| {
        config.server.body_timeout = Duration::from_millis(200);
        config.server.header_timeout = Duration::from_millis(50);
    })
    .await;
    let text = put("content-length: 100\r\n", "{\"a\":");
    raw(server.address, text.as_bytes()).await.unwrap().problem(408, "request-timeout");
    assert_eq!(server.outlast.status().accounting.accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_cut_short_is_not_accepted() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(put("content-length: 10\r\n", "{}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(parse(&answer).is_none_or(|reply| reply.status == 400), "{answer}");
    assert_eq!(server.outlast.status().accounting.accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_after_its_time_and_not_within_a_request() {
    let server = Server::start_with(|config| {
        config.server.idle_timeout = Duration::from_millis(400);
        config.server.header_timeout = Duration::from_millis(100);
    })
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // A request that takes longer than every limit of the connection: a receipt that is waited for.
    server.json("POST", "/v1/queue/pause", "{}").await;
    let queued = server.json("PUT", "/v1/records/a/1", "{}").await;
    let request = format!("GET {}?wait=1s HTTP/1.1\r\nhost: localhost\r\n\r\n", queued.header("location"));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    let reply = parse(std::str::from_utf8(&answer[..count]).unwrap()).unwrap();
    assert_eq!((reply.status, &reply.json()["status"]), (200, &"pending".into()));
    let since = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "closed");
    assert!(since.elapsed() >= Duration::from_millis(300), "the idle time, not the time for a head");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_told_so_and_room_is_made_again() {
    let server = Server::start_with(|config| config.server.max_connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        held.push(stream);
    }
    server.get("/livez").await.problem(503, "too-many-connections");
    held.pop();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.get("/livez").await.status != 200 {
        assert!(Instant::now() < deadline, "the closed connection never made room");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_half_open_connections_keep_nobody_from_writing() {
    let server = Server::start_with(|config| config.server.header_timeout = Duration::from_mins(1)).await;
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"PUT /v1/records/a/1 HTTP/1.1\r\nhost:").await.unwrap();
        held.push(stream);
    }
    assert_eq!(server.json("PUT", "/v1/records/a/1", "{}").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_beyond_the_limits_are_refused() {
    let server = Server::start().await;
    let long = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "x".repeat(70_000));
    assert_eq!(raw(server.address, long.as_bytes()).await.map(|reply| reply.status), Some(431));
    let many = "a: 1\r\n".repeat(101);
    let many = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    assert_eq!(raw(server.address, many.as_bytes()).await.map(|reply| reply.status), Some(431));
    let target = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000));
    let status = raw(server.address, target.as_bytes()).await.map(|reply| reply.status);
    assert!(matches!(status, Some(414 | 431)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET /livez HTTP").await.unwrap();
    let mut answer = [0; 1024];
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read(&mut answer)).await;
    assert!(read.is_ok_and(|count| count.unwrap() > 0), "no answer before the second request is complete");
}

/// Framing on which two readers could disagree: never more than one request is executed, and never the poison.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_hidden_in_the_framing_of_another_is_never_executed() {
    let server = Server::start().await;
    let poison = "PUT /v1/records/poison/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let head = "POST /v1/queue/drain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let length = poison.len();
    for framing in [
        format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n"),
        format!("content-length: {length}\r\ncontent-length: 0\r\n\r\n"),
        format!("content-length: {length}\r\ntransfer-encoding: xchunked\r\n\r\n"),
        format!("content-length: {length}\r\ntransfer-encoding : chunked\r\n\r\n"),
        "content-length: -1\r\n\r\n".to_owned(),
        "content-length: +0\r\n\r\n".to_owned(),
        "content-length: 0x0\r\n\r\n".to_owned(),
        "content-length: 0, 5\r\n\r\n".to_owned(),
        "content-length: 99999999999999999999\r\n\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding: gzip\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n-1\r\n".to_owned(),
        "a\0b: 1\r\ncontent-length: 0\r\n\r\n".to_owned(),
        " folded: 1\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ] {
        let bytes = format!("{head}{framing}{poison}");
        if let Some(reply) = raw(server.address, bytes.as_bytes()).await {
            assert!((400..600).contains(&reply.status), "{framing:?}: {reply:?}");
        }
    }
    for line in ["CONNECT x:1 HTTP/1.1", "GET /livez HTTP/3.0", "GET http://[ HTTP/1.1", "\0", "GET /livez"] {
        let reply =
            raw(server.address, format!("{line}\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
                .await;
        assert!(reply.is_none_or(|reply| reply.status >= 400), "{line:?}");
    }
    let found = send(server.address, "GET", "/v1/records/poison/1", &[JSON], "").await;
    found.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_finished_before_the_end() {
    let mut server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(put("content-length: 7\r\n", "{\"a\"").as_bytes()).await.unwrap();
    let outlast = server.outlast.clone();
    outlast_testkit::eventually("the request has begun", || {
        outlast.metrics().contains("outlast_http_requests_under_way 1\n")
    })
    .await;
    server.ask_to_stop();
    let app = server.app.clone();
    outlast_testkit::eventually("the server is stopping", || app.is_stopping()).await;
    stream.write_all(b":1}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(parse(&answer).unwrap().status, 200, "{answer}");
    let address = server.address;
    assert_eq!(server.stopped().await, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_receipt_does_not_hold_up_the_end() {
    let mut server = Server::start().await;
    server.json("POST", "/v1/queue/pause", "{}").await;
    let queued = server.json("PUT", "/v1/records/a/1", "{}").await;
    let (address, path) = (server.address, format!("{}?wait=5min", queued.header("location")));
    let waiting = tokio::spawn(async move { send(address, "GET", &path, &[], "").await });
    let outlast = server.outlast.clone();
    outlast_testkit::eventually("the request has begun", || {
        outlast.metrics().contains("outlast_http_requests_under_way 1\n")
    })
    .await;
    server.ask_to_stop();
    assert_eq!(waiting.await.unwrap().json()["status"], "pending");
    assert_eq!(server.stopped().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_end_is_cut_at_the_deadline() {
    let mut server =
        Server::start_with(|config| config.server.shutdown_deadline = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(put("content-length: 7\r\n", "{").as_bytes()).await.unwrap();
    let outlast = server.outlast.clone();
    outlast_testkit::eventually("the request has begun", || {
        outlast.metrics().contains("outlast_http_requests_under_way 1\n")
    })
    .await;
    server.ask_to_stop();
    assert_eq!(server.stopped().await, 1);
}
