//! Durable means synced: together for those who wait together, in the background for those who do not, and never again
//! after a sync has failed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, FORMATS, append, body, entry, mark, open, options, read_all, sequence, wait_until};
use outlast_log::{AppendError, Format, Log, LogOptions, LogState, MarkKind};
use outlast_testkit::disk::{Fault, FaultKind, SimulatedDisk};

#[test]
fn those_who_wait_together_share_a_sync() {
    const THREADS: u64 = 64;
    const EACH: u64 = 200;
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) =
            Log::open(directory.path(), LogOptions { segment_bytes: 8 << 20, ..options(format) }).unwrap();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let log = log.clone();
                scope.spawn(move || {
                    let mut last = None;
                    for number in 0..EACH {
                        let appended = log.append(entry(&body(thread * EACH + number, 100))).unwrap();
                        assert!(last < Some(appended.sequence));
                        last = Some(appended.sequence);
                        log.durable(appended.ticket).wait().unwrap();
                        assert!(log.watermarks().durable >= appended.ticket);
                    }
                });
            }
        });
        let syncs = log.watermarks().syncs;
        assert!(syncs < THREADS * EACH, "{syncs}");
        log.close().unwrap();
        let (log, _) = open(directory.path(), format);
        let mut found: Vec<String> = read_all(&log).into_iter().map(|entry| entry.body.into()).collect();
        let mut expected: Vec<String> = (0..THREADS * EACH).map(|number| body(number, 100)).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_sync_happens_in_the_background_though_nobody_asks() {
    let directory = tempfile::tempdir().unwrap();
    let interval = Duration::from_millis(20);
    let (log, _) =
        Log::open(directory.path(), LogOptions { sync_interval: interval, ..options(Format::Json) }).unwrap();
    for _ in 0..3 {
        // Also after the traffic has stopped: this is the only entry for a while.
        let appended = log.append(entry("{}")).unwrap();
        wait_until("it is durable", || log.watermarks().durable >= appended.ticket);
    }
    assert!(log.watermarks().syncs >= 3);
}

#[test]
fn nothing_is_synced_before_its_time_if_nobody_asks() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    let appended = log.append(entry("{}")).unwrap();
    wait_until("it is written", || log.watermarks().appended >= appended.ticket);
    assert_eq!((log.watermarks().syncs, log.watermarks().durable.as_u64()), (0, 0));
    log.durable(appended.ticket).wait().unwrap();
    assert_eq!(log.watermarks().syncs, 1);
    // Done already: no second sync.
    log.durable(appended.ticket).wait().unwrap();
    log.sync().wait().unwrap();
    assert_eq!(log.watermarks().syncs, 1);
}

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn durable_is_a_future_that_wakes_its_last_waker_and_may_be_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), Format::Json);
    let appended = log.append(entry("{}")).unwrap();
    drop(log.durable(appended.ticket));
    let (first, last) = (Arc::new(CountWakes::default()), Arc::new(CountWakes::default()));
    let wakers = [Waker::from(first.clone()), Waker::from(last.clone())];
    let mut durable = pin!(log.durable(appended.ticket));
    let polls = wakers.each_ref().map(|waker| durable.as_mut().poll(&mut Context::from_waker(waker)));
    if polls[1].is_pending() {
        wait_until("it is woken", || last.0.load(Ordering::SeqCst) == 1);
    }
    assert_eq!(durable.as_mut().poll(&mut Context::from_waker(&wakers[1])), Poll::Ready(Ok(())));
    assert!(log.durable(appended.ticket).wait_until(Instant::now()).is_some());
}

#[test]
fn a_failed_sync_is_final_for_everybody() {
    for format in FORMATS {
        let disk = SimulatedDisk::new(1);
        let path = Path::new("/queue");
        let (log, _) = Log::open_on(Arc::new(disk.clone()), path, options(format)).unwrap();
        append(&log, &body(1, 50));
        log.sync().wait().unwrap();
        let spare_is_there = || log.usage().disk_bytes > 2 * 64 * 1024 - 1;
        wait_until("the keeper is done", spare_is_there);
        disk.inject(Fault::next(FaultKind::FailedSync));
        let lost = log.append(entry(&body(2, 50))).unwrap();
        let failure = log.durable(lost.ticket).wait_until(Instant::now() + DEADLINE).unwrap().unwrap_err();
        assert!(failure.reason.contains("the device has failed"), "{failure}");
        assert!(failure.reason.contains("00000001"), "{failure}");
        // At every door, the same failure, at once; though another sync would succeed.
        assert_eq!(log.durable(lost.ticket).wait(), Err(failure.clone()));
        assert_eq!(log.append(entry("{}")), Err(AppendError::Failed(failure.clone())));
        assert_eq!(log.append_all(&[entry("{}")]), Err(AppendError::Failed(failure.clone())));
        assert_eq!(
            log.mark(&mark(MarkKind::Dead, sequence("1-1"))),
            Err(AppendError::Failed(failure.clone()))
        );
        assert_eq!(log.state(), LogState::Failed(failure.clone()));
        // What was durable stays durable and readable.
        assert_eq!(log.watermarks().durable.as_u64(), 1);
        assert_eq!(&*log.get(sequence("1-1")).unwrap().unwrap().body, body(1, 50));
        log.close().unwrap_err();
        assert_eq!(disk.fired().syncs_after_failure, 0);
        let (log, _) = Log::open_on(Arc::new(disk.after_power_cut(1)), path, options(format)).unwrap();
        let entries = read_all(&log);
        assert_eq!(*entries[0].body, body(1, 50));
    }
}

#[test]
fn all_who_wait_learn_of_a_failed_write() {
    let disk = SimulatedDisk::new(2);
    let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options(Format::Json)).unwrap();
    disk.inject(Fault::always(FaultKind::Io));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                if let Ok(appended) = log.append(entry("{}")) {
                    log.durable(appended.ticket).wait_until(Instant::now() + DEADLINE).unwrap().unwrap_err();
                }
            });
        }
    });
    assert!(matches!(log.state(), LogState::Failed(_)));
}

#[test]
fn closing_and_dropping_sync_what_nobody_waited_for() {
    for close in [true, false] {
        let disk = SimulatedDisk::new(3);
        let path = Path::new("/queue");
        let (log, _) = Log::open_on(Arc::new(disk.clone()), path, options(Format::Json)).unwrap();
        for number in 0..10 {
            append(&log, &body(number, 50));
        }
        let durable = log.sync();
        if close {
            log.close().unwrap();
        } else {
            drop(log);
        }
        durable.wait().unwrap();
        let (log, recovered) =
            Log::open_on(Arc::new(disk.after_power_cut(4)), path, options(Format::Json)).unwrap();
        assert_eq!(recovered.torn, None);
        assert_eq!(read_all(&log).len(), 10);
    }
}

#[test]
fn memory_does_not_grow_while_the_disk_stalls() {
    const BYTES: usize = 50_000;
    let disk = SimulatedDisk::new(8);
    let options = LogOptions { segment_bytes: 32 << 20, ..options(Format::Json) };
    let (log, _) = Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options).unwrap();
    wait_until("there is a spare", || log.usage().disk_bytes >= 32 << 20);
    disk.set_stalled(true);
    let text = body(1, BYTES);
    let issued = || log.watermarks().issued.as_u64() as usize;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..200 {
                log.append(entry(&text)).unwrap();
            }
        });
        let mut most = 0;
        while most * BYTES < 2 << 20 {
            most = issued();
        }
        for _ in 0..10_000 {
            thread::yield_now();
            most = issued();
        }
        let finished = writer.is_finished();
        disk.set_stalled(false);
        assert!(!finished);
        // What the committer has taken, what waits, and those that passed the bounds.
        assert!(most * BYTES <= 2 * (2 << 20) + 2 * BYTES, "{most}");
    });
    assert_eq!(read_all(&log).len(), 200);
}
