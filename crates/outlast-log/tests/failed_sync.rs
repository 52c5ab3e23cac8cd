//! What a failed sync has dropped can still be read, from memory, by the process that opens the log next, and no later
//! sync brings it to the disk. Whatever an opening finds must survive the power loss after it all the same: entries are
//! appended and acknowledged behind it, and it may have been applied.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{FORMATS, append, bodies, body, extension, options, read, wait_until};
use outlast_log::{Format, Log, OpenError, Recovered, Sequence};
use outlast_testkit::disk::{Fault, FaultKind, SimulatedDisk};

const SEEDS: std::ops::Range<u64> = 0..20;

fn open(disk: &SimulatedDisk, format: Format) -> Result<(Log, Recovered), OpenError> {
    Log::open_on(Arc::new(disk.clone()), Path::new("/queue"), options(format))
}

#[test]
fn what_is_found_after_a_failed_sync_survives_the_next_power_loss() {
    for (format, seed) in FORMATS.into_iter().flat_map(|format| SEEDS.map(move |seed| (format, seed))) {
        let disk = SimulatedDisk::new(seed);
        let mut expected: Vec<String> = (0..8).map(|number| body(number, 700)).collect();
        let (log, _) = open(&disk, format).unwrap();
        for body in &expected {
            append(&log, body);
        }
        let spare = Path::new("/queue/segments/spare").with_extension(extension(format));
        wait_until("nobody else syncs", || disk.is_durable(&spare));
        disk.inject(Fault::next(FaultKind::FailedSync));
        log.sync().wait().unwrap_err();
        drop(log);
        assert_eq!(disk.fired().failed_syncs, 1);

        let (log, _) = open(&disk, format).unwrap();
        assert_eq!(bodies(&read(&log, Sequence::START).0), expected, "they are found");
        expected.push(body(8, 700));
        append(&log, &expected[8]);
        log.sync().wait().unwrap();
        let left = disk.after_power_cut(seed);
        drop(log);

        let (log, recovered) = open(&left, format).unwrap();
        assert_eq!((recovered.damage, recovered.torn), (vec![], None), "{format:?} {seed}");
        assert_eq!(bodies(&read(&log, Sequence::START).0), expected, "{format:?} {seed}");
    }
}

#[test]
fn an_opening_whose_sync_fails_leaves_nothing_that_a_power_loss_turns_into_damage() {
    // The epoch, the prefill, the header, the directory.
    for (sync, seed) in (0..4).flat_map(|sync| SEEDS.map(move |seed| (sync, seed))) {
        let disk = SimulatedDisk::new(seed);
        let (log, _) = open(&disk, Format::Json).unwrap();
        append(&log, "{}");
        log.close().unwrap();
        disk.inject(Fault::next(FaultKind::FailedSync).after(sync));
        drop(open(&disk, Format::Json));
        assert_eq!(disk.fired().failed_syncs, 1, "{sync}");

        // A last line that is damaged would pass for one that was torn.
        for _ in 0..2 {
            drop(open(&disk, Format::Json).unwrap());
        }
        let left = disk.after_power_cut(seed);
        let (_log, recovered) = open(&left, Format::Json).unwrap();
        assert_eq!(recovered.damage, [], "{sync} {seed}");
    }
}

#[test]
fn the_cut_of_a_torn_end_is_made_again_when_a_failed_sync_has_dropped_it() {
    let mut cuts = 0;
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (log, _) = open(&disk, Format::Json).unwrap();
        append(&log, "{}");
        log.sync().wait().unwrap();
        let spare = Path::new("/queue/segments/spare.jsonl");
        wait_until("nobody else writes", || disk.is_durable(spare));
        disk.inject(Fault::next(FaultKind::ShortWrite));
        append(&log, &body(1, 5000));
        log.sync().wait().unwrap_err();
        drop(log);
        disk.inject(Fault::next(FaultKind::FailedSync));
        drop(open(&disk, Format::Json));
        assert_eq!((disk.fired().short_writes, disk.fired().failed_syncs), (1, 1), "{seed}");

        let (log, recovered) = open(&disk, Format::Json).unwrap();
        assert_eq!(recovered.damage, [], "{seed}");
        cuts += u32::from(recovered.torn.is_none());
        let left = disk.after_power_cut(seed);
        drop(log);
        let (_log, recovered) = open(&left, Format::Json).unwrap();
        assert_eq!((recovered.damage, recovered.torn), (vec![], None), "{seed}");
    }
    assert!(cuts > 0, "the second opening has seen the cut of the first");
}
