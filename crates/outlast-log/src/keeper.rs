//! The keeper: a thread that prepares the next segment's file ahead and writes the sidecars of sealed segments, so that
//! the committer never waits for either.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::compressing::uncompressed;
use crate::disk::{Disk, DiskFile};
use crate::error::is_no_space;
use crate::shared::{LatchOnPanic, Salts, Seal, Shared, SpareFile};
use crate::sidecar;
use crate::sync::system_now;
use crate::tail::Spare;

/// Prefill is written and synced in steps of this size: a large flush at once would hold up the committer's syncs.
const STEP_BYTES: usize = 128 * 1024;
/// For so long the committer has the disk to itself after each step, while it syncs and there is time.
const BREATHER: Duration = Duration::from_millis(1);
/// How long to wait before another try when there is no space.
const SPACE_RETRY: Duration = Duration::from_millis(500);
/// Nothing is prepared or compressed when less than this would be left for everybody else.
pub(crate) const SPACE_LEFT_MIN: u64 = 1024 * 1024;

/// What the keeper does next.
enum Job {
    Seal(Seal),
    Spare,
    Stop,
}

/// Runs until the log is closed and every sidecar is written.
pub(crate) fn run(shared: &Arc<Shared>) {
    let _guard = LatchOnPanic(shared.clone(), "keeper");
    let mut no_space_since = None;
    loop {
        match next_job(shared, no_space_since.is_some()) {
            Job::Seal(seal) => {
                write_sidecar(shared, &seal);
                shared.keeper().compress.extend(uncompressed(&[seal.segment], shared.options.compression));
                shared.compressor_work.notify_one();
            }
            Job::Stop => return,
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

fn next_job(shared: &Shared, mut pause: bool) -> Job {
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
    let mut syncs = shared.syncs.load(Ordering::Relaxed);
    let filled = prefill(&*file, bytes, shared.options.format.prefill(), |filled| {
        let before = mem::replace(&mut syncs, shared.syncs.load(Ordering::Relaxed));
        let queue = shared.keeper();
        if queue.stop || syncs == before || is_late((filled, bytes), open_segment(shared)) {
            return !queue.stop;
        }
        let waited = shared.keeper_work.wait_timeout(queue, BREATHER);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stop
    });
    if !matches!(filled, Ok(true)) {
        // Half a spare is of no use and takes space that somebody else may need.
        disk.remove(&temporary)?;
        return filled.map(|_| None);
    }
    let path = layout.spare(shared.options.format);
    disk.rename(&temporary, &path)?;
    disk.sync_directory(&layout.segments)?;
    Ok(Some(SpareFile { file, path, bytes, salts: Salts::make()? }))
}

/// Gives the recycled file this name, if there is one.
fn take_recycled(shared: &Shared, name: &Path) -> io::Result<bool> {
    // With the lock: the next file that is recycled takes the name that this one had.
    let mut queue = shared.keeper();
    let Some(path) = queue.recycled.take() else { return Ok(false) };
    shared.disk.rename(&path, name)?;
    Ok(true)
}

/// How much of the open segment is used, and its size.
fn open_segment(shared: &Shared) -> (u64, u64) {
    shared.with_segments(|segments| {
        segments.last().map_or((0, 0), |open| (open.written(), open.file_bytes.load(Ordering::Relaxed)))
    })
}

/// Whether there is no time for a pause: the spare is to be ready when the open segment is half full. Each has so many
/// bytes done of so many.
fn is_late(spare: (u64, u64), open: (u64, u64)) -> bool {
    u128::from(spare.0) * u128::from(open.1) < 2 * u128::from(open.0) * u128::from(spare.1)
}

/// Fills the file and syncs it; `false` if it was told to stop. `go_on` is asked before each step, and told how much is
/// filled.
fn prefill(
    file: &dyn DiskFile,
    bytes: u64,
    value: u8,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<bool> {
    let block = vec![value; STEP_BYTES.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        if !go_on(offset) {
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
    prefill(&*file, bytes, value, |_| true)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spare_is_ready_when_half_of_the_open_segment_is_used() {
        let is_late = |spare, open| is_late((spare, 1 << 25), (open, 1 << 20));
        assert!(!is_late(0, 0), "nothing is written: there is time");
        assert!(is_late(0, 1));
        assert!(!is_late(1 << 24, 1 << 18));
        assert!(is_late((1 << 24) - 1, 1 << 18));
        assert!(is_late((1 << 25) - 1, 1 << 19), "half is used: no more pauses");
    }
}
