//! The `json` format: one line per frame. Written and read by hand for exactly this layout: field order is fixed, the
//! body is found by the fixed length of what closes the line, so it is never parsed here.

use super::{Frame, Parsed};
use crate::checked::{close_line, covered};
use crate::{MarkKind, NewEntry, Sequence};

pub(super) fn entry(seed: u32, out: &mut Vec<u8>, sequence: Sequence, entry: &NewEntry<'_>) {
    let start = out.len();
    out.extend_from_slice(br#"{"sequence":""#);
    push_sequence(out, sequence);
    out.extend_from_slice(br#"","time":"#);
    push_number(out, entry.time_ms);
    out.extend_from_slice(br#","kind":"write","#);
    if let Some(origin) = entry.origin {
        out.extend_from_slice(br#""origin":""#);
        push_sequence(out, origin);
        out.extend_from_slice(br#"","#);
    }
    push_body(seed, out, start, entry.body);
}

pub(super) fn mark(seed: u32, out: &mut Vec<u8>, kind: MarkKind, target: Sequence, time_ms: u64, body: &str) {
    let start = out.len();
    out.extend_from_slice(br#"{"time":"#);
    push_number(out, time_ms);
    out.extend_from_slice(br#","kind":""#);
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(br#"","target":""#);
    push_sequence(out, target);
    out.extend_from_slice(br#"","#);
    push_body(seed, out, start, body);
}

fn push_body(seed: u32, out: &mut Vec<u8>, start: usize, body: &str) {
    out.extend_from_slice(br#""body":"#);
    out.extend_from_slice(body.as_bytes());
    close_line(out, start, seed);
    out.push(b'\n');
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn seal(seed: u32, content: &[u8]) -> Vec<u8> {
    let mut out = content.to_vec();
    close_line(&mut out, 0, seed);
    out.push(b'\n');
    out
}

fn push_sequence(out: &mut Vec<u8>, sequence: Sequence) {
    push_number(out, u64::from(sequence.epoch()));
    out.push(b'-');
    push_number(out, sequence.counter());
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub(super) fn wanted(bytes: &[u8]) -> usize {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => end + 1,
        None => bytes.len() + 1,
    }
}

/// Behind the line, or where within it another one seems to begin because the newline between them was damaged.
pub(super) fn next_start(line: &[u8]) -> usize {
    let begins = |at: &usize| {
        [&br#"{"sequence":""#[..], br#"{"time":"#].iter().any(|opening| line[*at..].starts_with(opening))
    };
    memchr::memchr_iter(b'{', line).filter(|at| *at > 0).find(begins).unwrap_or(line.len())
}

pub(super) fn parse(seed: u32, bytes: &[u8]) -> Parsed<'_> {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Parsed::Partial(bytes.len() + 1) };
    match covered(&bytes[..end], seed).and_then(content) {
        Some(frame) => Parsed::Frame(frame, end + 1),
        // A body cannot hold a raw newline, so the next frame can only begin behind one.
        None => Parsed::Bad(end + 1),
    }
}

fn content(line: &[u8]) -> Option<Frame<'_>> {
    let mut rest = Rest(line);
    if let Some(()) = rest.skip(br#"{"sequence":""#) {
        let sequence = rest.sequence()?;
        rest.skip(br#"","time":"#)?;
        let time_ms = rest.number()?;
        rest.skip(br#","kind":"write","#)?;
        let mut origin = None;
        if let Some(()) = rest.skip(br#""origin":""#) {
            origin = Some(rest.sequence()?);
            rest.skip(br#"","#)?;
        }
        return Some(Frame::Entry { sequence, time_ms, origin, body: rest.body()? });
    }
    rest.skip(br#"{"time":"#)?;
    let time_ms = rest.number()?;
    rest.skip(br#","kind":""#)?;
    let kind = MarkKind::ALL.into_iter().find(|kind| rest.skip(kind.as_str().as_bytes()).is_some())?;
    rest.skip(br#"","target":""#)?;
    let target = rest.sequence()?;
    rest.skip(br#"","#)?;
    Some(Frame::Mark { kind, target, time_ms, body: rest.body()? })
}

/// What of a line has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip(&mut self, prefix: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(prefix)?;
        Some(())
    }

    fn number(&mut self) -> Option<u64> {
        let mut value: u64 = 0;
        let mut length = 0;
        for digit in self.0.iter().take_while(|byte| byte.is_ascii_digit()) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            length += 1;
        }
        // A number has one form: no zeros before it.
        let has_one_form = length == 1 || self.0.first().is_some_and(|digit| *digit != b'0');
        self.0 = &self.0[length..];
        (length > 0 && has_one_form).then_some(value)
    }

    fn sequence(&mut self) -> Option<Sequence> {
        let epoch = self.number()?;
        self.skip(b"-")?;
        Sequence::new(u32::try_from(epoch).ok()?, self.number()?)
    }

    fn body(mut self) -> Option<&'a str> {
        self.skip(br#""body":"#)?;
        std::str::from_utf8(self.0).ok()
    }
}
