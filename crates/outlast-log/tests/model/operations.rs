//! What is done to the log and its specification, drawn at random.

use outlast_log::{Format, MarkKind};
use outlast_testkit::disk::{Fault, FaultKind, Repeat};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// From 1, so that a divergence is shrunk to few.
const LENGTH: std::ops::RangeInclusive<usize> = 1..=140;

/// A `u16` is a place: 0 is the beginning of the log, its maximum the end.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Append {
        bytes: usize,
        origin: Option<u16>,
    },
    AppendAll {
        count: usize,
        bytes: usize,
    },
    Mark {
        kind: MarkKind,
        target: u16,
        bytes: usize,
    },
    Sync,
    Settle(u16),
    Reclaim,
    Get(u16),
    Read(u16),
    /// One reader goes on all the time.
    Follow,
    Count(u16, u16),
    Reopen(Setup),
    Crash(Setup, Crash),
    /// Until the log is opened again.
    Fault(Fault),
    /// Files grow by so many KiB and no more, also after the log is opened again.
    Full(u8),
    /// There is space again.
    Space,
}

/// How a log is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) format: Format,
    pub(crate) segment_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Crash {
    /// What was written stays.
    Kill,
    /// What was not synced stays, goes or is torn; also while the log is opened again, after some calls.
    Power { seed: u64, opening_cut_after: Option<u8> },
}

/// How the log is opened first, and what is done then.
pub(crate) fn operations() -> impl Strategy<Value = (Setup, Vec<Operation>)> {
    (setup(), vec(operation(), LENGTH))
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = any::<u16>;
    // Mostly small, sometimes so large that a segment has room for one.
    let bytes = || prop_oneof![12 => 20usize..400, 3 => 400usize..3000, 1 => 3000usize..11_000];
    let kind = proptest::sample::select(&MarkKind::ALL[..]);
    prop_oneof![
        24 => (bytes(), option::weighted(0.2, place()))
            .prop_map(|(bytes, origin)| Operation::Append { bytes, origin }),
        6 => (0usize..6, 20usize..2000).prop_map(|(count, bytes)| Operation::AppendAll { count, bytes }),
        14 => (kind, place(), 20usize..900)
            .prop_map(|(kind, target, bytes)| Operation::Mark { kind, target, bytes }),
        5 => Just(Operation::Sync),
        4 => place().prop_map(Operation::Settle),
        4 => Just(Operation::Reclaim),
        5 => place().prop_map(Operation::Get),
        2 => place().prop_map(Operation::Read),
        4 => Just(Operation::Follow),
        5 => (place(), place()).prop_map(|(from, to)| Operation::Count(from, to)),
        2 => setup().prop_map(Operation::Reopen),
        3 => (setup(), crash()).prop_map(|(setup, crash)| Operation::Crash(setup, crash)),
        2 => fault().prop_map(Operation::Fault),
        1 => (0u8..60).prop_map(Operation::Full),
        1 => Just(Operation::Space),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    // Small, so that the next segment is never far; or large enough for points of the sparse index.
    let segment_bytes = prop_oneof![4 => Just(16 * 1024), 1 => Just(160 * 1024)];
    let format = prop_oneof![Just(Format::Json), Just(Format::Bincode)];
    (format, segment_bytes).prop_map(|(format, segment_bytes)| Setup { format, segment_bytes })
}

fn crash() -> impl Strategy<Value = Crash> {
    let cut = option::weighted(0.4, 0u8..60);
    prop_oneof![
        1 => Just(Crash::Kill),
        3 => (any::<u64>(), cut).prop_map(|(seed, opening_cut_after)| Crash::Power { seed, opening_cut_after }),
    ]
}

/// (No space for a write into a file that is prefilled makes the log wait; nobody here would give it any.)
fn fault() -> impl Strategy<Value = Fault> {
    let repeat = prop_oneof![Just(Repeat::Once), Just(Repeat::Forever)];
    let kind = prop_oneof![
        (Just(FaultKind::Io), 0u64..40),
        (Just(FaultKind::ShortWrite), 0u64..12),
        (Just(FaultKind::FailedSync), 0u64..8),
    ];
    (kind, repeat).prop_map(|((kind, after), repeat)| Fault { kind, after, repeat })
}
