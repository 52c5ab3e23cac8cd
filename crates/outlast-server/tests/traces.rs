//! Spans reach a real listening socket as OTLP: that of a request goes on from the trace that it brought, and that of the
//! transaction is linked to it, over an outage and a restart. A collector that does not answer changes nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use outlast_testkit::process::{OutlastProcess, Setup};
use outlast_testkit::{eventually, found};
use prost::Message as _;
use support::{JSON, Reply, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SECRET: &str = "canary-collector";

/// Somebody else's collector: keeps the spans that are posted to it.
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let keeping = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some((head, body)) = request(&mut stream).await else { continue };
                assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                assert!(head.contains(&format!("authorization: bearer {SECRET}")), "{head}");
                keeping.lock().unwrap().push(ExportTraceServiceRequest::decode(&*body).unwrap());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        Self { address, requests }
    }

    /// Of transactions that were committed: while the database goes away there may be others.
    fn applied(&self) -> Vec<Span> {
        let applied = |span: &Span| attribute(span, "outlast.result").unwrap() == "applied";
        self.spans("apply").into_iter().filter(applied).collect()
    }

    /// All spans of that name.
    fn spans(&self, name: &str) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let scopes =
            requests.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| &scope.spans).filter(|span| span.name == name).cloned().collect()
    }
}

/// The head in small letters, and the body.
async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        if bytes.len() >= end + 4 + length {
            return Some((head, bytes[end + 4..].to_vec()));
        }
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn setup(directory: &std::path::Path, collector: &str) -> Setup {
    Setup::new(BINARY, directory, &format!("sqlite://{}", directory.join("database.db").display()))
        .with("traces.endpoint", collector)
        .with("traces.headers", &format!("authorization=Bearer {SECRET}"))
        .with("health.probe_max_interval", "500ms")
}

fn address(process: &OutlastProcess) -> SocketAddr {
    process.url().trim_start_matches("http://").parse().unwrap()
}

async fn put(to: SocketAddr, id: &str, headers: &[(&str, &str)]) -> Reply {
    send(to, "PUT", &format!("/v1/records/things/{id}"), &[&[JSON], headers].concat(), "{}").await
}

async fn applies(to: SocketAddr) {
    found("a write that is applied at once", async || {
        (put(to, "first", &[]).await.header("write-status") == "applied").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_linked_to_the_request_over_an_outage_and_a_restart() {
    let collector = Collector::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (database, away) = (directory.path().join("database.db"), directory.path().join("away.db"));
    // Of what begins here nothing is kept: only what brings a trace.
    let mut process = setup(directory.path(), &format!("http://{}/v1/traces", collector.address))
        .with("traces.sample_ratio", "0")
        .with("traces.service_name", "shop")
        .start();
    let to = address(&process);
    applies(to).await;
    std::fs::rename(&database, &away).unwrap();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let queued = put(to, "traced", &[("traceparent", &traceparent), ("prefer", "respond-async")]).await;
    assert_eq!(queued.status, 202, "{queued:?}");
    put(to, "untraced", &[("prefer", "respond-async")]).await;
    put(to, "unsampled", &[("traceparent", &format!("00-{TRACE}-{PARENT}-00")), ("prefer", "respond-async")])
        .await;
    let name = "PUT /v1/records/{collection}/{id}";
    eventually("the span of the request", || !collector.spans(name).is_empty()).await;
    assert!(collector.applied().is_empty());

    // While nobody has made another one in its place, whose journal it would find.
    process.kill();
    std::fs::rename(&away, &database).unwrap();
    process.restart();
    eventually("the span of the transaction", || !collector.applied().is_empty()).await;
    let (requests, applied) = (collector.spans(name), collector.applied());
    assert_eq!((requests.len(), applied.len()), (1, 1), "{requests:?} {applied:?}");
    let (request, apply) = (&requests[0], &applied[0]);
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(attribute(request, "http.response.status_code").unwrap(), "202");
    assert_eq!(attribute(request, "outlast.write.id").unwrap(), queued.header("write-id"));
    assert_eq!(attribute(request, "outlast.write.status").unwrap(), "queued");
    assert_eq!(apply.links.len(), 1, "{apply:?}");
    assert_eq!((&apply.links[0].trace_id, &apply.links[0].span_id), (&request.trace_id, &request.span_id));
    assert_ne!(apply.trace_id, request.trace_id, "a transaction is a trace of its own");
    assert_eq!(attribute(apply, "outlast.batch.traced").unwrap(), "1");
    assert!(apply.start_time_unix_nano >= request.end_time_unix_nano);
    assert!(apply.end_time_unix_nano >= apply.start_time_unix_nano);
    let resource = collector.requests.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert_eq!(service.value.clone().unwrap().value, Some(Value::StringValue("shop".into())));
    assert!(!process.errors().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_has_no_more_links_than_it_may() {
    let collector = Collector::start().await;
    let directory = tempfile::tempdir().unwrap();
    let process = setup(directory.path(), &format!("http://{}/v1/traces", collector.address)).start();
    let to = address(&process);
    applies(to).await;
    assert_eq!(send(to, "POST", "/v1/queue/pause", &[], "").await.status, 200);
    for number in 0..200 {
        assert_eq!(put(to, &number.to_string(), &[("prefer", "respond-async")]).await.status, 202);
    }
    assert_eq!(send(to, "POST", "/v1/queue/resume", &[], "").await.status, 200);
    let traced = |span: &Span| attribute(span, "outlast.batch.traced").unwrap().parse::<usize>().unwrap();
    let sum = || collector.spans("apply").iter().map(traced).sum::<usize>();
    // Those before the first one that was applied may have been queued.
    eventually("all transactions", || sum() > 200).await;
    for span in collector.spans("apply") {
        assert_eq!(span.links.len(), traced(&span).min(outlast::trace::LINKS_MAX), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_changes_nothing() {
    // One that takes connections and says nothing, and one that is not there.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for collector in [mute.local_addr().unwrap().to_string(), "127.0.0.1:9".to_owned()] {
        let directory = tempfile::tempdir().unwrap();
        let process = setup(directory.path(), &format!("http://{collector}/v1/traces")).start();
        let to = address(&process);
        applies(to).await;
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                tokio::spawn(async move {
                    for number in 0..150 {
                        let reply = put(to, &format!("{writer}-{number}"), &[]).await;
                        assert_eq!(
                            (reply.status, reply.header("write-status")),
                            (200, "applied"),
                            "{reply:?}"
                        );
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let lost = async || {
            let metrics = send(to, "GET", "/metrics", &[], "").await.body;
            let of = |result: &str| {
                let series = format!("outlast_trace_spans_total{{result=\"{result}\"}} ");
                metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
                    .unwrap_or_default()
            };
            assert_eq!(of("exported"), 0);
            (of("failed") + of("dropped") > 0).then_some(())
        };
        found("spans that are counted as lost", lost).await;
        let accounting = send(to, "GET", "/v1/queue", &[], "").await.json()["accounting"].clone();
        assert_eq!((&accounting["pending"], &accounting["dead"]), (&0.into(), &0.into()), "{accounting}");
    }
}
