//! A body as lines: one at a time, each limited in size and time, however long the whole is.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::problem::{BODY_INTERRUPTED, Problem, REQUEST_TIMEOUT};

/// What a line may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineLimits {
    /// Bytes of one line.
    pub(super) bytes_max: u64,
    /// From its first byte to its end.
    pub(super) line: Duration,
    /// Until the next one begins.
    pub(super) pause: Duration,
}

/// See the module. Time counts only while a line is waited for: whoever asks late is not the sender's fault.
pub(super) struct Lines {
    body: Body,
    limits: LineLimits,
    /// Of the last line that was read, blank ones included, from 1.
    number: u64,
    /// What came last, without the lines that were read from it.
    piece: Bytes,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// That line is too long: the rest of it is thrown away.
    skipping: bool,
}

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its end.
    Whole(Bytes),
    /// Longer than it may be.
    TooLong,
}

impl Lines {
    pub(super) fn new(body: Body, limits: LineLimits) -> Self {
        Self { body, limits, number: 0, piece: Bytes::new(), begun: Vec::new(), skipping: false }
    }

    /// The number of the last line that was read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the first bytes.
    ///
    /// # Errors
    /// As [`Lines::next`].
    pub(super) async fn arrived(&mut self) -> Result<(), Problem> {
        let until = Instant::now() + self.limits.pause;
        self.piece = self.more(until).await?.unwrap_or_default();
        Ok(())
    }

    /// The next line, or `None` after the last. A last line needs no end.
    ///
    /// # Errors
    /// 408 when it did not come in time, 400 when the body broke off.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Problem> {
        let mut until = None;
        loop {
            if let Some(end) = self.piece.iter().position(|byte| *byte == b'\n') {
                let end_of_line = self.piece.split_to(end + 1).slice(..end);
                until = None;
                if let Some(line) = self.complete(&end_of_line) {
                    return Ok(Some(line));
                }
                continue;
            }
            let rest = std::mem::take(&mut self.piece);
            self.keep(&rest);
            let within = !self.begun.is_empty() || self.skipping;
            let limit = if within { self.limits.line } else { self.limits.pause };
            let limit = *until.get_or_insert_with(|| Instant::now() + limit);
            match self.more(limit).await? {
                Some(piece) => {
                    // A line begins: its own time runs.
                    until = until.filter(|_| within);
                    self.piece = piece;
                }
                None if within => return Ok(self.complete(&Bytes::new())),
                None => return Ok(None),
            }
        }
    }

    /// Throws away what still comes, for at most so long: a sender that does not read before it has sent everything gets
    /// to its answer.
    pub(super) async fn discard(&mut self, at_most: Duration) {
        let until = Instant::now() + at_most;
        while let Ok(Some(_)) = self.more(until).await {}
    }

    async fn more(&mut self, until: Instant) -> Result<Option<Bytes>, Problem> {
        loop {
            match timeout_at(until, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(Problem::new(
                        BODY_INTERRUPTED,
                        format!("the body could not be read: {error}"),
                    ));
                }
                Ok(None) => return Ok(None),
                Err(_) => return Err(self.late()),
            }
        }
    }

    fn late(&self) -> Problem {
        let next = self.number + 1;
        let detail = if self.begun.is_empty() && !self.skipping {
            format!(
                "line {next} did not begin within {} s (server.idle_timeout)",
                self.limits.pause.as_secs_f64()
            )
        } else {
            format!(
                "line {next} did not end within {} s (server.body_timeout)",
                self.limits.line.as_secs_f64()
            )
        };
        Problem::new(REQUEST_TIMEOUT, detail)
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.fits(rest.len()) {
            self.begun.extend_from_slice(rest);
        } else {
            self.skipping = true;
            self.begun = Vec::new();
        }
    }

    fn fits(&self, more: usize) -> bool {
        !self.skipping && (self.begun.len() + more) as u64 <= self.limits.bytes_max
    }

    /// A line is over: itself, unless it is blank.
    fn complete(&mut self, end: &Bytes) -> Option<Line> {
        self.number += 1;
        let fits = self.fits(end.len());
        self.skipping = false;
        let mut begun = std::mem::take(&mut self.begun);
        if !fits {
            return Some(Line::TooLong);
        }
        let line = if begun.is_empty() {
            end.clone()
        } else {
            begun.extend_from_slice(end);
            begun.into()
        };
        (!line.trim_ascii().is_empty()).then_some(Line::Whole(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream::{self, StreamExt as _};
    use std::convert::Infallible;

    const LIMITS: LineLimits =
        LineLimits { bytes_max: 8, line: Duration::from_secs(30), pause: Duration::from_secs(75) };

    fn paused<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    /// The pieces arrive one by one, so many seconds after each other.
    fn lines(pieces: Vec<&'static str>, pause: u64) -> Lines {
        let pieces = stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            Ok::<_, Infallible>(piece)
        });
        Lines::new(Body::from_stream(pieces), LIMITS)
    }

    async fn all(mut lines: Lines) -> Vec<(u64, Option<String>)> {
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            let text = match line {
                Line::Whole(line) => Some(String::from_utf8(line.to_vec()).unwrap()),
                Line::TooLong => None,
            };
            found.push((lines.number(), text));
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_the_body_is_cut_into_pieces() {
        let text = "one\n\n  \r\ntwo\r\n12345678\n123456789\nlast";
        let expected: Vec<_> =
            [(1, Some("one")), (4, Some("two\r")), (5, Some("12345678")), (6, None), (7, Some("last"))]
                .map(|(number, line)| (number, line.map(str::to_owned)))
                .into();
        for size in 1..=text.len() {
            let pieces =
                text.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(paused(all(lines(pieces, 0))), expected, "in pieces of {size}");
        }
        assert_eq!(paused(all(lines(vec!["a", "\n"], 0))), [(1, Some("a".to_owned()))]);
        assert_eq!(paused(all(lines(vec![], 0))), []);
    }

    #[test]
    fn a_line_that_is_too_long_takes_no_memory() {
        paused(async {
            let piece = "x".repeat(100_000).leak();
            let mut lines = lines([vec![&*piece; 100], vec!["\nnext"]].concat(), 0);
            assert_eq!(lines.next().await.unwrap(), Some(Line::TooLong));
            assert!(lines.begun.capacity() <= 8);
            assert_eq!(lines.next().await.unwrap(), Some(Line::Whole("next".into())));
        });
    }

    #[test]
    fn a_line_has_a_time_to_end_in_and_a_pause_between_lines_another() {
        paused(async {
            // Each line takes 20 s, and there are more than fit into any limit.
            let mut healthy = lines(vec!["a\n"; 20], 20);
            for _ in 0..20 {
                assert!(healthy.next().await.unwrap().is_some());
            }
            let began = Instant::now();
            let mut trickle = lines(vec!["a"; 20], 5);
            let late = trickle.next().await.unwrap_err();
            assert!(late.body()["detail"].as_str().unwrap().contains("server.body_timeout"), "{late:?}");
            assert_eq!(began.elapsed(), Duration::from_secs(35), "5 to its first byte, then 30");
            let began = Instant::now();
            let mut silent = lines(vec!["a\n"], 500);
            let late = silent.next().await.unwrap_err();
            assert!(late.body()["detail"].as_str().unwrap().contains("server.idle_timeout"), "{late:?}");
            assert_eq!(began.elapsed(), Duration::from_secs(75));
        });
    }
}
