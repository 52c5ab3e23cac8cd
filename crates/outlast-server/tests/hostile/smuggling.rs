//! Bytes on a socket that are no proper request, or that two readers could read as different ones. Each case carries a
//! second request, the poison: it must never be executed. At most one answer comes, and then the connection is closed.

use std::time::Duration;

use crate::conversation;
use crate::support::Server;

/// What a case is answered with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// 4xx or 5xx, or a closed connection without an answer.
    Refused,
    /// Exactly one request, read as it stands.
    One,
}
use Answer::{One, Refused};

const POISON: &str = "PUT /v1/records/poison/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
/// A request that takes a body, but for its framing and what follows.
const HEAD: &str =
    "PUT /v1/records/things/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";

fn framed(framing: &str) -> String {
    format!("{HEAD}{framing}{POISON}")
}

/// A request line, then the rest of a harmless request, then the poison.
fn line(line: &str) -> String {
    format!("{line}\r\nhost: localhost\r\n\r\n{POISON}")
}

/// Header lines in a harmless request, then the poison.
fn headers(lines: &str) -> String {
    format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n\r\n{POISON}")
}

fn corpus() -> Vec<(Answer, String)> {
    let length = POISON.len();
    let bodies = [
        // Two lengths, and lengths that are none.
        (Refused, framed(&format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n"))),
        (Refused, framed(&format!("content-length: {length}\r\ncontent-length: 0\r\n\r\n"))),
        (Refused, framed(&format!("content-length: 0, {length}\r\n\r\n"))),
        (Refused, framed("content-length: 2, 2\r\n\r\n{}")),
        (Refused, framed("content-length: -1\r\n\r\n")),
        (Refused, framed("content-length: +2\r\n\r\n{}")),
        (Refused, framed("content-length: 0x2\r\n\r\n{}")),
        (Refused, framed("content-length: 2.0\r\n\r\n{}")),
        (Refused, framed("content-length: 2 2\r\n\r\n{}")),
        (Refused, framed("content-length: \r\n\r\n{}")),
        (Refused, framed("content-length: two\r\n\r\n{}")),
        (Refused, framed("content-length: 99999999999999999999\r\n\r\n")),
        (Refused, framed("content-length: 18446744073709551615\r\n\r\n")),
        (Refused, framed("content-length : 0\r\n\r\n")),
        (Refused, framed("content-length\r\n\r\n")),
        (Refused, framed("content-length\t: 0\r\n\r\n")),
        (Refused, framed("content-length:\u{b}0\r\n\r\n")),
        // A length and a coding: the coding counts, and nothing follows.
        (
            One,
            framed(&format!(
                "content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
                12 + length
            )),
        ),
        (
            One,
            framed(&format!(
                "transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
                12 + length
            )),
        ),
        (One, framed("transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (One, framed("transfer-encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (One, framed("transfer-encoding:\tchunked \r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        // Codings that are not chunked alone.
        (Refused, framed("transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: identity, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (
            Refused,
            framed("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ),
        (
            Refused,
            framed("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ),
        (
            Refused,
            framed("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ),
        (Refused, framed("transfer-encoding: gzip\r\n\r\n")),
        (Refused, framed("transfer-encoding: \"chunked\"\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: \r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding:\u{b}chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").replacen("1.1", "1.0", 1)),
        // Chunks.
        (Refused, framed("transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n")),
        (Refused, framed("transfer-encoding: chunked\r\n\r\n2;a=\nb\r\n{}\r\n0\r\n\r\n")),
        (
            Refused,
            framed(&format!(
                "transfer-encoding: chunked\r\n\r\n2;{}\r\n{{}}\r\n0\r\n\r\n",
                "a".repeat(40_000)
            )),
        ),
        (One, framed("transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n")),
        (One, framed("transfer-encoding: chunked\r\n\r\n0002\r\n{}\r\n000\r\ntrailer: a\r\n\r\n")),
    ];
    let heads = [
        // Names and values of headers.
        (Refused, headers(" folded: 1")),
        (Refused, headers("a: 1\r\n folded")),
        (Refused, headers("a b: 1")),
        (Refused, headers("a\0b: 1")),
        (Refused, headers("a: 1\0")),
        (Refused, headers(": 1")),
        (Refused, headers("no colon")),
        (Refused, headers("a: 1\rcontent-length: 5")),
        (Refused, headers("host: localhost")),
        (Refused, headers("host: evil.example")),
        // Request lines.
        (Refused, format!("GET /livez HTTP/1.1\r\n\r\n{POISON}")),
        (Refused, line("GET /livez HTTP/2.0")),
        (Refused, line("GET /livez HTTP/1.2")),
        (Refused, line("GET /livez http/1.1")),
        (Refused, line("GET /livez HTTP/1.1 x")),
        (Refused, line("GET /livez")),
        (Refused, line("GET  HTTP/1.1")),
        (Refused, line("GET /li vez HTTP/1.1")),
        (Refused, line("GET /li\0vez HTTP/1.1")),
        (Refused, line("G\0T /livez HTTP/1.1")),
        (Refused, line("GET\t/livez\tHTTP/1.1")),
        (Refused, line("GET livez HTTP/1.1")),
        (Refused, line("GET http://[ HTTP/1.1")),
        (Refused, line("GET http://evil.example/livez HTTP/1.1")),
        (Refused, line("CONNECT localhost:1 HTTP/1.1")),
        (Refused, line("PRI * HTTP/2.0")),
        (Refused, format!("\u{16}\u{3}\u{1}\u{2}\0{POISON}")),
        (Refused, format!("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n{POISON}")),
    ];
    bodies.into_iter().chain(heads).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_malformed_request_hides_another() {
    let server = Server::start_with(|config| {
        config.server.header_timeout = Duration::from_millis(500);
        config.server.body_timeout = Duration::from_millis(500);
        config.server.idle_timeout = Duration::from_millis(500);
    })
    .await;
    let corpus = corpus();
    assert!(corpus.len() >= 60);
    for (number, (expected, bytes)) in corpus.iter().enumerate() {
        let before = server.outlast.status().accounting.accepted;
        let answers = conversation(server.address, bytes.as_bytes()).await;
        let shown: String = bytes.chars().take(250).collect();
        let what = format!("case {number}: {shown:?} was answered with {answers:?}");
        let statuses: Vec<u16> =
            answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect();
        assert!(statuses.len() <= 1, "{what}");
        match expected {
            Refused => {
                assert!(
                    statuses.iter().all(|status| (400..600).contains(status) && *status != 500),
                    "{what}"
                );
                assert_eq!(server.outlast.status().accounting.accepted, before, "{what}");
            }
            One => {
                assert_eq!(statuses, [200], "{what}");
                assert_eq!(server.outlast.status().accounting.accepted, before + 1, "{what}");
            }
        }
        server.get("/v1/records/poison/1").await.problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proper_requests_behind_each_other_are_answered_each() {
    let server = Server::start().await;
    let last = POISON.replacen("host:", "connection: close\r\nhost:", 1);
    let bytes = framed("content-length: 2\r\n\r\n{}") + &last;
    let answers = conversation(server.address, bytes.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(server.get("/v1/records/poison/1").await.status, 200, "the poison works where it is meant");
}
