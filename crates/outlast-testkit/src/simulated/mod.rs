//! A database that exists only in a simulation: in memory, in the time of tokio's (paused) clock, and with dice of its
//! own, so that a seed decides everything it does.

mod content;
mod database;
mod trace;

pub use content::{Content, NOTE, tokens_of};
pub use database::{SimulatedDatabase, Temper};
pub use trace::Trace;
