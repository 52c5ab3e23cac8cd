//! Encryption of what entries and marks say. Layout and reasons: `docs/format.md`, decision 0023.
//!
//! Every segment has keys of its own, derived from the master key, a random salt and the whole header. The nonce of a
//! frame is its place in the segment, where nothing else is ever written under these keys: a segment is only ever
//! appended to by the opening that began it, and a file that is used again gets a new salt. What stands in clear beside
//! a body is authenticated with it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{self, HKDF_SHA256, Prk};

use crate::codec::Frame;
use crate::header::{ENCRYPTED_VERSION, Header};
use crate::sync::fill_random;

/// The length of a key, and of the salts from which keys are derived.
pub(crate) const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const CHECK_BYTES: usize = 16;

/// What a key is called: it is told wherever the key is needed, and does not give it away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A master key: 256 bits of chance.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    id: KeyId,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits, as `outlast log keygen` makes them")]
pub struct ParseKeyError;

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn generate() -> std::io::Result<Self> {
        Ok(Self::new(random()?))
    }

    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let mut id = [0; 8];
        expand(&hkdf::Salt::new(HKDF_SHA256, &[]).extract(&bytes), &[b"outlast key id"], &mut id);
        Self { bytes, id: KeyId(id) }
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself, as it stands in a key file.
    pub fn to_text(&self) -> String {
        hex(&self.bytes)
    }
}

impl std::str::FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        unhex(text).map(Self::new).ok_or(ParseKeyError)
    }
}

/// The keys of a log. Several may be given, so that a key can be changed: every one of them decrypts.
#[derive(Debug, Clone, Default)]
pub struct Encryption {
    /// The first one encrypts.
    pub keys: Vec<Key>,
    /// Whether new segments are written in clear although there are keys, which are still needed for older ones.
    pub only_decrypt: bool,
}

impl Encryption {
    /// The key for new segments; `None` when these are written in clear.
    pub fn current(&self) -> Option<&Key> {
        self.keys.first().filter(|_| !self.only_decrypt)
    }
}

/// What the header of an encrypted segment says about that.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct EncryptedWith {
    /// Which key.
    #[serde(with = "hexadecimal")]
    pub(crate) key: [u8; 8],
    /// Random, and new for every segment.
    #[serde(with = "hexadecimal")]
    salt: [u8; KEY_BYTES],
    /// Tells whether key and header belong together.
    #[serde(with = "hexadecimal")]
    check: [u8; CHECK_BYTES],
}

impl EncryptedWith {
    pub(crate) fn key(&self) -> KeyId {
        KeyId(self.key)
    }
}

/// Why a segment cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCipher {
    /// The key with this id was not given.
    Missing(KeyId),
    /// It was, but does not fit the header: that was not written with this key, or was changed.
    Mismatch(KeyId),
}

/// The keys of one segment.
pub(crate) struct Cipher {
    prk: Prk,
    /// The header, byte by byte: everything that is derived depends on it.
    header: Vec<u8>,
    frames: LessSafeKey,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// For a new segment. Everything else in the header must be final.
    pub(crate) fn begin(key: &Key, salt: [u8; KEY_BYTES], header: &mut Header) -> Arc<Self> {
        header.outlast = ENCRYPTED_VERSION;
        header.encryption = Some(EncryptedWith { key: key.id.0, salt, check: [0; CHECK_BYTES] });
        let (cipher, check) = Self::derive(key, salt, header);
        header.encryption = Some(EncryptedWith { key: key.id.0, salt, check });
        Arc::new(cipher)
    }

    /// For a segment with this header; `None` if it is not encrypted.
    pub(crate) fn of(header: &Header, keys: &[Key]) -> Result<Option<Arc<Self>>, NoCipher> {
        let Some(with) = &header.encryption else { return Ok(None) };
        let id = with.key();
        let key = keys.iter().find(|key| key.id == id).ok_or(NoCipher::Missing(id))?;
        let (cipher, check) = Self::derive(key, with.salt, header);
        if check == with.check { Ok(Some(Arc::new(cipher))) } else { Err(NoCipher::Mismatch(id)) }
    }

    fn derive(key: &Key, salt: [u8; KEY_BYTES], header: &Header) -> (Self, [u8; CHECK_BYTES]) {
        let mut header = header.clone();
        if let Some(with) = &mut header.encryption {
            with.check = [0; CHECK_BYTES];
        }
        let header = serde_json::to_vec(&header).expect("a header is plain text and numbers");
        let prk = hkdf::Salt::new(HKDF_SHA256, &salt).extract(&key.bytes);
        let mut check = [0; CHECK_BYTES];
        expand(&prk, &[b"outlast header", &header], &mut check);
        let frames = aead_key(&prk, &[b"outlast frames", &header]);
        (Self { prk, header, frames }, check)
    }

    /// Appends what stands for the body of this frame at this place of the segment: a JSON string.
    pub(crate) fn encrypt(
        &self,
        frame: Frame<'_>,
        place: u64,
        scratch: &mut Vec<u8>,
        out: &mut String,
    ) -> bool {
        scratch.clear();
        scratch.extend_from_slice(frame.body().as_bytes());
        let Some(tag) = seal(&self.frames, nonce(place), &beside(frame), scratch) else { return false };
        scratch.extend_from_slice(tag.as_ref());
        out.clear();
        out.push('"');
        BASE64.encode_string(scratch, out);
        out.push('"');
        true
    }

    /// The frame with the body that was encrypted; `None` if it is not exactly what was written at this place.
    pub(crate) fn decrypt<'a>(
        &self,
        frame: Frame<'_>,
        place: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Option<Frame<'a>> {
        let text = frame.body().strip_prefix('"')?.strip_suffix('"')?;
        scratch.clear();
        BASE64.decode_vec(text, scratch).ok()?;
        let opened = self.frames.open_in_place(nonce(place), Aad::from(beside(frame)), scratch).ok()?;
        Some(frame.with_body(std::str::from_utf8(opened).ok()?))
    }

    /// Encrypts a part of the sidecar. With a key that is derived for this one time: a sidecar may be written again.
    pub(crate) fn encrypt_sidecar(&self, clear: &[u8], mut secret: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let salt: [u8; KEY_BYTES] = random()?;
        let tag = seal(&self.sidecar_key(&salt), nonce(0), clear, &mut secret)
            .ok_or_else(|| std::io::Error::other("what a sidecar says could not be encrypted"))?;
        Ok([&salt[..], &secret, tag.as_ref()].concat())
    }

    /// What [`Cipher::encrypt_sidecar`] was given; `None` if anything was changed.
    pub(crate) fn decrypt_sidecar(&self, clear: &[u8], encrypted: &[u8]) -> Option<Vec<u8>> {
        let (salt, secret) = encrypted.split_first_chunk::<KEY_BYTES>()?;
        let mut secret = secret.to_vec();
        let opened =
            self.sidecar_key(salt).open_in_place(nonce(0), Aad::from(clear), &mut secret).ok()?.len();
        secret.truncate(opened);
        Some(secret)
    }

    fn sidecar_key(&self, salt: &[u8; KEY_BYTES]) -> LessSafeKey {
        aead_key(&self.prk, &[b"outlast sidecar", salt, &self.header])
    }
}

/// How long the text is that stands for a body of this length.
pub(crate) const fn encrypted_length(body: usize) -> usize {
    let bytes = body + TAG_BYTES;
    2 + bytes / 3 * 4
        + match bytes % 3 {
            0 => 0,
            rest => rest + 1,
        }
}

/// The longest body that stands for itself in so many bytes.
pub(crate) const fn decrypted_length_max(encrypted: u64) -> u64 {
    (encrypted.saturating_sub(2) / 4 * 3).saturating_sub(TAG_BYTES as u64)
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// What stands in clear in a frame.
fn beside(frame: Frame<'_>) -> [u8; 25] {
    let (sequence, time_ms, kind, related) = frame.clear_parts();
    let mut bytes = [0; 25];
    bytes[..8].copy_from_slice(&sequence.as_u64().to_le_bytes());
    bytes[8..16].copy_from_slice(&time_ms.to_le_bytes());
    bytes[16] = kind;
    bytes[17..].copy_from_slice(&related.as_u64().to_le_bytes());
    bytes
}

fn nonce(place: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn seal(key: &LessSafeKey, nonce: Nonce, clear: &[u8], bytes: &mut [u8]) -> Option<Tag> {
    key.seal_in_place_separate_tag(nonce, Aad::from(clear), bytes).ok()
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    let derived = prk.expand(info, Length(out.len())).and_then(|derived| derived.fill(out));
    derived.expect("no more is derived than HKDF gives");
}

fn aead_key(prk: &Prk, info: &[&[u8]]) -> LessSafeKey {
    let derived = prk.expand(info, &AES_256_GCM).expect("no more is derived than HKDF gives");
    LessSafeKey::new(UnboundKey::from(derived))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lower or upper case; `None` if it is not exactly so many bytes.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
mod hexadecimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        super::unhex(&String::deserialize(from)?)
            .ok_or_else(|| D::Error::custom("not so many hexadecimal digits"))
    }
}
