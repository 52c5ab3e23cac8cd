//! [`CompressedFile`]: a compressed segment, read as if it were not. The layout is described in `docs/format.md`.
//!
//! The file is a row of blocks, each a small tag and a zstd frame, and a table of them all. Reading goes by the table;
//! if that is damaged it is made again from the tags. A block that is damaged reads as bytes that are neither prefill nor
//! a frame, so that whoever walks the log's frames finds damage there and goes on behind it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crc32c::{crc32c, crc32c_append};
use memchr::memmem;
use zstd_safe::DCtx;

use crate::disk::DiskFile;
use crate::options::Format;
use crate::sync::Mutex;

/// Skippable frames, which every zstd reader passes over: magic number and length of what follows.
const TAG_HEAD: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 20, 0, 0, 0];
const TABLE_MAGIC: [u8; 4] = [0x51, 0x2a, 0x4d, 0x18];
const HEAD_BYTES: usize = 8;
/// Bytes of a tag in front of each block.
const TAG_BYTES: usize = TAG_HEAD.len() + 20;
/// Per block in the table: its length as it was, and as it stands in the file.
const ROW_BYTES: usize = 8;
/// What closes the table: number of blocks, the segment's mark, checksum, and [`CLOSING`].
const FOOTER_BYTES: usize = 20;
const CLOSING: &[u8; 8] = b"outlast1";
/// How much of the file is searched at once for a tag.
const SEARCH_BYTES: usize = 64 * 1024;
/// What a damaged block reads as: no length of a frame, no text of one, no prefill.
const FILLER: u8 = 0xff;

/// Where a block is in the segment as it was written, and where its zstd frame is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    start: u32,
    length: u32,
    at: u32,
    /// 0 when all that is known of it is that it is missing.
    stored: u32,
}

impl Block {
    fn range(&self) -> Range<u64> {
        u64::from(self.start)..u64::from(self.start) + u64::from(self.length)
    }

    fn stored_range(&self) -> Range<u64> {
        u64::from(self.at)..u64::from(self.at) + u64::from(self.stored)
    }
}

/// The lengths of blocks, in the order in which they stand in the file.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(u32, u32)>);

impl Table {
    /// Puts the tag of the next block before its zstd frame. `mark` is the same in all tags of a file.
    pub(crate) fn add(&mut self, mark: u32, start: u32, length: u32, frame: &[u8], out: &mut Vec<u8>) {
        let stored = frame.len() as u32;
        out.extend_from_slice(&tag(mark, start, length, stored));
        out.extend_from_slice(frame);
        self.0.push((length, stored));
    }

    /// What goes behind the last block.
    pub(crate) fn encode(&self, mark: u32) -> Vec<u8> {
        let length = (self.0.len() * ROW_BYTES + FOOTER_BYTES) as u32;
        let mut out = [TABLE_MAGIC, length.to_le_bytes()].concat();
        for (length, stored) in &self.0 {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&stored.to_le_bytes());
        }
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&mark.to_le_bytes());
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(CLOSING);
        out
    }
}

fn tag(mark: u32, start: u32, length: u32, stored: u32) -> Vec<u8> {
    let mut tag = TAG_HEAD.to_vec();
    for word in [mark, start, length, stored] {
        tag.extend_from_slice(&word.to_le_bytes());
    }
    let sum = crc32c(&tag[HEAD_BYTES..]);
    tag.extend_from_slice(&sum.to_le_bytes());
    tag
}

/// Tags and table that are not as they were written: where they stand, and what should stand there. Each tells what the
/// others say, so that a segment is read all the same; where both are gone, so is the block.
pub(crate) fn wrong_wrapping(file: &dyn DiskFile) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let (blocks, has_table) = find_blocks(file)?;
    let mark = if has_table {
        let mut footer = [0; FOOTER_BYTES];
        file.read_at(&mut footer, file.size()?.saturating_sub(FOOTER_BYTES as u64))?;
        Some(word(&footer, 4))
    } else {
        next_tag(file, 0)?.map(|(_, tag)| word(&tag, 8))
    };
    let Some(mark) = mark.filter(|_| blocks.iter().all(|block| block.stored > 0)) else {
        return Ok(Vec::new());
    };
    let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut table = Table::default();
    for Block { start, length, at, stored } in &blocks {
        expected.push((u64::from(*at) - TAG_BYTES as u64, tag(mark, *start, *length, *stored)));
        table.0.push((*length, *stored));
    }
    let end = blocks.last().map_or(0, |last| last.stored_range().end);
    expected.push((end, table.encode(mark)));
    let mut wrong = Vec::new();
    for (offset, bytes) in expected {
        let mut found = vec![0; bytes.len()];
        let count = file.read_at(&mut found, offset)?;
        if found[..count] != bytes {
            wrong.push((offset, bytes));
        }
    }
    Ok(wrong)
}

/// A compressed segment. Offsets and the size are those of the segment as it was written. It is never written to.
#[derive(Debug)]
pub(crate) struct CompressedFile {
    file: Arc<dyn DiskFile>,
    format: Format,
    blocks: Vec<Block>,
    has_table: bool,
    /// The block that was read last in part: the next read goes on in it.
    last: Mutex<Option<(usize, Vec<u8>)>>,
}

impl CompressedFile {
    /// Reads the table; the whole file only if that is damaged.
    pub(crate) fn open(file: Arc<dyn DiskFile>, format: Format) -> io::Result<Self> {
        let (blocks, has_table) = find_blocks(&*file)?;
        Ok(Self { file, format, blocks, has_table, last: Mutex::default() })
    }

    /// Whether its table and every block in it are as they were written.
    pub(crate) fn is_whole(&self) -> io::Result<bool> {
        let mut decoder = Decoder::default();
        for block in &self.blocks {
            let mut bytes = vec![0; block.length as usize];
            if !decoder.read(&*self.file, block, &mut bytes)? {
                return Ok(false);
            }
        }
        Ok(self.has_table)
    }

    /// The segment is known to end here: what is missing before that is damaged.
    pub(crate) fn reaching(mut self, end: u64) -> Self {
        if let (Ok(start), Ok(end)) = (u32::try_from(self.size()), u32::try_from(end))
            && start < end
        {
            self.blocks.push(Block { start, length: end - start, at: 0, stored: 0 });
        }
        self
    }

    fn size(&self) -> u64 {
        self.blocks.last().map_or(0, |last| last.range().end)
    }

    /// The bytes of a block; what stands for them if it is damaged.
    fn fill(&self, decoder: &mut Decoder, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        if !decoder.read(&*self.file, block, bytes)? {
            bytes.fill(FILLER);
            if let ([.., end], Format::Json) = (bytes, self.format) {
                *end = b'\n'; // the next frame begins a line
            }
        }
        Ok(())
    }
}

impl DiskFile for CompressedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut decoder = Decoder::default();
        let mut done = 0;
        let first = self.blocks.partition_point(|block| block.range().end <= offset);
        for (index, block) in self.blocks.iter().enumerate().skip(first) {
            let rest = &mut buffer[done..];
            if rest.is_empty() {
                break;
            }
            let skip = (offset + done as u64 - block.range().start) as usize;
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let is_last = last.as_ref().is_some_and(|(known, _)| *known == index);
            if !is_last && skip == 0 && rest.len() >= block.length as usize {
                self.fill(&mut decoder, block, &mut rest[..block.length as usize])?;
                done += block.length as usize;
                continue;
            }
            if !is_last {
                let mut bytes = last.take().map(|(_, bytes)| bytes).unwrap_or_default();
                bytes.resize(block.length as usize, 0);
                self.fill(&mut decoder, block, &mut bytes)?;
                *last = Some((index, bytes));
            }
            let Some((_, bytes)) = &*last else { continue };
            let count = rest.len().min(bytes.len() - skip);
            rest[..count].copy_from_slice(&bytes[skip..skip + count]);
            done += count;
        }
        Ok(done)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size())
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_size(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Decompresses blocks. Not kept longer than one read takes: it is large, and there are many segments.
#[derive(Default)]
struct Decoder {
    context: Option<DCtx<'static>>,
    frame: Vec<u8>,
}

impl Decoder {
    /// `false` if the block is damaged; what is in `bytes` then means nothing.
    fn read(&mut self, file: &dyn DiskFile, block: &Block, bytes: &mut [u8]) -> io::Result<bool> {
        if block.stored == 0 || u64::from(block.stored) > file.size()? {
            return Ok(false);
        }
        self.frame.resize(block.stored as usize, 0);
        let count = file.read_at(&mut self.frame, u64::from(block.at))?;
        decompress(&mut self.context, &self.frame[..count], bytes)
    }
}

/// Whether `frame` is a zstd frame of exactly as many bytes as are wanted, which are then in `bytes`.
pub(crate) fn decompress(
    context: &mut Option<DCtx<'static>>,
    frame: &[u8],
    bytes: &mut [u8],
) -> io::Result<bool> {
    let context = match context {
        Some(context) => context,
        None => context.insert(DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?),
    };
    Ok(context.decompress(bytes, frame) == Ok(bytes.len()))
}

/// Where the blocks stand in a compressed file that hold these bytes of the segment.
pub(crate) fn stored(file: &dyn DiskFile, bytes: Range<u64>) -> io::Result<Range<u64>> {
    let (blocks, _) = find_blocks(file)?;
    let hit = |block: &&Block| block.range().start < bytes.end && bytes.start < block.range().end;
    let mut hit = blocks.iter().filter(hit).map(Block::stored_range);
    let first = hit.next().unwrap_or(0..0);
    Ok(first.start..hit.next_back().map_or(first.end, |last| last.end))
}

/// Every block, and whether the table has them.
fn find_blocks(file: &dyn DiskFile) -> io::Result<(Vec<Block>, bool)> {
    Ok(match read_table(file)? {
        Some(blocks) => (blocks, true),
        None => (search_blocks(file)?, false),
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The blocks as the table at the end of the file has them; `None` if anything about it is wrong.
fn read_table(file: &dyn DiskFile) -> io::Result<Option<Vec<Block>>> {
    let size = file.size()?;
    let mut footer = [0; FOOTER_BYTES];
    let Some(footer_at) = size.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    file.read_at(&mut footer, footer_at)?;
    let count = word(&footer, 0) as usize;
    let length = HEAD_BYTES + count * ROW_BYTES + FOOTER_BYTES;
    let Some(table_at) = size.checked_sub(length as u64).filter(|_| footer.ends_with(CLOSING)) else {
        return Ok(None);
    };
    let mut table = vec![0; length];
    file.read_at(&mut table, table_at)?;
    let rows_end = length - FOOTER_BYTES;
    if crc32c(&table[..rows_end + 8]) != word(&footer, 8) {
        return Ok(None);
    }
    let (mut start, mut at) = (0_u64, 0_u64);
    let mut blocks = Vec::with_capacity(count);
    for row in table[HEAD_BYTES..rows_end].chunks_exact(ROW_BYTES) {
        let (length, stored) = (word(row, 0), word(row, 4));
        at += TAG_BYTES as u64;
        let (Ok(from), Ok(stands_at)) = (u32::try_from(start), u32::try_from(at)) else { return Ok(None) };
        blocks.push(Block { start: from, length, at: stands_at, stored });
        start += u64::from(length);
        at += u64::from(stored);
    }
    Ok(Some(blocks).filter(|_| at == table_at))
}

/// The blocks as their tags have them. Where a tag is damaged, so is its block.
fn search_blocks(file: &dyn DiskFile) -> io::Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut position, mut end, mut mark) = (0, 0, None);
    while let Some((found_at, tag)) = next_tag(file, position)? {
        let at = found_at + TAG_BYTES as u64;
        let (start, length, stored) = (word(&tag, 12), word(&tag, 16), word(&tag, 20));
        let fits = start >= end && *mark.get_or_insert(word(&tag, 8)) == word(&tag, 8);
        let (Some(next), Ok(stands_at)) = (start.checked_add(length).filter(|_| fits), u32::try_from(at))
        else {
            position = found_at + 1; // no tag of this file, or not in this place
            continue;
        };
        if start > end {
            blocks.push(Block { start: end, length: start - end, at: stands_at, stored: 0 });
        }
        blocks.push(Block { start, length, at: stands_at, stored });
        end = next;
        position = at + u64::from(stored);
    }
    Ok(blocks)
}

/// The first valid tag from here on, and where it is.
fn next_tag(file: &dyn DiskFile, mut position: u64) -> io::Result<Option<(u64, [u8; TAG_BYTES])>> {
    let mut buffer = vec![0; SEARCH_BYTES];
    // In most cases it is right here.
    let mut wanted = TAG_BYTES;
    loop {
        let count = file.read_at(&mut buffer[..wanted], position)?;
        let bytes = &buffer[..count];
        for at in memmem::find_iter(bytes, &TAG_HEAD) {
            let Some(tag) = bytes[at..].first_chunk::<TAG_BYTES>() else { break };
            if crc32c_append(0, &tag[HEAD_BYTES..TAG_BYTES - 4]) == word(tag, TAG_BYTES - 4) {
                return Ok(Some((position + at as u64, *tag)));
            }
        }
        if count < wanted {
            return Ok(None);
        }
        if wanted > TAG_BYTES {
            // The last bytes may be the beginning of one.
            position += (count - TAG_BYTES + 1) as u64;
        }
        wanted = SEARCH_BYTES;
    }
}
