//! From submitting callers to the drainer: through memory while the drainer keeps up, through the log otherwise.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outlast_log::{AppendError, Damage, Entry, Log, NewEntry, ReadError, ReadItem, Reader, Sequence, Ticket};
use tokio::sync::Notify;

use crate::write::{LoggedWrite, Write, WriteId};

/// Most bytes of writes kept in memory for the drainer. What does not fit is read back from the log.
const MEMORY_BYTES_MAX: usize = 8 << 20;
/// What an entry of the log needs beside its body, about: its names, sequence, time and checksum.
pub(crate) const ENVELOPE_BYTES: usize = 100;
/// Most entries read from the log in one go; they are in memory until the batch is decided.
const READ_BYTES_MAX: usize = 4 << 20;

/// A write in the log, on its way to the database.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub sequence: Sequence,
    /// The id under which its caller knows it.
    pub first: WriteId,
    /// Refused attempts so far.
    pub attempts: u32,
    /// When it was accepted (Unix milliseconds).
    pub accepted_ms: u64,
    /// It was appended again: it must be durable before it is sent.
    pub appended_again: bool,
    pub bytes: usize,
    pub write: Arc<Write>,
}

impl Pending {
    /// From an entry of the log.
    pub(crate) fn decode(entry: &Entry) -> Result<Self, serde_json::Error> {
        let logged: LoggedWrite = serde_json::from_str(&entry.body)?;
        Ok(Self {
            sequence: entry.sequence,
            first: logged.first.unwrap_or(WriteId(entry.sequence)),
            attempts: logged.attempts,
            accepted_ms: entry.time_ms,
            appended_again: entry.origin.is_some(),
            bytes: entry.body.len() + ENVELOPE_BYTES,
            write: Arc::new(logged.write),
        })
    }
}

/// What a caller hands in, encoded already.
pub(crate) struct NewWrite<'a> {
    pub body: &'a str,
    pub accepted_ms: u64,
    pub origin: Option<Sequence>,
    pub first: Option<WriteId>,
    pub attempts: u32,
    pub write: Arc<Write>,
}

/// The end at which writes come in. Appending and handing over happen under one lock, so that the drainer sees writes
/// in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    inner: Mutex<IntakeInner>,
    /// Tells the drainer that there is something.
    pub arrived: Notify,
}

#[derive(Debug)]
struct IntakeInner {
    queue: VecDeque<Pending>,
    bytes: usize,
    /// Entries follow the queue's last one that are only in the log.
    spilled: bool,
    last: Sequence,
}

impl Default for IntakeInner {
    fn default() -> Self {
        Self { queue: VecDeque::new(), bytes: 0, spilled: true, last: Sequence::START }
    }
}

impl Intake {
    /// Appends to the log and hands over. `registered` runs under the lock with the new sequence, before the drainer
    /// can see the write.
    pub(crate) fn append<T>(
        &self,
        log: &Log,
        new: NewWrite<'_>,
        registered: impl FnOnce(Sequence) -> T,
    ) -> Result<(Sequence, Ticket, T), AppendError> {
        let mut inner = self.lock();
        let appended =
            log.append(NewEntry { body: new.body, time_ms: new.accepted_ms, origin: new.origin })?;
        let registered = registered(appended.sequence);
        inner.last = appended.sequence;
        let bytes = new.body.len() + ENVELOPE_BYTES;
        if !inner.spilled && inner.bytes + bytes <= MEMORY_BYTES_MAX {
            inner.bytes += bytes;
            inner.queue.push_back(Pending {
                sequence: appended.sequence,
                first: new.first.unwrap_or(WriteId(appended.sequence)),
                attempts: new.attempts,
                accepted_ms: new.accepted_ms,
                appended_again: new.origin.is_some(),
                bytes,
                write: new.write,
            });
        } else {
            inner.spilled = true;
        }
        drop(inner);
        self.arrived.notify_one();
        Ok((appended.sequence, appended.ticket, registered))
    }

    /// The last sequence that came in, in this process.
    pub(crate) fn last(&self) -> Sequence {
        self.lock().last
    }

    pub(crate) fn start_after(&self, last: Sequence) {
        self.lock().last = last;
    }

    fn lock(&self) -> MutexGuard<'_, IntakeInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the drainer reads.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub writes: Vec<Pending>,
    /// Stretches of the log that are damaged.
    pub damage: Vec<Damage>,
    /// Entries that are whole but cannot be understood.
    pub unreadable: Vec<(Sequence, String)>,
}

impl Read {
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.damage.is_empty() && self.unreadable.is_empty()
    }
}

/// The end at which the drainer takes writes out, in order.
pub(crate) struct Feed {
    log: Log,
    intake: Arc<Intake>,
    /// The last sequence handed out.
    after: Sequence,
    reader: Option<Reader>,
    /// Read ahead while a transaction was in flight.
    ahead: Option<Read>,
}

impl Feed {
    pub(crate) fn new(log: Log, intake: Arc<Intake>) -> Self {
        Self { log, intake, after: Sequence::START, reader: None, ahead: None }
    }

    /// Begins again after `cursor`: what memory held is forgotten and read from the log.
    pub(crate) fn restart(&mut self, cursor: Sequence) {
        let mut inner = self.intake.lock();
        // Memory stays useful when it goes on exactly where we begin.
        let contiguous = !inner.spilled && self.after == cursor && self.reader.is_none();
        if !contiguous {
            inner.queue.clear();
            inner.bytes = 0;
            inner.spilled = true;
        }
        drop(inner);
        self.after = cursor;
        self.reader = None;
        self.ahead = None;
    }

    /// Whether everything that came in was handed out.
    pub(crate) fn is_drained(&self) -> bool {
        self.ahead.is_none() && self.after >= self.intake.last()
    }

    /// While a backlog is read from the log: reads the next writes already, so that decoding them overlaps with the
    /// transaction in flight. What comes through memory is left to gather instead.
    pub(crate) fn read_ahead(&mut self, count: usize, bytes: usize) {
        if self.reader.is_none() || self.ahead.is_some() {
            return;
        }
        let mut read = Read::default();
        // What was read before an error is kept: it counts as handed out. The error shows again at the next read.
        let _ = self.take_from_log(&mut read, count, bytes.min(READ_BYTES_MAX));
        if !read.is_empty() {
            self.ahead = Some(read);
        }
    }

    /// What was read ahead.
    pub(crate) fn ahead(&self) -> Option<&Read> {
        self.ahead.as_ref()
    }

    /// Hands it out.
    pub(crate) fn take_ahead(&mut self) -> Option<Read> {
        self.ahead.take()
    }

    /// Takes back what it handed out last: it is handed out again.
    pub(crate) fn give_back(&mut self, writes: Vec<Pending>) {
        self.ahead = Some(Read { writes, ..Read::default() });
    }

    /// The next writes in order, at most `count` and about `bytes`; empty when there is nothing more now.
    pub(crate) fn next(&mut self, count: usize, bytes: usize) -> Result<Read, ReadError> {
        if let Some(read) = self.ahead.take() {
            return Ok(read);
        }
        let mut read = Read::default();
        if self.reader.is_none() && self.take_from_memory(&mut read, count, bytes) {
            return Ok(read);
        }
        self.take_from_log(&mut read, count, bytes.min(READ_BYTES_MAX))?;
        Ok(read)
    }

    /// False when the log must be read.
    fn take_from_memory(&mut self, read: &mut Read, count: usize, bytes: usize) -> bool {
        let mut inner = self.intake.lock();
        let mut size = 0;
        while read.writes.len() < count && size < bytes {
            let Some(write) = inner.queue.pop_front() else { break };
            inner.bytes -= write.bytes;
            size += write.bytes;
            self.after = write.sequence;
            read.writes.push(write);
        }
        !read.writes.is_empty() || !inner.spilled
    }

    fn take_from_log(&mut self, read: &mut Read, count: usize, bytes: usize) -> Result<(), ReadError> {
        let reader = self.reader.get_or_insert_with(|| self.log.reader(self.after));
        let mut size = 0;
        while read.writes.len() < count && size < bytes {
            match reader.next()? {
                Some(ReadItem::Entry(entry)) => {
                    self.after = entry.sequence;
                    size += entry.body.len();
                    match Pending::decode(&entry) {
                        Ok(write) => read.writes.push(write),
                        Err(error) => read.unreadable.push((entry.sequence, error.to_string())),
                    }
                }
                Some(ReadItem::Damaged(damage)) => {
                    self.after = self.after.max(damage.lost.map_or(damage.after, |(_, last)| last));
                    read.damage.push(damage);
                }
                None => break,
            }
        }
        let mut inner = self.intake.lock();
        if self.after >= inner.last {
            // Caught up: what comes from now on goes through memory.
            inner.queue.clear();
            inner.bytes = 0;
            inner.spilled = false;
            drop(inner);
            self.reader = None;
        }
        Ok(())
    }
}
