//! Hostile clients: who may not in stays out however it writes its request, nobody is served in place of somebody else,
//! and no text is anything but text. Limits of size and time are in `limits.rs`, roles in `routes.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod authorization;
mod crowd;
mod injections;
mod redaction;
mod secrets;
mod smuggling;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");

/// Sends bytes, and reads everything that comes until the connection is closed.
///
/// # Panics
/// When it is not closed.
async fn conversation(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answers = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answers)).await;
    let shown = String::from_utf8_lossy(bytes).chars().take(300).collect::<String>();
    assert!(ended.is_ok(), "the connection stays open after {shown:?}");
    String::from_utf8_lossy(&answers).into_owned()
}

/// The status of the first answer; the rest is not waited for, since a stream does not end.
async fn status(to: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut line)).await;
    read.unwrap().unwrap_or_else(|error| panic!("{error}: no answer to {request:?}"));
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}
