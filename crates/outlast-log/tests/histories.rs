//! `acknowledged_means_durable`: whatever instant the power is lost at, what is left is a prefix of everything that was
//! put into the log, entries and marks alike, and that prefix has everything that was ever acknowledged.
//!
//! Every short history is played once on a simulated disk that records each change; then the power is lost after each
//! of them, in several ways, and again at each instant of opening the log from what was left. Long histories are random,
//! with threads that run as they like, and go on after a power loss. What must hold stands in `common/oracle.rs`.
//!
//! `OUTLAST_MINUTES=N` makes the long histories go on for so long and, from 10 on, the short ones one step longer.
//! `OUTLAST_SEED` replays one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::oracle::{Tally, cut, in_threads};
use common::story::{Op, Story};
use common::{FORMATS, encrypted, only_decrypt, options};
use fastrand::Rng;
use outlast_log::{Compression, Encryption, Format, LogOptions};
use outlast_testkit::disk::{Losses, PowerLoss, SimulatedDisk};
use outlast_testkit::{minutes, rounds};

/// Every kind of step. A batch is several sectors, an entry a part of one.
const ALPHABET: [Op; 10] = [
    Op::Append(300),
    Op::Batch(3, 700),
    Op::Sync,
    Op::Settle,
    Op::Park,
    Op::DeadLetter,
    Op::Reclaim,
    Op::Rotate,
    Op::Reopen,
    Op::Kill,
];
/// Where histories begin: an empty disk, and a log that has recycled a segment, with another one to recycle.
const BEGINNINGS: [&[Op]; 2] = [
    &[],
    &[
        Op::Rotate,
        Op::Settle,
        Op::Reclaim,
        Op::Rotate,
        Op::Park,
        Op::Rotate,
        Op::Settle,
        Op::Reclaim,
        Op::Append(900),
    ],
];

fn small(format: Format) -> LogOptions {
    LogOptions { segment_bytes: 16 * 1024, ..options(format) }
}

/// The history with this number among those of this length.
fn history(mut number: usize, length: usize) -> Vec<Op> {
    let mut ops = Vec::with_capacity(length);
    for _ in 0..length {
        ops.push(ALPHABET[number % ALPHABET.len()]);
        number /= ALPHABET.len();
    }
    ops
}

/// Plays it, and loses the power at each instant of its last step: those before are another history's.
fn explore(beginning: &[Op], ops: &[Op], options: LogOptions, seed: u64, deeper: bool) -> Tally {
    let mut random = Rng::with_seed(seed);
    let mut tally = Tally::default();
    let mut story = Story::begin(options, seed, true);
    for op in beginning {
        story.act(*op);
    }
    let mut from = 0;
    for op in ops {
        // A killed process leaves its trace with it.
        from = if *op == Op::Kill { 0 } else { story.disk.position() + 1 };
        story.act(*op);
    }
    let trace = story.disk.trace();
    let mut replay = trace.replay();
    while let Some((changes, medium)) = replay.next() {
        if changes >= from {
            cut(&story, &story.known_after(changes), medium, &mut random, &mut tally, deeper);
        }
    }
    tally
}

fn report(what: &str, tally: Tally) {
    let Tally { instants, points, in_recovery, losses } = tally;
    println!(
        "{what}: crash points: {points} (at {instants} instants, {in_recovery} of them while recovering; {losses:?}); every \
         promise held"
    );
    // A disk that loses nothing proves nothing.
    let Losses { writes, torn, sizes, names, reordered_names } = losses;
    assert!(writes > 0 && torn > 0 && sizes > 0 && names > 0 && reordered_names > 0, "{losses:?}");
}

#[test]
fn acknowledged_means_durable_in_every_short_history() {
    let seed = common::seed();
    let length_max = if minutes() >= Some(10) { 4 } else { 3 };
    let mut histories = Vec::new();
    for length in 0..=length_max {
        for (begins, beginning) in
            BEGINNINGS.into_iter().enumerate().filter(|(begins, _)| begins + length <= length_max)
        {
            let numbers = 0..ALPHABET.len().pow(length as u32);
            histories.extend(
                numbers.map(|number| (beginning, history(number, length), begins + length < length_max)),
            );
        }
    }
    let next = AtomicUsize::new(0);
    let next = || histories.get(next.fetch_add(1, Ordering::Relaxed));
    let tally = in_threads(2, next, |(beginning, ops, deeper)| {
        let mut tally = Tally::default();
        for format in FORMATS {
            tally += explore(beginning, ops, small(format), seed, *deeper);
        }
        if ops.len() < 3 {
            tally += explore(
                beginning,
                ops,
                LogOptions { encryption: encrypted(&[1]), ..small(Format::Json) },
                seed,
                *deeper,
            );
        }
        tally
    });
    report(&format!("every history up to {length_max} steps ({} histories)", histories.len()), tally);
    assert!(tally.points >= 10_000);
}

fn random_op(random: &mut Rng) -> Op {
    match random.u8(..40) {
        0..12 => Op::Append(random.usize(20..3000)),
        12..17 => Op::Batch(random.usize(1..6), random.usize(20..1500)),
        17..21 => Op::Sync,
        21..24 => Op::Settle,
        24..29 => Op::Park,
        29..32 => Op::DeadLetter,
        32..34 => Op::Reclaim,
        34..37 => Op::Rotate,
        37..39 => Op::Reopen,
        _ => Op::Kill,
    }
}

/// With one of two keys, or in clear.
fn any_encryption(random: &mut Rng) -> Encryption {
    match random.u8(..4) {
        0 => encrypted(&[1, 2]),
        1 => encrypted(&[2, 1]),
        _ => only_decrypt(&[1, 2]),
    }
}

/// One queue through several power losses.
fn live(seed: u64) -> Tally {
    let mut random = Rng::with_seed(seed);
    let mut tally = Tally::default();
    let segment_bytes = 1024 * random.u64(16..64);
    let encryption = any_encryption(&mut random);
    let options = LogOptions { segment_bytes, encryption, ..options(FORMATS[random.usize(..2)]) };
    let mut story = Story::begin(options, seed, random.bool());
    for _ in 0..4 {
        for _ in 0..random.usize(1..60) {
            story.act(random_op(&mut random));
        }
        let trace = story.disk.trace();
        let last = random.usize(..=trace.changes.len());
        let mut replay = trace.replay();
        let mut next = None;
        while let Some((changes, medium)) = replay.next() {
            if random.u8(..16) == 0 {
                let deeper = random.u8(..16) == 0;
                cut(&story, &story.known_after(changes), medium, &mut random, &mut tally, deeper);
            }
            if changes == last {
                let loss = PowerLoss::any(random.u64(..));
                let left = medium.after_power_loss(loss).0;
                next = Some(story.after_power_loss(changes, SimulatedDisk::holding(left, loss.seed)));
            }
        }
        story = next.unwrap();
        if random.u8(..4) == 0 {
            story.options.format = FORMATS[random.usize(..2)];
            story.options.encryption = any_encryption(&mut random);
            if !story.rests {
                let ways = [Compression::None, Compression::Zstd];
                story.options.compression = ways[random.usize(..2)];
            }
            story.act(Op::Reopen);
        }
    }
    tally
}

#[test]
fn acknowledged_means_durable_in_long_random_histories() {
    let next = rounds(60);
    let seeds = Mutex::new(0_u64);
    let tally = in_threads(
        2,
        || {
            let seed = next()?;
            *seeds.lock().unwrap() += 1;
            println!("OUTLAST_SEED={seed}");
            Some(seed)
        },
        |seed| live(*seed),
    );
    report(&format!("long histories ({} seeds)", seeds.into_inner().unwrap()), tally);
}

#[test]
fn the_same_steps_make_the_same_calls() {
    // Not the same bytes: salts, owners and times are different in every run. What is compared is each change in its
    // order: kind, file, place and length.
    let seed = common::seed();
    let play = |seed: u64| {
        let mut random = Rng::with_seed(seed);
        let mut story = Story::begin(small(FORMATS[random.usize(..2)]), seed, true);
        (0..60).map(|_| random_op(&mut random)).for_each(|op| story.act(op));
        story.disk.trace().lines()
    };
    for round in 0..20 {
        let (first, second) = (play(seed ^ round), play(seed ^ round));
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        assert_eq!(differs.map(|at| (&first[at], &second[at])), None);
        assert_eq!(first.len(), second.len());
    }
}
