//! `POST /v1/bulk`: a stream of writes, one on each line, and a stream of what became of them, in the same order.
//!
//! Two halves of one task. The first takes lines in and gives each write its place in the order; the second waits for the
//! outcomes one by one and tells them. Between them is a bounded queue, behind them one for results that are not sent yet.
//! So memory is bounded, and whoever does not read results cannot send further lines: nobody else notices.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{future, stream};
use http::{HeaderValue, StatusCode, header};
use outlast::status::{Durability, Outcome, Wait};
use outlast::trace::TraceContext;
use outlast::{Submission, Write, WriteId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc::{self, Receiver, Sender, error::SendTimeoutError};
use tokio::sync::oneshot;

use super::app::{Answer, App, Call, Object, content, not_stored};
use super::lines::{Line, LineLimits, Lines};
use super::metrics::LineStatus;
use super::operations::{Name, OperationBody, operation, write_of};
use super::prefer::{IDEMPOTENCY_KEY, PREFERENCE_APPLIED, Preferences};
use super::problem::{
    INVALID_REQUEST, LINE_NOT_ACCEPTED, MALFORMED_JSON, Problem, RESULTS_NOT_READ, TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
};

/// The media types of JSON lines: there is no registered one, and these are in use.
const MEDIA_TYPES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];
/// Writes of one stream that are under way. Two batches of the drainer: one in flight while the next gathers.
const UNDER_WAY_MAX: usize = 1000;
/// Results are sent when so many bytes of them are there, or when the next one is not decided yet.
const RESULTS_BYTES: usize = 16 << 10;
/// How long what still comes is thrown away when the server stops: the others who end then must not wait for it.
const DISCARD_WHEN_STOPPING: Duration = Duration::from_secs(1);

/// A write as a line: one operation, or several that take effect together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineBody {
    idempotency_key: Option<String>,
    operations: Option<Vec<Object<OperationBody>>>,
    // Of a single operation. Not flattened: serde would read through a buffer that loses the digits of numbers.
    op: Option<String>,
    collection: Option<outlast::Collection>,
    id: Option<outlast::RecordId>,
    data: Option<Map<String, Value>>,
    statement: Option<String>,
    parameters: Option<Map<String, Value>>,
    touches: Option<Vec<Object<Name>>>,
}

/// What became of a line.
#[derive(Default, Serialize)]
struct LineResult {
    line: u64,
    status: LineStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<WriteId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_seconds: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
}

/// A line that was read.
struct Taken {
    line: u64,
    write: Result<Submission, Problem>,
}

/// The acknowledgement of a line, and whether another write has answered for it.
type Told = Result<(Outcome, bool), Problem>;

/// The stream ends before the body does: this line and all after it were not taken.
struct Ended {
    line: u64,
    problem: Problem,
}

/// Takes lines until the body ends, and answers each of them.
///
/// # Errors
/// 400 for what belongs on the lines, 415 for another media type.
pub(super) async fn post(call: Call) -> Answer {
    call.known_query([])?;
    expect_lines(&call)?;
    if call.headers().contains_key(IDEMPOTENCY_KEY) {
        let detail = "a stream has no Idempotency-Key: give each line a member \"idempotency_key\"";
        return Err(Problem::new(INVALID_REQUEST, detail));
    }
    let preferences = Preferences::of(call.headers());
    let server = &call.app.server;
    let limits = LineLimits {
        bytes_max: server.max_body_bytes,
        line: server.body_timeout,
        pause: server.idle_timeout,
    };
    let (app, wait) = (Arc::clone(&call.app), preferences.wait(server.wait));
    let trace = call.trace.clone();
    let is_asked_first = call.headers().contains_key(header::EXPECT);
    let mut lines = Lines::new(call.into_stream(), limits);
    if is_asked_first {
        // The head of the answer would come instead of 100 Continue.
        lines.arrived().await?;
    }
    let (results, taken) = mpsc::channel(1);
    tokio::spawn(run(Stream { app, wait, strict: preferences.strict, trace }, lines, results));
    let chunks = stream::unfold(taken, async |mut taken: Receiver<Bytes>| {
        let chunk = taken.recv().await?;
        Some((Ok::<_, Infallible>(chunk), taken))
    });
    let mut response = content(StatusCode::OK, MEDIA_TYPES[0], Body::from_stream(chunks));
    let headers = response.headers_mut();
    // What nginx calls it; it is no header of ours.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Some(followed) = preferences.applied() {
        headers.insert(PREFERENCE_APPLIED, followed);
    }
    Ok(not_stored(response))
}

fn expect_lines(call: &Call) -> Result<(), Problem> {
    let declared = call.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = declared.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if MEDIA_TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known.as_bytes())) {
        return Ok(());
    }
    let given = String::from_utf8_lossy(declared);
    let detail = format!(
        "Content-Type is \"{}\"; send {}, a write on each line",
        given.escape_debug(),
        MEDIA_TYPES[0]
    );
    Err(Problem::new(UNSUPPORTED_MEDIA_TYPE, detail))
}

/// What both halves know.
struct Stream {
    app: Arc<App>,
    wait: Wait,
    /// Ends at the first line that is not accepted, so that none overtakes it.
    strict: bool,
    /// What its writes are linked to.
    trace: Option<TraceContext>,
}

async fn run(stream: Stream, mut lines: Lines, results: Sender<Bytes>) {
    let (queue, taken) = mpsc::channel(UNDER_WAY_MAX);
    let (end, ended) = oneshot::channel();
    let taking = async {
        let ended = stream.take(&mut lines, queue).await;
        let is_early = ended.is_some();
        // The other half is there until it has this.
        let _ = end.send(ended);
        if is_early {
            let stopping = stream.app.is_stopping();
            let usual = stream.app.server.body_timeout;
            lines.discard(if stopping { usual.min(DISCARD_WHEN_STOPPING) } else { usual }).await;
        }
    };
    let telling = async {
        let mut out =
            Out { results: &results, lines: Vec::new(), patience: Some(stream.app.server.body_timeout) };
        stream.tell(taken, ended, &mut out).await
    };
    tokio::select! {
        _ = future::join(taking, telling) => {}
        // The client has gone. What has its place takes effect; nobody waits for it any more.
        () = results.closed() => {}
    }
}

impl Stream {
    /// Reads lines and gives their writes their places, until the body ends (`None`) or the stream must.
    async fn take(&self, lines: &mut Lines, queue: Sender<Taken>) -> Option<Ended> {
        let mut stopped = std::pin::pin!(self.app.stopped());
        loop {
            let Ok(place) = queue.reserve().await else {
                let detail = format!(
                    "no result was read for {} s (server.body_timeout): read results while you send, or send fewer lines in one stream",
                    self.app.server.body_timeout.as_secs_f64()
                );
                return Some(Ended {
                    line: lines.number() + 1,
                    problem: Problem::new(RESULTS_NOT_READ, detail),
                });
            };
            let next = tokio::select! {
                biased;
                () = &mut stopped => Err(Problem::shutting_down()),
                next = lines.next() => next,
            };
            match next {
                Ok(Some(line)) => {
                    let write = self.begin(line).await;
                    let is_last = self.strict && write.is_err();
                    place.send(Taken { line: lines.number(), write });
                    if is_last {
                        let detail = format!("line {} was not accepted", lines.number());
                        let problem = Problem::new(LINE_NOT_ACCEPTED, detail);
                        return Some(Ended { line: lines.number() + 1, problem });
                    }
                }
                Ok(None) => return None,
                Err(problem) => return Some(Ended { line: lines.number() + 1, problem }),
            }
        }
    }

    async fn begin(&self, line: Line) -> Result<Submission, Problem> {
        let server = &self.app.server;
        let Line::Whole(line) = line else {
            let detail = format!(
                "the line is longer than the limit of {} bytes (server.max_body_bytes)",
                server.max_body_bytes
            );
            return Err(Problem::new(TOO_LARGE, detail)
                .with("bytes_max", server.max_body_bytes)
                .with("setting", "server.max_body_bytes"));
        };
        let write = read(&line, server.allow_statements)?.with_trace(self.trace.clone());
        Ok(self.app.outlast.begin(write, self.wait).await?)
    }

    /// Tells the outcome of every line in order, and why the stream ended early if it did.
    async fn tell(
        &self,
        mut taken: Receiver<Taken>,
        ended: oneshot::Receiver<Option<Ended>>,
        out: &mut Out<'_>,
    ) -> Result<(), Gone> {
        loop {
            let Taken { line, write } = match taken.try_recv() {
                Ok(line) => line,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
                Err(mpsc::error::TryRecvError::Empty) => {
                    // What is decided need not wait for the next line.
                    self.send(out, &mut taken).await?;
                    let Some(line) = taken.recv().await else { break };
                    line
                }
            };
            let mut outcome = std::pin::pin!(outcome(write));
            let result = if let Some(result) = future::poll_immediate(outcome.as_mut()).await {
                result
            } else {
                self.send(out, &mut taken).await?;
                outcome.await
            };
            self.put(out, &told(line, result));
            if out.lines.len() >= RESULTS_BYTES {
                self.send(out, &mut taken).await?;
            }
        }
        if let Ok(Some(Ended { line, problem })) = ended.await {
            let problem = Some(problem.body());
            self.put(out, &LineResult { line, status: LineStatus::Ended, problem, ..LineResult::default() });
        }
        self.send(out, &mut taken).await
    }

    fn put(&self, out: &mut Out<'_>, result: &LineResult) {
        self.app.metrics.line(result.status);
        // Names, numbers and texts are JSON, and memory takes them.
        let _ = serde_json::to_writer(&mut out.lines, result);
        out.lines.push(b'\n');
    }

    /// Hands over what is there. When the client reads nothing for too long, no further line is taken; what it is owed
    /// stays until it reads, or its connection is cut.
    async fn send(&self, out: &mut Out<'_>, taken: &mut Receiver<Taken>) -> Result<(), Gone> {
        if out.lines.is_empty() {
            return Ok(());
        }
        let mut lines = Bytes::from(std::mem::take(&mut out.lines));
        if let Some(patience) = out.patience {
            lines = match out.results.send_timeout(lines, patience).await {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Closed(_)) => return Err(Gone),
                Err(SendTimeoutError::Timeout(lines)) => lines,
            };
            tracing::info!("a stream of writes ends: its results are not read");
            taken.close();
            out.patience = None;
        }
        out.results.send(lines).await.map_err(|_| Gone)
    }
}

/// Results on their way out.
struct Out<'a> {
    results: &'a Sender<Bytes>,
    lines: Vec<u8>,
    /// How long results may lie there unread; `None` once they have.
    patience: Option<Duration>,
}

/// Nobody reads any more.
struct Gone;

fn read(line: &[u8], statements: bool) -> Result<Write, Problem> {
    let Object(body) = serde_json::from_slice::<Object<LineBody>>(line).map_err(|error| {
        let kind = if error.is_data() { INVALID_REQUEST } else { MALFORMED_JSON };
        let (text, column) = (error.to_string(), error.column());
        let what = text.split(" at line ").next().unwrap_or(&text);
        Problem::new(kind, format!("column {column}: {what}")).with("column", column)
    })?;
    let LineBody { idempotency_key, operations, op, collection, id, data, statement, parameters, touches } =
        body;
    let write = match (op, operations) {
        (Some(op), None) => {
            let one = OperationBody { op, collection, id, data, statement, parameters, touches };
            Write::new(vec![operation(one, statements).map_err(|why| Problem::new(INVALID_REQUEST, why))?])?
        }
        (None, Some(operations)) => {
            let single = collection.is_some()
                || id.is_some()
                || data.is_some()
                || statement.is_some()
                || parameters.is_some()
                || touches.is_some();
            if single {
                let detail = "beside \"operations\" only \"idempotency_key\" may stand";
                return Err(Problem::new(INVALID_REQUEST, detail));
            }
            write_of(operations, statements)?
        }
        _ => {
            let detail = "a line has either \"op\", for a single operation, or \"operations\"";
            return Err(Problem::new(INVALID_REQUEST, detail));
        }
    };
    Ok(match idempotency_key {
        Some(key) => write.with_idempotency_key(&key)?,
        None => write,
    })
}

async fn outcome(write: Result<Submission, Problem>) -> Told {
    let write = write?;
    let is_known = write.is_known();
    Ok((write.outcome().await?, is_known))
}

fn told(line: u64, told: Told) -> LineResult {
    match told {
        Ok((Outcome::Applied { id, duplicate_of }, _)) => LineResult {
            line,
            status: LineStatus::Applied,
            // As elsewhere, the name of the write that took effect.
            id: Some(duplicate_of.unwrap_or(id)),
            durability: Some(Durability::Database),
            replayed: duplicate_of.is_some(),
            ..LineResult::default()
        },
        Ok((Outcome::Queued(receipt), replayed)) => LineResult {
            line,
            status: LineStatus::Queued,
            id: Some(receipt.id),
            durability: Some(receipt.durability),
            position: receipt.position,
            estimate_seconds: receipt.estimate_seconds,
            replayed,
            ..LineResult::default()
        },
        Err(problem) => LineResult {
            line,
            status: problem.line_status(),
            id: problem.write(),
            problem: Some(problem.body()),
            ..LineResult::default()
        },
    }
}
