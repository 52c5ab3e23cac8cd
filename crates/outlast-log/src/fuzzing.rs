//! Doors for the fuzz targets, behind the feature `fuzzing`: no part of the library.

use crate::codec::{Codec, Frame, Parsed};
use crate::options::Format;
use crate::{Entry, Mark, NewEntry};

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Item {
    Entry(Entry),
    Mark(Mark),
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A frame of this length.
    Item(Item, usize),
    /// At least so many bytes are needed.
    Partial(usize),
    /// No frame for so many bytes.
    Bad(usize),
}

/// Reads one frame.
pub fn decode(format: Format, salt: u64, bytes: &[u8]) -> Decoded {
    match Codec::new(format, salt).parse(bytes) {
        Parsed::Partial(wanted) => Decoded::Partial(wanted),
        Parsed::Bad(skip) => Decoded::Bad(skip),
        Parsed::Frame(frame, length) => {
            let item = match frame {
                Frame::Entry { sequence, time_ms, origin, body } => {
                    Item::Entry(Entry { sequence, time_ms, origin, body: body.into() })
                }
                Frame::Mark { kind, target, time_ms, body } => {
                    Item::Mark(Mark { kind, target, time_ms, body: body.into() })
                }
            };
            Decoded::Item(item, length)
        }
    }
}

/// Appends the frame of an item.
pub fn encode(format: Format, salt: u64, item: &Item, out: &mut Vec<u8>) {
    let codec = Codec::new(format, salt);
    match item {
        Item::Mark(mark) => codec.mark(out, mark),
        Item::Entry(Entry { sequence, time_ms, origin, body }) => {
            codec.entry(out, *sequence, &NewEntry { body, time_ms: *time_ms, origin: *origin });
        }
    }
}

/// These bytes as the content of a frame, whatever they are, with checksums that are right.
pub fn seal(format: Format, salt: u64, content: &[u8]) -> Vec<u8> {
    Codec::new(format, salt).seal(content)
}

/// These bytes as a line that closes with its checksum: a header, or an epoch.
pub fn seal_line(content: &[u8]) -> Vec<u8> {
    let mut line = content.to_vec();
    crate::checked::close_line(&mut line, 0, 0);
    line
}
