//! The HTTP interface: routes, problems, and the accept loop with its limits.

mod about;
mod accept;
mod app;
mod audit;
mod auth;
mod body;
mod bulk;
mod dashboard;
mod dead;
mod docs;
mod events;
mod export;
mod framing;
mod history;
mod lines;
mod metrics;
mod openapi;
mod operations;
mod prefer;
mod probes;
pub mod problem;
mod queue;
mod records;
mod report;
mod router;
mod routes;
mod timed;
mod tls;
mod transactions;
mod writes;
mod writes_stream;

pub use accept::serve;
pub use app::App;
pub use auth::{Auth, Policy};
pub use routes::{Body, ROUTES, Route};
pub use tls::{Tls, keep_fresh};
