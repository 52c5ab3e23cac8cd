//! Sends a stream of writes to the server and takes its results, both at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::Client;
use super::output::Failure;

/// Lines are sent together up to this size, or when no more is there at once.
const PIECE_BYTES: usize = 64 << 10;

/// A line on its way.
#[derive(Debug)]
pub(super) struct Sent {
    /// Its number in the source, from 1.
    pub(super) number: u64,
    /// The line of the source, with its end.
    pub(super) text: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// Every line of the source was answered.
    Complete,
    /// The server took no more lines; its problem says why.
    Ended(Value),
    /// The connection broke, or the source could not be read further.
    Broken(String),
}

/// Where lines come from.
pub(super) struct Source {
    reader: BufReader<Box<dyn Read + Send>>,
    /// Lines of the source that were read.
    number: u64,
    /// What is sent for a line.
    write: fn(&[u8]) -> Result<Vec<u8>, String>,
}

impl Source {
    pub(super) fn new(reader: Box<dyn Read + Send>, write: fn(&[u8]) -> Result<Vec<u8>, String>) -> Self {
        Self { reader: BufReader::with_capacity(PIECE_BYTES, reader), number: 0, write }
    }

    /// Passes lines over.
    pub(super) fn skip(&mut self, lines: u64) -> io::Result<()> {
        let mut text = Vec::new();
        while self.number < lines && self.reader.read_until(b'\n', &mut text)? > 0 {
            text.clear();
            self.number += 1;
        }
        Ok(())
    }

    /// The next line that is not blank, and whether the one after it must be waited for.
    fn next(&mut self) -> Result<Option<(Sent, bool)>, String> {
        loop {
            let mut text = Vec::new();
            let read = self.reader.read_until(b'\n', &mut text);
            if read.map_err(|error| format!("the lines could not be read further: {error}"))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !text.trim_ascii().is_empty() {
                let is_last_for_now = !self.reader.buffer().contains(&b'\n');
                return Ok(Some((Sent { number: self.number, text }, is_last_for_now)));
            }
        }
    }
}

/// What both directions know.
#[derive(Default)]
struct Shared {
    /// Lines that were sent and are not answered, in order.
    unanswered: VecDeque<Sent>,
    /// Why the source was not read to its end.
    stopped: Option<String>,
}

/// Sends all lines, and hands each result with its line to `take`. Returns the lines that have no result.
///
/// # Errors
/// When the server does not take the stream at all.
pub(super) async fn send(
    client: &Client,
    prefer: &str,
    source: Source,
    mut take: impl FnMut(&Value, Sent),
) -> Result<(End, VecDeque<Sent>), Failure> {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let (pieces, body) = mpsc::channel(2);
    // Not a task: reading standard input would hold up the end of the runtime.
    let reading = Arc::clone(&shared);
    std::thread::spawn(move || read(source, &reading, &pieces));
    let response = client.send_stream("/v1/bulk", prefer, reqwest::Body::wrap(Pieces(body))).await?;
    let end = results(response, &shared, &mut take).await;
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let end = match (end, shared.stopped.take()) {
        (End::Complete, Some(why)) => End::Broken(why),
        (End::Complete, None) if !shared.unanswered.is_empty() => {
            End::Broken("the server's answer ended before all lines were answered".to_owned())
        }
        (end, _) => end,
    };
    Ok((end, std::mem::take(&mut shared.unanswered)))
}

fn read(mut source: Source, shared: &Mutex<Shared>, pieces: &mpsc::Sender<Bytes>) {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let mut piece = Vec::new();
    loop {
        let next = source.next().and_then(|next| {
            next.map(|(sent, pause)| {
                let mut write =
                    (source.write)(&sent.text).map_err(|why| format!("line {}: {why}", sent.number))?;
                if write.last() != Some(&b'\n') {
                    write.push(b'\n');
                }
                Ok((sent, write, pause))
            })
            .transpose()
        });
        let pause = match next {
            Ok(Some((sent, write, pause))) => {
                piece.extend_from_slice(&write);
                lock().unanswered.push_back(sent);
                pause
            }
            Ok(None) => break,
            Err(why) => {
                lock().stopped = Some(why);
                break;
            }
        };
        if (pause || piece.len() >= PIECE_BYTES)
            && pieces.blocking_send(std::mem::take(&mut piece).into()).is_err()
        {
            return;
        }
    }
    let _ = pieces.blocking_send(piece.into());
}

async fn results(mut response: Response, shared: &Mutex<Shared>, take: &mut impl FnMut(&Value, Sent)) -> End {
    let mut begun = Vec::new();
    loop {
        let piece = match response.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return End::Complete,
            Err(error) => return End::Broken(format!("the connection broke: {error}")),
        };
        begun.extend_from_slice(&piece);
        let Some(end) = begun.iter().rposition(|byte| *byte == b'\n') else { continue };
        let rest = begun.split_off(end + 1);
        for line in
            std::mem::replace(&mut begun, rest).split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
        {
            let Ok(result) = serde_json::from_slice::<Value>(line) else {
                return End::Broken("the server answered with something that is not JSON".to_owned());
            };
            if result["status"] == "ended" {
                return End::Ended(result["problem"].clone());
            }
            let sent = shared.lock().unwrap_or_else(PoisonError::into_inner).unanswered.pop_front();
            let Some(sent) = sent else {
                return End::Broken("the server answered more lines than it was sent".to_owned());
            };
            take(&result, sent);
        }
    }
}

/// A body that comes through a channel.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
