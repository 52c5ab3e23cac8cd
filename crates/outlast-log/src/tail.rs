//! The tail: where entries and marks get their sequence and their bytes. Nothing here waits for the disk; the
//! committer takes what has gathered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crate::codec::{Bodies, Codec, is_valid_body};
use crate::committer::Committer;
use crate::disk::DiskFile;
use crate::encryption::{Cipher, KEY_BYTES};
use crate::entry::{Appended, Counts, Ticket};
use crate::epochs::now_ms;
use crate::header::{FORMAT_VERSION, HEADER_BYTES, Header};
use crate::options::LogOptions;
use crate::segment::{Ledger, Segment};
use crate::shared::{Shared, SpareFile, rest};
use crate::sync::MutexGuard;
use crate::{AppendError, Mark, NewEntry, Sequence};

/// While more than this waits for the disk, appending waits too: memory must not grow when the disk stalls.
const PENDING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// So much is written at once, even if nobody waits for it.
const LAZY_BYTES_MAX: usize = 256 * 1024;
/// This part of a segment is kept for marks while no spare is ready.
const RESERVE_PART: u64 = 8;
/// A cursor with a body longer than this part of a segment is not carried into the next one.
const CARRIED_PART: u64 = 16;
/// Buffers that are kept for the next chunks, and the largest that is worth keeping.
const BUFFERS_MAX: usize = 2;
const BUFFER_BYTES_MAX: usize = 2 * PENDING_BYTES_MAX;

/// Changed only with the lock.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The segment that gets the next frame, and where in it.
    pub(crate) segment: Arc<Segment>,
    pub(crate) ledger: Ledger,
    codec: Codec,
    offset: u64,
    /// From where on the sparse index gets its next point.
    next_point: u64,
    /// The counter of the last sequence given in this epoch.
    counter: u64,
    /// The last sequence in the log.
    pub(crate) last: Sequence,
    /// The last ticket given.
    pub(crate) ticket: u64,
    /// What waits for the committer, in order.
    pub(crate) pending: Vec<Chunk>,
    pub(crate) pending_bytes: usize,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) spare: Spare,
    /// Since when the committer waits for space.
    pub(crate) write_blocked: Option<SystemTime>,
    /// Here while nobody commits.
    pub(crate) committer: Option<Committer>,
    /// The committer's thread looks again by itself within a moment: it need not be woken for what nobody waits for.
    pub(crate) alarm: bool,
    pub(crate) closing: bool,
}

/// Bytes that are written at once. A chunk never spans segments.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// The last ticket in it.
    pub(crate) ticket: u64,
    /// It begins a segment, header included.
    pub(crate) opens: Option<Opens>,
}

/// What the committer needs to begin a segment.
#[derive(Debug)]
pub(crate) struct Opens {
    pub(crate) spare: SpareFile,
    /// What the sidecar of the former one has to say.
    pub(crate) former: Ledger,
}

/// The file for the next segment.
#[derive(Debug)]
pub(crate) enum Spare {
    Preparing,
    Ready(SpareFile),
    NoSpace(SystemTime),
}

impl Tail {
    /// A tail at the end of the header of a new segment, which is written.
    pub(crate) fn new(segment: Arc<Segment>, file: Arc<dyn DiskFile>, ledger: Ledger) -> Self {
        Self {
            codec: segment.codec.clone(),
            offset: segment.written(),
            next_point: 0,
            counter: segment.header.first.counter() - 1,
            last: segment.header.previous,
            committer: Some(Committer::new(segment.clone(), file)),
            segment,
            ledger,
            ticket: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            buffers: Vec::new(),
            spare: Spare::Preparing,
            write_blocked: None,
            alarm: false,
            closing: false,
        }
    }

    /// Everything that was ever put into the log.
    pub(crate) fn counts(&self) -> Counts {
        self.segment.header.before.plus(&self.ledger.counts)
    }

    /// Whether what is pending should be written even if nobody waits for it. The next file is prepared only when the
    /// present one is begun.
    pub(crate) fn is_worth_writing(&self) -> bool {
        self.pending_bytes > LAZY_BYTES_MAX || self.pending.iter().any(|chunk| chunk.opens.is_some())
    }

    fn fits(&self, bytes: u64, keep_reserve: bool) -> bool {
        let size = self.segment.file_bytes.load(Ordering::Relaxed);
        // An empty segment takes whatever the log takes: another one would have no more room.
        let reserved = keep_reserve && !self.ledger.is_empty() && !matches!(self.spare, Spare::Ready(_));
        let reserve = if reserved { size / RESERVE_PART } else { 0 };
        self.offset + bytes + reserve <= size
    }

    /// The chunk that takes the next frame.
    fn chunk(&mut self) -> &mut Chunk {
        let open = self.pending.last().is_some_and(|chunk| Arc::ptr_eq(&chunk.segment, &self.segment));
        if !open {
            let (segment, offset) = (self.segment.clone(), self.offset);
            let bytes = self.buffers.pop().unwrap_or_default();
            self.pending.push(Chunk { segment, offset, bytes, ticket: 0, opens: None });
        }
        self.pending.last_mut().expect("a chunk was pushed if there was none")
    }

    /// Encodes one frame with a body of this length and gives it a ticket. The committer encrypts it: not here, where
    /// everybody waits for the lock.
    fn put(&mut self, body: usize, encode: impl FnOnce(&Codec, &mut Vec<u8>)) -> Ticket {
        self.ticket += 1;
        let ticket = self.ticket;
        let codec = self.codec.clone();
        let chunk = self.chunk();
        let before = chunk.bytes.len();
        encode(&codec, &mut chunk.bytes);
        let length = chunk.bytes.len() - before + codec.growth(body);
        chunk.ticket = ticket;
        self.offset += length as u64;
        self.pending_bytes += length;
        Ticket(ticket)
    }

    fn put_entry(&mut self, entry: &NewEntry<'_>) -> Appended {
        self.counter += 1;
        let sequence = Sequence::new(self.segment.header.epoch, self.counter);
        let sequence = sequence.expect("the counter was checked before");
        if self.offset >= self.next_point {
            self.next_point = self.segment.note(self.ledger.counts.entries, self.offset);
        }
        let ticket = self.put(entry.body.len(), |codec, out| codec.entry(out, sequence, entry));
        self.ledger.add_entry(sequence, entry.origin);
        self.segment.set_last(sequence);
        self.last = sequence;
        Appended { sequence, ticket }
    }

    /// Hands over what has gathered; whether somebody may wait for that. To wake nobody is a system call, too.
    pub(crate) fn take(&mut self, chunks: &mut Vec<Chunk>) -> bool {
        std::mem::swap(&mut self.pending, chunks);
        std::mem::take(&mut self.pending_bytes) > PENDING_BYTES_MAX
    }

    /// Takes back a buffer that was written.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < BUFFERS_MAX && buffer.capacity() <= BUFFER_BYTES_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// The bytes that open a segment of this size, with its codec and what they put on its ledger. The cursor's frame still
/// has to be encrypted, which must happen before anything is written. The last cursor is carried along, so
/// that it is not lost when the segment in which it stood is reclaimed; unless it is so large that it would be in the
/// way.
pub(crate) fn opening(
    header: &mut Header,
    options: &LogOptions,
    key_salt: [u8; KEY_BYTES],
    cursor: Option<Mark>,
    bytes: u64,
    out: &mut Vec<u8>,
) -> (Ledger, Codec) {
    let cursor = cursor.filter(|cursor| cursor.body.len() as u64 <= bytes / CARRIED_PART);
    header.carries_cursor = cursor.is_some();
    (header.outlast, header.encryption) = (FORMAT_VERSION, None);
    let key = options.encryption.current();
    let bodies = key.map_or(Bodies::Clear, |key| Bodies::Encrypted(Cipher::begin(key, key_salt, header)));
    header.encode(out);
    let codec = Codec::with(options.format, header.salt, bodies);
    if let Some(cursor) = &cursor {
        codec.mark(out, cursor);
    }
    (Ledger { cursor, ..Ledger::default() }, codec)
}

impl Shared {
    /// See [`Log::append`](crate::Log::append).
    pub(crate) fn append(&self, entry: &NewEntry<'_>) -> Result<Appended, AppendError> {
        let bytes = self.check_entry(entry)?;
        let mut tail = self.admit(bytes, true)?;
        check_counter(&tail, 1)?;
        let appended = tail.put_entry(entry);
        self.release(tail);
        Ok(appended)
    }

    /// See [`Log::append_all`](crate::Log::append_all).
    pub(crate) fn append_all(&self, entries: &[NewEntry<'_>]) -> Result<Vec<Appended>, AppendError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        for entry in entries {
            bytes += self.check_entry(entry)?;
        }
        // A group stands in one segment, so that it can be taken whole or not at all.
        self.check_size(bytes)?;
        let mut tail = self.admit(bytes, true)?;
        check_counter(&tail, entries.len() as u64)?;
        let appended = entries.iter().map(|entry| tail.put_entry(entry)).collect();
        self.release(tail);
        Ok(appended)
    }

    /// See [`Log::mark`](crate::Log::mark).
    pub(crate) fn mark(&self, mark: &Mark) -> Result<Ticket, AppendError> {
        if !is_valid_body(&mark.body) {
            return Err(AppendError::InvalidBody);
        }
        let bytes = self.options.frame_bytes(mark.body.len());
        self.check_size(bytes)?;
        let mut tail = self.admit(bytes, false)?;
        let ticket = tail.put(mark.body.len(), |codec, out| codec.mark(out, mark));
        tail.ledger.add_mark(mark.clone());
        self.release(tail);
        Ok(ticket)
    }

    /// The most that its frame takes.
    fn check_entry(&self, entry: &NewEntry<'_>) -> Result<u64, AppendError> {
        let (bytes, max) = (entry.body.len() as u64, self.options.entry_bytes_max);
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        if !is_valid_body(entry.body) {
            return Err(AppendError::InvalidBody);
        }
        let bytes = self.options.frame_bytes(entry.body.len());
        self.check_size(bytes)?;
        Ok(bytes)
    }

    fn check_size(&self, bytes: u64) -> Result<(), AppendError> {
        let max = self.options.frame_bytes_max();
        if bytes > max { Err(AppendError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    /// Waits until so many bytes may go into the present segment, and returns the tail for it.
    fn admit(&self, bytes: u64, keep_reserve: bool) -> Result<MutexGuard<'_, Tail>, AppendError> {
        let mut tail = self.tail();
        loop {
            self.check()?;
            if tail.closing {
                return Err(AppendError::Closed);
            }
            if keep_reserve && tail.write_blocked.is_some() {
                return Err(AppendError::NoSpace);
            }
            let may_wait = if tail.pending_bytes > PENDING_BYTES_MAX {
                true
            } else if tail.fits(bytes, keep_reserve) {
                return Ok(tail);
            } else {
                match std::mem::replace(&mut tail.spare, Spare::Preparing) {
                    Spare::Ready(spare) => {
                        self.rotate(&mut tail, spare);
                        false
                    }
                    Spare::NoSpace(since) => {
                        tail.spare = Spare::NoSpace(since);
                        return Err(AppendError::NoSpace);
                    }
                    Spare::Preparing => true,
                }
            };
            if may_wait {
                tail = self.room.wait(tail).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Goes on in a new segment. Nothing is written here: the first chunk tells the committer to begin it.
    fn rotate(&self, tail: &mut Tail, spare: SpareFile) {
        let former = &tail.segment.header;
        let mut header = Header {
            segment: former.segment + 1,
            first: Sequence::new(former.epoch, tail.counter + 1).unwrap_or(former.first),
            previous: tail.last,
            salt: spare.salts.checksums,
            created_at_ms: now_ms(),
            before: tail.counts(),
            ..former.clone()
        };
        let cursor = tail.ledger.cursor.clone();
        let mut bytes = tail.buffers.pop().unwrap_or_default();
        let (ledger, codec) =
            opening(&mut header, &self.options, spare.salts.keys, cursor, spare.bytes, &mut bytes);
        let growth = ledger.cursor.as_ref().map_or(0, |cursor| codec.growth(cursor.body.len()));
        let path = self.layout.segment(header.segment, codec.format);
        let segment = Arc::new(Segment::new(header, codec, path, spare.bytes));
        self.change_segments(|segments| segments.push(segment.clone()));
        let former = std::mem::replace(&mut tail.ledger, ledger);
        tail.codec = segment.codec.clone();
        tail.offset = (bytes.len() + growth) as u64;
        tail.next_point = 0;
        tail.pending_bytes += bytes.len();
        let opens = Some(Opens { spare, former });
        tail.pending.push(Chunk { segment: segment.clone(), offset: 0, bytes, ticket: tail.ticket, opens });
        tail.segment = segment;
        debug_assert!(tail.offset >= HEADER_BYTES);
    }

    /// Gives the tail back and sees that the committer takes what was put in, some time.
    fn release(&self, tail: MutexGuard<'_, Tail>) {
        self.issued.store(tail.ticket, Ordering::Relaxed);
        let sleeps = match self.committer_rests.load(Ordering::SeqCst) {
            rest::NOT => false,
            rest::LAZILY if !tail.is_worth_writing() => false,
            _ => self.committer_rests.swap(rest::NOT, Ordering::SeqCst) != rest::NOT,
        };
        drop(tail);
        if sleeps {
            self.work.notify_one();
        }
    }
}

fn check_counter(tail: &Tail, more: u64) -> Result<(), AppendError> {
    match Sequence::new(tail.segment.header.epoch, tail.counter + more) {
        Some(_) => Ok(()),
        None => Err(AppendError::Exhausted),
    }
}
