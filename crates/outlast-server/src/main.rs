//! The binary `outlast`: see the library for what it does.

use std::process::ExitCode;

/// A request makes and frees some dozens of small blocks on whichever thread it runs: the C library's allocator took a
/// sixth of the server's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outlast_server::run(std::env::args_os())
}
