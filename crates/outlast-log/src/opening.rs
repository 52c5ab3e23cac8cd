//! Opening a log: lock, recover, begin a new epoch, begin a new segment. Reads the sidecars and, after a crash, the
//! last segment; never the backlog.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::codec::Codec;
use crate::compressing::uncompressed;
use crate::disk::{Disk, DiskFile, DiskLock};
use crate::entry::QueueId;
use crate::epochs::{self, Epochs, now_ms};
use crate::error::{OpenError, is_no_space};
use crate::header::{FORMAT_VERSION, HEADER_BYTES, Header};
use crate::inventory::{Candidate, Files, check_keys};
use crate::keeper::create_prefilled;
use crate::log::Recovered;
use crate::options::{Compression, Format, LogOptions};
use crate::recovery::{Scanned, keep_damaged, scan_segment};
use crate::segment::{Layout, Ledger, Segment};
use crate::shared::{KeeperQueue, Salts, Seal, Shared, rest};
use crate::sidecar::Sidecar;
use crate::sync::{Condvar, Mutex, OnceLock, RwLock};
use crate::tail::{Spare, Tail, opening};
use crate::{Counts, Damage, Sequence};

/// The size of the first segment of an opening, if segments are not smaller anyway: it must exist before the first
/// append, and making one of full size would hold up every start.
const FIRST_SEGMENT_BYTES: u64 = 1024 * 1024;
/// How much is written again at once.
const WRITE_AGAIN_BYTES: u64 = 1024 * 1024;

/// A log that is ready for its threads.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) recovered: Recovered,
    pub(crate) lock: DiskLock,
}

pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<Opened, OpenError> {
    options.check()?;
    let layout = Layout::new(directory);
    make_directories(&*disk, &layout).map_err(|error| not_writable(directory, error))?;
    let lock = disk.lock(&layout.lock()).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { directory: directory.to_owned() },
        _ => not_writable(directory, error),
    })?;
    // Before anything is changed.
    check_keys(&*disk, &layout, &options.encryption.keys)?;
    let mut recorded = epochs::read(&*disk, &layout)?;
    let mut recovered = Recovered { created: recorded.epochs.is_empty(), ..Recovered::default() };
    let damaged_lines = std::mem::take(&mut recorded.damaged);
    keep_damaged_epochs(&*disk, &layout, &damaged_lines, &mut recovered)?;

    let mut files = Files::list(&*disk, &layout, &options)?;
    let candidates = files.read_headers(&*disk, &layout, &options.encryption.keys, &mut recovered)?;
    for candidate in &candidates {
        check_belongs(candidate, &mut recorded.queue)?;
        recorded.learn(candidate.header.queue, candidate.header.epoch());
    }
    recovered.created &= candidates.is_empty();
    let loaded = load_all(&*disk, &layout, candidates)?;
    check_chain(loaded.iter().map(|loaded| &loaded.scanned), &mut recovered.damage);
    let ending = gather(&loaded, &mut recovered);
    // Durable before anything is appended with it.
    let epochs = recorded.begin(&*disk, &layout)?;
    let first = begin_segment(&*disk, &layout, &options, &mut files, &epochs, &ending)?;
    let (segments, seals) = settle_loaded(&*disk, &layout, loaded)?;
    Ok(assemble(disk, layout, options, files, epochs, first, segments, seals, recovered, lock))
}

fn make_directories(disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
    disk.create_directory(&layout.directory)?;
    disk.create_directory(&layout.segments)
}

fn not_writable(directory: &Path, source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable { directory: directory.to_owned(), source }
        }
        _ => OpenError::io("prepare", directory)(source),
    }
}

/// Damage in `epochs.jsonl` is reported as segment 0: no segment has that number.
fn keep_damaged_epochs(
    disk: &dyn Disk,
    layout: &Layout,
    lines: &[(u64, u64)],
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let path = layout.epochs();
    for (offset, bytes) in lines {
        let (after, before) = (Sequence::START, None);
        let damage = Damage { segment: 0, offset: *offset, bytes: *bytes, after, before, lost: None };
        let file = disk.open(&path).map_err(OpenError::io("open", &path))?;
        keep_damaged(disk, layout, &path, &*file, &damage).map_err(OpenError::io("copy", &path))?;
        recovered.damage.push(damage);
    }
    Ok(())
}

pub(crate) fn check_belongs(candidate: &Candidate, queue: &mut Option<QueueId>) -> Result<(), OpenError> {
    let found = candidate.header.queue;
    let expected = *queue.get_or_insert(found);
    if found == expected {
        return Ok(());
    }
    let reason = format!("it belongs to queue {found}, the directory to {expected}");
    Err(OpenError::Foreign { path: candidate.path.clone(), reason })
}

/// A segment with what its sidecar says or a scan found.
struct Loaded {
    scanned: Scanned,
    /// The sidecar is missing or wrong.
    needs_sidecar: bool,
}

fn load_all(disk: &dyn Disk, layout: &Layout, candidates: Vec<Candidate>) -> Result<Vec<Loaded>, OpenError> {
    let previous: Vec<Sequence> = candidates.iter().skip(1).map(|next| next.header.previous).collect();
    let mut loaded = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.into_iter().enumerate() {
        loaded.push(load(disk, layout, candidate, previous.get(index).copied())?);
    }
    Ok(loaded)
}

fn load(
    disk: &dyn Disk,
    layout: &Layout,
    candidate: Candidate,
    next_previous: Option<Sequence>,
) -> Result<Loaded, OpenError> {
    let Candidate { header, codec, path, file, file_bytes, sidecar } = candidate;
    let size = file.size().map_err(OpenError::io("look at", &path))?;
    if let Some(sidecar) = sidecar {
        if sidecar.end > size {
            return load_cut_short(disk, layout, header, &codec, &path, &file, sidecar);
        }
        let (segment, ledger, damage) = sidecar.into_segment(codec, &path, file_bytes);
        return Ok(Loaded { scanned: Scanned { segment, ledger, damage, torn: None }, needs_sidecar: false });
    }
    let scanned =
        scan_segment(header, &codec, &path, &file, next_previous).map_err(OpenError::io("read", &path))?;
    scanned.segment.file_bytes.store(file_bytes, Ordering::Relaxed);
    for damage in &scanned.damage {
        keep_damaged(disk, layout, &path, &*file, damage).map_err(OpenError::io("copy", &path))?;
    }
    let end = scanned.segment.written();
    if next_previous.is_none() && Compression::of(&path) == Compression::None {
        // Before the next segment begins: only the last one may ever end torn.
        write_again(&*file, end).map_err(OpenError::io("write", &path))?;
        // Also a file that seems to end there: a failed sync may have dropped an earlier cut.
        file.set_size(end).map_err(OpenError::io("cut", &path))?;
        scanned.segment.file_bytes.store(end, Ordering::Relaxed);
        file.sync().map_err(OpenError::io("sync", &path))?;
    }
    Ok(Loaded { scanned, needs_sidecar: true })
}

/// Writes the beginning of a file over itself. What a failed sync dropped can still be read, from memory, and no later
/// sync brings it to the disk: only writing does. Whatever is found here counts as durable from now on.
fn write_again(file: &dyn DiskFile, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; end.min(WRITE_AGAIN_BYTES) as usize];
    let mut offset = 0;
    while offset < end {
        let wanted = (end - offset).min(WRITE_AGAIN_BYTES) as usize;
        let count = file.read_at(&mut buffer[..wanted], offset)?;
        if count == 0 {
            break;
        }
        file.write_at(&buffer[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// A segment that lost its end after it was sealed. What its sidecar knows stays, above all the marks: without them a
/// write that was refused or given up would be applied. It gets its length again, as prefill, so that readers and later
/// openings find what is missing where it was.
fn load_cut_short(
    disk: &dyn Disk,
    layout: &Layout,
    header: Header,
    codec: &Codec,
    path: &Path,
    file: &Arc<dyn DiskFile>,
    sidecar: Sidecar,
) -> Result<Loaded, OpenError> {
    let end = sidecar.end;
    // First, so that a line that lost nothing but its newline is whole for everybody.
    fill_up(&**file, codec.format, end).map_err(OpenError::io("extend", path))?;
    let mut scanned =
        scan_segment(header, codec, path, file, Some(sidecar.last)).map_err(OpenError::io("read", path))?;
    scanned.must_reach(end);
    for damage in &scanned.damage {
        keep_damaged(disk, layout, path, &**file, damage).map_err(OpenError::io("copy", path))?;
    }
    let (segment, ledger, _) = sidecar.into_segment(codec.clone(), path, end);
    let damage = scanned.damage;
    Ok(Loaded { scanned: Scanned { segment, ledger, damage, torn: None }, needs_sidecar: true })
}

/// Gives the file this length, with prefill in what is missing.
pub(crate) fn fill_up(file: &dyn DiskFile, format: Format, end: u64) -> io::Result<()> {
    let size = file.size()?;
    file.write_at(&vec![format.prefill(); end.saturating_sub(size) as usize], size)?;
    file.sync()
}

/// Every header says what was put into the log before it: what no segment has is missing, also when it left no gap.
pub(crate) fn check_chain<'a>(segments: impl Iterator<Item = &'a Scanned>, damage: &mut Vec<Damage>) {
    let segments: Vec<&Scanned> = segments.collect();
    for pair in segments.windows(2) {
        let [former, next] = pair else { continue };
        let (former_header, header) = (&former.segment.header, &next.segment.header);
        let counted = former_header.before.plus(&former.ledger.counts);
        let after = former.segment.last();
        let segment = former_header.segment + 1;
        let before = Some(header.first);
        let missing = damage.iter_mut().find(|damage| damage.segment == segment && damage.offset == 0);
        if header.before.entries > counted.entries && header.previous > after {
            let next_of_former = Sequence::from_u64(after.as_u64() + 1).unwrap_or(after);
            // As many as the last epoch has given: then none of an earlier one is among them.
            let whole_epoch = header.previous.epoch() > after.epoch()
                && header.before.entries - counted.entries == header.previous.counter();
            let first_of_epoch = Sequence::new(header.previous.epoch(), 1).filter(|_| whole_epoch);
            let first = first_of_epoch.unwrap_or(next_of_former);
            let lost = Some((first, header.previous));
            match missing {
                Some(damage) => (damage.after, damage.before, damage.lost) = (after, before, lost),
                None => damage.push(Damage { segment, offset: 0, bytes: 0, after, before, lost }),
            }
        } else if header.before.marks_total() > counted.marks_total()
            && missing.is_none()
            && former.damage.is_empty()
        {
            // Marks at the end of the former segment, or a segment between both that had nothing else.
            let (segment, offset) = if header.segment == segment {
                (former_header.segment, former.segment.written())
            } else {
                (segment, 0)
            };
            damage.push(Damage { segment, offset, bytes: 0, after, before, lost: None });
        }
    }
}

/// What the next segment has to say of everything before it.
#[derive(Default)]
struct Ending {
    previous: Sequence,
    counts: Counts,
    cursor: Option<crate::Mark>,
}

fn gather(loaded: &[Loaded], recovered: &mut Recovered) -> Ending {
    let mut ending = Ending::default();
    for Loaded { scanned, .. } in loaded {
        let ledger = &scanned.ledger;
        recovered.marks.extend_from_slice(&ledger.marks);
        recovered.origins.extend_from_slice(&ledger.origins);
        recovered.damage.extend_from_slice(&scanned.damage);
        recovered.torn = recovered.torn.or(scanned.torn);
        ending.cursor = ledger.cursor.clone().or(ending.cursor);
        ending.previous = scanned.segment.last();
        ending.counts = scanned.segment.header.before.plus(&ledger.counts);
    }
    recovered.cursor.clone_from(&ending.cursor);
    recovered.last = ending.previous;
    ending
}

/// The segment that this opening begins with.
struct First {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    ledger: Ledger,
}

fn begin_segment(
    disk: &dyn Disk,
    layout: &Layout,
    options: &LogOptions,
    files: &mut Files,
    epochs: &Epochs,
    ending: &Ending,
) -> Result<First, OpenError> {
    let format = options.format;
    let path = layout.segment(files.next_number, format);
    let bytes = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
    let temporary = layout.prefilling();
    let (file, old_path, bytes) = match create_prefilled(disk, &temporary, bytes, format.prefill()) {
        Ok(file) => (file, temporary, bytes),
        // On a full disk the spare is what was kept back for this.
        Err(error) if is_no_space(&error) && files.spare.is_some() => {
            disk.remove(&temporary).map_err(OpenError::io("remove", &temporary))?;
            let spare = files.spare.take().expect("the guard has looked");
            (spare.file, spare.path, spare.bytes)
        }
        Err(error) => return Err(OpenError::io("write", &temporary)(error)),
    };
    let epoch = &epochs.current;
    let salts = Salts::make().map_err(OpenError::io("make random numbers for", &path))?;
    let mut header = Header {
        outlast: FORMAT_VERSION,
        queue: epochs.queue,
        segment: files.next_number,
        epoch: epoch.number,
        owner: epoch.owner.clone(),
        opened_at_ms: epoch.opened_at_ms,
        first: Sequence::new(epoch.number, 1).ok_or(OpenError::Exhausted)?,
        previous: ending.previous,
        salt: salts.checksums,
        created_at_ms: now_ms(),
        carries_cursor: false,
        before: ending.counts,
        encryption: None,
    };
    let mut start = Vec::new();
    let (ledger, codec) = opening(&mut header, options, salts.keys, ending.cursor.clone(), bytes, &mut start);
    codec.encrypt(&mut start, HEADER_BYTES as usize, 0).map_err(OpenError::io("begin", &path))?;
    // Named before anything is written: a spare must not get its name back with a header in it.
    let begin = || {
        disk.rename(&old_path, &path)?;
        disk.sync_directory(&layout.segments)?;
        file.write_at(&start, 0)?;
        file.sync()
    };
    begin().map_err(OpenError::io("begin", &path))?;
    let segment = Arc::new(Segment::new(header, codec, path, bytes));
    segment.set_written(start.len() as u64);
    Ok(First { segment, file, ledger })
}

/// The segments of earlier openings that have something in them, and the sidecars that are still to be written. Empty
/// ones go, now that the new segment says what they said: restarts in a loop must not pile up files.
fn settle_loaded(
    disk: &dyn Disk,
    layout: &Layout,
    loaded: Vec<Loaded>,
) -> Result<(Vec<Arc<Segment>>, Vec<Seal>), OpenError> {
    let (mut segments, mut seals) = (Vec::new(), Vec::new());
    for Loaded { scanned, needs_sidecar } in loaded {
        let Scanned { segment, ledger, damage, .. } = scanned;
        if ledger.is_empty() && damage.is_empty() {
            disk.remove(&segment.path).map_err(OpenError::io("remove", &segment.path))?;
            let sidecar = layout.sidecar(segment.number());
            match disk.remove(&sidecar) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::io("remove", &sidecar)(error));
                }
                _ => continue,
            }
        }
        let segment = Arc::new(segment);
        segments.push(segment.clone());
        if needs_sidecar {
            seals.push(Seal { segment, ledger, damage });
        }
    }
    Ok((segments, seals))
}

#[expect(clippy::too_many_arguments, reason = "puts together what the steps of opening have made")]
fn assemble(
    disk: Arc<dyn Disk>,
    layout: Layout,
    options: LogOptions,
    files: Files,
    epochs: Epochs,
    first: First,
    mut segments: Vec<Arc<Segment>>,
    seals: Vec<Seal>,
    recovered: Recovered,
    lock: DiskLock,
) -> Opened {
    let mut tail = Tail::new(first.segment.clone(), first.file, first.ledger);
    let spare_wanted = files.spare.is_none();
    if let Some(spare) = files.spare {
        tail.spare = Spare::Ready(spare);
    }
    // The others come to it when their sidecars are written.
    let mut compress = uncompressed(&segments, options.compression);
    compress.retain(|segment| !seals.iter().any(|seal| Arc::ptr_eq(&seal.segment, segment)));
    segments.push(first.segment.clone());
    let keeper = KeeperQueue { seals, spare_wanted, compress, recycled: files.recycled, stop: false };
    let shared = Arc::new(Shared {
        disk,
        layout,
        options,
        epochs,
        tail: Mutex::new(tail),
        work: Condvar::new(),
        room: Condvar::new(),
        committer_rests: rest::NOT.into(),
        issued: 0.into(),
        appended: 0.into(),
        durable: 0.into(),
        wanted: 0.into(),
        settled: 0.into(),
        syncs: 0.into(),
        sync_nanos: 0.into(),
        failure: OnceLock::new(),
        waiters: Mutex::default(),
        segments: RwLock::new(segments),
        keeper: Mutex::new(keeper),
        keeper_work: Condvar::new(),
        compressor_work: Condvar::new(),
        reclaiming: Mutex::new(()),
    });
    Opened { shared, recovered, lock }
}
