//! One line of JSON that closes with its own checksum: segment headers and the lines of `epochs.jsonl`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What closes every line: `,"crc32c":"` + eight hexadecimal digits + `"}`.
pub(crate) const CLOSING: &[u8] = br#","crc32c":""#;
/// Length of everything behind the last byte that the checksum covers (the comma).
const UNCOVERED: usize = CLOSING.len() - 1 + 8 + 2;

/// Appends the closing field to `out`, whose bytes from `start` on are an open JSON object. `seed` is the checksum of
/// what goes before it: the segment's salt, or 0.
pub(crate) fn close_line(out: &mut Vec<u8>, start: usize, seed: u32) {
    out.push(b',');
    let sum = crc32c::crc32c_append(seed, &out[start..]);
    out.extend_from_slice(&CLOSING[1..]);
    for shift in (0..8).rev() {
        out.push(b"0123456789abcdef"[(sum >> (shift * 4)) as usize & 15]);
    }
    out.extend_from_slice(b"\"}");
}

/// The bytes of the line before its closing field, if that field is there and right.
pub(crate) fn covered(line: &[u8], seed: u32) -> Option<&[u8]> {
    let split = line.len().checked_sub(UNCOVERED + 1)?;
    let (content, closing) = line.split_at(split);
    let digits = closing.strip_prefix(CLOSING)?.strip_suffix(b"\"}")?;
    let mut expected = 0;
    for digit in digits {
        // Lower case only: a flipped bit must not go unnoticed because it changed the case of a digit.
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        expected = expected << 4 | u32::from(value);
    }
    (crc32c::crc32c_append(seed, &line[..=split]) == expected).then_some(content)
}

/// The value as such a line, without a newline.
pub(crate) fn to_line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.pop(); // the brace that `close_line` writes again
    close_line(&mut line, 0, 0);
    Ok(line)
}

/// The value of such a line; `None` if anything about it is wrong.
pub(crate) fn from_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    covered(line, 0)?;
    serde_json::from_slice(line).ok()
}
