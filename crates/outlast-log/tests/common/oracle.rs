//! What must hold when a log is opened after the power was lost: it holds a prefix of what was put in, entries and
//! marks in one order, with everything that was acknowledged; nothing else, nothing twice; and it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use outlast_log::{Format, Log, LogOptions, MarkKind, Recovered, Sequence};
use outlast_testkit::disk::{Left, Losses, Medium, PowerLoss, SimulatedDisk};

use super::story::{Item, Known, QUEUE, Story};
use super::{body, entry, read};

/// How many disks were looked at, and what they had lost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Instants at which the power was cut.
    pub instants: u64,
    /// Different disks that were left by that and recovered.
    pub points: u64,
    /// Those among them at which the power was cut while the log was being opened.
    pub in_recovery: u64,
    pub losses: Losses,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.instants += other.instants;
        self.points += other.points;
        self.in_recovery += other.in_recovery;
        self.losses += other.losses;
    }
}

/// What a power loss leaves, in each way that differs.
fn losses(random: &mut fastrand::Rng) -> [PowerLoss; 7] {
    let ways = [
        (Left::Nothing, 512),
        (Left::Everything, 512),
        (Left::Torn, 512),
        (Left::Torn, 4096),
        (Left::Any, 512),
        (Left::Any, 512),
        (Left::Any, 4096),
    ];
    ways.map(|(left, sector)| PowerLoss { left, sector, seed: random.u64(..) })
}

/// Cuts the power at this instant, in every way, and recovers from each. With `deeper` it is cut once more at every
/// instant of some of these recoveries.
pub fn cut(
    story: &Story,
    known: &Known,
    medium: &Medium,
    random: &mut fastrand::Rng,
    tally: &mut Tally,
    deeper: bool,
) {
    tally.instants += 1;
    let mut seen = Vec::new();
    for loss in losses(random) {
        let (left, lost) = medium.after_power_loss(loss);
        let digest = left.digest();
        if seen.contains(&digest) {
            continue;
        }
        seen.push(digest);
        tally.losses += lost;
        tally.points += 1;
        let disk = SimulatedDisk::holding(left, loss.seed);
        a_spare_is_empty(&disk, story.options.format);
        let opened_at = recover(story, known, &disk, loss.seed);
        if deeper && random.u8(..4) == 0 {
            let trace = disk.trace();
            let mut replay = trace.replay();
            let before = tally.points;
            while let Some((changes, medium)) = replay.next()
                && changes <= opened_at
            {
                cut(story, known, medium, random, tally, false);
            }
            tally.in_recovery += tally.points - before;
        }
    }
}

/// Whatever has this name becomes a segment without being looked at.
fn a_spare_is_empty(disk: &SimulatedDisk, format: Format) {
    let (name, prefill) = match format {
        Format::Json => ("spare.jsonl", b'\n'),
        Format::Bincode => ("spare.bin", 0),
    };
    let path = Path::new(QUEUE).join("segments").join(name);
    assert!(!disk.exists(&path) || disk.read(&path).iter().all(|byte| *byte == prefill), "a spare was used");
}

/// Opens the log on this disk and looks at everything in it. Returns how many changes opening has made.
fn recover(story: &Story, known: &Known, disk: &SimulatedDisk, seed: u64) -> usize {
    let (log, recovered) = open(disk, &story.options);
    let opened_at = disk.position();
    let kept = check(story, known, &log, &recovered);
    let appended = log.append(entry(&body(u64::MAX, 100))).unwrap();
    assert!(appended.sequence > known.given, "{} may have been given before", appended.sequence);
    if seed.is_multiple_of(4) {
        log.durable(appended.ticket).wait().unwrap();
        let entries = log.counts().entries;
        log.close().unwrap();
        let (log, again) = open(disk, &story.options);
        assert_eq!((again.last, again.torn, &again.damage[..]), (appended.sequence, None, &[][..]));
        assert_eq!(log.counts().entries, entries);
        assert_eq!(again.marks, recovered.marks);
        assert_eq!(again.cursor, recovered.cursor);
        assert!(kept as u64 >= entries - 1);
    }
    opened_at
}

fn open(disk: &SimulatedDisk, options: &LogOptions) -> (Log, Recovered) {
    Log::open_on(Arc::new(disk.clone()), Path::new(QUEUE), options.clone()).unwrap()
}

/// How many items are left: a prefix of what was put in, with all that was acknowledged. Reads nothing.
pub fn kept(story: &Story, known: &Known, log: &Log, recovered: &Recovered) -> usize {
    assert_eq!(recovered.damage, [], "a power loss damages nothing");
    let counts = log.counts();
    let marks: u64 = MarkKind::ALL.iter().map(|kind| counts.of(*kind)).sum();
    let kept = (counts.entries + marks) as usize;
    assert!(kept <= known.issued, "something was invented");
    assert!(kept >= known.durable, "{kept} items are left of {} that were acknowledged", known.durable);
    let (items, lost) = story.items.split_at(kept);
    for kind in MarkKind::ALL {
        assert_eq!(
            counts.of(kind),
            of_kind(items, kind).count() as u64,
            "{kind:?}: not a prefix, {lost:?} are lost"
        );
    }
    kept
}

fn of_kind(items: &[Item], kind: MarkKind) -> impl DoubleEndedIterator<Item = &Item> {
    items.iter().filter(move |item| matches!(item, Item::Mark(mark) if mark.kind == kind))
}

/// Everything about what was recovered. Returns how many items are left.
pub fn check(story: &Story, known: &Known, log: &Log, recovered: &Recovered) -> usize {
    let kept = kept(story, known, log, recovered);
    let items = &story.items[..kept];
    let retained_after = log.retained_after();
    assert!(retained_after <= known.settled, "what was not settled is gone");
    assert!(retained_after >= known.reclaimed, "what was reclaimed is back");
    let (found, damage) = read(log, retained_after);
    assert_eq!(damage, []);
    let entries = || {
        items.iter().filter_map(|item| match item {
            Item::Entry(sequence, text) => Some((*sequence, &**text)),
            Item::Mark(_) => None,
        })
    };
    assert_eq!(recovered.last, entries().next_back().map_or(Sequence::START, |(last, _)| last));
    let expected: Vec<_> = entries().filter(|(sequence, _)| *sequence > retained_after).collect();
    assert_eq!(found.iter().map(|entry| (entry.sequence, &*entry.body)).collect::<Vec<_>>(), expected);

    let marks: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::Mark(mark) if mark.kind != MarkKind::Cursor => Some(mark.clone()),
            _ => None,
        })
        .collect();
    assert!(marks.ends_with(&recovered.marks), "{:?} are not the last of {marks:?}", recovered.marks);
    let behind = items
        .iter()
        .skip_while(|item| !matches!(item, Item::Entry(sequence, _) if *sequence > retained_after));
    let behind = behind.filter(|item| matches!(item, Item::Mark(mark) if mark.kind != MarkKind::Cursor));
    assert!(recovered.marks.len() >= behind.count(), "marks went without their segment");
    let cursor = of_kind(items, MarkKind::Cursor).next_back();
    assert_eq!(recovered.cursor.clone().map(Item::Mark).as_ref(), cursor);

    for owner in &story.owners[..known.owners] {
        assert!(log.is_owner(owner), "an owner was forgotten");
    }
    kept
}

/// Works in so many threads until there is nothing more to do, and adds up what they counted. A panic names what it was about.
pub fn in_threads<T: std::fmt::Debug>(
    threads: usize,
    next: impl Fn() -> Option<T> + Sync,
    work: impl Fn(&T) -> Tally + Sync,
) -> Tally {
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = next() {
                    let counted = catch_unwind(AssertUnwindSafe(|| work(&one)));
                    let counted = counted.unwrap_or_else(|_| panic!("it happened in {one:?}"));
                    *tally.lock().unwrap() += counted;
                }
            });
        }
    });
    tally.into_inner().unwrap()
}
