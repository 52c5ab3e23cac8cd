//! [`Outlast`]: the handle that a service holds.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outlast_log::{Disk, LogState, RealDisk};
use prometheus_client::registry::Registry;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use crate::core::Core;
use crate::database::{Database, DatabaseError, ListQuery};
use crate::drainer::{Command, CommandKind, Room, STEP_LETTERS_MAX};
use crate::error::{Error, Invalid};
use crate::event::Event;
use crate::health::{HealthManager, Monitor};
use crate::open::{OpenError, open};
use crate::options::Options;
use crate::outage::Outage;
use crate::record::{Collection, Document, RecordId};
use crate::status::{
    DeadFilter, DeadLetter, DeadLetters, DeadSelection, DeadStep, Decision, Fate, LaneState, Outcome,
    QueueFilter, QueuedWrite, QueuedWrites, Receipt, Status, Wait,
};
use crate::submit::Submission;
use crate::write::{Operation, Write, WriteId};

/// How long an operator's command waits for the drainer, which serves it between two transactions.
const COMMAND_PATIENCE: Duration = Duration::from_secs(15);

/// Keeps accepting writes while the database is away, and brings every accepted write to it exactly once, in order.
///
/// Cheap to clone; all clones are one queue. Needs a tokio runtime with time enabled. Call
/// [`shutdown`](Outlast::shutdown) before the process ends; dropping the last handle stops it too, without waiting.
#[derive(Clone)]
pub struct Outlast {
    core: Arc<Core>,
    tasks: Arc<Tasks>,
}

struct Tasks {
    core: Arc<Core>,
    drainer: Mutex<Option<JoinHandle<()>>>,
    monitor: JoinHandle<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.core.stop();
        self.core.waiters.close();
        self.monitor.abort();
        if let Some(drainer) = self.drainer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drainer.abort();
        }
    }
}

impl Outlast {
    /// Opens the queue in `options.directory` and begins to drain into `database`. The database may be away: writes
    /// are accepted at once all the same.
    ///
    /// # Errors
    /// When the queue's directory cannot be used: in use by another process, not writable, not a queue.
    pub async fn open(database: Arc<dyn Database>, options: Options) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(RealDisk), database, options).await
    }

    /// As [`open`](Outlast::open), on another disk: for tests with a simulated one.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_on(
        disk: Arc<dyn Disk>,
        database: Arc<dyn Database>,
        options: Options,
    ) -> Result<Self, OpenError> {
        let (core, drainer) = open(disk, database, options).await?;
        let monitor = tokio::spawn(core.monitor.clone().run(core.database.clone()));
        let drainer = Mutex::new(Some(tokio::spawn(drainer.run())));
        let tasks = Arc::new(Tasks { core: core.clone(), drainer, monitor });
        Ok(Self { core, tasks })
    }

    /// Takes a write in. Ends with an acknowledgement that means what it says: *applied* when the database has
    /// committed it, *queued* when it is fsynced in the log.
    ///
    /// # Errors
    /// See [`Error`]: `Rejected` when the database refused it while the caller waited, `Invalid` and `TooLarge` for
    /// what no retry mends, `QueueFull`, `LogFailed`, `ShuttingDown` and `ServiceUnavailable` for what can be tried again.
    pub async fn submit(&self, write: Write, wait: Wait) -> Result<Outcome, Error> {
        self.core.submit(write, wait).await
    }

    /// As [`submit`](Outlast::submit), in two steps: this gives the write its place in the order, and
    /// [`Submission::outcome`] waits for the acknowledgement. So one caller can have many writes under way whose order is
    /// certain.
    ///
    /// # Errors
    /// As `submit`, for what is known before the write has its place: nothing was accepted then.
    pub async fn begin(&self, write: Write, wait: Wait) -> Result<Submission, Error> {
        self.core.begin(write, wait).await
    }

    /// Reads a record from the database.
    ///
    /// # Errors
    /// `ServiceUnavailable` while the database is away; shortly after it failed, only after `read_wait`.
    pub async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, Error> {
        self.read(|database| async move { database.get(collection, id).await }).await
    }

    /// Lists records in the order of their ids.
    ///
    /// # Errors
    /// As [`get`](Outlast::get).
    pub async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, Error> {
        self.read(|database| async move { database.list(query).await }).await
    }

    async fn read<T, F>(&self, ask: impl FnOnce(Arc<dyn Database>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, DatabaseError>>,
    {
        if !self.core.monitor.is_healthy() {
            self.wait_for_database().await?;
        }
        match ask(self.core.database.clone()).await {
            Ok(answer) => {
                self.core.monitor.report_success();
                Ok(answer)
            }
            Err(DatabaseError::Unavailable(reason)) => {
                self.core.monitor.report_failure("read", &reason);
                Err(self.refuse_read())
            }
            // No outage: whether it is one the next probe tells.
            Err(DatabaseError::Busy(reason)) => {
                Err(Error::ServiceUnavailable { retry_after: self.core.retry_after(None), reason })
            }
            Err(DatabaseError::Refused(reason)) => {
                Err(Error::Conflict(format!("the database refused the read: {reason}")))
            }
            Err(DatabaseError::Invalid(invalid)) => Err(Error::Invalid(invalid)),
        }
    }

    /// A read waits a little for a database that has only just gone.
    async fn wait_for_database(&self) -> Result<(), Error> {
        let mut state = self.core.monitor.subscribe();
        let short = !self.core.monitor.is_long_outage();
        let patience = if short { self.core.options.read_wait } else { Duration::ZERO };
        let back =
            tokio::time::timeout(patience, state.wait_for(crate::health::ConnectionState::is_connected))
                .await;
        if matches!(back, Ok(Ok(_))) { Ok(()) } else { Err(self.refuse_read()) }
    }

    fn refuse_read(&self) -> Error {
        self.core.outages().update(|outage| outage.reads_refused += 1);
        self.core.unavailable()
    }

    /// Where a write stands.
    ///
    /// # Errors
    /// `NotFound` for an id that was never given, or whose receipt is no longer kept.
    #[expect(
        clippy::unused_async,
        reason = "a receipt may need the database one day; callers should not change then"
    )]
    pub async fn receipt(&self, id: WriteId) -> Result<Receipt, Error> {
        self.core.receipt(id)
    }

    /// Waits until a write is decided, at most so long, and returns its receipt.
    ///
    /// # Errors
    /// As [`receipt`](Outlast::receipt).
    pub async fn wait_for(&self, id: WriteId, at_most: Duration) -> Result<Receipt, Error> {
        let deadline = tokio::time::Instant::now() + at_most;
        let mut decided = self.core.decided.subscribe();
        loop {
            let receipt = self.core.receipt(id)?;
            let open = matches!(receipt.status, Fate::Pending | Fate::Parked);
            if !open || tokio::time::timeout_at(deadline, decided.changed()).await.is_err() {
                return Ok(receipt);
            }
        }
    }

    /// Gives up a write that is not applied yet.
    ///
    /// # Errors
    /// `Conflict` when it is decided already, or when it cannot be known before the database answers.
    pub async fn cancel(&self, id: WriteId) -> Result<Receipt, Error> {
        self.core.receipt(id)?;
        self.command(CommandKind::Cancel(id)).await?;
        self.core.receipt(id)
    }

    /// The whole picture.
    pub fn status(&self) -> Status {
        let core = &self.core;
        core.sample_rates();
        let components = core.health.components();
        let accounting = core.book().terms;
        // Not within the expression below: it would be held to its end, where the estimate borrows it again, and a
        // change of state between the two would wait for both for ever.
        let lane = core.lane_state.borrow().clone();
        Status {
            health: components
                .iter()
                .map(|component| component.level)
                .max()
                .unwrap_or(crate::health::Level::Healthy),
            components,
            database: core.monitor.state(),
            database_name: core.database.describe(),
            lane,
            queue: core.queue_status(),
            accounting,
            accounting_holds: accounting.holds(),
            losses: self.core.kept.losses(),
            accepting: core.accepting().is_ok(),
            outage: core.outages().current(),
        }
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.core.options
    }

    /// Writes that wait and match, in the order of the log. One call looks at a bounded part of the log, so that a page
    /// may be short, or empty, and still have a [`next`](QueuedWrites::next).
    ///
    /// # Errors
    /// `LogFailed` when the log cannot be read.
    pub async fn queue_list(&self, filter: &QueueFilter) -> Result<QueuedWrites, Error> {
        let (core, filter) = (self.core.clone(), filter.clone());
        blocking(move || core.queue_list(&filter)).await
    }

    /// One write that waits.
    ///
    /// # Errors
    /// `NotFound` when it does not wait any more.
    pub async fn queue_show(&self, id: WriteId) -> Result<QueuedWrite, Error> {
        let core = self.core.clone();
        blocking(move || core.queue_show(id)).await
    }

    /// Finishes what is in flight and queues everything, until `resume` or for `at_most`. A restart does not end it.
    ///
    /// # Errors
    /// `Conflict` when the lane stands still for another reason.
    pub async fn pause(&self, at_most: Option<Duration>) -> Result<(), Error> {
        if matches!(*self.core.lane_state.borrow(), LaneState::Halted { .. }) {
            return Err(Error::Conflict("the lane is halted already: see the status".into()));
        }
        let core = self.core.clone();
        blocking(move || {
            core.pause(at_most);
            Ok(())
        })
        .await
    }

    /// Goes on after a pause or a refusal storm; from a halt only with a decision.
    ///
    /// # Errors
    /// `Conflict` when a decision is needed, or is not possible.
    pub async fn resume(&self, decision: Option<Decision>) -> Result<(), Error> {
        let state = self.core.lane_state.borrow().clone();
        match (state, decision) {
            (LaneState::Halted { halt: crate::status::Halt::Fenced, message }, _) => {
                Err(Error::Conflict(message))
            }
            (LaneState::Halted { .. }, Some(decision)) => {
                self.command(CommandKind::Decide(decision)).await.map(drop)
            }
            (LaneState::Halted { message, .. }, None) => Err(Error::Conflict(message)),
            _ => {
                let core = self.core.clone();
                blocking(move || {
                    core.end_pause();
                    Ok(())
                })
                .await
            }
        }
    }

    /// Limits draining to so many writes per second, at once; `None` lifts the limit.
    pub fn throttle(&self, writes_per_second: Option<u64>) {
        self.core.set_throttle(writes_per_second);
    }

    /// Waits until nothing waits, at most so long. True: nothing does.
    ///
    /// # Errors
    /// `Conflict` when the lane stands still, so that waiting is pointless.
    pub async fn drain(&self, at_most: Duration) -> Result<bool, Error> {
        let deadline = tokio::time::Instant::now() + at_most;
        let mut decided = self.core.decided.subscribe();
        loop {
            let terms = self.core.book().terms;
            if terms.pending + terms.parked == 0 {
                return Ok(true);
            }
            let state = self.core.lane_state.borrow().clone();
            if state != LaneState::Running {
                return Err(Error::Conflict(crate::health::lane_message(&state)));
            }
            if tokio::time::timeout_at(deadline, decided.changed()).await.is_err() {
                return Ok(false);
            }
        }
    }

    /// Dead letters that match, with the groups of their reasons.
    ///
    /// # Errors
    /// `LogFailed` when they cannot be read.
    pub async fn dead_letters(&self, filter: &DeadFilter) -> Result<DeadLetters, Error> {
        let (core, filter) = (self.core.clone(), filter.clone());
        blocking(move || core.dead.list(&filter)).await
    }

    /// The dead letters that match, for an action on all of them.
    pub fn select_dead_letters(&self, filter: &DeadFilter) -> DeadSelection {
        self.core.dead.select(filter)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn dead_letter(&self, id: WriteId) -> Result<DeadLetter, Error> {
        let core = self.core.clone();
        blocking(move || core.dead.read(id).map(crate::dead::Letter::into_public)).await
    }

    /// Appends a dead letter again, as the last of the log; also when the queue is full.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while the position in the database is not known.
    pub async fn retry_dead_letter(&self, id: WriteId) -> Result<(), Error> {
        self.of_one(CommandKind::RetryDead { ids: vec![id], room: Room::Found }).await
    }

    /// As [`retry_dead_letter`](Outlast::retry_dead_letter), with other operations. The write keeps its id, its idempotency
    /// key and its records: what it does to them may be another thing. Either the edited write waits, or the letter is as
    /// it was.
    ///
    /// # Errors
    /// `Invalid` and `TooLarge` for what a new write may not be either, when it would write to other records, and when it
    /// has marks where values are hidden;
    /// `NotFound`; `Conflict` while the position in the database is not known.
    pub async fn edit_dead_letter(&self, id: WriteId, operations: Vec<Operation>) -> Result<(), Error> {
        if let Some(field) = self.core.options.redact.marked(&operations) {
            return Err(Error::Invalid(Invalid::new(format!(
                "\"{field}\" has the mark of a hidden value (privacy.redact) for its value: nothing was changed; look at \
                 the letter with all its values (redact=false), and send those"
            ))));
        }
        let core = self.core.clone();
        let letter = blocking(move || core.dead.read(id)).await?;
        let write = letter.write.edited(operations)?;
        self.core.database.check(&write)?;
        self.core.body_of(&write)?;
        self.command(CommandKind::EditDead { id, write: Arc::new(write) }).await.map(drop)
    }

    /// Appends the first of these dead letters again, in this order, as many as are done in one step: each step is two
    /// syncs, however many they are. The drainer goes on between two steps. Unlike a single one, many must find room in
    /// the queue.
    ///
    /// # Errors
    /// `QueueFull` and `LogFailed` when not even the first could be; `Conflict` while the position in the database is not
    /// known. Why single ones could not be is in [`DeadStep::failures`].
    pub async fn retry_dead_letters(&self, ids: &[WriteId]) -> Result<DeadStep, Error> {
        self.command(CommandKind::RetryDead { ids: step_of(ids), room: Room::Needed }).await
    }

    /// Gives up a dead letter.
    ///
    /// # Errors
    /// As [`retry_dead_letter`](Outlast::retry_dead_letter).
    pub async fn discard_dead_letter(&self, id: WriteId) -> Result<(), Error> {
        self.of_one(CommandKind::DiscardDead(vec![id])).await
    }

    /// Gives up the first of these dead letters, as many as are done in one step, which is one sync.
    ///
    /// # Errors
    /// As [`retry_dead_letters`](Outlast::retry_dead_letters).
    pub async fn discard_dead_letters(&self, ids: &[WriteId]) -> Result<DeadStep, Error> {
        self.command(CommandKind::DiscardDead(step_of(ids))).await
    }

    /// A step over a single letter.
    async fn of_one(&self, kind: CommandKind) -> Result<(), Error> {
        let failure = self.command(kind).await?.failures.pop();
        failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Outages, newest first, with the one that lasts.
    pub fn outages(&self) -> Vec<Outage> {
        self.core.outages().all()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.core.events.subscribe()
    }

    /// The components of the service's health; an embedding service registers its own.
    pub fn health(&self) -> &HealthManager {
        &self.core.health
    }

    /// The monitor of the database.
    pub fn monitor(&self) -> &Monitor {
        &self.core.monitor
    }

    /// All metrics in the Prometheus text format.
    pub fn metrics(&self) -> String {
        self.core.sample_rates();
        self.core.metrics.database_state(&self.core.monitor.state());
        self.core.metrics.health_level(self.core.health.level());
        self.core.metrics.encode(&self.core.snapshot())
    }

    /// Transactions that the database has committed since the start, and the time that they took together: two readings
    /// give the latency between them.
    pub fn transactions(&self) -> (u64, Duration) {
        self.core.metrics.transactions()
    }

    /// Registers further metrics, shown with the others.
    pub fn registry<R>(&self, register: impl FnOnce(&mut Registry) -> R) -> R {
        self.core.metrics.registry(register)
    }

    /// Whether the log makes progress.
    ///
    /// # Errors
    /// What stands still.
    pub fn alive(&self) -> Result<(), String> {
        match self.core.log.state() {
            LogState::Failed(failure) => Err(format!("the log has failed: {}", failure.reason)),
            _ => Ok(()),
        }
    }

    /// Whether a write can be durably accepted now.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        self.core.accepting()
    }

    /// Whether the database answers.
    pub fn is_healthy(&self) -> bool {
        self.core.monitor.is_healthy()
    }

    pub(crate) fn unavailable(&self) -> Error {
        self.core.unavailable()
    }

    async fn command(&self, kind: CommandKind) -> Result<DeadStep, Error> {
        let unsure = || {
            Error::Conflict(
                "fates are decided only while the position in the database is known: try again when the database answers".into(),
            )
        };
        let (reply, answer) = oneshot::channel();
        self.core.commands.try_send(Command { kind, reply }).map_err(|_| unsure())?;
        tokio::time::timeout(COMMAND_PATIENCE, answer)
            .await
            .map_err(|_| unsure())?
            .map_err(|_| Error::ShuttingDown)?
    }

    /// Accepts nothing more, lets callers that wait have their answers, finishes what is in flight, syncs and closes
    /// the log. What waits then stays in the log for the next start.
    ///
    /// # Errors
    /// `LogFailed` when the last sync failed.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        self.core.stop();
        self.core.intake.arrived.notify_one();
        let drainer = self.tasks.drainer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut drainer) = drainer
            && tokio::time::timeout(deadline, &mut drainer).await.is_err()
        {
            tracing::warn!(
                "the deadline is over: a transaction in flight is given up, its outcome is read at the next start"
            );
            drainer.abort();
        }
        self.core.waiters.close();
        self.tasks.monitor.abort();
        self.core.monitor.stop();
        self.core.database.close().await;
        let synced = self.core.log.sync().await;
        self.core.dead.close();
        synced.map_err(|failure| Error::LogFailed { reason: failure.to_string(), outcome_unknown: false })
    }
}

impl std::fmt::Debug for Outlast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlast").field("queue", &self.core.log.queue_id()).finish_non_exhaustive()
    }
}

/// The letters of one step. It ends before one that comes again: the next step finds that it is none any more.
fn step_of(ids: &[WriteId]) -> Vec<WriteId> {
    let mut once = HashSet::new();
    ids.iter().copied().take(STEP_LETTERS_MAX).take_while(|id| once.insert(*id)).collect()
}

/// Runs what reads files away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if cfg!(feature = "simulation") {
        // There no file takes time, and another thread would be one more that decides who is first.
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::LogFailed { reason: format!("reading was interrupted: {error}"), outcome_unknown: false })
    })
}
