//! The `bincode` format: `[length u32][crc32c of salt and length][crc32c of salt and payload][payload]`, all little
//! endian. The length has a checksum of its own, so that a flipped bit in it costs one frame and not the rest of the
//! segment. The payload is the bincode wire format, with integers of variable length as in bincode 2, of (sequence,
//! time, kind, related sequence, body).

use wincode::config::Configuration;

use super::{Frame, Parsed};
use crate::{MarkKind, Sequence};

const HEADER: usize = 12;
/// The part of it that tells whether a frame may begin here.
const CHECKED_LENGTH: usize = 8;
/// A byte each for sequence, time, kind, related sequence and length of the body.
const PAYLOAD_MIN: u32 = 5;
/// No segment is larger.
const PAYLOAD_MAX: u32 = 1 << 31;

/// Kind 0 is an entry, `index + 1` the mark of that kind. The related sequence is an entry's origin or a mark's
/// target; START stands for none.
pub(super) fn frame(seed: u32, out: &mut Vec<u8>, parts: (Sequence, u64, u8, Sequence, &str)) {
    let (sequence, time_ms, kind, related, body) = parts;
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let payload = (sequence.as_u64(), time_ms, kind, related.as_u64(), body);
    // Variable length not for the space: so there are never many zeros in a row in a frame, which are the prefill.
    let config = Configuration::default().with_varint_encoding();
    wincode::config::serialize_into(&mut *out, &payload, config).expect("writing to memory fits");
    close(seed, out, start);
}

/// Fills in the header of the frame that begins here.
fn close(seed: u32, out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start - HEADER).expect("a frame is smaller than its segment");
    let length = length.to_le_bytes();
    let payload_sum = crc32c::crc32c_append(seed, &out[start + HEADER..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&crc32c::crc32c_append(seed, &length).to_le_bytes());
    out[start + 8..start + HEADER].copy_from_slice(&payload_sum.to_le_bytes());
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn seal(seed: u32, content: &[u8]) -> Vec<u8> {
    let mut out = [&[0; HEADER][..], content].concat();
    close(seed, &mut out, 0);
    out
}

pub(super) fn wanted(bytes: &[u8]) -> usize {
    match bytes {
        [a, b, c, d, ..] => (HEADER as u64 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]))) as usize,
        _ => HEADER,
    }
}

/// The first place from `skip` on where a frame may begin.
pub(super) fn next_start(seed: u32, bytes: &[u8], skip: usize) -> usize {
    let skip = skip.min(bytes.len());
    let found = bytes[skip..].windows(CHECKED_LENGTH).position(|start| has_length(seed, start));
    found.map_or(skip.max(bytes.len().saturating_sub(CHECKED_LENGTH - 1)), |at| skip + at)
}

/// Whether a length stands here with its checksum.
fn has_length(seed: u32, start: &[u8]) -> bool {
    (PAYLOAD_MIN..=PAYLOAD_MAX).contains(&word(start, 0))
        && crc32c::crc32c_append(seed, &start[..4]) == word(start, 4)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn parse(seed: u32, bytes: &[u8]) -> Parsed<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Parsed::Partial(HEADER) };
    if !has_length(seed, header) {
        return Parsed::Bad(1);
    }
    let length = word(header, 0) as usize;
    let total = HEADER + length;
    let Some(payload) = rest.get(..length) else { return Parsed::Partial(total) };
    if crc32c::crc32c_append(seed, payload) != word(header, 8) {
        return Parsed::Bad(total);
    }
    match content(payload) {
        Some(frame) => Parsed::Frame(frame, total),
        None => Parsed::Bad(total),
    }
}

fn content(payload: &[u8]) -> Option<Frame<'_>> {
    let config = Configuration::default().with_varint_encoding();
    let parts: (u64, u64, u8, u64, &str) = wincode::config::deserialize_exact(payload, config).ok()?;
    let (sequence, time_ms, kind, related, body) = parts;
    // A longer form of the same number would also be read, but is never written.
    let numbers = [sequence, time_ms, related, body.len() as u64].map(varint_bytes);
    if payload.len() != 1 + numbers.iter().sum::<usize>() + body.len() {
        return None;
    }
    let sequence = Sequence::from_u64(sequence)?;
    let related = Sequence::from_u64(related)?;
    match kind.checked_sub(1) {
        None => {
            let origin = (related != Sequence::START).then_some(related);
            Some(Frame::Entry { sequence, time_ms, origin, body })
        }
        Some(index) => {
            let kind = *MarkKind::ALL.get(usize::from(index)).filter(|_| sequence == Sequence::START)?;
            Some(Frame::Mark { kind, target: related, time_ms, body })
        }
    }
}

/// How many bytes the length of such a body takes.
pub(super) const fn length_bytes(body: usize) -> usize {
    varint_bytes(body as u64)
}

/// How many bytes a number takes.
const fn varint_bytes(number: u64) -> usize {
    match number {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}
