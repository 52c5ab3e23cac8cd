//! The SurrealDB adapter of Outlast: our own thin client of the server's CBOR protocol.
//!
//! What it promises, beyond the contract of [`outlast::database::Database`]:
//!
//! 1. **No hidden queue and no resending.** A request is sent once, on a connection that does nothing else meanwhile,
//!    and has a deadline. A time limit, a dropped future, a socket error or an answer that makes no sense closes the
//!    connection; the next call opens another.
//! 2. **One round trip for a batch**: one block of statements, which the server runs as one transaction. It begins by
//!    *writing* the lane's position, because SurrealDB's transactions conflict on writes only.
//! 3. **Values are bound and exact.** Texts stay texts, integers beyond 63 bits travel as decimals, null is a stored
//!    null. What the server could not keep is refused by `check`.
//! 4. **Reads do not wait behind batches**: they have connections of their own.
//!
//! 5. **A refusal names its write** at no cost to batches that pass: only when a batch is refused are beginnings of it
//!    run again in transactions that end by throwing, until the first refused write is found. (A statement that calls
//!    out of the database, with `http::post` say, does so in these trials too.)
//!
//! Tested against the server of SurrealDB 3.3.5 and the engine and protocol of 2.7.0. **2.x keeps less**: on its SurrealKV
//! storage, in memory and in files, two transactions that write one record may both commit when they end at the same
//! moment, so that a batch which arrives late, just while Outlast takes over, can take effect twice. And a record that
//! one transaction changes twice comes back with the first change when the server restarts; so on 2.x every write gets a
//! transaction of its own, and one that changes a record twice is refused. A line in the log says so when the server is a
//! 2.x one, or may not say which one it is.
//!
//! With the feature `surrealdb-embedded` (off by default) `surrealkv://PATH` and `mem://` name an engine within this
//! process. It links the `surrealdb` crates, which are under the Business Source License 1.1. They recurse deeply: give
//! the runtime threads of 10 MiB of stack or more.
//!
//! Only records whose key is a text are seen: `person:1` (a number) and `person:⟨1⟩` (a text) are different records
//! in SurrealDB, and the id "1" means the second.

mod address;
mod apply;
mod batch;
mod connection;
mod database;
#[cfg(feature = "surrealdb-embedded")]
mod engine;
mod fault;
mod pool;
mod position;
mod socket;
mod statement;
mod tls;
mod turns;
mod value;

pub use database::{SurrealDb, SurrealOptions};
