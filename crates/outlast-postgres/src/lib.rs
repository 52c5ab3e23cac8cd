//! The PostgreSQL adapter of Outlast: our own thin client of the server's protocol.
//!
//! # What it promises
//! Beyond the contract of [`outlast::database::Database`]:
//!
//! 1. **One round trip for a batch.** Begin, time limits, position, grouped statements and commit leave in one flight
//!    under one Sync, so that an error skips everything behind it, the commit included. Nothing of a batch whose sending
//!    was broken off can commit by itself.
//! 2. **No hidden queue and no resending.** A flight is sent once, on a connection that does nothing else meanwhile,
//!    and has a deadline. A time limit, a dropped future, a socket error or an answer that makes no sense closes the
//!    connection; the next call opens another.
//! 3. **The outcome is known or said to be unknown.** The answers are counted: an error before that of the commit means
//!    that nothing was committed; a request whose end did not leave this machine cannot have been; a connection that is
//!    lost in between is *unknown*, and the position tells later.
//! 4. **Nothing is relied upon to last in a session.** Settings are local to the transaction. Where the session is ours
//!    alone the server keeps the statements that come again, which it reads and plans anew by itself when a table has
//!    changed; where a pooler such as PgBouncer in transaction mode stands between, they are unnamed.
//! 5. **Committed means on disk**, also where `synchronous_commit` is off in the database.
//! 6. **A refusal names its write** at no cost to batches that pass: only when a batch is refused it is run again, one
//!    statement for each operation, in a transaction that is rolled back. (A function that does something outside of the
//!    database does so again.)
//!
//! # How records are kept
//! A collection is a table of its name, found through the account's `search_path`.
//!
//! - **Documents**: a table with `id text PRIMARY KEY` and `data jsonb` holds each document as it is, beside whatever
//!   further columns have defaults. The first write to a collection that has no table makes one (unless
//!   [`PostgresOptions::create_collections`] is off, or the table that it had was another than Outlast makes: a migration
//!   may be about to make it again). Numbers keep their value and their digits behind the point,
//!   texts every character.
//! - **Columns**: any other table with a primary key. Members are columns: those that are absent take their defaults,
//!   unknown ones are refused, and columns that are generated, an identity `ALWAYS` among them, are left to the database.
//!   `put` sets every column, but an identity `BY DEFAULT` only when it is given; `patch` sets those that it names (in a
//!   `jsonb` column it merges). The record's id is the key's value as the database
//!   spells it; the values of several key columns are joined by commas, with `\,` for a comma inside one. Other key
//!   columns than the primary key's can be named in the URL.
//!
//! Operations of one kind on one collection that follow each other become one statement, so triggers for each statement
//! fire once for all of them. Order between records is kept.
//!
//! What cannot be held exactly is refused: U+0000, `-0` and numbers of more than a thousand digits at the door; what a
//! column would round, at the door too once the table is known.
//!
//! Outlast's own are the tables `outlast_position` and `outlast_keys` and the functions `outlast_limits`,
//! `outlast_advance`, `outlast_expect` and `outlast_merge`; the account needs SELECT, INSERT, UPDATE and DELETE on these
//! tables, and CREATE on the schema if it is to make them.
//!
//! Tested against PostgreSQL 15. Not spoken: Unix sockets, client certificates, GSSAPI.

mod address;
mod apply;
mod batch;
mod connection;
mod database;
mod definitions;
mod fault;
mod flight;
mod limits;
mod login;
mod pool;
mod position;
mod prepared;
mod shape;
mod sql;
mod statement;
mod tls;
mod value;
mod wire;

pub use database::{Postgres, PostgresOptions};
