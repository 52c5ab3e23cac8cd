//! The SurrealDB server as its upstream `main` starts it, for the tests of Outlast.

// The engine's futures nest deeply: optimising them asks for more than the default.
#![recursion_limit = "256"]

use std::process::ExitCode;

fn main() -> ExitCode {
    surrealdb_server::init(surrealdb_server::core::CommunityComposer())
}
