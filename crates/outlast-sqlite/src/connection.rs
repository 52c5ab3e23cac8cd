//! Connections: how they are opened, guarded and given up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outlast::RefusalKind;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Statement};

use crate::failure::Failure;
use crate::file::{self, FileId, OpenFiles, Standing};
use crate::options::SqliteOptions;
use crate::shape::Shapes;
use crate::statement;
use crate::worker::Ticket;

/// Operations of SQLite's virtual machine between two looks at the clock: some tens of microseconds.
const OPERATIONS_BETWEEN_LOOKS: i32 = 2_000;
/// Statements kept prepared by a connection: at most eight for each collection in use.
const PREPARED_STATEMENTS: usize = 256;

/// Pages in the log after which SQLite copies them into the database file: 16 MiB of pages of the usual 4 KiB.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Outlast's own tables. `outlast_probe` holds one row that every probe writes.
const OWN_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS outlast_position (
        lane TEXT NOT NULL PRIMARY KEY, sequence INTEGER NOT NULL, generation INTEGER NOT NULL, owner TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS outlast_keys (
        key TEXT NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL, write_id TEXT NOT NULL, at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS outlast_keys_at ON outlast_keys (at);
    CREATE TABLE IF NOT EXISTS outlast_probe (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL) STRICT;
";

/// What all threads of one [`Sqlite`](crate::Sqlite) know in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) options: SqliteOptions,
    /// The files that the writer opened last; `None` before the first time.
    files: Mutex<Option<OpenFiles>>,
    /// Set when a call found other files under the path. From then on nothing is opened until all connections are
    /// closed: one that is still open would share its lock file and memory with the new log.
    replaced: AtomicBool,
}

impl Shared {
    pub(crate) fn new(path: PathBuf, options: SqliteOptions) -> Self {
        Self { path, options, files: Mutex::new(None), replaced: AtomicBool::new(false) }
    }

    fn files(&self) -> MutexGuard<'_, Option<OpenFiles>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once the writer has had the database open.
    pub(crate) fn was_open(&self) -> bool {
        self.files().is_some()
    }

    fn unavailable(&self, what: &str) -> Failure {
        Failure::Unavailable(format!("{} {what}", self.path.display()))
    }

    fn gone(&self) -> Failure {
        self.unavailable("is gone: nothing is written until a database stands there again")
    }

    fn replaced(&self) -> Failure {
        self.replaced.store(true, Ordering::Release);
        self.unavailable(
            "was replaced by another file: nothing is written until the next probe has opened it",
        )
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The only one that writes.
    Writer,
    /// Reads beside it.
    Reader,
}

/// Where the connection's time limit is found by the handler that breaks off what takes too long.
type Watch = Arc<Mutex<Option<Arc<Ticket>>>>;

/// A thread's place for a connection.
#[derive(Debug)]
pub(crate) struct Slot {
    shared: Arc<Shared>,
    role: Role,
    watch: Watch,
    open: Option<Open>,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) connection: Connection,
    /// What is known of the collections' tables.
    pub(crate) shapes: Shapes,
    /// Whether a write may make its table.
    pub(crate) create_collections: bool,
    /// The longest that a call takes.
    pub(crate) request_timeout: Duration,
    /// While set, the authorizer restricts what is prepared to what a caller's statement may do.
    pub(crate) guarded: Arc<AtomicBool>,
    /// While set, a commit is turned into a rollback after its checks.
    pub(crate) trial: Arc<AtomicBool>,
    watch: Watch,
    files: OpenFiles,
}

impl Slot {
    pub(crate) fn new(shared: Arc<Shared>, role: Role) -> Self {
        Self { shared, role, watch: Watch::default(), open: None }
    }

    /// Sets whose time limit counts from now on.
    pub(crate) fn watch(&self, ticket: Option<Arc<Ticket>>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = ticket;
    }

    /// Whose time limit counts.
    #[cfg(test)]
    pub(crate) fn watched(&self) -> Option<Arc<Ticket>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when there is a connection.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Gives the connection up. SQLite rolls an open transaction back.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// The connection, made if there is none, certainly to the file that stands under the path and stood there
    /// last time.
    pub(crate) fn ready(&mut self) -> Result<&mut Open, Failure> {
        if self.open.is_none() {
            let open = self.connect(false)?;
            return Ok(self.open.insert(open));
        }
        let open = self.open.as_mut().expect("looked at two lines above");
        match open.files.standing(&self.shared.path) {
            Ok(Standing::Same) => Ok(open),
            Ok(Standing::Gone) => Err(self.shared.gone()),
            Ok(Standing::Replaced) => Err(self.shared.replaced()),
            Err(error) => Err(self.shared.unavailable(&format!("cannot be looked at: {error}"))),
        }
    }

    /// Does `work` on the connection, and gives the connection up when it failed in a way that casts doubt on it.
    pub(crate) fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let open = self.ready()?;
        let result = work(open);
        // An unfinished transaction must not outlive the call that began it.
        let unfinished = !open.connection.is_autocommit();
        if unfinished || result.as_ref().is_err_and(Failure::spoils_connection) {
            self.close();
        }
        result
    }

    /// True when the open connection belongs to other files than those under the path now, or the path's file is
    /// another than last time.
    pub(crate) fn is_replaced(&self) -> bool {
        if self.shared.replaced.load(Ordering::Acquire) {
            return true;
        }
        let last = self.shared.files();
        let Some(files) = self.open.as_ref().map(|open| &open.files).or(last.as_ref()) else { return false };
        match files.standing(&self.shared.path) {
            // Without a connection the log may have gone with the last one: only the database file tells.
            Ok(Standing::Replaced) if self.open.is_none() => {
                FileId::of(&self.shared.path).is_ok_and(|now| now != Some(files.database))
            }
            Ok(standing) => standing == Standing::Replaced,
            Err(_) => false,
        }
    }

    /// Opens what stands under the path now, though it is another file than before. To be called when all other
    /// connections are closed.
    pub(crate) fn accept_replacement(&mut self) -> Result<(), Failure> {
        self.close();
        let open = self.connect(true)?;
        self.open = Some(open);
        self.shared.replaced.store(false, Ordering::Release);
        Ok(())
    }

    fn connect(&self, accept_replacement: bool) -> Result<Open, Failure> {
        let cannot = |error: std::io::Error| self.shared.unavailable(&format!("cannot be opened: {error}"));
        let path = &self.shared.path;
        if self.shared.replaced.load(Ordering::Acquire) && !accept_replacement {
            return Err(self.shared.replaced());
        }
        let last = self.shared.files().clone();
        match (&last, FileId::of(path).map_err(cannot)?) {
            (None, None) if self.role == Role::Writer => {
                // A new file would take the log of one that was moved away for its own, and throw it away.
                let log = file::beside(path, "-wal");
                if log.metadata().is_ok_and(|log| log.len() > 0) {
                    return Err(self.shared.unavailable(&format!(
                        "is gone, and its log {} is still there: put the file back beside it, or remove that log if a new \
                         database is to begin",
                        log.display()
                    )));
                }
                file::create(path)
                    .map_err(|error| self.shared.unavailable(&format!("cannot be made: {error}")))?;
            }
            (None, Some(_)) if self.role == Role::Writer => {}
            (None, _) => return Err(self.shared.unavailable("is not open yet")),
            (Some(_), None) => return Err(self.shared.gone()),
            (Some(last), Some(now)) if last.database != now => {
                if !accept_replacement {
                    return Err(self.shared.replaced());
                }
                if let Some(aside) = last.set_log_aside(path).map_err(cannot)? {
                    tracing::warn!(log = %aside.display(), "the database file was replaced; the log of the former one was moved aside");
                }
            }
            (Some(_), Some(_)) => {}
        }
        let before = FileId::of(path).map_err(cannot)?.ok_or_else(|| self.shared.gone())?;
        let mut connection = self.open_connection()?;
        let (guarded, trial) = self.install_hooks(&mut connection)?;
        match self.role {
            Role::Writer => prepare_writer(&connection)?,
            Role::Reader => connection.execute_batch("PRAGMA query_only = ON")?,
        }
        let files = OpenFiles::record(path, before).map_err(cannot)?;
        // Between looking and opening the file may have been replaced.
        if FileId::of(path).map_err(cannot)? != Some(before) {
            return Err(self.shared.replaced());
        }
        if self.role == Role::Writer {
            *self.shared.files() = Some(files.clone());
        }
        Ok(Open {
            connection,
            shapes: Shapes::default(),
            create_collections: self.shared.options.create_collections,
            request_timeout: self.shared.options.request_timeout,
            guarded,
            trial,
            watch: Arc::clone(&self.watch),
            files,
        })
    }

    fn open_connection(&self) -> Result<Connection, Failure> {
        let options = &self.shared.options;
        // Without CREATE: a file that vanished must not silently become an empty database.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.shared.path, flags)?;
        connection.busy_timeout(options.busy_timeout.min(options.request_timeout / 2))?;
        connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
        // No statement may write to the schema table or to the shadow tables of virtual tables.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        Ok(connection)
    }

    fn install_hooks(
        &self,
        connection: &mut Connection,
    ) -> Result<(Arc<AtomicBool>, Arc<AtomicBool>), Failure> {
        let watch = Arc::clone(&self.watch);
        let is_over = move || {
            watch
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_some_and(|ticket| ticket.is_over())
        };
        connection.progress_handler(OPERATIONS_BETWEEN_LOOKS, Some(is_over))?;
        let guarded = Arc::new(AtomicBool::new(false));
        let trial = Arc::new(AtomicBool::new(false));
        if self.role == Role::Writer {
            // Installed once and switched by a flag: setting an authorizer makes SQLite prepare everything anew.
            let guard = Arc::clone(&guarded);
            connection.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| {
                statement::authorize(guard.load(Ordering::Relaxed), &context)
            }))?;
            let only_tried = Arc::clone(&trial);
            connection.commit_hook(Some(move || only_tried.load(Ordering::Relaxed)))?;
        }
        Ok((guarded, trial))
    }
}

impl Open {
    /// From here on the running work is not broken off. Needed around COMMIT and ROLLBACK: SQLite may look at the
    /// handler after a commit is complete, and would then call it interrupted.
    pub(crate) fn disarm(&self) -> Option<Arc<Ticket>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Undoes [`Open::disarm`].
    pub(crate) fn arm(&self, ticket: Option<Arc<Ticket>>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = ticket;
    }

    /// True when nobody waits for the running work any more, or its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|ticket| ticket.is_over())
    }

    /// Begins a transaction that may write.
    pub(crate) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(|_| ())
    }

    /// Writes a row and waits until it is on disk: a disk that is full or read-only is noticed before a write
    /// needs it.
    pub(crate) fn probe(&self) -> Result<(), Failure> {
        let write = "INSERT INTO outlast_probe (id, at) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET at = excluded.at";
        self.own(write, |write| write.execute([milliseconds_now()]))?;
        let read = "SELECT count(*) FROM (SELECT 1 FROM outlast_position, outlast_keys LIMIT 1)";
        self.own(read, |read| read.query_row([], |_| Ok(())))
    }

    /// Runs a statement on Outlast's own tables.
    pub(crate) fn own<T>(
        &self,
        sql: &str,
        run: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| run(&mut statement))
            .map_err(Failure::of_own_table)
    }

    /// Does `work` in a transaction: committed when it succeeds, otherwise as if nothing had happened.
    pub(crate) fn transaction<T, E: From<Failure>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin().map_err(Failure::from)?;
        let result = work(self)
            .and_then(|value| self.commit().map(|()| value).map_err(|error| E::from(Failure::from(error))));
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Commits; what an error means is the caller's to judge.
    pub(crate) fn commit(&self) -> rusqlite::Result<()> {
        let ticket = self.disarm();
        let result = self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        self.arm(ticket);
        result.map(|_| ())
    }

    /// Undoes the transaction, if one is open. Should that fail, [`Slot::run`] sees the transaction and closes the
    /// connection.
    pub(crate) fn roll_back(&mut self) {
        // Tables made in the transaction are gone with it.
        self.shapes.forget();
        if self.connection.is_autocommit() {
            return;
        }
        let ticket = self.disarm();
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::warn!(%error, "a rollback failed; the connection is closed");
        }
        self.arm(ticket);
    }
}

fn prepare_writer(connection: &Connection) -> Result<(), Failure> {
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        return Err(Failure::refused(
            RefusalKind::Schema,
            format!("the database's encoding is {encoding}; Outlast needs UTF-8"),
        ));
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let message = format!(
            "the database stays in journal mode \"{mode}\"; Outlast needs WAL, which needs a local disk"
        );
        return Err(Failure::refused(RefusalKind::Schema, message));
    }
    // fullfsync matters on macOS only, where a plain fsync leaves data in the drive's cache.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA foreign_keys = ON")?;
    // After a large batch the log shrinks again.
    connection.execute_batch("PRAGMA journal_size_limit = 67108864")?;
    // What one statement changes is kept for as long as it runs, in case it fails: in memory, not in a temporary file, for
    // which there may be no place.
    connection.pragma_update(None, "temp_store", "memory")?;
    // A checkpoint costs two syncs, and pages that many batches change are copied once for all of them.
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.execute_batch(OWN_TABLES)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// Wall clock as milliseconds since 1970.
pub(crate) fn milliseconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_is_done_is_never_called_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(directory.path().join("database.db"), SqliteOptions::default()));
        let mut slot = Slot::new(shared, Role::Writer);
        let open = slot.ready().unwrap();
        open.connection.execute_batch("CREATE TABLE t (n); PRAGMA synchronous = OFF").unwrap();
        let late = Ticket::new(Duration::ZERO);
        // SQLite counts the operations of a prepared statement over all of its runs, so the handler is asked at
        // any of them.
        for n in 0..OPERATIONS_BETWEEN_LOOKS {
            open.begin().unwrap();
            open.connection.prepare_cached("INSERT INTO t VALUES (?1)").unwrap().execute([n]).unwrap();
            open.arm(Some(Arc::clone(&late)));
            open.commit().unwrap();
            assert!(open.is_over(), "the limit counts again afterwards");
            open.disarm();
        }
    }
}
