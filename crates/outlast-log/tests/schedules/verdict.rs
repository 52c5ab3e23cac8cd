//! The power is lost at one instant of the schedule; what does the next opening find?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use outlast_log::{Log, ReadItem, Recovered, Sequence, Ticket};
use outlast_testkit::disk::{Change, Left, Losses, Medium, PowerLoss, SimulatedDisk, Trace};

use crate::seen::{Seen, count};
use crate::world::{DIRECTORY, Notes, World, draw};

pub(crate) fn pass(world: &World) {
    let fired = world.disk.fired();
    assert_eq!(fired.syncs_after_failure, 0, "a file was synced again after that had failed");
    count(Seen::FailedSyncs, fired.failed_syncs);
    count(Seen::FailedCalls, fired.io + fired.short_writes);
    let trace = world.disk.trace();
    check_recycling(&trace);
    let (position, medium) = some_instant(&trace);
    let left = [Left::Nothing, Left::Everything, Left::Torn, Left::Any][draw(4) as usize];
    let sector = [512, 4096][draw(2) as usize];
    let (medium, losses) = medium.after_power_loss(PowerLoss { left, sector, seed: draw(1 << 32) });
    count(Seen::PowerLosses, u64::from(losses != Losses::default()));
    let disk = Arc::new(SimulatedDisk::holding(medium, 0));
    let (log, recovered) = Log::open_on(disk, DIRECTORY.as_ref(), world.options.clone()).unwrap();
    assert_eq!(recovered.damage, [], "a power loss damages nothing");
    count(Seen::Rotations, log.usage().segments.saturating_sub(2));
    let notes = world.notes();
    judge(&notes, &found(&log, &recovered), told(&notes, position));
}

/// A reclaimed file is taken again only when its going is durable: a power loss could still give it its name back.
fn check_recycling(trace: &Trace) {
    let segments = Path::new(DIRECTORY).join("segments");
    let recycled = segments.join("recycled");
    let mut is_durable = true;
    for change in &trace.changes {
        match change {
            Change::Rename { to, .. } if *to == recycled => is_durable = false,
            Change::SyncDirectory(path) if *path == segments => is_durable = true,
            Change::Rename { from, .. } if *from == recycled => assert!(is_durable, "recycled too early"),
            _ => {}
        }
    }
}

/// The end, or any instant before: how many changes were made by then, and what the disk held.
fn some_instant(trace: &Trace) -> (usize, Medium) {
    let all = trace.changes.len();
    let position = if draw(4) == 0 { all } else { draw(all as u64 + 1) as usize };
    let mut replay = trace.replay();
    while let Some((done, medium)) = replay.next() {
        if done == position {
            return (position, medium.clone());
        }
    }
    unreachable!("the position is within the trace")
}

/// The last ticket that anybody knew to be durable by then.
fn told(notes: &Notes, position: usize) -> Ticket {
    let before = notes.told.iter().filter(|told| told.position <= position);
    before.map(|told| told.ticket).max().unwrap_or_default()
}

/// Bodies of entries, with their sequences, and of marks.
fn found(log: &Log, recovered: &Recovered) -> BTreeMap<Box<str>, Option<Sequence>> {
    let mut found: BTreeMap<_, _> = recovered.marks.iter().map(|mark| (mark.body.clone(), None)).collect();
    let mut reader = log.reader(log.retained_after());
    while let Some(item) = reader.next().unwrap() {
        match item {
            ReadItem::Entry(entry) => found.insert(entry.body, Some(entry.sequence)),
            ReadItem::Damaged(damage) => panic!("a power loss damages nothing: {damage}"),
        };
    }
    found
}

/// What was found was put in with this name, it is a stretch without holes, and nothing is missing that somebody was
/// told of and nobody has settled.
fn judge(notes: &Notes, found: &BTreeMap<Box<str>, Option<Sequence>>, told: Ticket) {
    let mut puts = notes.puts.clone();
    puts.sort_by_key(|put| put.ticket);
    let entries = puts.iter().filter_map(|put| put.sequence);
    assert!(entries.is_sorted_by(|one, next| one < next), "sequences and tickets have one order");
    let is_found = |body: &str| found.contains_key(body);
    let known = puts.iter().filter(|put| found.get(&*put.body) == Some(&put.sequence)).count();
    assert_eq!(known, found.len(), "something was found that nobody has put in");
    let first = puts.iter().position(|put| is_found(&put.body)).unwrap_or(0);
    let last = puts.iter().rposition(|put| is_found(&put.body)).map_or(0, |last| last + 1);
    assert!(puts[first..last].iter().all(|put| is_found(&put.body)), "a hole: not a prefix");
    let mut entry = Sequence::START;
    for put in puts.iter().take_while(|put| put.ticket <= told) {
        entry = put.sequence.unwrap_or(entry);
        let may_be_gone = notes.settled.is_some_and(|settled| entry <= settled);
        assert!(may_be_gone || is_found(&put.body), "told that it is durable, and lost: {put:?}");
        count(Seen::Verified, u64::from(is_found(&put.body)));
    }
}
