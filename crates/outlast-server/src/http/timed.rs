//! [`Timed`]: a connection that notes what it waits for, so that a peer that sends a head too slowly, idles too long or
//! takes no answer is given up; and that closes without losing its last answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long what still arrives is thrown away after the last answer: closing with unread bytes would reset the
/// connection, and the answer with it.
const LINGER: Duration = Duration::from_millis(500);
/// Reads of such bytes in one turn of the task.
const LINGER_READS: usize = 16;

/// The limits of time on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the first byte of a head to its end; also for the first byte of a new connection.
    pub(super) header: Duration,
    /// Without a request, or with an answer that is not taken.
    pub(super) idle: Duration,
}

/// What a connection waits for: noted by its stream and its service, read by its watchman. Notes cost a few
/// nanoseconds; hyper's own time-out for heads makes a timer for every request, and counts idle time as well.
#[derive(Clone)]
pub(super) struct Notes(Arc<State>);

struct State {
    opened: Instant,
    /// Beginnings and ends of requests: even between requests, odd within one.
    turns: AtomicU64,
    /// Whether the head of a request has begun to arrive.
    head_begun: AtomicBool,
    /// When it did, or when the last request ended: milliseconds since `opened`.
    since: AtomicU64,
    /// Since when a write has been waiting for the peer, plus one; 0 when none does.
    stuck_since: AtomicU64,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            opened: Instant::now(),
            turns: AtomicU64::new(0),
            head_begun: AtomicBool::new(false),
            since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        }))
    }

    /// A request begins; it ends when the guard is dropped.
    pub(super) fn begin(&self) -> Turn {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        Turn(self.clone())
    }

    /// Resolves when the peer has taken too long. Looks four times in the shorter of the limits, so that a peer is given
    /// up between one and one and a quarter of it.
    pub(super) async fn watch(&self, limits: Limits) {
        let pause = (limits.header.min(limits.idle) / 4).max(Duration::from_millis(5));
        loop {
            sleep(pause).await;
            if self.overdue(limits) {
                return;
            }
        }
    }

    fn overdue(&self, limits: Limits) -> bool {
        let now = self.now();
        let longer = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        if let Some(since) = self.0.stuck_since.load(Ordering::Relaxed).checked_sub(1) {
            return longer(since, limits.idle);
        }
        let turns = self.0.turns.load(Ordering::Relaxed);
        let fresh = turns == 0 || self.0.head_begun.load(Ordering::Relaxed);
        let limit = if fresh { limits.header } else { limits.idle };
        turns.is_multiple_of(2) && longer(self.0.since.load(Ordering::Relaxed), limit)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes came: if they begin a head, its time runs from now.
    fn bytes_came(&self) {
        let between = self.0.turns.load(Ordering::Relaxed).is_multiple_of(2);
        if between && !self.0.head_begun.load(Ordering::Relaxed) {
            self.0.since.store(self.now(), Ordering::Relaxed);
            self.0.head_begun.store(true, Ordering::Relaxed);
        }
    }

    fn write_waits(&self, waits: bool) {
        let noted = self.0.stuck_since.load(Ordering::Relaxed);
        if waits && noted == 0 {
            self.0.stuck_since.store(self.now() + 1, Ordering::Relaxed);
        } else if !waits && noted != 0 {
            self.0.stuck_since.store(0, Ordering::Relaxed);
        }
    }
}

/// A request under way.
pub(super) struct Turn(Notes);

impl Drop for Turn {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.since.store(self.0.now(), Ordering::Relaxed);
        state.head_begun.store(false, Ordering::Relaxed);
        state.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(super) struct Timed<S> {
    stream: S,
    notes: Notes,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, notes: Notes) -> Self {
        Self { stream, notes, lingering: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.notes.bytes_came();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.notes.write_waits(result.is_pending());
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Says that nothing more comes, then reads until the peer says so too, for a short while.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let timer = this.lingering.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut sink = [0; 4096];
        for _ in 0..LINGER_READS {
            let mut buffer = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The end, or a reset: either way there is nothing left to lose.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.notes.write_waits(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const LIMITS: Limits = Limits { header: Duration::from_secs(10), idle: Duration::from_secs(75) };

    fn paused(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(test);
    }

    fn connection(buffer: usize) -> (DuplexStream, Timed<DuplexStream>, Notes) {
        let (client, server) = duplex(buffer);
        let notes = Notes::new();
        (client, Timed::new(server, notes.clone()), notes)
    }

    async fn given_up_after(notes: &Notes) -> u64 {
        let started = Instant::now();
        notes.watch(LIMITS).await;
        started.elapsed().as_secs()
    }

    #[test]
    fn a_head_must_be_complete_in_time_however_many_bytes_trickle() {
        paused(async {
            let (mut client, mut timed, notes) = connection(64);
            let trickle = tokio::spawn(async move {
                let mut byte = [0];
                while client.write_all(b"x").await.is_ok() && timed.read_exact(&mut byte).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
            });
            assert!((10..13).contains(&given_up_after(&notes).await));
            trickle.abort();
        });
    }

    #[test]
    fn a_new_connection_must_begin_in_time() {
        paused(async {
            let (_client, _timed, notes) = connection(64);
            assert!((10..13).contains(&given_up_after(&notes).await));
        });
    }

    #[test]
    fn between_requests_the_idle_time_counts_and_within_one_none_does() {
        paused(async {
            let (mut client, mut timed, notes) = connection(64);
            for _ in 0..3 {
                client.write_all(b"x").await.unwrap();
                timed.read_exact(&mut [0]).await.unwrap();
                let turn = notes.begin();
                client.write_all(b"body").await.unwrap();
                timed.read_exact(&mut [0; 4]).await.unwrap();
                let within = tokio::time::timeout(Duration::from_hours(1), notes.watch(LIMITS)).await;
                assert!(within.is_err(), "no limit of time within a request");
                drop(turn);
            }
            assert!((75..78).contains(&given_up_after(&notes).await));
        });
    }

    #[test]
    fn a_peer_that_takes_no_answer_is_given_up_also_within_a_request() {
        paused(async {
            let (_client, mut timed, notes) = connection(8);
            let _turn = notes.begin();
            let writing = tokio::spawn(async move { timed.write_all(&[0; 64]).await });
            tokio::task::yield_now().await;
            assert!((75..78).contains(&given_up_after(&notes).await));
            writing.abort();
        });
    }

    #[test]
    fn closing_throws_away_what_still_arrives_but_not_for_ever() {
        paused(async {
            let (mut client, mut timed, _) = connection(1 << 20);
            client.write_all(&vec![0; 500_000]).await.unwrap();
            drop(client);
            timed.shutdown().await.unwrap();
            assert_eq!(timed.read(&mut [0]).await.unwrap(), 0, "unread bytes would reset the connection");
            let (mut client, mut timed, _) = connection(16);
            let started = Instant::now();
            let endless = tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(10)).await;
                }
            });
            timed.shutdown().await.unwrap();
            assert_eq!(started.elapsed(), LINGER);
            endless.abort();
        });
    }
}
