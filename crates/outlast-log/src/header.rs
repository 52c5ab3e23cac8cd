//! The header that opens every segment.

use std::io;

use serde::{Deserialize, Serialize};

use crate::checked;
use crate::codec::{Bodies, Codec};
use crate::disk::DiskFile;
use crate::encryption::{Cipher, EncryptedWith, Key, NoCipher};
use crate::entry::{Counts, QueueId};
use crate::options::Format;
use crate::scan;
use crate::{Epoch, Sequence};

/// The versions of the layout that `docs/format.md` describes: that of segments in clear...
pub(crate) const FORMAT_VERSION: u32 = 1;
/// ...and that of encrypted ones.
pub(crate) const ENCRYPTED_VERSION: u32 = 2;
/// The space of one copy. Of fixed size, so that the second is found when the first is damaged.
const COPY_BYTES: usize = 1024;
/// Where the frames begin.
pub(crate) const HEADER_BYTES: u64 = 2 * COPY_BYTES as u64;

/// What a segment says of itself. Without it none of its frames can be checked, so it stands there twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// [`FORMAT_VERSION`] or [`ENCRYPTED_VERSION`].
    pub(crate) outlast: u32,
    pub(crate) queue: QueueId,
    pub(crate) segment: u64,
    pub(crate) epoch: u32,
    pub(crate) owner: String,
    pub(crate) opened_at_ms: u64,
    /// The sequence of its first entry, when it gets one.
    #[serde(with = "text")]
    pub(crate) first: Sequence,
    /// The last sequence in the log before it.
    #[serde(with = "text")]
    pub(crate) previous: Sequence,
    #[serde(with = "hex")]
    pub(crate) salt: u64,
    pub(crate) created_at_ms: u64,
    /// Its first frame is the last cursor of the log before it.
    pub(crate) carries_cursor: bool,
    /// What was ever put into the log before it.
    pub(crate) before: Counts,
    /// With which key its bodies are encrypted, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) encryption: Option<EncryptedWith>,
}

impl Header {
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { number: self.epoch, owner: self.owner.clone(), opened_at_ms: self.opened_at_ms }
    }

    /// For somebody who has these keys.
    pub(crate) fn codec(&self, format: Format, keys: &[Key]) -> Result<Codec, NoCipher> {
        let bodies = Cipher::of(self, keys)?.map_or(Bodies::Clear, Bodies::Encrypted);
        Ok(Codec::with(format, self.salt, bodies))
    }

    /// Whether this program knows such headers.
    pub(crate) fn is_known(&self) -> bool {
        let version = if self.encryption.is_some() { ENCRYPTED_VERSION } else { FORMAT_VERSION };
        self.outlast == version
    }

    /// Appends both copies, [`HEADER_BYTES`] in all.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let line = checked::to_line(self).expect("a header is plain text and numbers");
        assert!(line.len() < COPY_BYTES, "the longest header has about 800 bytes");
        for _ in 0..2 {
            let end = out.len() + COPY_BYTES;
            out.extend_from_slice(&line);
            // Spaces before the newline: still one JSON line each, in files of both formats.
            out.resize(end - 1, b' ');
            out.push(b'\n');
        }
    }

    /// Writes one copy again (0 or 1), from this one.
    pub(crate) fn restore(&self, file: &dyn DiskFile, copy: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        file.write_at(&bytes[..COPY_BYTES], (copy * COPY_BYTES) as u64)?;
        file.sync()
    }

    /// Which of the two copies in a file are not this header, byte by byte.
    pub(crate) fn wrong_copies(&self, file: &dyn DiskFile) -> io::Result<Vec<usize>> {
        let mut expected = Vec::new();
        self.encode(&mut expected);
        let mut bytes = [0; 2 * COPY_BYTES];
        let length = file.read_at(&mut bytes, 0)?;
        let copies = expected.chunks(COPY_BYTES).zip(bytes[..length].chunks(COPY_BYTES));
        let good = copies.map(|(expected, found)| expected == found).chain([false, false]);
        Ok(good.take(2).enumerate().filter(|(_, good)| !good).map(|(copy, _)| copy).collect())
    }

    /// The header of a file, from whichever copy is good.
    pub(crate) fn read(file: &dyn DiskFile, format: Format) -> io::Result<HeaderFound> {
        let mut bytes = [0; 2 * COPY_BYTES];
        let length = file.read_at(&mut bytes, 0)?;
        for copy in bytes[..length].chunks(COPY_BYTES) {
            let copy = copy.trim_ascii_end();
            // The version first: a later one may have other fields.
            match checked::from_line::<Version>(copy) {
                Some(Version { outlast: FORMAT_VERSION | ENCRYPTED_VERSION }) => {
                    if let Some(header) = checked::from_line(copy).filter(Self::is_known) {
                        return Ok(HeaderFound::Good(Box::new(header)));
                    }
                }
                Some(Version { outlast }) => return Ok(HeaderFound::OtherVersion(outlast)),
                None => {}
            }
        }
        // A file has its whole size before it becomes a segment: one that is too short was cut.
        let never_written = length == bytes.len() && scan::has_hole(&bytes, format);
        Ok(if never_written { HeaderFound::NeverWritten } else { HeaderFound::Damaged })
    }
}

#[cfg(test)]
impl Header {
    /// Of the first segment of this opening.
    pub(crate) fn sample(epoch: &Epoch) -> Self {
        Self {
            outlast: FORMAT_VERSION,
            queue: QueueId(uuid::Uuid::nil()),
            segment: 1,
            epoch: epoch.number,
            owner: epoch.owner.clone(),
            opened_at_ms: epoch.opened_at_ms,
            first: Sequence::START,
            previous: Sequence::START,
            salt: 42,
            created_at_ms: 1,
            carries_cursor: false,
            before: Counts::default(),
            encryption: None,
        }
    }
}

/// What stands where a header should be.
#[derive(Debug)]
pub(crate) enum HeaderFound {
    Good(Box<Header>),
    /// A version of the layout that this one does not know.
    OtherVersion(u32),
    /// The power went before the segment was begun: nothing in it was ever acknowledged.
    NeverWritten,
    /// It was there once.
    Damaged,
}

#[derive(Deserialize)]
struct Version {
    outlast: u32,
}

/// A sequence as its text.
mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::Sequence;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    pub(super) fn serialize<S: Serializer>(sequence: &Sequence, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(sequence)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sequence, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A 64-bit number as sixteen hexadecimal digits: JSON readers would round it.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}
