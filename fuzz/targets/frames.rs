//! Decoding of frames: arbitrary bytes, arbitrary contents with right checksums, and frames that were encoded and cut.
//!
//! No panic; what decodes is encoded to the same bytes again; what is encoded decodes, and no part of it does; whoever
//! goes on as the decoder says comes to the end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_log::fuzzing::{Decoded, Item, decode, encode, seal};
use outlast_log::{Entry, Format, Mark, MarkKind, Sequence};

const SALT: u64 = 0x6f75_746c_6173_7421;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, rest)) = input.split_first() else { return };
    let format = if mode & 1 == 0 { Format::Json } else { Format::Bincode };
    match mode >> 1 & 3 {
        0 => walk(format, rest),
        1 => walk(format, &seal(format, SALT, rest)),
        2 => {
            // A good one between arbitrary bytes.
            let (before, content) = rest.split_at(rest.len() / 3);
            walk(format, &[before, &seal(format, SALT, content)[..], before].concat());
        }
        _ => there_and_back(format, rest),
    }
});

/// Goes through all bytes as the scanner does.
fn walk(format: Format, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let skip = match decode(format, SALT, bytes) {
            Decoded::Item(item, length) => {
                let mut again = Vec::new();
                encode(format, SALT, &item, &mut again);
                assert_eq!(again, bytes[..length], "{item:?}");
                length
            }
            Decoded::Partial(wanted) => {
                assert!(wanted > bytes.len());
                return;
            }
            Decoded::Bad(skip) => skip,
        };
        assert!(skip > 0);
        bytes = &bytes[skip.min(bytes.len())..];
    }
}

fn there_and_back(format: Format, input: &[u8]) {
    let Some((numbers, text)) = input.split_first_chunk::<26>() else { return };
    let number = |at: usize| {
        let bytes = numbers[at..at + 8].try_into().expect("eight bytes were taken");
        // Numbers of every length.
        u64::from_le_bytes(bytes) >> (numbers[24] & 63)
    };
    let (sequence, related) = (Sequence::from_u64(number(0) >> 1), Sequence::from_u64(number(8) >> 1));
    let (Some(sequence), Some(related)) = (sequence, related) else { return };
    let body: Box<str> = String::from_utf8_lossy(text).replace(char::is_control, " ").into();
    let time_ms = number(16);
    let item = match MarkKind::ALL.get(usize::from(numbers[25] % 8)) {
        Some(&kind) => Item::Mark(Mark { kind, target: related, time_ms, body }),
        None => {
            let origin = Some(related).filter(|origin| *origin != Sequence::START);
            Item::Entry(Entry { sequence, time_ms, origin, body })
        }
    };
    let mut bytes = Vec::new();
    encode(format, SALT, &item, &mut bytes);
    let Decoded::Item(found, length) = decode(format, SALT, &bytes) else { panic!("{item:?}") };
    assert_eq!((found, length), (item, bytes.len()));
    let cut = usize::from(numbers[0]) % bytes.len();
    assert!(!matches!(decode(format, SALT, &bytes[..cut]), Decoded::Item(..)));
}
