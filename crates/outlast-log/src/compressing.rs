//! The compressor: a thread that makes compressed files of sealed segments, a block at a time, and puts them in the place
//! of the raw ones. A failure costs space, nothing else: the raw file stays. Only what could bring a segment back that has
//! left the log is final.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use crate::compressed::{Table, decompress};
use crate::disk::{Disk, DiskFile};
use crate::error::is_no_space;
use crate::header::{HEADER_BYTES, Header, HeaderFound};
use crate::keeper::SPACE_LEFT_MIN;
use crate::options::Compression;
use crate::scan::{Found, Scanner};
use crate::segment::Segment;
use crate::shared::{LatchOnPanic, Shared};

/// A block has at least so many bytes of the segment, unless it is the last: what a random read decompresses.
const BLOCK_BYTES: u64 = 64 * 1024;
/// Each copy of the header is a block of its own, so that no byte that is damaged hits both.
const HEADER_BLOCK_BYTES: u64 = HEADER_BYTES / 2;
/// Higher ones take longer for the same size: the blocks are small, and most of their text does not repeat.
const LEVEL: i32 = 1;
/// How far behind others it stands, where 19 is the last.
#[cfg(all(target_os = "linux", not(feature = "simulation")))]
const NICENESS: i32 = 15;
/// Synced in steps of this size: a large flush at once would hold up the committer's syncs.
const SYNC_BYTES: u64 = 128 * 1024;
/// For so long the committer has disk and processor to itself after each block, while it syncs and there is time: in a
/// burst compressing goes slowly, and catches up behind it.
const BREATHER: Duration = Duration::from_millis(250);
/// There is no more time when so many segments wait.
const WAITING_MAX: usize = 8;

/// Runs until the log is closed or fails. What was begun then is left to the next opening.
pub(crate) fn run(shared: &Arc<Shared>) {
    let _guard = LatchOnPanic(shared.clone(), "compressor");
    give_way();
    let mut begun = None;
    let mut syncs = 0;
    while is_wanted(shared, begun.is_some()) {
        let step = match begun.take() {
            Some(compressing) => Compressing::step(compressing, shared),
            None => Compressing::begin(shared),
        };
        match step {
            Ok(next) => begun = next,
            Err(_) => discard(shared),
        }
        let before = mem::replace(&mut syncs, shared.syncs.load(Ordering::Relaxed));
        if begun.is_some() && syncs != before {
            breathe(shared);
        }
    }
    if begun.is_some() {
        discard(shared);
    }
}

/// Waits for something to compress; false when it is over.
fn is_wanted(shared: &Shared, busy: bool) -> bool {
    let mut queue = shared.keeper();
    loop {
        if queue.stop || shared.failure.get().is_some() {
            return false;
        }
        if busy || !queue.compress.is_empty() {
            return true;
        }
        queue = shared.compressor_work.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Leaves the disk to the committer for a moment, unless too much waits.
fn breathe(shared: &Shared) {
    let queue = shared.keeper();
    if !queue.stop && queue.compress.len() < WAITING_MAX {
        let _ = shared.compressor_work.wait_timeout(queue, BREATHER);
    }
}

/// Whoever else wants a processor goes first, callers and committer above all. On Linux this is a thread's own affair
/// (nice(2)); elsewhere it would be the whole process's.
fn give_way() {
    #[cfg(all(target_os = "linux", not(feature = "simulation")))]
    // If it may not, it is in the way a little more.
    let _ = rustix::process::nice(NICENESS);
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes what is not finished. If that fails, the next opening does.
fn discard(shared: &Shared) {
    let _ = shared.disk.remove(&shared.layout.compressing());
}

/// A segment on its way.
struct Compressing {
    segment: Arc<Segment>,
    raw: Arc<dyn DiskFile>,
    /// Tells where the frames of the log begin, and whether they are whole.
    scanner: Scanner,
    /// Everything before this place has been compressed.
    place: u64,
    writer: Writer,
}

impl Compressing {
    /// Begins with the next segment, if there is one that can be compressed.
    fn begin(shared: &Shared) -> io::Result<Option<Self>> {
        let Some(segment) = shared.keeper().compress.pop() else { return Ok(None) };
        let bytes = segment.written();
        if segment.is_reclaimed() || shared.disk.free_space(&shared.layout.segments)? < bytes + SPACE_LEFT_MIN
        {
            return Ok(None);
        }
        let raw = segment.open(&*shared.disk)?;
        match Header::read(&*raw, segment.format())? {
            HeaderFound::Good(header) if *header == segment.header => {}
            _ => return Ok(None),
        }
        let scanner = Scanner::new(raw.clone(), segment.codec.clone(), HEADER_BYTES, bytes);
        let mark = crc32c::crc32c(&segment.header.salt.to_le_bytes());
        let writer = Writer::new(shared.disk.create(&shared.layout.compressing())?, mark)?;
        Ok(Some(Self { segment, raw, scanner, place: 0, writer }))
    }

    /// Compresses one block, or puts the finished file in its place. `None` when there is nothing more to do for this
    /// segment.
    fn step(mut self, shared: &Shared) -> io::Result<Option<Self>> {
        if self.segment.is_reclaimed() {
            discard(shared);
            return Ok(None);
        }
        if self.place == self.segment.written() {
            self.finish(shared)?;
            return Ok(None);
        }
        let Some(end) = self.next_end()? else {
            // Damaged bytes stay as they are: whoever looks for what is left of them should find them.
            discard(shared);
            return Ok(None);
        };
        self.writer.block(&*self.raw, self.place, end)?;
        self.place = end;
        Ok(Some(self))
    }

    /// Where the next block ends: where a frame of the log does. `None` if something stands there that is no frame.
    fn next_end(&mut self) -> io::Result<Option<u64>> {
        if self.place < HEADER_BYTES {
            return Ok(Some(self.place + HEADER_BLOCK_BYTES));
        }
        let mut end = self.place;
        while end < self.place + BLOCK_BYTES {
            match self.scanner.next()? {
                Found::Frame(frame, _) => end = frame.end,
                Found::End if end == self.segment.written() => break,
                Found::Bad | Found::End => return Ok(None),
            }
        }
        Ok(Some(end))
    }

    /// The order matters. The compressed file is synced before it gets its name, so that whoever finds the name finds a
    /// whole file; and the name is durable before the raw file goes.
    fn finish(self, shared: &Shared) -> io::Result<()> {
        let Self { segment, writer, .. } = self;
        let bytes = writer.finish()?;
        // Not while segments are reclaimed: of two files of one segment both must go.
        let _one_at_a_time = shared.reclaiming.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes >= segment.written() || segment.is_reclaimed() {
            discard(shared);
            return Ok(());
        }
        let path = shared.layout.kept(segment.number(), (segment.format(), Compression::Zstd));
        let (disk, directory) = (&*shared.disk, &shared.layout.segments);
        let named =
            disk.rename(&shared.layout.compressing(), &path).and_then(|()| disk.sync_directory(directory));
        if let Err(error) = named {
            if let Err(undo) = remove_if_there(disk, &path) {
                shared.fail(format!("could not remove {}: {undo}", path.display()));
            }
            return Err(error);
        }
        let successor = Arc::new(segment.compressed(path, bytes));
        shared.change_segments(|segments| {
            if let Some(place) = segments.iter_mut().find(|place| Arc::ptr_eq(place, &segment)) {
                *place = successor;
            }
        });
        segment.set_replaced();
        // If it stayed, it would come back when its successor is reclaimed.
        let removed = match shared.give_back_file(&segment) {
            // Removing needs none, and becomes durable with the next change of names.
            Err(error) if is_no_space(&error) => remove_if_there(disk, &segment.path),
            removed => removed,
        };
        if let Err(error) = removed {
            shared.fail(format!("could not remove {}: {error}", segment.path.display()));
        }
        Ok(())
    }
}

/// Writes a compressed file.
struct Writer {
    file: Arc<dyn DiskFile>,
    mark: u32,
    table: Table,
    compress: CCtx<'static>,
    decompress: Option<DCtx<'static>>,
    /// The block, its zstd frame, what that says, and the frame with its tag.
    raw: Vec<u8>,
    frame: Vec<u8>,
    check: Vec<u8>,
    out: Vec<u8>,
    written: u64,
    synced: u64,
}

impl Writer {
    fn new(file: Arc<dyn DiskFile>, mark: u32) -> io::Result<Self> {
        let mut compress = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        compress.set_parameter(CParameter::CompressionLevel(LEVEL)).map_err(zstd_error)?;
        compress.set_parameter(CParameter::ChecksumFlag(true)).map_err(zstd_error)?;
        Ok(Self {
            file,
            mark,
            table: Table::default(),
            compress,
            decompress: None,
            raw: Vec::new(),
            frame: Vec::new(),
            check: Vec::new(),
            out: Vec::new(),
            written: 0,
            synced: 0,
        })
    }

    /// Compresses this part of the raw file.
    fn block(&mut self, raw: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
        let length = (end - start) as usize;
        self.raw.resize(length, 0);
        if raw.read_at(&mut self.raw, start)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.frame.clear();
        self.frame.reserve(compress_bound(length));
        self.compress.compress2(&mut self.frame, &self.raw).map_err(zstd_error)?;
        // The only copy of somebody's data is about to be removed.
        self.check.resize(length, 0);
        if !decompress(&mut self.decompress, &self.frame, &mut self.check)? || self.check != self.raw {
            return Err(io::Error::other("what was compressed does not read back"));
        }
        self.out.clear();
        self.table.add(self.mark, start as u32, length as u32, &self.frame, &mut self.out);
        self.append()?;
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Writes the table and syncs it all; returns the size of the file.
    fn finish(mut self) -> io::Result<u64> {
        self.out = self.table.encode(self.mark);
        self.append()?;
        self.file.sync()?;
        Ok(self.written)
    }

    fn append(&mut self) -> io::Result<()> {
        self.file.write_at(&self.out, self.written)?;
        self.written += self.out.len() as u64;
        Ok(())
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

/// What of these segments is still to be compressed, if anything is.
pub(crate) fn uncompressed(segments: &[Arc<Segment>], wanted: Compression) -> Vec<Arc<Segment>> {
    let raw =
        |segment: &&Arc<Segment>| wanted == Compression::Zstd && segment.compression() == Compression::None;
    segments.iter().filter(raw).cloned().collect()
}
