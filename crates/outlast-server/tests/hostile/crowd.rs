//! A thousand connections that never finish what they began: honest clients are served all the same, memory stays
//! bounded, and every one of the thousand is ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outlast_testkit::process::Setup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::BINARY;
use crate::support::{JSON, send};

const CROWD: usize = 1000;
/// What a connection of the crowd may cost the server: buffers for a head and a body that do not end.
const BYTES_EACH_MAX: u64 = 64 << 10;

/// The median and the 99th percentile of 300 honest writes, each on a connection of its own.
async fn honest(address: SocketAddr) -> (Duration, Duration) {
    let mut times = Vec::new();
    for number in 0..300 {
        let began = Instant::now();
        let reply = send(address, "PUT", &format!("/v1/records/honest/{number}"), &[JSON], "{}").await;
        assert!([200, 202].contains(&reply.status), "{reply:?}");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn under_way(address: SocketAddr) -> u64 {
    let metrics = send(address, "GET", "/metrics", &[], "").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix("outlast_http_requests_under_way "));
    value.unwrap().parse().unwrap()
}

/// This process holds the other end of every connection.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_connections_keep_nobody_out_and_are_all_ended() {
    raise_open_files();
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}/database.db", directory.path().display());
    let process = Setup::new(BINARY, directory.path(), &database)
        .with("server.header_timeout", "8s")
        .with("server.body_timeout", "8s")
        .start();
    let address: SocketAddr = process.url().trim_start_matches("http://").parse().unwrap();
    let before_it = honest(address).await;
    let (before, _) = process.memory();

    let slow_head = "PUT /v1/records/crowd/1 HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    let slow_body = "PUT /v1/records/crowd/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{\"a\":\"";
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let beginning = if number % 2 == 0 { slow_head } else { slow_body };
        stream.write_all(beginning.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    // The one that asks is under way, too.
    while under_way(address).await < (CROWD / 2) as u64 {
        assert!(Instant::now() < deadline, "the bodies were never waited for");
    }
    let among = honest(address).await;
    let (during, _) = process.memory();
    println!("{} KiB for each of the crowd", (during.saturating_sub(before) >> 10) / CROWD as u64);
    assert!(during.saturating_sub(before) < CROWD as u64 * BYTES_EACH_MAX, "{before} -> {during}");

    for (number, mut stream) in crowd.into_iter().enumerate() {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "connection {number} was never ended");
        if number % 2 == 1 {
            assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    while under_way(address).await > 1 {
        assert!(
            Instant::now() < deadline + Duration::from_mins(1),
            "requests of the crowd are still under way"
        );
    }
    assert_eq!(send(address, "GET", "/v1/records/crowd/1", &[], "").await.status, 404);

    // Other tests share the machine: both sides of it say what it is like without the crowd.
    let after_it = honest(address).await;
    for (what, before, among, after) in
        [("median", before_it.0, among.0, after_it.0), ("99 %", before_it.1, among.1, after_it.1)]
    {
        println!(
            "{what} of honest writes: {before:?} before the crowd, {among:?} among it, {after:?} after it"
        );
    }
}
