//! The HTTP interface: routes, problems, and the accept loop with its limits.

mod accept;
mod app;
mod auth;
mod body;
mod dead;
mod docs;
mod events;
mod framing;
mod metrics;
mod openapi;
mod prefer;
mod probes;
pub mod problem;
mod queue;
mod records;
mod router;
mod routes;
mod timed;
mod tls;
mod transactions;
mod writes;

pub use accept::serve;
pub use app::App;
pub use auth::{Auth, Policy};
pub use routes::{Body, ROUTES, Route};
pub use tls::{Tls, keep_fresh};
