//! One seed: a queue lives, dies and is opened again, until nothing goes wrong any more and everything has to drain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outlast::status::{DeadFilter, Halt, LaneState};
use outlast::{Compression, Format, Options, Outlast, WriteId};
use outlast_testkit::disk::{Fault, FaultKind, Left, PowerLoss, SimulatedDisk};
use outlast_testkit::simulated::{Content, tokens_of};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use crate::faults::{self, millis};
use crate::machine::Machine;
use crate::story::Story;
use crate::world::{self, elapsed};
use crate::{clients, operators, verdict};

const CLIENTS: u64 = 4;
/// A folder that is not there: what does not go through the simulated disk finds nothing.
const DIRECTORY: &str = "/nowhere/outlast-simulation";
/// How long everything may take to drain once nothing is wrong any more.
const DRAINED_AFTER: Duration = Duration::from_mins(20);

/// What one seed came to.
pub struct Outcome {
    /// Of all that happened, and of what the disk held in the end.
    pub hash: u64,
    /// So many lines tell what happened.
    pub lines: usize,
    pub violations: Vec<String>,
    /// Faults and other things that happened, and how often.
    pub happened: BTreeMap<&'static str, u64>,
    pub writes: u64,
    /// Virtual time.
    pub lasted: Duration,
}

/// The whole life of one queue.
pub fn simulate(seed: u64, aloud: bool) -> Outcome {
    world::run(seed, async move {
        let story = Story::begin(seed, aloud);
        let mut life = Life::begin(story.clone());
        life.live().await;
        life.come_to_an_end().await;
        let writes = verdict::check(&story, life.outlast.as_ref()).await;
        life.stop().await;
        story.trace.note(format_args!("the disk: {:016x}", life.machine.contents()));
        let mut happened = story.facts().happened.clone();
        for (fault, times) in story.database.fired() {
            *happened.entry(fault).or_default() += times;
        }
        let violations = story.facts().violations.clone();
        let (hash, lines) = (story.trace.hash(), story.trace.lines());
        Outcome { hash, lines, violations, happened, writes, lasted: elapsed() }
    })
}

struct Life {
    story: Story,
    dice: fastrand::Rng,
    options: Options,
    machine: Machine,
    outlast: Option<Outlast>,
    people: Vec<JoinHandle<()>>,
    weather: Vec<JoinHandle<()>>,
    /// Since then the log may have synced nothing.
    unsynced_since: Option<Duration>,
    /// The database went back to the second of these contents and has not changed since; before, it held the first.
    newest: Option<(Content, Content)>,
    backup: Option<Content>,
}

impl Life {
    fn begin(story: Story) -> Self {
        let mut dice = fastrand::Rng::with_seed(story.seed ^ 0x5eed);
        let options = options(&mut dice);
        story.trace.note(format_args!("{options:?}"));
        let machine = Machine::new(SimulatedDisk::new(dice.u64(..)), dice.u64(..));
        let weather = vec![
            tokio::spawn(faults::weather(story.clone(), dice.u64(..))),
            tokio::spawn(faults::judge(story.clone(), dice.u64(..))),
        ];
        Self {
            story,
            dice,
            options,
            machine,
            outlast: None,
            people: Vec::new(),
            weather,
            unsynced_since: None,
            newest: None,
            backup: None,
        }
    }

    async fn live(&mut self) {
        let ends = millis(&mut self.dice, 20_000..80_000);
        self.open().await;
        while elapsed() < ends {
            sleep(millis(&mut self.dice, 500..9000)).await;
            if let Some(outlast) = &self.outlast {
                operators::look(&self.story, outlast);
            }
            if self.is_gap() {
                self.bring_newest_back();
            }
            match self.dice.u8(..12) {
                0..=1 => self.kill().await,
                2..=4 => self.lose_power().await,
                5 => self.shut_down().await,
                6 => self.fail_a_sync().await,
                7 => self.fill_the_disk().await,
                8..=9 => {
                    if let Some(before) = self.story.database.go_back() {
                        self.went_back(before);
                    }
                }
                10 => {
                    self.backup.get_or_insert_with(|| self.story.database.content());
                }
                _ => {
                    if let Some(backup) = self.backup.take() {
                        self.restore(backup).await;
                    }
                }
            }
        }
    }

    async fn open(&mut self) {
        self.options.lanes = if self.dice.u8(..4) == 0 { self.dice.u32(1..5) } else { self.options.lanes };
        let disk = Arc::new(self.machine.clone());
        let database = Arc::new(self.story.database.clone());
        match Outlast::open_on(disk, database, self.options.clone()).await {
            Ok(outlast) => {
                let accounting = outlast.status().accounting;
                self.story.trace.note(format_args!("open: {accounting:?}"));
                for _ in 0..CLIENTS {
                    let client = clients::run(self.story.clone(), outlast.clone(), self.dice.u64(..));
                    self.people.push(tokio::spawn(client));
                }
                let operator = operators::run(self.story.clone(), outlast.clone(), self.dice.u64(..));
                self.people.push(tokio::spawn(operator));
                self.outlast = Some(outlast);
                self.unsynced_since = None;
            }
            Err(error) => self.story.violation(format!("it does not open: {error}")),
        }
    }

    async fn kill(&mut self) {
        self.story.happened("kill -9");
        let disk = self.machine.disk().after_kill();
        self.end_without_a_word(disk, "kill -9").await;
    }

    async fn lose_power(&mut self) {
        self.story.happened("power loss");
        let left =
            *self.dice.choice(&[Left::Nothing, Left::Nothing, Left::Torn, Left::Any]).unwrap_or(&Left::Any);
        let loss = PowerLoss { left, sector: 512, seed: self.dice.u64(..) };
        let disk = self.machine.disk().after_power_loss(loss);
        self.end_without_a_word(disk, "power loss").await;
    }

    async fn end_without_a_word(&mut self, left: SimulatedDisk, why: &str) {
        self.story.trace.note(why);
        self.machine.switch_off();
        self.story.log_lost_its_tail(self.unsynced_since.unwrap_or(elapsed()));
        self.stop().await;
        self.start_again(left).await;
    }

    async fn shut_down(&mut self) {
        self.story.happened("shutdown");
        self.story.trace.note("shutdown");
        let deadline = millis(&mut self.dice, 100..5000);
        if let Some(outlast) = &self.outlast
            && let Err(error) = outlast.shutdown(deadline).await
        {
            self.story.trace.note(format_args!("shutdown: {error}"));
            self.story.log_lost_its_tail(self.unsynced_since.unwrap_or(elapsed()));
        }
        self.stop().await;
        self.start_again(self.machine.disk().after_kill()).await;
    }

    async fn start_again(&mut self, disk: SimulatedDisk) {
        self.machine = Machine::new(disk, self.dice.u64(..));
        sleep(millis(&mut self.dice, 0..3000)).await;
        self.open().await;
    }

    /// Everybody goes, and the last handle with them.
    async fn stop(&mut self) {
        for person in &self.people {
            person.abort();
        }
        for person in self.people.drain(..) {
            let _ = person.await;
        }
        self.outlast = None;
        // Its tasks end when they have their turn.
        for _ in 0..20 {
            yield_now().await;
        }
    }

    async fn fail_a_sync(&mut self) {
        self.story.trace.note("the next sync fails");
        self.unsynced_since.get_or_insert(elapsed());
        self.machine.disk().inject(Fault::next(FaultKind::FailedSync));
        sleep(millis(&mut self.dice, 100..4000)).await;
        if self.machine.disk().fired().failed_syncs > 0 {
            self.story.happened("sync failed");
        }
        if self.dice.bool() { self.kill().await } else { self.lose_power().await }
    }

    async fn fill_the_disk(&mut self) {
        self.story.trace.note("the disk is full");
        self.unsynced_since.get_or_insert(elapsed());
        self.machine.disk().set_space_left(Some(self.dice.u64(..200_000)));
        sleep(millis(&mut self.dice, 500..8000)).await;
        let accepts = self.outlast.as_ref().map_or(Ok(()), Outlast::ready);
        if accepts.is_err_and(|why| why.contains("disk")) {
            self.story.happened("disk full");
        }
        if self.dice.u8(..3) == 0 {
            self.lose_power().await;
        }
        self.machine.disk().set_space_left(None);
        sleep(Duration::from_secs(2)).await;
        self.unsynced_since = None;
    }

    /// The database holds something older than `before` now.
    fn went_back(&mut self, before: Content) {
        self.story.database_forgot(&before);
        let now = self.story.database.content();
        // What is healed now may come to another end than it did in there.
        self.backup.take_if(|backup| !now.effects.starts_with(&backup.effects));
        let (newest, untouched) = match self.newest.take() {
            Some((newest, old)) => (newest, old == before),
            None => (before.clone(), true),
        };
        self.newest = Some((if untouched { newest } else { before }, now));
    }

    /// Puts an old backup in. If the log no longer has what it lacks, the lane halts, touches nothing and waits for a
    /// newer one.
    async fn restore(&mut self, backup: Content) {
        let before = self.story.database.restore(backup);
        self.went_back(before);
        self.story.happened("old backup restored");
        let mut looks = 0;
        while !self.is_gap() && looks < 20 {
            looks += 1;
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn is_gap(&self) -> bool {
        let lane = self.outlast.as_ref().map(|outlast| outlast.status().lane);
        matches!(lane, Some(LaneState::Halted { halt: Halt::Gap, .. }))
    }

    /// The lane has halted at a gap and touches nothing: a newer copy heals it.
    fn bring_newest_back(&mut self) {
        let Some((newest, old)) = self.newest.take() else { return };
        self.story.happened("halted at a gap");
        self.story.trace.note("a newer copy is put back");
        // Rows of lanes that were set as it went back are no effects.
        let now = self.story.database.restore(newest);
        if (now.effects, now.records) != (old.effects, old.records) {
            self.story.violation("something was applied though there is a gap");
        }
    }

    /// Nothing goes wrong any more: everything drains.
    async fn come_to_an_end(&mut self) {
        self.story.trace.note("nothing goes wrong any more");
        for task in self.weather.drain(..) {
            task.abort();
        }
        faults::fair(&self.story);
        faults::acquit(&self.story);
        for person in self.people.drain(..) {
            person.abort();
        }
        let failed = |outlast: &Outlast| outlast.alive().is_err();
        if self.outlast.as_ref().is_none_or(failed) {
            self.lose_power().await;
            for person in self.people.drain(..) {
                person.abort();
            }
        }
        let Some(outlast) = self.outlast.clone() else { return };
        let until = elapsed() + DRAINED_AFTER;
        outlast.throttle(None);
        // Where the database is, is seen when something is written.
        clients::last_words(&self.story, &outlast).await;
        while elapsed() < until {
            if self.is_gap() {
                self.bring_newest_back();
            }
            let _ = outlast.resume(None).await;
            if matches!(outlast.drain(Duration::from_secs(30)).await, Ok(true)) {
                break;
            }
            if self.options.hold_record_on_dead_letter {
                self.give_up_letters(&outlast).await;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let status = outlast.status();
        self.story.trace.note(format_args!("drained: {:?}, lane {:?}", status.accounting, status.lane));
        if status.accounting.pending + status.accounting.parked > 0 {
            self.story.violation(format!("it does not drain: {:?}, {:?}", status.accounting, status.lane));
        }
        // What is still under way somewhere arrives now, if it ever does.
        sleep(Duration::from_secs(20)).await;
        operators::look(&self.story, &outlast);
    }

    /// Records wait for the fate of their dead letters.
    async fn give_up_letters(&self, outlast: &Outlast) {
        let filter = DeadFilter { limit: 1000, ..DeadFilter::default() };
        let Ok(letters) = outlast.dead_letters(&filter).await else { return };
        let ids: Vec<WriteId> = letters.letters.iter().map(|letter| letter.id).collect();
        let Ok(step) = outlast.discard_dead_letters(&ids).await else { return };
        for letter in letters.letters.iter().take(step.reached) {
            if step.failures.iter().all(|(id, _)| *id != letter.id) {
                self.story.facts().discarded.extend(tokens_of(&letter.operations));
            }
        }
    }
}

fn options(dice: &mut fastrand::Rng) -> Options {
    let mut options = Options::new(DIRECTORY);
    options.segment_bytes = 64 << 10;
    options.write_bytes_max = 16 << 10;
    options.format = if dice.bool() { Format::Json } else { Format::Bincode };
    options.compression = if dice.u8(..4) == 0 { Compression::Zstd } else { Compression::None };
    options.max_writes = *dice.choice(&[40, 1_000_000]).unwrap_or(&40);
    options.batch_max = *dice.choice(&[3, 500]).unwrap_or(&500);
    options.lanes = *dice.choice(&[1, 1, 2, 4]).unwrap_or(&1);
    options.backoff = Duration::from_millis(*dice.choice(&[50, 1000]).unwrap_or(&50));
    options.backoff_max = options.backoff * 8;
    options.storm_threshold = *dice.choice(&[4, 20]).unwrap_or(&20);
    options.hold_record_on_dead_letter = dice.u8(..4) == 0;
    options.unavailable_timeout = Duration::from_secs(5);
    if dice.u8(..4) == 0 {
        // So little that an old backup leaves a gap.
        options.retain = Duration::from_secs(2);
        options.retain_bytes = 1 << 10;
    }
    options
}
