//! The power is lost while the database, on another machine, goes on. Method: the queue lies on a simulated disk that
//! syncs nothing by itself; right after somebody was told something, everything that was not synced is lost, and the
//! queue is opened again. What was told still holds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop where they fail")]

mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{PATIENT, World, counter, create, drained, id_of, increment, put};
use outlast::{Error, Fate, Outcome, Outlast, Refusal, RefusalKind, Wait, WriteId};
use outlast_testkit::disk::{Fault, FaultKind, Left, PowerLoss, SimulatedDisk};
use outlast_testkit::faulty::Temper;
use outlast_testkit::{eventually, found};

struct Machine {
    world: World,
    disk: SimulatedDisk,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.options.sync_interval = Duration::from_hours(1);
        // The report of outages lies beside the log, on the disk of this machine.
        std::fs::create_dir_all(&world.options.directory).unwrap();
        Self { world, disk: SimulatedDisk::new(seed) }
    }

    async fn open(&self) -> Outlast {
        let (disk, options) = (Arc::new(self.disk.clone()), self.world.options.clone());
        Outlast::open_on(disk, self.world.database.clone(), options).await.unwrap()
    }

    /// Opens it and waits until all that it syncs by itself after a start is synced: what follows syncs nothing that the
    /// test does not ask for. One write is applied.
    async fn open_and_settle(&self) -> Outlast {
        let outlast = self.open().await;
        eventually("connected", || outlast.is_healthy()).await;
        let applied = outlast.submit(put("users", "0", "{}"), PATIENT).await.unwrap();
        assert!(matches!(applied, Outcome::Applied { .. }), "{applied:?}");
        self.nobody_else_syncs().await;
        outlast
    }

    /// All that was not synced is gone, and the queue is opened again.
    async fn lose_power(&mut self, outlast: Outlast) -> Outlast {
        let left = self.disk.after_power_loss(PowerLoss { left: Left::Nothing, sector: 512, seed: 1 });
        self.disk = left;
        drop(outlast);
        self.world.database.acquit();
        self.world.database.set(Temper::Calm);
        self.open().await
    }

    /// Both logs have their next file, so that a fault hits what the test is about.
    async fn nobody_else_syncs(&self) {
        for log in ["", "dead"] {
            let spare = self.world.options.directory.join(log).join("segments/spare.jsonl");
            eventually("the spare is there", || self.disk.exists(&spare)).await;
        }
    }

    /// Refuses everything about this record.
    fn refuse(&self, id: &'static str, retryable: bool) {
        self.world.database.judge(move |write| {
            let hit = write.records().any(|record| record.id.as_str() == id);
            hit.then(|| (Refusal::new(RefusalKind::Constraint, "no such parent"), retryable))
        });
    }
}

async fn is(outlast: &Outlast, id: WriteId, fate: Fate) {
    found(&format!("{id} is {fate:?}"), async || {
        (outlast.receipt(id).await.unwrap().status == fate).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_queued_is_applied_after_a_power_loss() {
    let mut machine = Machine::new(1);
    machine.world.database.set(Temper::Away);
    let outlast = machine.open().await;
    outlast.submit(put("users", "1", "{\"n\":1}"), Wait::No).await.unwrap();
    let outlast = machine.lose_power(outlast).await;
    drained(&outlast).await;
    assert_eq!(machine.world.get("users", "1").await.unwrap(), "{\"n\":1}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_refusal_that_was_told_holds_after_a_power_loss() {
    let mut machine = Machine::new(1);
    let outlast = machine.open_and_settle().await;
    let decide = hesitate(&machine, true);
    let refused = tokio::spawn({
        let outlast = outlast.clone();
        async move { outlast.submit(create("users", "1", "{}"), PATIENT).await }
    });
    eventually("accepted", || outlast.status().accounting.accepted == 2).await;
    // Its sync is that of the first entry too, but not that of the mark behind both.
    outlast.submit(put("users", "2", "{}"), Wait::No).await.unwrap();
    drop(decide);
    let Error::Rejected { id, .. } = refused.await.unwrap().unwrap_err() else { panic!("not refused") };
    let outlast = machine.lose_power(outlast).await;
    drained(&outlast).await;
    assert_eq!(machine.world.get("users", "1").await, None);
    assert_eq!(outlast.receipt(id).await.unwrap().status, Fate::Rejected);
}

/// Nothing is decided before `decide` is dropped; then writes about record 1 are refused, if `refuse` says so.
fn hesitate(machine: &Machine, refuse: bool) -> mpsc::Sender<()> {
    let (decide, undecided) = mpsc::channel::<()>();
    let undecided = Mutex::new(undecided);
    machine.world.database.judge(move |write| {
        let _ = undecided.lock().unwrap().recv(); // until the other end is gone
        let hit = refuse && write.records().any(|record| record.id.as_str() == "1");
        hit.then(|| (Refusal::new(RefusalKind::Constraint, "no such parent"), false))
    });
    decide
}

/// Found by the simulation.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whoever_comes_back_with_a_key_is_told_queued_only_when_it_is_durable() {
    let mut machine = Machine::new(1);
    let outlast = machine.open_and_settle().await;
    let decide = hesitate(&machine, false);
    let write = put("users", "1", "{}").with_idempotency_key("a key").unwrap();
    let hung_up = tokio::spawn({
        let (outlast, write) = (outlast.clone(), write.clone());
        async move { outlast.submit(write, PATIENT).await }
    });
    eventually("accepted", || outlast.status().accounting.accepted == 2).await;
    hung_up.abort();
    assert!(hung_up.await.unwrap_err().is_cancelled());
    let told = outlast.submit(write, Wait::No).await.unwrap();
    assert!(matches!(told, Outcome::Queued(_)), "{told:?}");
    machine.disk = machine.disk.after_power_loss(PowerLoss { left: Left::Nothing, sector: 512, seed: 1 });
    drop(decide);
    drop(outlast);
    let outlast = machine.open().await;
    assert!(outlast.receipt(id_of(&told)).await.is_ok());
}

/// Found by the simulation. The mark of the refusal may have become durable all the same: then the write never takes
/// effect, and *queued* would be a lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_refusal_that_cannot_be_made_durable_is_not_called_queued() {
    let machine = Machine::new(1);
    let outlast = machine.open_and_settle().await;
    let decide = hesitate(&machine, true);
    let refused = tokio::spawn({
        let outlast = outlast.clone();
        async move { outlast.submit(create("users", "1", "{}"), PATIENT).await }
    });
    eventually("accepted", || outlast.status().accounting.accepted == 2).await;
    outlast.submit(put("users", "2", "{}"), Wait::No).await.unwrap();
    // The next sync is that of the mark.
    machine.disk.inject(Fault::next(FaultKind::FailedSync));
    drop(decide);
    let told = refused.await.unwrap();
    assert!(matches!(told, Err(Error::LogFailed { outcome_unknown: true, .. })), "{told:?}");
    assert_eq!(machine.disk.fired().failed_syncs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_write_that_the_watermark_has_passed_is_not_lost_in_a_power_loss() {
    let mut machine = Machine::new(1);
    machine.world.options.backoff = Duration::from_hours(1);
    machine.world.options.backoff_max = Duration::from_hours(1);
    machine.world.database.set(Temper::Away);
    machine.refuse("1", true);
    let outlast = machine.open().await;
    let parked = id_of(&outlast.submit(put("users", "1", "{}"), Wait::No).await.unwrap());
    let passed = id_of(&outlast.submit(put("users", "2", "{}"), Wait::No).await.unwrap());
    machine.world.database.set(Temper::Calm);
    is(&outlast, passed, Fate::Applied).await;
    let outlast = machine.lose_power(outlast).await;
    eventually("connected", || outlast.is_healthy()).await;
    assert_eq!(outlast.receipt(parked).await.unwrap().status, Fate::Parked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_write_takes_effect_once_though_the_power_is_lost() {
    let mut machine = Machine::new(1);
    machine.world.options.max_attempts = u32::MAX; // parked until it is acquitted, however slow this machine is
    let outlast = machine.open().await;
    eventually("connected", || outlast.is_healthy()).await;
    outlast.submit(counter("1"), PATIENT).await.unwrap();
    machine.refuse("1", true);
    let retried = id_of(&outlast.submit(increment("1"), Wait::No).await.unwrap());
    is(&outlast, retried, Fate::Parked).await;
    machine.world.database.acquit();
    is(&outlast, retried, Fate::Applied).await;
    let outlast = machine.lose_power(outlast).await;
    eventually("connected", || outlast.is_healthy()).await;
    drained(&outlast).await;
    assert_eq!(machine.world.counter("1").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_called_queued_whose_sync_has_failed() {
    let machine = Machine::new(1);
    machine.world.database.set(Temper::Away);
    let outlast = machine.open().await;
    machine.nobody_else_syncs().await;
    machine.disk.inject(Fault::next(FaultKind::FailedSync));
    let told = outlast.submit(put("users", "1", "{}"), Wait::No).await;
    assert!(matches!(told, Err(Error::LogFailed { outcome_unknown: true, .. })), "{told:?}");
    assert_eq!(machine.disk.fired().failed_syncs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_there_after_a_power_loss() {
    let mut machine = Machine::new(1);
    machine.refuse("1", false);
    let outlast = machine.open().await;
    let dead = id_of(&outlast.submit(put("users", "1", "{}"), Wait::No).await.unwrap());
    is(&outlast, dead, Fate::Dead).await;
    let outlast = machine.lose_power(outlast).await;
    assert_eq!(outlast.dead_letter(dead).await.unwrap().id, dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_was_edited_and_one_that_was_retried_are_not_lost_in_a_power_loss() {
    let mut machine = Machine::new(1);
    machine.world.database.judge(|_| Some((Refusal::new(RefusalKind::Constraint, "no such parent"), false)));
    let outlast = machine.open().await;
    let mut dead = Vec::new();
    for id in ["1", "2", "3"] {
        dead.push(id_of(&outlast.submit(put("users", id, "{\"n\":1}"), Wait::No).await.unwrap()));
    }
    for id in &dead {
        is(&outlast, *id, Fate::Dead).await;
    }
    machine.world.database.acquit();
    machine.nobody_else_syncs().await;
    outlast.pause(None).await.unwrap();
    let step = outlast.retry_dead_letters(&dead[1..]).await.unwrap();
    assert_eq!((step.reached, step.failures.len()), (2, 0));
    let edited = put("users", "1", "{\"n\":2}").operations().to_vec();
    outlast.edit_dead_letter(dead[0], edited).await.unwrap();
    let outlast = machine.lose_power(outlast).await;
    assert!(outlast.drain(Duration::ZERO).await.is_err(), "the pause survives");
    outlast.resume(None).await.unwrap();
    drained(&outlast).await;
    for (id, data) in [("1", "{\"n\":2}"), ("2", "{\"n\":1}"), ("3", "{\"n\":1}")] {
        assert_eq!(machine.world.get("users", id).await.unwrap(), data, "{id}");
    }
    assert_eq!(outlast.status().accounting.dead, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_dead_letter_cannot_be_stored_is_not_dead() {
    for seed in 0..5 {
        let mut machine = Machine::new(seed);
        machine.refuse("1", false);
        let outlast = machine.open().await;
        eventually("connected", || outlast.is_healthy()).await;
        machine.nobody_else_syncs().await;
        machine.world.database.set(Temper::Away);
        eventually("away", || !outlast.is_healthy()).await;
        let refused = id_of(&outlast.submit(put("users", "1", "{}"), Wait::No).await.unwrap());
        // The next sync is that of the letter.
        machine.disk.inject(Fault::next(FaultKind::FailedSync));
        machine.world.database.set(Temper::Calm);
        eventually("a sync has failed", || machine.disk.fired().failed_syncs == 1).await;
        let receipt = outlast.wait_for(refused, Duration::from_millis(300)).await.unwrap();
        assert_eq!(receipt.status, Fate::Pending);
        let outlast = machine.lose_power(outlast).await;
        eventually("connected", || outlast.is_healthy()).await;
        drained(&outlast).await;
        // A failed sync may have brought the letter to the disk all the same.
        let (dead, applied) =
            (outlast.dead_letter(refused).await.is_ok(), machine.world.get("users", "1").await.is_some());
        assert!(dead != applied, "{seed}: {dead} {applied}");
    }
}

/// A disk that fails for a moment (or no file descriptor left) is no reason to take a letter for discarded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_that_fails_at_a_start_costs_a_dead_letter() {
    let mut machine = Machine::new(1);
    machine.world.database.judge(|_| Some((Refusal::new(RefusalKind::Constraint, "no such parent"), false)));
    let outlast = machine.open().await;
    let mut dead = Vec::new();
    for id in ["1", "2", "3"] {
        dead.push(id_of(&outlast.submit(put("users", id, "{}"), Wait::No).await.unwrap()));
    }
    for id in &dead {
        is(&outlast, *id, Fate::Dead).await;
    }
    let left = machine.disk.after_kill();
    drop(outlast);
    let (mut opened, mut refused) = (0, 0);
    for after in 0.. {
        machine.disk = left.after_kill();
        machine.disk.inject(Fault::next(FaultKind::FailedRead).after(after));
        let (disk, options) = (Arc::new(machine.disk.clone()), machine.world.options.clone());
        match Outlast::open_on(disk, machine.world.database.clone(), options).await {
            Ok(outlast) => {
                opened += 1;
                assert_eq!(outlast.status().accounting.dead, 3, "after the {after}th read had failed");
            }
            Err(_) => refused += 1,
        }
        if machine.disk.fired().failed_reads == 0 {
            break;
        }
        machine.disk = machine.disk.after_kill();
        let outlast = machine.open().await;
        for id in &dead {
            outlast.dead_letter(*id).await.unwrap();
        }
    }
    println!("{opened} starts went well, {refused} did not");
    assert!(refused > 0, "no read that a start needs has failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_write_that_cannot_be_read_for_a_moment_keeps_its_place() {
    let mut machine = Machine::new(1);
    machine.world.options.max_attempts = u32::MAX;
    machine.refuse("1", true);
    let outlast = machine.open_and_settle().await;
    let parked = id_of(&outlast.submit(put("users", "1", "{\"n\":1}"), Wait::No).await.unwrap());
    is(&outlast, parked, Fate::Parked).await;
    let behind = id_of(&outlast.submit(put("users", "1", "{\"n\":2}"), Wait::No).await.unwrap());
    // Nobody else reads now: it is the next attempt that does.
    machine.disk.inject(Fault::next(FaultKind::FailedRead));
    eventually("a read has failed", || machine.disk.fired().failed_reads == 1).await;
    machine.world.database.acquit();
    drained(&outlast).await;
    for id in [parked, behind] {
        is(&outlast, id, Fate::Applied).await;
    }
    assert_eq!(machine.world.get("users", "1").await.unwrap(), "{\"n\":2}");
    assert_eq!(outlast.status().losses.writes, 0);
}
