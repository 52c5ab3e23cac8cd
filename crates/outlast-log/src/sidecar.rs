//! The sidecar of a sealed segment: everything that opening needs of it. A cache: a missing or damaged one is made
//! again from the segment. Layout in `docs/format.md`.

use std::io;
use std::path::Path;

use wincode::config::Configuration;

use crate::codec::{Bodies, Codec};
use crate::disk::Disk;
use crate::encryption::Cipher;
use crate::header::Header;
use crate::segment::{Ledger, Point, Segment};
use crate::{Counts, Damage, Mark, MarkKind, Sequence};

const MAGIC: &[u8; 8] = b"outlast1";
/// That of an encrypted segment: what marks say is left out, and follows encrypted.
const ENCRYPTED_MAGIC: &[u8; 8] = b"outlast2";
/// Magic, checksum of the payload, length of the payload.
const PREFIX: usize = 8 + 4 + 8;

/// (kind, target, time, body)
type WireMark = (u8, u64, u64, String);
/// (offset, bytes, after, before + 1 or 0, lost first or 0, lost last)
type WireDamage = (u64, u64, u64, u64, (u64, u64));
/// (header line, (end, last, sealed at), (entries, requeued, marks), points, marks, cursor, origins, damage)
type Wire = (
    String,
    (u64, u64, u64),
    (u64, u64, [u64; 6]),
    Vec<(u32, u32)>,
    Vec<WireMark>,
    Option<WireMark>,
    Vec<(u64, u64)>,
    Vec<WireDamage>,
);

/// A sidecar that was read and checked.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    pub(crate) header: Header,
    pub(crate) end: u64,
    pub(crate) last: Sequence,
    pub(crate) sealed_at_ms: u64,
    pub(crate) points: Vec<Point>,
    pub(crate) ledger: Ledger,
    pub(crate) damage: Vec<Damage>,
    /// What the marks say, when it is encrypted; with the bytes that stand in clear.
    secret: Option<(Vec<u8>, Vec<u8>)>,
}

impl Sidecar {
    /// With what the marks say, as far as the codec can tell; `None` if that is not as it was written.
    pub(crate) fn decrypt(mut self, codec: &Codec) -> Option<Self> {
        match (&codec.bodies, self.secret.take()) {
            (Bodies::Clear, None) | (Bodies::Hidden, Some(_)) => Some(self),
            (Bodies::Encrypted(cipher), Some((clear, encrypted))) => {
                let bodies = cipher.decrypt_sidecar(&clear, &encrypted)?;
                let config = Configuration::default().disable_preallocation_size_limit();
                let bodies: Vec<String> = wincode::config::deserialize_exact(&bodies, config).ok()?;
                let Ledger { marks, cursor, .. } = &mut self.ledger;
                let mut bodies = bodies.into_iter();
                for mark in marks.iter_mut().chain(cursor) {
                    mark.body = bodies.next()?.into();
                }
                bodies.next().is_none().then_some(self)
            }
            _ => None,
        }
    }

    /// The segment that it stands for.
    pub(crate) fn into_segment(
        self,
        codec: Codec,
        path: &Path,
        file_bytes: u64,
    ) -> (Segment, Ledger, Vec<Damage>) {
        let segment = Segment::new(self.header, codec, path.to_owned(), file_bytes);
        segment.set_last(self.last);
        segment.set_written(self.end);
        segment.seal(self.sealed_at_ms);
        segment.set_points(self.points);
        (segment, self.ledger, self.damage)
    }
}

/// Writes the sidecar of a sealed segment. Not in place, so that a crash leaves the old one or none.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    segment: &Segment,
    ledger: &Ledger,
    damage: &[Damage],
) -> io::Result<()> {
    let (magic, payload) = match &segment.codec.bodies {
        Bodies::Clear => (MAGIC, encode(segment, ledger, damage)?),
        Bodies::Encrypted(cipher) => (ENCRYPTED_MAGIC, encode_encrypted(cipher, segment, ledger, damage)?),
        Bodies::Hidden => return Err(io::Error::other("its key was not given")),
    };
    let mut bytes = Vec::with_capacity(PREFIX + payload.len());
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let temporary = path.with_extension("index-new");
    let file = disk.create(&temporary)?;
    let written =
        file.write_at(&bytes, 0).and_then(|()| file.sync()).and_then(|()| disk.rename(&temporary, path));
    if written.is_err() {
        // On a full disk the rest of it would stay in the way. It is only a cache: nothing more to do if this fails.
        let _ = disk.remove(&temporary);
    }
    written
}

/// The length of what stands in clear, that, and the bodies of marks and cursor.
fn encode_encrypted(
    cipher: &Cipher,
    segment: &Segment,
    ledger: &Ledger,
    damage: &[Damage],
) -> io::Result<Vec<u8>> {
    let mut ledger = ledger.clone();
    let mut bodies: Vec<String> = Vec::with_capacity(ledger.marks.len() + 1);
    for mark in ledger.marks.iter_mut().chain(&mut ledger.cursor) {
        bodies.push(std::mem::take(&mut mark.body).into());
    }
    let clear = encode(segment, &ledger, damage)?;
    let config = Configuration::default().disable_preallocation_size_limit();
    let bodies = wincode::config::serialize(&bodies, config).map_err(io::Error::other)?;
    let encrypted = cipher.encrypt_sidecar(&clear, bodies)?;
    Ok([&(clear.len() as u64).to_le_bytes()[..], &clear, &encrypted].concat())
}

fn encode(segment: &Segment, ledger: &Ledger, damage: &[Damage]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_string(&segment.header)?;
    let counts = &ledger.counts;
    let damage = damage.iter().map(|damage| {
        let lost = damage.lost.map_or((0, 0), |(first, last)| (first.as_u64(), last.as_u64()));
        let before = damage.before.map_or(0, |before| before.as_u64() + 1);
        (damage.offset, damage.bytes, damage.after.as_u64(), before, lost)
    });
    let wire: Wire = (
        header,
        (segment.written(), segment.last().as_u64(), segment.sealed_at_ms().unwrap_or(1)),
        (counts.entries, counts.requeued, counts.marks),
        segment.points().iter().map(|point| (point.ordinal, point.offset)).collect(),
        ledger.marks.iter().map(mark_to_wire).collect(),
        ledger.cursor.as_ref().map(mark_to_wire),
        ledger.origins.iter().map(|(sequence, origin)| (sequence.as_u64(), origin.as_u64())).collect(),
        damage.collect(),
    );
    let config = Configuration::default().disable_preallocation_size_limit();
    wincode::config::serialize(&wire, config).map_err(io::Error::other)
}

/// The sidecar, or `None` when it is missing, damaged or not understood: then the segment is scanned.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Option<Sidecar> {
    let file = disk.open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(file.size().ok()?).ok()?];
    let length = file.read_at(&mut bytes, 0).ok()?;
    decode(&bytes[..length])
}

fn decode(bytes: &[u8]) -> Option<Sidecar> {
    let (magic, rest) = bytes.split_first_chunk()?;
    let is_encrypted = magic == ENCRYPTED_MAGIC;
    if !is_encrypted && magic != MAGIC {
        return None;
    }
    let (sum, rest) = rest.split_first_chunk()?;
    let (length, payload) = rest.split_first_chunk()?;
    let intact = u64::from_le_bytes(*length) == payload.len() as u64;
    if !intact || u32::from_le_bytes(*sum) != crc32c::crc32c(payload) {
        return None;
    }
    let (payload, secret) = if is_encrypted {
        let (length, rest) = payload.split_first_chunk()?;
        let (clear, encrypted) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        (clear, Some((clear.to_vec(), encrypted.to_vec())))
    } else {
        (payload, None)
    };
    let config = Configuration::default().disable_preallocation_size_limit();
    let wire: Wire = wincode::config::deserialize_exact(payload, config).ok()?;
    let (
        header,
        (end, last, sealed_at_ms),
        (entries, requeued, marks_by_kind),
        points,
        marks,
        cursor,
        origins,
        damage,
    ) = wire;
    let header: Header = serde_json::from_str(&header).ok().filter(Header::is_known)?;
    let segment = header.segment;
    let pair = |(a, b)| Sequence::from_u64(a).zip(Sequence::from_u64(b));
    let damage = damage.into_iter().map(|(offset, bytes, after, before, lost)| {
        let after = Sequence::from_u64(after)?;
        let before = before.checked_sub(1).and_then(Sequence::from_u64);
        Some(Damage {
            segment,
            offset,
            bytes,
            after,
            before,
            lost: if lost.1 == 0 { None } else { pair(lost) },
        })
    });
    Some(Sidecar {
        header,
        end,
        last: Sequence::from_u64(last)?,
        sealed_at_ms,
        points: points.into_iter().map(|(ordinal, offset)| Point { ordinal, offset }).collect(),
        ledger: Ledger {
            counts: Counts { entries, requeued, marks: marks_by_kind },
            marks: marks.into_iter().map(mark_from_wire).collect::<Option<_>>()?,
            cursor: match cursor {
                Some(cursor) => Some(mark_from_wire(cursor)?),
                None => None,
            },
            origins: origins.into_iter().map(pair).collect::<Option<_>>()?,
        },
        damage: damage.collect::<Option<_>>()?,
        secret,
    })
}

fn mark_to_wire(mark: &Mark) -> WireMark {
    (mark.kind.index() as u8, mark.target.as_u64(), mark.time_ms, mark.body.to_string())
}

fn mark_from_wire((kind, target, time_ms, body): WireMark) -> Option<Mark> {
    let kind = *MarkKind::ALL.get(usize::from(kind))?;
    Some(Mark { kind, target: Sequence::from_u64(target)?, time_ms, body: body.into() })
}
