//! An error of any call to the disk loses nothing that was acknowledged, and acknowledges nothing that may be lost.
//!
//! A reference workload is run once to count its calls. Then each call fails in turn, in each way, once or for ever:
//! EIO, no space, a short write, a failed sync. The log must not panic; when it has failed it says so at every door; no
//! file is synced again on which a sync has failed; no space is no failure. Then the power is lost at several
//! instants, the process is restarted without losing power, and the power is lost again. What must hold stands in
//! `common/oracle.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::oracle::{Tally, cut, in_threads};
use common::story::{Op, QUEUE, Story, Trouble};
use common::{FORMATS, entry, mark, options, wait_until};
use fastrand::Rng;
use outlast_log::{AppendError, Format, Log, LogOptions, LogState, MarkKind, Sequence};
use outlast_testkit::disk::{Fault, FaultKind, Repeat, SimulatedDisk};

/// Everything that a log does, with segments that are recycled and filled again.
const REFERENCE: [Op; 21] = [
    Op::Append(300),
    Op::Batch(3, 700),
    Op::Sync,
    Op::Read,
    Op::Rotate,
    Op::Park,
    Op::Rotate,
    Op::Settle,
    Op::Reclaim,
    Op::Rotate,
    Op::DeadLetter,
    Op::Rotate,
    Op::Append(900),
    Op::Sync,
    Op::Reopen,
    Op::Settle,
    Op::Reclaim,
    Op::Read,
    Op::Append(300),
    Op::Rotate,
    Op::DeadLetter,
];
/// Threads mostly wait until space returns.
const THREADS: usize = 6;

#[derive(Debug, Clone, Copy)]
struct Case {
    format: Format,
    fault: Fault,
    seed: u64,
}

fn small(format: Format) -> LogOptions {
    LogOptions { segment_bytes: 16 * 1024, ..options(format) }
}

/// The workload up to the step at which the log fails; closed if it did not.
fn work(story: &mut Story) -> Result<(), Trouble> {
    story.open()?;
    for op in REFERENCE {
        match story.attempt(op) {
            // What there is no space for, and what cannot be read now, is left out.
            Ok(()) | Err(Trouble::NoSpace | Trouble::Read(_)) => {}
            failed => return failed,
        }
    }
    Ok(())
}

/// How many calls there are to fail in the workload.
fn calls(format: Format, kind: FaultKind) -> u64 {
    let disk = SimulatedDisk::new(0);
    let mut story = Story::on(disk.clone(), small(format), true);
    work(&mut story).unwrap();
    story.close().unwrap();
    disk.calls(kind)
}

fn suffer(case: &Case) -> Tally {
    let Case { format, fault, seed } = *case;
    let disk = SimulatedDisk::new(seed);
    disk.inject(fault);
    let mut story = Story::on(disk.clone(), small(format), true);
    let worked = work(&mut story);
    match &story.log {
        Some(log) if matches!(log.state(), LogState::Failed(_)) => {
            assert_ne!(fault.kind, FaultKind::NoSpace, "no space is no failure: {:?}", log.state());
            is_closed_at_every_door(log);
        }
        Some(_) if disk.fired().errors() == 0 => {
            // There is nothing left that can fail but this.
            let _ = story.close();
        }
        Some(_) => goes_on(&mut story),
        None => assert!(worked.is_err()),
    }
    assert!(disk.fired().of(fault.kind) > 0, "the fault has not happened");
    assert_eq!(disk.fired().syncs_after_failure, 0, "a file was synced again");
    let mut tally = lose_power(&story, seed);
    if fault.repeat == Repeat::Forever {
        // Whatever this comes to: an error, but no panic, and no harm.
        drop(Log::open_on(Arc::new(disk), Path::new(QUEUE), small(format)));
    }
    tally += after_restart(&mut story, seed);
    tally
}

/// The process is started again on what the other one has written, and works.
fn after_restart(story: &mut Story, seed: u64) -> Tally {
    story.restart();
    story.open().unwrap();
    let ops =
        [Op::Read, Op::Append(500), Op::Park, Op::Sync, Op::Rotate, Op::Settle, Op::Reclaim, Op::Append(40)];
    for op in ops {
        story.act(op);
    }
    lose_power(story, seed)
}

/// A failed log says the same everywhere, at once.
fn is_closed_at_every_door(log: &Log) {
    let LogState::Failed(failure) = log.state() else { panic!("{:?}", log.state()) };
    assert_eq!(log.append(entry("{}")), Err(AppendError::Failed(failure.clone())));
    assert_eq!(log.append_all(&[entry("{}")]), Err(AppendError::Failed(failure.clone())));
    assert_eq!(log.mark(&mark(MarkKind::Dead, Sequence::START)), Err(AppendError::Failed(failure.clone())));
    let now = log.watermarks();
    if now.durable < now.issued {
        assert_eq!(log.sync().wait(), Err(failure));
    }
}

/// The log has not failed: with a disk that is well again it works without a restart.
fn goes_on(story: &mut Story) {
    story.disk.heal();
    wait_until("it has noticed that there is space", || story.log().state() == LogState::Ok);
    for op in [Op::Append(100), Op::Park, Op::Sync, Op::Rotate] {
        story.act(op);
    }
    story.close().unwrap();
}

/// At the end, and at some instants before.
fn lose_power(story: &Story, seed: u64) -> Tally {
    let mut random = Rng::with_seed(seed);
    let mut tally = Tally::default();
    let trace = story.disk.trace();
    let mut replay = trace.replay();
    while let Some((changes, medium)) = replay.next() {
        if changes == trace.changes.len() || random.usize(..trace.changes.len()) < 3 {
            cut(story, &story.known_after(changes), medium, &mut random, &mut tally, false);
        }
    }
    tally
}

#[test]
fn an_error_at_any_call_loses_nothing_acknowledged() {
    let seed = common::seed();
    let mut cases = Vec::new();
    for format in FORMATS {
        for kind in FaultKind::ALL {
            let calls = calls(format, kind);
            println!("{format:?}, {kind:?}: {calls} calls, each once and for ever");
            for (after, repeat) in
                (0..calls).flat_map(|after| [(after, Repeat::Once), (after, Repeat::Forever)])
            {
                cases.push(Case { format, fault: Fault { kind, after, repeat }, seed: seed ^ after });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let tally = in_threads(THREADS, || cases.get(next.fetch_add(1, Ordering::Relaxed)), |case| suffer(case));
    println!(
        "failing calls: {} ({} crash points behind them, at {} instants); every promise held",
        cases.len(),
        tally.points,
        tally.instants
    );
}

/// How many bytes files grow by in the workload.
fn bytes(format: Format) -> u64 {
    const PLENTY: u64 = 1 << 30;
    let disk = SimulatedDisk::new(0);
    disk.set_space_left(Some(PLENTY));
    let mut story = Story::on(disk.clone(), small(format), true);
    work(&mut story).unwrap();
    PLENTY - disk.space_left().unwrap()
}

/// The disk is full after so many bytes.
fn fill(format: Format, bytes: u64, seed: u64) -> Tally {
    let disk = SimulatedDisk::new(seed);
    disk.set_space_left(Some(bytes));
    let mut story = Story::on(disk, small(format), true);
    match work(&mut story) {
        Err(Trouble::Open(_)) => assert!(story.log.is_none()),
        worked => {
            worked.unwrap();
            // What was kept back is enough for these, and for closing.
            let ops = [Op::DeadLetter, Op::Park, Op::DeadLetter, Op::Sync];
            for op in ops {
                story.act(op);
            }
            if bytes.is_multiple_of(2048) { goes_on(&mut story) } else { story.close().unwrap() }
        }
    }
    let mut tally = lose_power(&story, seed);
    tally += after_restart(&mut story, seed);
    tally
}

#[test]
fn a_disk_that_is_full_after_any_number_of_bytes_takes_marks_and_is_closed_in_order() {
    const STEP: u64 = 1024;
    let seed = common::seed();
    let mut cases = Vec::new();
    for format in FORMATS {
        let all = bytes(format);
        println!("{format:?}: {all} bytes");
        cases.extend((0..all / STEP).map(|step| (format, step * STEP, seed ^ step)));
    }
    let next = AtomicUsize::new(0);
    let next = || cases.get(next.fetch_add(1, Ordering::Relaxed));
    let tally = in_threads(THREADS, next, |(format, bytes, seed)| fill(*format, *bytes, *seed));
    println!("full disks: {} cases; crash points: {}, lost 0, failures 0", cases.len(), tally.points);
}
