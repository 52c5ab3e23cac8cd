//! The SQLite adapter: Outlast's embedded default, and the reference that every other adapter is held against.
//!
//! # What it promises
//! - A batch is one SQLite transaction: the writes, their idempotency keys and the lane's position, or nothing.
//! - Committed means on disk: write-ahead log, `synchronous=FULL`.
//! - Before every batch it is checked that the open file still stands under its path (see below). One that is
//!   replaced in the instant between that and the commit takes the batch with it: the older position in the new file
//!   then tells what is missing.
//! - Documents are kept as JSON text, so every number keeps its digits and every string its characters.
//!
//! # How records are kept
//! A collection is a table of its name, `CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL)`, made
//! by the first write to it (unless [`SqliteOptions::create_collections`] is off). Indexes, checks, triggers,
//! foreign keys and further columns with defaults may be added by hand, for example `CREATE UNIQUE INDEX email ON
//! users (json_extract(data, '$.email'))`; what they refuse is a refusal of the write. SQLite does not tell upper
//! from lower case in names of tables, so a second collection whose name differs only by that is refused.
//!
//! Creates and puts of one collection that follow each other share statements, eight rows in each. So a reference that is
//! checked at once may also be to one of the rows behind it there.
//!
//! Outlast's own tables are `outlast_position`, `outlast_keys` and `outlast_probe`.
//!
//! # Putting an older copy back
//! A database in use consists of `PATH`, `PATH-wal` and `PATH-shm`. A copy must be *one file that is complete by
//! itself*: made with `sqlite3 PATH "VACUUM INTO 'copy.db'"` or `.backup`, or copied while nothing had the
//! database open.
//!
//! - While Outlast runs: put the copy on the same file system and *rename* it to `PATH`; leave `PATH-wal` and
//!   `PATH-shm` alone. The next call notices that another file stands there and answers *unavailable*; the next
//!   probe closes every connection, moves the replaced file's `-wal` aside (to `PATH-wal.replaced`: applied to the
//!   copy it would mix two histories) and opens the copy. Never copy *over* the file in use: SQLite cannot notice
//!   that.
//! - While Outlast is stopped: remove `PATH-wal` and `PATH-shm` first, then put the copy in place. SQLite would
//!   otherwise apply the left-over log of the former file to the copy, and damage it.
//!
//! A file that vanished while Outlast ran is not made anew: that is an outage until one stands there again.

mod apply;
mod connection;
mod failure;
mod file;
mod keys;
mod operation;
mod options;
mod position;
mod read;
mod shape;
mod sqlite;
mod statement;
mod worker;

pub use options::SqliteOptions;
pub use sqlite::Sqlite;
