//! The server and the command line of Outlast: everything that is not the library or an adapter.
//!
//! - [`config`]: `outlast.toml`, environment and flags, through one table of settings;
//! - [`http`]: the HTTP interface, through one table of routes;
//! - [`traces`]: spans for OpenTelemetry;
//! - alerts: what the server tells by itself, to webhooks;
//! - the command line: `serve` runs the server, everything else talks HTTP to a running one.
//!
//! Imports point one way: command line -> http -> config -> the library.

mod alerts;
mod cli;
pub mod config;
pub mod database;
pub mod http;
mod outgoing;
pub mod traces;

pub use cli::{Exit, run};
