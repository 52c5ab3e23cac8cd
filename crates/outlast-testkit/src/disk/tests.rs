//! The simulated disk does what its first page says, in every way that it says: otherwise the tests above it prove
//! nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast_log::{Disk, DiskFile};

use super::{Fault, FaultKind, Left, Losses, PowerLoss, Repeat, SimulatedDisk};

const DIRECTORY: &str = "/d";

fn at(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    disk.create_directory(Path::new(DIRECTORY)).unwrap();
    disk
}

/// A file of so many synced bytes with a durable name.
fn file(disk: &SimulatedDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(&at(name)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory(Path::new(DIRECTORY)).unwrap();
    file
}

fn loss(left: Left, sector: usize, seed: u64) -> PowerLoss {
    PowerLoss { left, sector, seed }
}

/// What many losses leave of a file.
fn all_left(disk: &SimulatedDisk, name: &str, left: Left, sector: usize) -> BTreeSet<Vec<u8>> {
    (0..300).map(|seed| disk.after_power_loss(loss(left, sector, seed)).read(&at(name))).collect()
}

#[test]
fn what_is_not_synced_is_lost_kept_torn_or_in_any_part_there() {
    let disk = disk();
    let open = file(&disk, "a", &[b'.'; 2048]);
    open.write_at(&[b'1'; 1024], 512).unwrap();
    open.write_at(&[b'2'; 512], 1024).unwrap();
    assert_eq!(all_left(&disk, "a", Left::Nothing, 512), [vec![b'.'; 2048]].into());
    assert_eq!(all_left(&disk, "a", Left::Everything, 512), [disk.read(&at("a"))].into());
    let sectors = |text: &str| text.bytes().flat_map(|byte| [byte; 512]).collect::<Vec<u8>>();
    let torn = ["....", ".1..", ".11.", ".12."].map(sectors);
    assert_eq!(all_left(&disk, "a", Left::Torn, 512), torn.into());
    // Each sector at some instant of its own.
    let any = ["....", ".1..", "..1.", ".11.", "..2.", ".12."].map(sectors);
    assert_eq!(all_left(&disk, "a", Left::Any, 512), any.into());
    let whole = ["....", ".11.", ".12."].map(sectors);
    assert_eq!(all_left(&disk, "a", Left::Any, 4096), whole.into());
    open.sync().unwrap();
    assert_eq!(all_left(&disk, "a", Left::Nothing, 512), [sectors(".12.")].into());
}

#[test]
fn a_size_and_its_bytes_are_lost_apart() {
    let disk = disk();
    let open = file(&disk, "a", b"");
    open.write_at(b"bytes", 0).unwrap();
    let any: [Vec<u8>; 3] = [vec![], vec![0; 5], b"bytes".to_vec()];
    assert_eq!(all_left(&disk, "a", Left::Any, 512), any.into());
    open.sync().unwrap();
    open.set_size(2).unwrap();
    open.write_at(b"!", 4).unwrap();
    assert_eq!(disk.read(&at("a")), b"by\0\0!");
    let any: [&[u8]; 4] = [b"bytes", b"byte!", b"by", b"by\0\0!"];
    let with_zeros: BTreeSet<Vec<u8>> =
        any.iter().map(|bytes| bytes.to_vec()).chain([b"by\0\0\0".to_vec()]).collect();
    let left = all_left(&disk, "a", Left::Any, 512);
    assert!(left.is_subset(&with_zeros) && left.len() >= 4, "{left:?}");
}

#[test]
fn names_stay_only_with_their_directory_and_those_of_one_file_keep_their_order() {
    let disk = disk();
    disk.create_directory(Path::new("/other")).unwrap();
    file(&disk, "old", b"old");
    disk.rename(&at("old"), &at("new")).unwrap();
    disk.create(&at("fresh")).unwrap().sync().unwrap();
    disk.remove(&at("new")).unwrap();
    disk.create(Path::new("/other/one")).unwrap();
    let names = |disk: &SimulatedDisk| disk.list(Path::new(DIRECTORY)).unwrap();
    let left = |disk: &SimulatedDisk, left| {
        (0..200).map(|seed| names(&disk.after_power_loss(loss(left, 512, seed)))).collect::<BTreeSet<_>>()
    };
    let all: [&[&str]; 6] = [&["old"], &["new"], &[], &["fresh", "old"], &["fresh", "new"], &["fresh"]];
    let all: BTreeSet<Vec<String>> =
        all.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(left(&disk, Left::Any), all, "the removal never without the rename");
    assert_eq!(left(&disk, Left::Nothing).len(), 1);
    disk.sync_directory(Path::new("/other")).unwrap();
    assert_eq!(left(&disk, Left::Any), all, "another directory was synced");
    assert!(!disk.is_durable(&at("fresh")));
    disk.sync_directory(Path::new(DIRECTORY)).unwrap();
    assert_eq!(left(&disk, Left::Any), [vec!["fresh".to_owned()]].into());
    assert!(disk.is_durable(&at("fresh")));
}

#[test]
fn a_failed_sync_drops_its_pages_and_the_next_one_lies() {
    let disk = disk();
    let open = file(&disk, "a", b"old");
    open.write_at(b"new", 0).unwrap();
    disk.inject(Fault::next(FaultKind::FailedSync));
    open.sync().unwrap_err();
    open.sync().unwrap();
    assert_eq!(disk.read(&at("a")), b"new", "reads come from memory");
    assert_eq!(disk.fired().syncs_after_failure, 1);
    let lost = (0..50).any(|seed| {
        let disk = SimulatedDisk::new(seed);
        disk.create_directory(Path::new(DIRECTORY)).unwrap();
        let open = file(&disk, "a", b"old");
        open.write_at(b"new", 0).unwrap();
        disk.inject(Fault::next(FaultKind::FailedSync));
        open.sync().unwrap_err();
        open.sync().unwrap();
        disk.after_power_loss(loss(Left::Everything, 512, 0)).read(&at("a")) == b"old"
    });
    assert!(lost, "what was dropped is not on the disk, whatever later syncs say");
}

#[test]
fn every_fault_fires_at_its_ordinal_once_or_for_ever() {
    for (kind, repeat) in
        FaultKind::ALL.into_iter().flat_map(|kind| [(kind, Repeat::Once), (kind, Repeat::Forever)])
    {
        let disk = disk();
        let open = disk.create(&at("a")).unwrap();
        disk.inject(Fault { kind, after: 2, repeat });
        let outcomes: Vec<io::Result<()>> = (0..5)
            .map(|number| match kind {
                FaultKind::FailedSync => open.sync(),
                FaultKind::FailedRead => open.read_at(&mut [0; 1], 0).map(drop),
                _ => open.write_at(&[7; 100], 100 * number),
            })
            .collect();
        let failed: Vec<bool> = outcomes.iter().map(Result::is_err).collect();
        let forever = repeat == Repeat::Forever;
        assert_eq!(failed, [false, false, true, forever, forever], "{kind:?}");
        assert_eq!(disk.fired().of(kind), if forever { 3 } else { 1 });
        disk.heal();
        open.write_at(b"x", 0).unwrap();
        open.sync().unwrap();
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_overwrites() {
    let disk = disk();
    let open = file(&disk, "a", &[1; 100]);
    disk.set_space_left(Some(10));
    open.write_at(&[2; 100], 0).unwrap();
    let error = open.write_at(&[3; 20], 95).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.read(&at("a")).len(), 110);
    disk.set_space_left(None);
    open.write_at(&[3; 20], 95).unwrap();
}

#[test]
fn a_replay_passes_through_every_instant() {
    let disk = disk();
    let open = file(&disk, "a", b"one");
    open.write_at(b"two", 0).unwrap();
    disk.inject(Fault::next(FaultKind::FailedSync));
    open.sync().unwrap_err();
    open.write_at(b"three", 3).unwrap();
    disk.flip(&at("a"), 0, 1);
    disk.rename(&at("a"), &at("b")).unwrap();
    let trace = disk.trace();
    let mut replay = trace.replay();
    let mut last = None;
    while let Some((done, medium)) = replay.next() {
        last = Some((done, medium.digest(), medium.after_power_loss(PowerLoss::any(3)).0.digest()));
    }
    let now = disk.medium();
    let expected = (disk.position(), now.digest(), now.after_power_loss(PowerLoss::any(3)).0.digest());
    assert_eq!(last, Some(expected));
    assert_eq!(trace.lines()[7], "write 5 bytes to file 0 at 3");
}

#[test]
fn losses_are_counted() {
    let disk = disk();
    let open = file(&disk, "a", &[0; 2048]);
    open.write_at(&[1; 2048], 0).unwrap();
    open.set_size(10).unwrap();
    disk.rename(&at("a"), &at("b")).unwrap();
    let (_, losses) = disk.medium().after_power_loss(loss(Left::Nothing, 512, 0));
    assert_eq!(losses, Losses { writes: 1, sizes: 1, names: 1, ..Losses::default() });
    let (_, losses) = disk.medium().after_power_loss(loss(Left::Everything, 512, 0));
    assert_eq!(losses, Losses::default());
}
