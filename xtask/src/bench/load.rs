//! A small load generator: the same HTTP request again and again on connections that stay open.

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::stats::Sample;
use crate::Result;

/// Threads that send and receive.
const THREADS: usize = 2;
/// Largest answer that is understood.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is sent, where, and what must come back.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The server.
    pub(crate) address: SocketAddr,
    /// A whole request.
    pub(crate) request: Arc<[u8]>,
    /// The status that every answer must have.
    pub(crate) status: u16,
    /// How many connections send at the same time.
    pub(crate) connections: usize,
    /// Between two requests on a connection, from beginning to beginning; none is as fast as answers come.
    pub(crate) pause: Duration,
}

impl Load {
    /// GET.
    pub(crate) fn get(address: SocketAddr, path: &str, connections: usize) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        Self {
            address,
            request: request.into_bytes().into(),
            status: 200,
            connections,
            pause: Duration::ZERO,
        }
    }

    /// POST of a JSON document.
    pub(crate) fn post(address: SocketAddr, path: &str, body: &str, status: u16, connections: usize) -> Self {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Self { address, request: request.into_bytes().into(), status, connections, pause: Duration::ZERO }
    }

    /// So many requests a second on all connections together, if answers come soon enough.
    pub(crate) fn at(mut self, per_second: f64) -> Self {
        self.pause = Duration::from_secs_f64(self.connections as f64 / per_second);
        self
    }

    /// Sends for so long; an answer with another status is an error.
    pub(crate) fn run(&self, time: Duration) -> Result<Sample> {
        let ready = Arc::new(Barrier::new(THREADS + 1));
        let running: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (load, ready) = (self.clone(), Arc::clone(&ready));
                let share = (self.connections + thread) / THREADS;
                std::thread::spawn(move || load.thread(share, time, &ready))
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        let mut all = Vec::new();
        for thread in running {
            all.append(&mut thread.join().map_err(|_| "a thread of the load generator panicked")??);
        }
        Sample::of_calls(all, started.elapsed())
    }

    fn thread(&self, connections: usize, time: Duration, ready: &Barrier) -> Result<Vec<u64>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let streams = runtime.as_ref().map_err(ToString::to_string).and_then(|runtime| {
            runtime.block_on(self.connect(connections)).map_err(|error| error.to_string())
        });
        // Also when connecting failed: the others wait here.
        ready.wait();
        let (runtime, streams) = (runtime?, streams?);
        runtime.block_on(async {
            let end = Instant::now() + time;
            let mut clients = JoinSet::new();
            for (number, stream) in streams.into_iter().enumerate() {
                // One after the other, so that a slow load is an even one.
                let begin = Instant::now() + self.pause.mul_f64(number as f64 / connections as f64);
                clients.spawn(client(stream, self.clone(), begin, end));
            }
            let mut all = Vec::new();
            while let Some(ended) = clients.join_next().await {
                all.append(&mut ended??);
            }
            Ok(all)
        })
    }

    async fn connect(&self, connections: usize) -> Result<Vec<TcpStream>> {
        let mut streams = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        Ok(streams)
    }
}

async fn client(mut stream: TcpStream, load: Load, begin: Instant, end: Instant) -> Result<Vec<u64>> {
    let mut nanos = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    let mut due = begin;
    let mut before = Instant::now();
    while before < end {
        if !load.pause.is_zero() {
            tokio::time::sleep_until(due.into()).await;
            due += load.pause;
            before = Instant::now();
        }
        stream.write_all(&load.request).await?;
        let mut filled = 0;
        let answer = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Err("the server closed the connection in the middle of an answer".into());
            }
            filled += read;
            if let Some(answer) = Answer::parse(&buffer[..filled])? {
                break answer;
            }
        };
        if answer.status != load.status || answer.bytes != filled {
            let text = String::from_utf8_lossy(&buffer[..filled]);
            return Err(format!("expected one answer with {}, got:\n{text}", load.status).into());
        }
        let after = Instant::now();
        nanos.push(after.duration_since(before).as_nanos() as u64);
        before = after;
    }
    Ok(nanos)
}

/// What matters of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Of head and body together.
    pub(super) bytes: usize,
}

impl Answer {
    /// From the bytes so far; `None` when it is not complete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(head_bytes) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..head_bytes])?;
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
        let status = status.ok_or_else(|| format!("no HTTP/1.1 answer: {head}"))?.parse()?;
        let mut body_bytes = 0;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                body_bytes = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err("the answer has no length: this load generator does not read chunks".into());
            }
        }
        let answer = Self { status, bytes: head_bytes + 4 + body_bytes };
        Ok((bytes.len() >= answer.bytes).then_some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_the_last_byte_of_its_body_and_not_before() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-length: 5\r\nLocation: /v1/writes/1-1\r\n\r\nabcde";
        for length in 0..text.len() {
            assert_eq!(Answer::parse(&text[..length]).unwrap(), None, "{length}");
        }
        assert_eq!(Answer::parse(text).unwrap(), Some(Answer { status: 202, bytes: text.len() }));
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(Answer::parse(empty).unwrap(), Some(Answer { status: 204, bytes: empty.len() }));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(Answer::parse(b"HTTP/2 200\r\n\r\n").is_err());
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
