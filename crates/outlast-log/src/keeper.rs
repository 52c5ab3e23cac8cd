//! The keeper: a thread that prepares the next segment's file ahead, writes the sidecars of sealed segments and
//! compresses these, so that the committer never waits for any of it.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::compressing::{Compressor, uncompressed};
use crate::disk::{Disk, DiskFile};
use crate::epochs::random_64;
use crate::error::is_no_space;
use crate::shared::{LatchOnPanic, Seal, Shared, SpareFile};
use crate::sidecar;
use crate::sync::system_now;
use crate::tail::Spare;

/// Prefill is written and synced in steps of this size: a large flush at once would hold up the committer's syncs.
const STEP_BYTES: usize = 1024 * 1024;
/// How long to wait before another try when there is no space.
const SPACE_RETRY: Duration = Duration::from_millis(500);
/// Nothing is prepared or compressed when less than this would be left for everybody else.
pub(crate) const SPACE_LEFT_MIN: u64 = 1024 * 1024;

/// What the keeper does next.
enum Job {
    Seal(Seal),
    Spare,
    Compress,
    Stop,
}

/// Runs until the log is closed and every sidecar is written.
pub(crate) fn run(shared: &Arc<Shared>) {
    let _guard = LatchOnPanic(shared.clone(), "keeper");
    let mut no_space_since = None;
    let mut compressor = Compressor::default();
    loop {
        match next_job(shared, no_space_since.is_some(), compressor.is_busy()) {
            Job::Seal(seal) => {
                write_sidecar(shared, &seal);
                shared.keeper().compress.extend(uncompressed(&[seal.segment], shared.options.compression));
            }
            Job::Compress => compressor.work(shared),
            Job::Stop => return compressor.stop(shared),
            Job::Spare => match prepare(shared) {
                Ok(Some(spare)) => {
                    no_space_since = None;
                    shared.keeper().spare_wanted = false;
                    shared.tail().spare = Spare::Ready(spare);
                    shared.room.notify_all();
                }
                Ok(None) => {}
                Err(error) if is_no_space(&error) => {
                    let since = *no_space_since.get_or_insert_with(system_now);
                    shared.tail().spare = Spare::NoSpace(since);
                    shared.room.notify_all();
                }
                Err(error) => {
                    shared.fail(format!(
                        "could not prepare a file in {}: {error}",
                        shared.layout.segments.display()
                    ));
                }
            },
        }
    }
}

/// Compressing comes last: the committer may wait for a spare.
fn next_job(shared: &Shared, mut pause: bool, busy: bool) -> Job {
    let mut queue = shared.keeper();
    loop {
        if let Some(seal) = queue.seals.pop() {
            return Job::Seal(seal);
        }
        if queue.stop {
            return Job::Stop;
        }
        if queue.spare_wanted && !pause && shared.failure.get().is_none() {
            return Job::Spare;
        }
        if (busy || !queue.compress.is_empty()) && shared.failure.get().is_none() {
            return Job::Compress;
        }
        queue = if pause {
            let (queue, waited) =
                shared.keeper_work.wait_timeout(queue, SPACE_RETRY).unwrap_or_else(PoisonError::into_inner);
            pause = !waited.timed_out();
            queue
        } else {
            shared.keeper_work.wait(queue).unwrap_or_else(PoisonError::into_inner)
        };
    }
}

/// Without it the next opening scans the segment: a failure here costs time, nothing else.
fn write_sidecar(shared: &Shared, seal: &Seal) {
    if !seal.segment.is_reclaimed() {
        let path = shared.layout.sidecar(seal.segment.number());
        let _ = sidecar::write(&*shared.disk, &path, &seal.segment, &seal.ledger, &seal.damage);
    }
}

/// A new spare; `None` if the log is being closed meanwhile.
fn prepare(shared: &Shared) -> io::Result<Option<SpareFile>> {
    let (disk, layout, bytes) = (&*shared.disk, &shared.layout, shared.options.segment_bytes);
    let temporary = layout.prefilling();
    let file = if take_recycled(shared, &temporary)? {
        disk.open(&temporary)?
    } else {
        if disk.free_space(&layout.segments)? < bytes + SPACE_LEFT_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.create(&temporary)?
    };
    let filled = prefill(&*file, bytes, shared.options.format.prefill(), || shared.keeper().stop);
    if !matches!(filled, Ok(true)) {
        // Half a spare is of no use and takes space that somebody else may need.
        disk.remove(&temporary)?;
        return filled.map(|_| None);
    }
    let path = layout.spare(shared.options.format);
    disk.rename(&temporary, &path)?;
    disk.sync_directory(&layout.segments)?;
    Ok(Some(SpareFile { file, path, bytes, salt: random_64()? }))
}

/// Gives the recycled file this name, if there is one.
fn take_recycled(shared: &Shared, name: &Path) -> io::Result<bool> {
    // With the lock: the next file that is recycled takes the name that this one had.
    let mut queue = shared.keeper();
    let Some(path) = queue.recycled.take() else { return Ok(false) };
    shared.disk.rename(&path, name)?;
    Ok(true)
}

/// Fills the file and syncs it; `false` if it was told to stop.
fn prefill(file: &dyn DiskFile, bytes: u64, value: u8, stop: impl Fn() -> bool) -> io::Result<bool> {
    let block = vec![value; STEP_BYTES.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        if stop() {
            return Ok(false);
        }
        let length = (bytes - offset).min(block.len() as u64);
        file.write_at(&block[..length as usize], offset)?;
        file.sync()?;
        offset += length;
    }
    Ok(true)
}

/// A file of this size under this name, prefilled and synced.
pub(crate) fn create_prefilled(
    disk: &dyn Disk,
    path: &Path,
    bytes: u64,
    value: u8,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(path)?;
    prefill(&*file, bytes, value, || false)?;
    Ok(file)
}
