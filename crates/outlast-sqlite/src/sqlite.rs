//! [`Sqlite`]: the adapter's face.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use outlast::database::{
    Applied, ApplyError, Database, DatabaseError, Item, LaneId, ListQuery, Position, TakeOverError,
};
use outlast::{Collection, Document, Invalid, Operation, RecordId, Sequence, Write, WriteId};
use tokio::sync::Mutex;

use crate::connection::{Open, Role, Shared, Slot};
use crate::failure::Failure;
use crate::options::{SqliteOptions, check_path, path_of_url};
use crate::worker::{NoAnswer, Worker};
use crate::{apply, keys, position, read, statement};

/// Connections that read beside the one that writes.
const READERS: usize = 2;

/// A SQLite database in a file: one thread writes, two read, each on its own connection.
///
/// Opening does not need the file to be reachable; calls answer *unavailable* until it is.
#[derive(Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
    writer: Worker,
    readers: [Worker; READERS],
    /// Held while all connections are closed to open another file.
    reopening: Mutex<()>,
    description: String,
}

enum Probe {
    Done(Result<(), Failure>),
    Replaced,
}

impl Sqlite {
    /// Of the file at `path`. It is made, with the directories above it, by the first call that needs it.
    ///
    /// # Errors
    /// `Invalid` when the path cannot name a file, `Unavailable` when threads cannot be started.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, DatabaseError> {
        let description = format!("sqlite {}", path.as_ref().display());
        let shared = Arc::new(Shared::new(check_path(path.as_ref())?, options));
        let start = |name: &str, role| {
            Worker::start(name, Slot::new(Arc::clone(&shared), role)).map_err(|error| {
                DatabaseError::Unavailable(format!("a thread could not be started: {error}"))
            })
        };
        let writer = start("outlast-sqlite-writer", Role::Writer)?;
        let readers =
            [start("outlast-sqlite-reader", Role::Reader)?, start("outlast-sqlite-reader", Role::Reader)?];
        Ok(Self { shared, writer, readers, reopening: Mutex::new(()), description })
    }

    /// Of the file that a URL `sqlite://PATH` names, with the default options.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn from_url(url: &str) -> Result<Self, DatabaseError> {
        Self::open(path_of_url(url)?, SqliteOptions::default())
    }

    fn limit(&self) -> Duration {
        self.shared.options.request_timeout
    }

    fn no_answer(&self, why: NoAnswer) -> String {
        let limit = self.limit().as_secs_f64();
        match why {
            NoAnswer::NotStarted => format!("the database was busy with other work for {limit} s"),
            NoAnswer::Underway => format!("the database did not answer within {limit} s"),
        }
    }

    /// On the writing connection, for what is not a batch.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        match self.writer.call(self.limit(), move |slot| slot.run(work)).await {
            Ok(result) => result.map_err(Failure::into_database_error),
            Err(why) => Err(DatabaseError::Unavailable(self.no_answer(why))),
        }
    }

    /// On the reading connection with the least to do.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        if !self.shared.was_open() {
            self.write(|_| Ok(())).await?;
        }
        let reader =
            if self.readers[1].load() < self.readers[0].load() { &self.readers[1] } else { &self.readers[0] };
        match reader.call(self.limit(), move |slot| slot.run(work)).await {
            Ok(result) => result.map_err(Failure::into_database_error),
            Err(why @ NoAnswer::NotStarted) => Err(DatabaseError::Busy(self.no_answer(why))),
            Err(why) => Err(DatabaseError::Unavailable(self.no_answer(why))),
        }
    }

    async fn close_readers(&self) -> Result<(), NoAnswer> {
        for reader in &self.readers {
            reader.call(self.limit(), Slot::close).await?;
        }
        Ok(())
    }

    /// Another file stands under the path. Every connection to the former one is closed before it is opened, so that
    /// nothing of the former one's log reaches it.
    async fn reopen(&self) -> Result<Result<(), Failure>, NoAnswer> {
        let _alone = self.reopening.lock().await;
        self.close_readers().await?;
        let work = |slot: &mut Slot| {
            slot.accept_replacement()?;
            slot.run(|open| open.probe())
        };
        self.writer.call(self.limit(), work).await
    }

    async fn change_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Option<Sequence>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        let (lane, seen, owner) = (lane.clone(), seen.cloned(), owner.to_owned());
        let work = move |slot: &mut Slot| {
            slot.run(|open| match position::take_over(open, &lane, seen.as_ref(), sequence, &owner) {
                Err(position::Stop::Failed(failure)) => Err(failure),
                other => Ok(other),
            })
        };
        match self.writer.call(self.limit(), work).await {
            Ok(Ok(result)) => result.map_err(TakeOverError::from),
            Ok(Err(failure)) => Err(position::Stop::Failed(failure).into()),
            Err(why) => Err(TakeOverError::Unavailable(self.no_answer(why))),
        }
    }
}

#[async_trait]
impl Database for Sqlite {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn check(&self, write: &Write) -> Result<(), Invalid> {
        for operation in write.operations() {
            if let Operation::Statement { text, parameters, .. } = operation {
                statement::check(text, parameters)?;
            }
            for record in operation.records() {
                if record
                    .collection
                    .as_str()
                    .get(..7)
                    .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
                {
                    return Err(Invalid::new(format!(
                        "collection \"{}\" is reserved by SQLite: choose another name",
                        record.collection
                    )));
                }
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        let work = |slot: &mut Slot| {
            if slot.is_replaced() {
                return Probe::Replaced;
            }
            let had_connection = slot.is_open();
            let result = slot.run(|open| open.probe());
            if had_connection && !slot.is_open() {
                // The connection was at fault, or tables of ours that are gone: a new one makes them.
                return Probe::Done(slot.run(|open| open.probe()));
            }
            Probe::Done(result)
        };
        let result = match self.writer.call(self.limit(), work).await {
            Ok(Probe::Done(result)) => Ok(result),
            Ok(Probe::Replaced) => {
                tokio::time::timeout(self.limit(), self.reopen()).await.unwrap_or(Err(NoAnswer::Underway))
            }
            Err(why) => Err(why),
        };
        match result {
            Ok(result) => result.map_err(Failure::into_database_error),
            Err(why) => Err(DatabaseError::Unavailable(self.no_answer(why))),
        }
    }

    /// One thread does one after the other.
    fn takes_ahead(&self) -> bool {
        true
    }

    /// Read on the writing connection: what was sent before is decided by then.
    async fn position(&self, lane: &LaneId) -> Result<Option<Position>, DatabaseError> {
        let lane = lane.clone();
        self.write(move |open| position::read(open, &lane)).await
    }

    async fn take_over(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.change_position(lane, seen, None, owner).await
    }

    async fn reset_position(
        &self,
        lane: &LaneId,
        seen: Option<&Position>,
        sequence: Sequence,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        self.change_position(lane, seen, Some(sequence), owner).await
    }

    async fn apply_across(
        &self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
    ) -> Result<Applied, ApplyError> {
        let (rows, batch) = (rows.to_vec(), batch.to_vec());
        let work = move |slot: &mut Slot| {
            // A connection that cannot be had, or whose file is not the one under the path: nothing was sent.
            let result = slot.run(|open| Ok(apply::apply(open, &rows, next, &batch)));
            let result = result.unwrap_or_else(|failure| Err(apply::early(failure)));
            if matches!(result, Err(ApplyError::Unavailable(_) | ApplyError::Unknown(_))) {
                slot.close();
            }
            result
        };
        match self.writer.call(self.limit(), work).await {
            Ok(result) => result,
            Err(why @ NoAnswer::NotStarted) => Err(ApplyError::Unavailable(self.no_answer(why))),
            Err(why @ NoAnswer::Underway) => Err(ApplyError::Unknown(self.no_answer(why))),
        }
    }

    async fn get(&self, collection: &Collection, id: &RecordId) -> Result<Option<Document>, DatabaseError> {
        let (collection, id) = (collection.clone(), id.clone());
        self.read(move |open| read::get(open, &collection, &id)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<(RecordId, Document)>, DatabaseError> {
        read::check_list(query)?;
        let query = query.clone();
        self.read(move |open| read::list(open, &query)).await
    }

    async fn find_key(&self, key: &str) -> Result<Option<(WriteId, String)>, DatabaseError> {
        let key = key.to_owned();
        self.read(move |open| keys::find(open, &key)).await
    }

    /// In short transactions, between which writes pass. What is not forgotten within half of the time limit is
    /// left for the next call.
    async fn prune_keys(&self, older_than: Duration) -> Result<u64, DatabaseError> {
        let started = Instant::now();
        let mut forgotten = 0;
        loop {
            let (some, more) = self.write(move |open| keys::prune(open, older_than)).await?;
            forgotten += some;
            if !more || started.elapsed() > self.limit() / 2 {
                return Ok(forgotten);
            }
        }
    }

    async fn close(&self) {
        let _alone = self.reopening.lock().await;
        // The writer last: SQLite then puts its log into the database file and removes it.
        if self.close_readers().await.is_err() || self.writer.call(self.limit(), Slot::close).await.is_err() {
            tracing::warn!(database = %self.description, "a connection did not close in time");
        }
    }
}
