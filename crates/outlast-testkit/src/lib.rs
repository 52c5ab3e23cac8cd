//! Tools for tests: faults, real servers, and what every adapter must do. Never shipped.

pub mod browser;
pub mod disk;
pub mod faulty;
mod files;
pub mod simulated;
mod wait;

mod rounds;

pub use files::files;
pub use rounds::{minutes, rounds};
pub use wait::{eventually, found, seeds};

pub mod conformance;

pub mod pooler;
pub mod postgres;
pub mod proxy;
pub mod surreal;
pub mod terminal;

pub mod history;
pub mod process;
pub mod schemathesis;
