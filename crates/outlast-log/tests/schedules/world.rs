//! What happens in one schedule: who does what, drawn by the scheduler, and what they saw.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use outlast_log::{
    AppendError, Failure, Format, Instant, Log, LogOptions, LogState, Mark, MarkKind, NewEntry, ReadError,
    ReadItem, Retention, Sequence, Ticket, Watermarks,
};
use outlast_testkit::disk::{Fault, FaultKind, Repeat, SimulatedDisk};
use shuttle::rand::Rng;
use shuttle::thread;

use crate::disk::ScheduledDisk;
use crate::seen::{Seen, count};
use crate::verdict;

pub(crate) const DIRECTORY: &str = "/queue";
const KEEP_NOTHING: Retention = Retention { time: Duration::ZERO, bytes: 0 };

/// A number below `bound`, drawn by the scheduler, so that the seed decides everything.
pub(crate) fn draw(bound: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..bound)
}

/// Something that was put into the log.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) ticket: Ticket,
    /// `None` for a mark.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) body: String,
}

/// "Everything up to this ticket is durable": said when the disk had made so many changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) ticket: Ticket,
    pub(crate) position: usize,
}

/// What threads write down. Nothing in it ever makes one wait for another.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) puts: Vec<Put>,
    pub(crate) told: Vec<Told>,
    /// How far "durable" had come when somebody first saw that the log had failed, and why it had.
    failed: Option<(Failure, Ticket)>,
    /// What was settled last, before anything was reclaimed.
    pub(crate) settled: Option<Sequence>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) disk: SimulatedDisk,
    pub(crate) options: LogOptions,
    notes: Mutex<Notes>,
}

impl World {
    pub(crate) fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One schedule.
pub(crate) fn schedule() {
    let world = Arc::new(World {
        disk: SimulatedDisk::new(draw(1 << 32)),
        options: LogOptions {
            format: if draw(2) == 0 { Format::Json } else { Format::Bincode },
            segment_bytes: 16 * 1024,
            // For ever, or at any time.
            sync_interval: if draw(2) == 0 { Duration::from_hours(1) } else { Duration::from_millis(1) },
            ..LogOptions::default()
        },
        notes: Mutex::default(),
    });
    let disk = Arc::new(ScheduledDisk::new(world.disk.clone()));
    let (log, _) = Log::open_on(disk, DIRECTORY.as_ref(), world.options.clone()).unwrap();
    let reclaims = draw(2) == 0;
    for _ in 0..if reclaims { 8 } else { 0 } {
        put(&world, &log).unwrap();
    }
    plan_faults(&world.disk);
    let start = |role: fn(&World, &Log)| {
        let (world, log) = (world.clone(), log.clone());
        thread::spawn(move || role(&world, &log))
    };
    let mut threads = vec![start(write), start(write), start(watch)];
    if draw(2) == 0 {
        threads.push(start(write));
    }
    if reclaims {
        threads.push(start(read_and_reclaim));
    }
    if draw(4) == 0 {
        threads.push(start(fill_the_disk));
    }
    let early = draw(3) == 0;
    if early {
        count(Seen::ClosedEarly, 1);
        close(log.clone());
    }
    for thread in threads {
        thread.join().unwrap();
    }
    look_at(&world, &log);
    if early || draw(4) > 0 {
        close(log);
    } else {
        drop(log); // closes too
    }
    verdict::pass(&world);
}

/// In two of three schedules one call fails, once or with all that follow.
fn plan_faults(disk: &SimulatedDisk) {
    let kind = match draw(6) {
        0 | 1 => FaultKind::FailedSync,
        2 => FaultKind::Io,
        3 => FaultKind::ShortWrite,
        _ => return,
    };
    let repeat = if draw(2) == 0 { Repeat::Once } else { Repeat::Forever };
    disk.inject(Fault { kind, after: draw(12), repeat });
}

fn close(log: Log) {
    let state = log.clone();
    let closed = log.close();
    let Watermarks { issued, durable, .. } = state.watermarks();
    match closed {
        Ok(()) => assert_eq!(issued, durable, "closed well, and not everything is durable"),
        Err(_) => assert!(matches!(state.state(), LogState::Failed(_))),
    }
}

/// Puts something into the log and waits for it, or does not, some times over.
fn write(world: &World, log: &Log) {
    let mut last = Ticket::default();
    for _ in 0..=draw(7) {
        match put(world, log) {
            Ok(ticket) => {
                assert!(last < ticket, "{last:?} and then {ticket:?}");
                last = ticket;
                wait(world, log, ticket);
            }
            Err(AppendError::NoSpace) => count(Seen::NoSpace, 1),
            Err(AppendError::Closed | AppendError::Failed(_)) => return look_at(world, log),
            Err(error) => panic!("{error}"),
        }
    }
    if draw(16) == 0 {
        close(log.clone());
    }
}

fn put(world: &World, log: &Log) -> Result<Ticket, AppendError> {
    let body = || {
        let fill = if draw(2) == 0 { 3500 } else { draw(80) as usize };
        format!(r#"{{"id":{},"fill":"{}"}}"#, draw(1 << 60), "x".repeat(fill))
    };
    match draw(4) {
        0 => {
            let bodies = [body(), body(), body()];
            let entries = bodies.each_ref().map(|body| NewEntry { body, time_ms: 1, origin: None });
            let appended = log.append_all(&entries)?;
            let mut notes = world.notes();
            for (appended, body) in appended.iter().zip(bodies) {
                let sequence = Some(appended.sequence);
                notes.puts.push(Put { ticket: appended.ticket, sequence, body });
            }
            Ok(appended[2].ticket)
        }
        1 => {
            let body = body();
            let mark = Mark {
                kind: MarkKind::Parked,
                target: Sequence::START,
                time_ms: 1,
                body: body.clone().into(),
            };
            let ticket = log.mark(&mark)?;
            world.notes().puts.push(Put { ticket, sequence: None, body });
            Ok(ticket)
        }
        _ => {
            let body = body();
            let appended = log.append(NewEntry { body: &body, time_ms: 1, origin: None })?;
            let sequence = Some(appended.sequence);
            world.notes().puts.push(Put { ticket: appended.ticket, sequence, body });
            Ok(appended.ticket)
        }
    }
}

/// Waits until it is durable, in one of the ways there are, or does not care.
fn wait(world: &World, log: &Log, ticket: Ticket) {
    let durable = log.durable(ticket);
    let outcome = match draw(8) {
        0 => return drop(durable),
        1 => {
            // Asks once and gives up; its waker must not stay behind.
            let mut durable = pin!(durable);
            let _ = durable.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            return;
        }
        2 => {
            let Some(outcome) = durable.wait_until(Instant::now() + Duration::from_millis(1)) else {
                return count(Seen::GaveUp, 1);
            };
            outcome
        }
        3 => shuttle::future::block_on(durable),
        4 => log.sync().wait(),
        _ => durable.wait(),
    };
    match outcome {
        Ok(()) => {
            let position = world.disk.position();
            assert!(log.watermarks().durable >= ticket);
            world.notes().told.push(Told { ticket, position });
            count(Seen::Told, 1);
        }
        Err(_) => look_at(world, log),
    }
}

/// Notes that the log has failed, if it has: nothing becomes durable from then on.
fn look_at(world: &World, log: &Log) {
    let LogState::Failed(failure) = log.state() else { return };
    let durable = log.watermarks().durable;
    let mut notes = world.notes();
    count(Seen::Latched, u64::from(notes.failed.is_none()));
    let (first, then) = notes.failed.get_or_insert_with(|| (failure.clone(), durable));
    assert_eq!(*first, failure, "the first failure is final");
    // The keeper or a reclaim may fail while a sync is under way; that one may end well.
    if failure.reason.contains("could not sync /queue/segments/0") {
        assert_eq!(*then, durable, "told durable after a sync had failed");
    }
}

/// The watermarks stay in order and only grow.
fn watch(world: &World, log: &Log) {
    let mut former = log.watermarks();
    for _ in 0..8 {
        let now = log.watermarks();
        assert!(now.issued >= now.appended && now.appended >= now.durable, "{now:?}");
        assert!(now.settled >= now.reclaimed, "{now:?}");
        let grown = now.issued >= former.issued
            && now.appended >= former.appended
            && now.durable >= former.durable
            && now.last >= former.last
            && now.settled >= former.settled
            && now.reclaimed >= former.reclaimed;
        assert!(grown, "{former:?} and then {now:?}");
        former = now;
        look_at(world, log);
        thread::yield_now();
    }
}

/// Reads behind the writers; settles what it has read and reclaims it.
fn read_and_reclaim(world: &World, log: &Log) {
    let mut reader = log.reader(Sequence::START);
    let mut last = Sequence::START;
    for _ in 0..12 {
        match reader.next() {
            Ok(Some(ReadItem::Entry(entry))) => {
                assert!(last < entry.sequence, "{last} and then {}", entry.sequence);
                last = entry.sequence;
            }
            Ok(Some(ReadItem::Damaged(damage))) => panic!("{damage}"),
            Ok(None) if draw(2) == 0 => thread::yield_now(),
            Ok(None) => {
                world.notes().settled = Some(last);
                log.settle(last);
                if let Ok(reclaimed) = log.reclaim(KEEP_NOTHING) {
                    count(Seen::Reclaimed, reclaimed.segments);
                }
            }
            Err(ReadError::Io { .. }) if world.disk.fired().io > 0 => return look_at(world, log),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The disk is full for a while.
fn fill_the_disk(world: &World, _: &Log) {
    world.disk.set_space_left(Some(draw(2) * 8 * 1024));
    for _ in 0..draw(40) {
        thread::yield_now();
    }
    world.disk.set_space_left(None);
}
