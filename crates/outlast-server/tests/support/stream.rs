//! A client of `POST /v1/bulk` that says exactly what it sends and reads.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::format_push_string)]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// One request whose body is not at its end yet.
pub(crate) struct Stream {
    pub(crate) reading: Results,
    pub(crate) writing: Lines,
}

/// Its body.
pub(crate) struct Lines(OwnedWriteHalf);

/// Its answer.
pub(crate) struct Results {
    stream: BufReader<OwnedReadHalf>,
    /// What came of the answer's body and is not read yet.
    text: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// With these headers beside those of a stream of JSON lines. A small `window` makes buffers on the way small.
    pub(crate) async fn open(to: SocketAddr, headers: &[(&str, &str)], window: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = window {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let (reading, mut writing) = socket.connect(to).await.unwrap().into_split();
        let mut head = format!(
            "POST /v1/bulk HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        writing.write_all(head.as_bytes()).await.unwrap();
        let reading = Results { stream: BufReader::new(reading), text: Vec::new(), ended: false };
        Self { reading, writing: Lines(writing) }
    }

    /// The head of the answer.
    pub(crate) async fn head(&mut self) -> String {
        self.reading.head().await
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.writing.send(text).await.unwrap();
    }

    /// The next result, which comes while the body is open.
    pub(crate) async fn result(&mut self) -> Value {
        self.reading.next().await.expect("the answer ended")
    }

    /// Ends the body; all results that still come.
    pub(crate) async fn end(mut self) -> Vec<Value> {
        self.writing.end().await.unwrap();
        self.reading.rest().await
    }
}

impl Lines {
    /// Sends a piece of the body.
    pub(crate) async fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.0.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
    }

    pub(crate) async fn end(&mut self) -> std::io::Result<()> {
        self.0.write_all(b"0\r\n\r\n").await
    }
}

impl Results {
    pub(crate) async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = timeout(PATIENCE, self.stream.read_line(&mut head)).await.expect("no answer in time");
            assert!(read.unwrap() > 0, "the connection ended: {head}");
        }
        head
    }

    /// False when the connection ended before.
    pub(crate) async fn head_or_end(&mut self) -> bool {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = timeout(PATIENCE, self.stream.read_line(&mut head)).await.expect("no answer in time");
            if read.unwrap_or(0) == 0 {
                return false;
            }
        }
        true
    }

    /// The next result, or `None` when the connection ended, in whatever way.
    pub(crate) async fn next_or_end(&mut self) -> Option<Value> {
        while !self.text.contains(&b'\n') {
            if self.ended || timeout(PATIENCE, self.chunk()).await.expect("no result in time").is_err() {
                return None;
            }
        }
        self.next().await
    }

    /// The next result, or `None` at the end of the answer.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            if self.ended {
                assert!(self.text.is_empty(), "half a line: {:?}", String::from_utf8_lossy(&self.text));
                return None;
            }
            timeout(PATIENCE, self.chunk()).await.expect("no result in time").expect("the answer broke off");
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut results = Vec::new();
        while let Some(result) = self.next().await {
            results.push(result);
        }
        results
    }

    async fn chunk(&mut self) -> std::io::Result<()> {
        let mut size = String::new();
        if self.stream.read_line(&mut size).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).await?;
        self.text.extend_from_slice(&chunk[..size]);
        self.ended = size == 0;
        Ok(())
    }
}
