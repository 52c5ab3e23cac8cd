//! **Outlast lets a service keep accepting writes while its database is away, and brings every accepted write to the
//! database exactly once, in order, when it returns.**
//!
//! A write is acknowledged as *applied* when the database has committed it, or as *queued* when it is fsynced in the
//! local log; nothing else is ever acknowledged. The database itself remembers, in the same transaction, how far it
//! is, so that neither a crash of either side nor a lost answer makes a write take effect twice or not at all.
//!
//! The way of a write: [`Outlast::submit`] -> the log ([`outlast_log`]) -> the drainer -> [`database::Database`].
//! Reads go to the database directly and fail with a computed time to try again while it is away.
//!
//! This crate knows no particular database: an adapter implements [`database::Database`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use outlast::{Document, Fate, Options, Outcome, Outlast, Wait, Write};
//! use outlast_sqlite::{Sqlite, SqliteOptions};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     # let directory = tempfile::tempdir()?;
//!     # std::env::set_current_dir(&directory)?;
//!     let database = Sqlite::open("outlast-data/database.db", SqliteOptions::default())?;
//!     let outlast = Outlast::open(Arc::new(database), Options::new("outlast-data/queue")).await?;
//!
//!     let write = Write::put("person".parse()?, "ann".parse()?, Document::parse(r#"{"name":"Ann"}"#)?);
//!     let id = match outlast.submit(write, Wait::UpTo(Duration::from_secs(10))).await? {
//!         // The database has committed it.
//!         Outcome::Applied { id, .. } => id,
//!         // The database is away: it is fsynced in the log, and applied when the database is back.
//!         Outcome::Queued(receipt) => receipt.id,
//!     };
//!
//!     let receipt = outlast.wait_for(id, Duration::from_secs(10)).await?;
//!     assert_eq!(receipt.status, Fate::Applied);
//!     let ann = outlast.get(&"person".parse()?, &"ann".parse()?).await?;
//!     assert_eq!(ann.map(|ann| ann.as_str().to_owned()), Some(r#"{"name":"Ann"}"#.to_owned()));
//!
//!     outlast.shutdown(Duration::from_secs(25)).await?;
//!     Ok(())
//! }
//! ```

mod alike;
mod clock;
mod core;
mod dead;
mod drainer;
mod estimate;
mod feed;
mod figures;
mod fullness;
mod guard;
mod kept;
mod lanes;
mod ledger;
mod losses;
mod metrics;
mod open;
mod outlast;
mod pause;
mod receipts;
mod submit;
mod verdict;
mod waiters;
mod words;

pub mod database;
pub mod error;
pub mod event;
pub mod health;
pub mod offline;
pub mod options;
pub mod outage;
pub mod record;
pub mod redact;
pub mod status;
pub mod trace;
pub mod write;

pub use error::{Error, Invalid, Refusal, RefusalKind};
pub use guard::{Availability, Guard, GuardError, GuardLayer};
pub use open::OpenError;
pub use options::{AfterTimeout, Compression, Format, Options};
pub use outlast::Outlast;
pub use outlast_log::Sequence;
pub use record::{Collection, Document, RecordId};
pub use status::{Fate, Outcome, Receipt, Status, Wait};
pub use submit::Submission;
pub use write::{IdempotencyKey, Operation, RecordName, Write, WriteId};
