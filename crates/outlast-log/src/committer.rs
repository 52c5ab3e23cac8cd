//! The committer: whoever writes and syncs, one at a time. It takes everything that has gathered, writes it, syncs if
//! anybody waits for that or the interval is over, and publishes how far it came. While it syncs, the next group
//! gathers: the group grows with the load and a lone caller waits for nobody.
//!
//! A thread of the log does it. Only while that rests, a thread that waits for its own entry takes its place for one
//! round, so that a lone caller pays for no wake-up of another thread and back (decision 0017).

use std::io;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::disk::DiskFile;
use crate::epochs::now_ms;
use crate::error::is_no_space;
use crate::gathering::Gathering;
use crate::header::HEADER_BYTES;
use crate::segment::Segment;
use crate::shared::{LatchOnPanic, Seal, Shared, rest};
use crate::sync::{Instant, MutexGuard, system_now, thread};
use crate::tail::{Chunk, Opens, Tail};

/// How long to wait before another try when there is no space.
const SPACE_RETRY: Duration = Duration::from_millis(200);
/// The longest that something stays in memory while nobody waits for it.
const LAZY_MAX: Duration = Duration::from_millis(5);

/// What is needed to write and sync: whoever has it is the committer. It lies in the [`Tail`] while nobody is.
#[derive(Debug)]
pub(crate) struct Committer {
    /// The open segment; nobody else writes into its file.
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    chunks: Vec<Chunk>,
    /// When the oldest unsynced bytes were written.
    unsynced_since: Option<Instant>,
    gathering: Gathering,
}

/// What the committer does next.
#[derive(Clone, Copy)]
enum Step {
    Write,
    Sync,
    Stop,
}

/// What failed, in words for the operator.
struct Broken(String);

/// The thread of the log: commits until the log is closed or fails.
pub(crate) fn run(shared: &Arc<Shared>) {
    let _guard = LatchOnPanic(shared.clone(), "committer");
    let mut former = None;
    while let Some((mut committer, step)) = next_step(shared, former.take()) {
        let done = match step {
            Step::Write => committer.write(shared),
            Step::Sync => committer.sync(shared),
            Step::Stop => committer.finish(shared),
        };
        if let Err(Broken(reason)) = done {
            shared.fail(reason);
        }
        if matches!(step, Step::Stop) {
            return;
        }
        former = Some(committer);
    }
}

/// Puts the committer down, waits for something to do, and takes it up again. `None` when the log has failed.
fn next_step(shared: &Shared, former: Option<Committer>) -> Option<(Committer, Step)> {
    let mut tail = shared.tail();
    if let Some(mut committer) = former {
        committer.give_back_buffers(&mut tail);
        tail = committer.gather(shared, tail);
        tail.committer = Some(committer);
    }
    let mut lazy_since = None;
    loop {
        if shared.failure.get().is_some() {
            tail.committer = None;
            return None;
        }
        let Some(committer) = &tail.committer else {
            // A caller commits. It looks whether anything is left when it puts the committer down, and wakes us then.
            lazy_since = None;
            tail.alarm = false;
            tail = shared.work.wait(tail).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        // Before looking: whoever changes something afterwards sees it and wakes us.
        let lazy = !tail.pending.is_empty();
        shared.committer_rests.store(if lazy { rest::LAZILY } else { rest::IDLE }, Ordering::SeqCst);
        lazy_since = if lazy { lazy_since.or_else(|| Some(Instant::now())) } else { None };
        if let Some(step) = committer.due(shared, &tail, lazy_since) {
            shared.committer_rests.store(rest::NOT, Ordering::SeqCst);
            tail.alarm = false;
            let mut committer = tail.committer.take()?;
            if matches!(step, Step::Write) {
                committer.take_up(shared, &mut tail);
            }
            return Some((committer, step));
        }
        // Real timers: they end also when nothing more arrives.
        let write = lazy_since.map(|since| LAZY_MAX.saturating_sub(since.elapsed()));
        let interval = shared.options.sync_interval;
        let sync = committer.unsynced_since.map(|since| interval.saturating_sub(since.elapsed()));
        tail.alarm = lazy;
        tail = match write.into_iter().chain(sync).min() {
            Some(left) => shared.work.wait_timeout(tail, left).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.work.wait(tail).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

impl Shared {
    /// Commits what has gathered in the calling thread, which waits for some of it, unless somebody else is at it.
    pub(crate) fn commit_here(self: &Arc<Self>) {
        // Not while unwinding: a panic in here could not be told from that one.
        if self.committer_rests.load(Ordering::SeqCst) == rest::NOT || thread::panicking() {
            return;
        }
        let mut tail = self.tail();
        if tail.closing || self.failure.get().is_some() {
            return;
        }
        let Some(mut committer) = tail.committer.take() else { return };
        let _guard = LatchOnPanic(self.clone(), "committer");
        self.committer_rests.store(rest::NOT, Ordering::SeqCst);
        committer.take_up(self, &mut tail);
        drop(tail);
        if let Err(Broken(reason)) = committer.write(self) {
            return self.fail(reason);
        }
        self.put_down(committer);
    }

    /// As the thread left it when it went to sleep. If anything is left to do it is woken.
    fn put_down(&self, mut committer: Committer) {
        let mut tail = self.tail();
        committer.give_back_buffers(&mut tail);
        let is_idle = tail.pending.is_empty() && committer.unsynced_since.is_none() && !tail.closing;
        let gathers = committer.gathering.is_worth_it();
        tail.committer = Some(committer);
        // Before looking who waits: whoever begins to wait afterwards sees it and wakes the thread.
        let rests = if tail.alarm { rest::LAZILY } else { rest::IDLE };
        self.committer_rests.store(rests, Ordering::SeqCst);
        if is_idle && !gathers && !self.is_wanted() && self.failure.get().is_none() {
            return;
        }
        self.committer_rests.store(rest::NOT, Ordering::SeqCst);
        drop(tail);
        self.work.notify_one();
    }

    /// Somebody waits for what is not durable yet.
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > self.durable.load(Ordering::Relaxed)
    }
}

impl Committer {
    pub(crate) fn new(segment: Arc<Segment>, file: Arc<dyn DiskFile>) -> Self {
        Self { segment, file, chunks: Vec::new(), unsynced_since: None, gathering: Gathering::default() }
    }

    /// Everything is synced. Gives back what a short segment does not need: restarts in a loop must not fill the disk.
    fn finish(&self, shared: &Shared) -> Result<(), Broken> {
        let (written, path) = (self.segment.written(), &self.segment.path);
        let size = self.segment.file_bytes.load(Ordering::Relaxed);
        if shared.failure.get().is_some() || written > size / 4 * 3 {
            return Ok(());
        }
        self.file.set_size(written).map_err(|error| broken("cut", path, &error))?;
        self.file.sync().map_err(|error| broken("sync", path, &error))?;
        self.segment.file_bytes.store(written, Ordering::Relaxed);
        Ok(())
    }

    fn give_back_buffers(&mut self, tail: &mut Tail) {
        for chunk in self.chunks.drain(..) {
            tail.give_back(chunk.bytes);
        }
    }

    /// Takes what has gathered.
    fn take_up(&mut self, shared: &Shared, tail: &mut Tail) {
        if tail.take(&mut self.chunks) {
            shared.room.notify_all();
        }
    }

    /// Waits a moment for those who were just woken, if that is worth it. Without going to sleep: it lasts no longer than
    /// a sync, and to be woken would take a good part of that.
    fn gather<'a>(&mut self, shared: &'a Shared, tail: MutexGuard<'a, Tail>) -> MutexGuard<'a, Tail> {
        let Some((count, patience)) = self.gathering.begin() else { return tail };
        let before = tail.ticket;
        drop(tail);
        let deadline = Instant::now() + patience;
        while shared.issued.load(Ordering::Relaxed) < before + count && Instant::now() < deadline {
            thread::yield_now();
        }
        let tail = shared.tail();
        let came = tail.ticket - before;
        self.gathering.end(came, count);
        tail
    }

    /// What is to be done now.
    fn due(&self, shared: &Shared, tail: &Tail, lazy_since: Option<Instant>) -> Option<Step> {
        if lazy_since.is_some_and(|since| write_is_due(shared, tail, since)) {
            Some(Step::Write)
        } else if self.unsynced_since.is_some() && (tail.closing || self.sync_is_due(shared)) {
            Some(Step::Sync)
        } else if tail.closing {
            Some(Step::Stop)
        } else {
            None
        }
    }

    /// Somebody waits for what is written and not synced, or it has waited long enough.
    fn sync_is_due(&self, shared: &Shared) -> bool {
        let interval = shared.options.sync_interval;
        shared.is_wanted() || self.unsynced_since.is_some_and(|since| since.elapsed() >= interval)
    }

    fn write(&mut self, shared: &Shared) -> Result<(), Broken> {
        let mut chunks = mem::take(&mut self.chunks);
        for chunk in &mut chunks {
            encrypt(chunk)?;
            match chunk.opens.take() {
                Some(opens) => self.begin_segment(shared, chunk, opens)?,
                None => self.write_chunk(shared, chunk)?,
            }
        }
        self.chunks = chunks;
        if self.unsynced_since.is_some() && self.sync_is_due(shared) {
            self.sync(shared)?;
        }
        Ok(())
    }

    fn write_chunk(&mut self, shared: &Shared, chunk: &Chunk) -> Result<(), Broken> {
        let (file, path) = (&self.file, &self.segment.path);
        when_space_allows(shared, "write", path, || file.write_at(&chunk.bytes, chunk.offset))?;
        self.unsynced_since.get_or_insert_with(Instant::now);
        published(shared, chunk);
        Ok(())
    }

    fn sync(&mut self, shared: &Shared) -> Result<(), Broken> {
        let took = self.sync_file(shared)?;
        let woken = shared.publish_durable(shared.appended.load(Ordering::Relaxed));
        self.gathering.woken(woken, took);
        Ok(())
    }

    fn sync_file(&mut self, shared: &Shared) -> Result<Duration, Broken> {
        let start = Instant::now();
        self.file.sync().map_err(|error| broken("sync", &self.segment.path, &error))?;
        self.unsynced_since = None;
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        let took = start.elapsed();
        shared.sync_nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        Ok(took)
    }

    /// The order matters. The former segment is synced first, so that only the last one can ever end torn and a power
    /// cut leaves a prefix of the log. Nothing is written before the new name is durable: a file that is a spare again
    /// after a power cut, with a header in it, would be taken for an empty one.
    fn begin_segment(&mut self, shared: &Shared, chunk: &Chunk, opens: Opens) -> Result<(), Broken> {
        if self.unsynced_since.is_some() {
            self.sync(shared)?;
        }
        let former = mem::replace(&mut self.segment, chunk.segment.clone());
        let path = &chunk.segment.path;
        when_space_allows(shared, "begin", path, || shared.disk.rename(&opens.spare.path, path))?;
        let directory = &shared.layout.segments;
        shared.disk.sync_directory(directory).map_err(|error| broken("sync", directory, &error))?;
        // Not before: the next spare takes the name that this one had.
        shared.keeper().spare_wanted = true;
        self.file = opens.spare.file;
        let file = &self.file;
        when_space_allows(shared, "write", path, || file.write_at(&chunk.bytes, 0))?;
        self.sync_file(shared)?;
        former.seal(now_ms());
        published(shared, chunk);
        shared.publish_durable(chunk.ticket);
        shared.keeper().seals.push(Seal { segment: former, ledger: opens.former, damage: Vec::new() });
        shared.keeper_work.notify_one();
        Ok(())
    }
}

/// Somebody waits for what is pending, it is much, or it has waited long enough. What nobody waits for is not
/// written one by one: while the database answers, that would cost each write a wake-up.
fn write_is_due(shared: &Shared, tail: &Tail, since: Instant) -> bool {
    tail.closing || tail.is_worth_writing() || shared.is_wanted() || since.elapsed() >= LAZY_MAX
}

/// Once: what is written again after a failure is the same.
fn encrypt(chunk: &mut Chunk) -> Result<(), Broken> {
    let Chunk { segment, bytes, offset, .. } = chunk;
    let header = if *offset == 0 { HEADER_BYTES as usize } else { 0 };
    segment.codec.encrypt(bytes, header, *offset).map_err(|error| broken("write", &segment.path, &error))
}

fn published(shared: &Shared, chunk: &Chunk) {
    chunk.segment.set_written(chunk.offset + chunk.bytes.len() as u64);
    shared.appended.store(chunk.ticket, Ordering::SeqCst);
}

/// Does it, again and again while there is no space: an append that was refused by a full disk left nothing behind
/// that a second try would not write over. (A sync is never tried again, see [`Shared::fail`].)
fn when_space_allows(
    shared: &Shared,
    action: &str,
    path: &std::path::Path,
    mut work: impl FnMut() -> io::Result<()>,
) -> Result<(), Broken> {
    let mut waited = false;
    loop {
        match work() {
            Ok(()) => break,
            Err(error) if is_no_space(&error) => {
                let mut tail = shared.tail();
                if tail.closing {
                    return Err(broken(action, path, &error));
                }
                tail.write_blocked.get_or_insert_with(system_now);
                // Those who wait for room are told that there is no space.
                shared.room.notify_all();
                drop(shared.work.wait_timeout(tail, SPACE_RETRY));
                waited = true;
            }
            Err(error) => return Err(broken(action, path, &error)),
        }
    }
    if waited {
        shared.tail().write_blocked = None;
    }
    Ok(())
}

fn broken(action: &str, path: &std::path::Path, error: &io::Error) -> Broken {
    Broken(format!("could not {action} {}: {error}", path.display()))
}
