//! Is the database there, and how well is everything?

mod components;
mod manager;
mod monitor;
mod state;

pub(crate) use components::lane_message;
pub use manager::{Check, Component, HealthManager, Level};
pub use monitor::Monitor;
pub(crate) use monitor::MonitorOptions;
pub use state::{ConnectionState, StateChange};
