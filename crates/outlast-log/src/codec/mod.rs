//! Frames: how one entry or mark stands in a segment, in either format. Knows nothing of files. The byte layout is
//! described in `docs/format.md`.

mod binary;
mod json;

use std::io;
use std::sync::Arc;

use crate::encryption::{Cipher, encrypted_length};
use crate::options::Format;
use crate::{Entry, Mark, MarkKind, NewEntry, Sequence};

/// No frame is longer than its body by more than this, in either format.
pub(crate) const OVERHEAD_MAX: usize = 192;

/// Reads and writes the frames of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    pub(crate) format: Format,
    pub(crate) bodies: Bodies,
    /// The checksum of the segment's salt, which goes before every frame: so a frame that stood in the same file
    /// before it was recycled, or that somebody put into a body, does not pass.
    seed: u32,
}

/// How the bodies in a segment are written.
#[derive(Debug, Clone)]
pub(crate) enum Bodies {
    /// As they are.
    Clear,
    Encrypted(Arc<Cipher>),
    /// Encrypted, and the key is not there: they read as nothing, which no body is.
    Hidden,
}

/// What a frame says, borrowed from the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Entry { sequence: Sequence, time_ms: u64, origin: Option<Sequence>, body: &'a str },
    Mark { kind: MarkKind, target: Sequence, time_ms: u64, body: &'a str },
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A whole and valid frame, and its length.
    Frame(Frame<'a>, usize),
    /// Perhaps a frame, but the bytes end before it does. At least so many are needed in all.
    Partial(usize),
    /// No frame; one cannot begin before this many bytes (at least 1) are skipped.
    Bad(usize),
}

impl Codec {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new(format: Format, salt: u64) -> Self {
        Self::with(format, salt, Bodies::Clear)
    }

    pub(crate) fn with(format: Format, salt: u64, bodies: Bodies) -> Self {
        Self { format, bodies, seed: crc32c::crc32c(&salt.to_le_bytes()) }
    }

    /// Appends the frame of an entry. Where bodies are encrypted, [`Codec::encrypt`] does that later: here it stands in
    /// clear.
    pub(crate) fn entry(&self, out: &mut Vec<u8>, sequence: Sequence, entry: &NewEntry<'_>) {
        match self.format {
            Format::Json => json::entry(self.seed, out, sequence, entry),
            Format::Bincode => {
                let related = entry.origin.unwrap_or(Sequence::START);
                binary::frame(self.seed, out, (sequence, entry.time_ms, 0, related, entry.body));
            }
        }
    }

    /// Appends the frame of a mark, as [`Codec::entry`] does.
    pub(crate) fn mark(&self, out: &mut Vec<u8>, mark: &Mark) {
        self.mark_parts(out, mark.kind, mark.target, mark.time_ms, &mark.body);
    }

    fn mark_parts(&self, out: &mut Vec<u8>, kind: MarkKind, target: Sequence, time_ms: u64, body: &str) {
        match self.format {
            Format::Json => json::mark(self.seed, out, kind, target, time_ms, body),
            Format::Bincode => {
                let kind = kind.index() as u8 + 1;
                binary::frame(self.seed, out, (Sequence::START, time_ms, kind, target, body));
            }
        }
    }

    /// By how much the frame of such a body is longer in the segment than what [`Codec::entry`] and [`Codec::mark`] give.
    pub(crate) fn growth(&self, body: usize) -> usize {
        if matches!(self.bodies, Bodies::Clear) {
            return 0;
        }
        let encrypted = encrypted_length(body);
        match self.format {
            Format::Json => encrypted - body,
            Format::Bincode => {
                encrypted - body + binary::length_bytes(encrypted) - binary::length_bytes(body)
            }
        }
    }

    /// Brings frames into the form in which they stand in the segment from this place on: what [`Codec::entry`] and
    /// [`Codec::mark`] have put into `bytes` from `done` on, where `place` is that of the first byte of `bytes`.
    pub(crate) fn encrypt(&self, bytes: &mut Vec<u8>, done: usize, place: u64) -> io::Result<()> {
        let Bodies::Encrypted(cipher) = &self.bodies else { return Ok(()) };
        let broken = || io::Error::other("what is to be written could not be encrypted");
        let clear = bytes.split_off(done);
        let (mut rest, mut scratch, mut body) = (&clear[..], Vec::new(), String::new());
        while !rest.is_empty() {
            let Parsed::Frame(frame, length) = self.parse(rest) else { return Err(broken()) };
            if !cipher.encrypt(frame, place + bytes.len() as u64, &mut scratch, &mut body) {
                return Err(broken());
            }
            match frame {
                Frame::Entry { sequence, time_ms, origin, .. } => {
                    self.entry(bytes, sequence, &NewEntry { body: &body, time_ms, origin });
                }
                Frame::Mark { kind, target, time_ms, .. } => {
                    self.mark_parts(bytes, kind, target, time_ms, &body);
                }
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    /// What the frame at this place says; `None` if it was not written there.
    pub(crate) fn decrypt<'a>(
        &self,
        frame: Frame<'a>,
        place: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Option<Frame<'a>> {
        match &self.bodies {
            Bodies::Clear => Some(frame),
            Bodies::Encrypted(cipher) => cipher.decrypt(frame, place, scratch),
            Bodies::Hidden => Some(frame.with_body("")),
        }
    }

    /// How many bytes [`Codec::parse`] wants to see at the beginning of `bytes`; cheap, and promises nothing.
    pub(crate) fn wanted(&self, bytes: &[u8]) -> usize {
        match self.format {
            Format::Json => json::wanted(bytes),
            Format::Bincode => binary::wanted(bytes),
        }
    }

    /// How far behind the beginning of `bytes`, where no frame stands, one may begin. `skip` is what
    /// [`Codec::parse`] said.
    pub(crate) fn next_start(&self, bytes: &[u8], skip: usize) -> usize {
        match self.format {
            Format::Json => json::next_start(&bytes[..skip.min(bytes.len())]),
            Format::Bincode => binary::next_start(self.seed, bytes, skip),
        }
    }

    /// Reads the frame at the beginning of `bytes`. Strict: accepts nothing but what is written by this codec.
    pub(crate) fn parse<'a>(&self, bytes: &'a [u8]) -> Parsed<'a> {
        match self.format {
            Format::Json => json::parse(self.seed, bytes),
            Format::Bincode => binary::parse(self.seed, bytes),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Codec {
    /// A frame with this content, whatever it is.
    pub(crate) fn seal(&self, content: &[u8]) -> Vec<u8> {
        match self.format {
            Format::Json => json::seal(self.seed, content),
            Format::Bincode => binary::seal(self.seed, content),
        }
    }
}

impl<'a> Frame<'a> {
    pub(crate) fn body(self) -> &'a str {
        match self {
            Self::Entry { body, .. } | Self::Mark { body, .. } => body,
        }
    }

    /// The same frame with another body.
    pub(crate) fn with_body(self, body: &str) -> Frame<'_> {
        match self {
            Self::Entry { sequence, time_ms, origin, .. } => Frame::Entry { sequence, time_ms, origin, body },
            Self::Mark { kind, target, time_ms, .. } => Frame::Mark { kind, target, time_ms, body },
        }
    }

    /// Everything but the body: sequence, time, kind (0 for an entry) and origin or target, as in the bincode format.
    pub(crate) fn clear_parts(self) -> (Sequence, u64, u8, Sequence) {
        match self {
            Self::Entry { sequence, time_ms, origin, .. } => {
                (sequence, time_ms, 0, origin.unwrap_or(Sequence::START))
            }
            Self::Mark { kind, target, time_ms, .. } => {
                (Sequence::START, time_ms, kind.index() as u8 + 1, target)
            }
        }
    }

    /// The entry, if it is one.
    pub(crate) fn to_entry(self) -> Option<Entry> {
        match self {
            Self::Entry { sequence, time_ms, origin, body } => {
                Some(Entry { sequence, time_ms, origin, body: body.into() })
            }
            Self::Mark { .. } => None,
        }
    }
}

/// Whether a body may be taken: not empty, no control characters. Compact JSON has none; a raw newline or NUL would
/// make frames and prefill hard to tell apart.
pub(crate) fn is_valid_body(body: &str) -> bool {
    // Not `any`: what does not stop at the first is done with vector instructions.
    !body.is_empty() && body.bytes().fold(0, |controls, byte| controls | u8::from(byte < 0x20)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Header;
    use crate::scan;

    fn sequence(epoch: u32, counter: u64) -> Sequence {
        Sequence::new(epoch, counter).unwrap()
    }

    fn samples() -> Vec<(Option<Sequence>, NewEntry<'static>)> {
        let bodies = ["{}", r#"{"a":1}"#, r#"{"näme":"日本語 🦀 \n \u0000","crc32c":"00000000"}"#];
        let mut samples = Vec::new();
        for (index, body) in bodies.into_iter().enumerate() {
            let origin = (index > 0).then(|| sequence(2, index as u64));
            let time_ms = [0, 1_763_911_111_111, u64::MAX][index];
            samples.push((Some(sequence(3, 1 << (index * 13))), NewEntry { body, time_ms, origin }));
        }
        samples
    }

    #[test]
    fn what_is_written_reads_back_in_both_formats() {
        for format in [Format::Json, Format::Bincode] {
            let codec = Codec::new(format, 42);
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (name, entry) in samples() {
                let start = bytes.len();
                codec.entry(&mut bytes, name.unwrap(), &entry);
                assert!(bytes.len() - start <= entry.body.len() + OVERHEAD_MAX);
                expected.push(Frame::Entry {
                    sequence: name.unwrap(),
                    time_ms: entry.time_ms,
                    origin: entry.origin,
                    body: entry.body,
                });
                for kind in MarkKind::ALL {
                    let mark = Mark { kind, target: name.unwrap(), time_ms: 7, body: entry.body.into() };
                    codec.mark(&mut bytes, &mark);
                    expected.push(Frame::Mark { kind, target: mark.target, time_ms: 7, body: entry.body });
                }
            }
            let mut rest = &bytes[..];
            for frame in expected {
                let Parsed::Frame(found, length) = codec.parse(rest) else { panic!("{format:?} {frame:?}") };
                assert_eq!(found, frame);
                rest = &rest[length..];
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn no_changed_bit_no_cut_and_no_other_salt_passes() {
        for format in [Format::Json, Format::Bincode] {
            let codec = Codec::new(format, 42);
            for (name, entry) in samples() {
                let mut bytes = Vec::new();
                codec.entry(&mut bytes, name.unwrap(), &entry);
                for at in 0..bytes.len() * 8 {
                    let mut changed = bytes.clone();
                    changed[at / 8] ^= 1 << (at % 8);
                    assert!(!matches!(codec.parse(&changed), Parsed::Frame(..)), "{format:?} bit {at}");
                }
                for cut in 0..bytes.len() {
                    assert!(!matches!(codec.parse(&bytes[..cut]), Parsed::Frame(..)), "{format:?} cut {cut}");
                }
                assert!(!matches!(Codec::new(format, 43).parse(&bytes), Parsed::Frame(..)));
            }
        }
    }

    #[test]
    fn nothing_is_read_that_would_not_be_written_like_this() {
        let json = Codec::new(Format::Json, 42);
        let line = |sequence: &str, time: &str| {
            format!(r#"{{"sequence":"{sequence}","time":{time},"kind":"write","body":{{}}"#)
        };
        let is_read = |codec: &Codec, content: &[u8]| {
            let frame = codec.seal(content);
            matches!(codec.parse(&frame), Parsed::Frame(_, length) if length == frame.len())
        };
        assert!(is_read(&json, line("3-17", "0").as_bytes()));
        for (sequence, time) in [("03-17", "0"), ("3-017", "0"), ("3-17", "00"), ("3-17", "01")] {
            assert!(!is_read(&json, line(sequence, time).as_bytes()), "{sequence} {time}");
        }
        let bincode = Codec::new(Format::Bincode, 42);
        // (sequence, time, kind, related, length of the body), the body
        assert!(is_read(&bincode, b"\x11\x07\x00\x00\x02{}") && is_read(&bincode, b"\x00\x07\x01\x05\x02{}"));
        assert!(!is_read(&bincode, b"\xfb\x11\x00\x07\x00\x00\x02{}"), "a number in a longer form");
        assert!(!is_read(&bincode, b"\x11\x07\x01\x05\x02{}"), "a mark with a sequence of its own");
    }

    #[test]
    fn how_long_an_encrypted_frame_gets_is_known_beforehand() {
        let key = "5a".repeat(32).parse().unwrap();
        let epoch = crate::Epoch { number: 3, owner: "owner".into(), opened_at_ms: 1 };
        for format in [Format::Json, Format::Bincode] {
            let mut header = Header::sample(&epoch);
            let codec = Codec::with(format, 42, Bodies::Encrypted(Cipher::begin(&key, [7; 32], &mut header)));
            for length in (1..600).chain(65_000..65_600).chain([49_120, 49_121, 49_122]) {
                let body = "x".repeat(length);
                let mut bytes = b"before".to_vec();
                codec.entry(&mut bytes, sequence(3, 1), &NewEntry { body: &body, time_ms: 7, origin: None });
                let clear = bytes.len();
                codec.encrypt(&mut bytes, 6, 1000).unwrap();
                assert_eq!(bytes.len(), clear + codec.growth(length), "{format:?} {length}");
                assert!(!scan::has_hole(&bytes[6..], format), "{format:?} {length}");
                let Parsed::Frame(frame, _) = codec.parse(&bytes[6..]) else { panic!("{length}") };
                assert!(codec.decrypt(frame, 1005, &mut Vec::new()).is_none());
                assert_eq!(codec.decrypt(frame, 1006, &mut Vec::new()).unwrap().body(), body);
            }
        }
    }

    #[test]
    fn a_body_is_refused_when_it_could_break_a_line() {
        for bad in ["", "{\n}", "{\0}", "\t{}", "{}\r", "\u{1f}"] {
            assert!(!is_valid_body(bad), "{bad:?}");
        }
        assert!(is_valid_body("{\"é\":\"\\n\"}"));
    }
}
