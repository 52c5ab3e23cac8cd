//! `cargo xtask simulate`: the whole system in virtual time, for many seeds, or for one with all that happened.

use std::process::Command;
use std::time::Instant;

use crate::Result;
use crate::process::{cargo, run as run_command, run_and_read};
use crate::torture::Results;

/// Which seeds.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// The first of them [default: chosen at random, and printed]
    #[arg(long)]
    first: Option<u64>,
    /// Only this one, with a line for everything that happens; `RUST_LOG=debug` adds what the library says
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
}

/// Lives all of them and keeps what they came to, for the scoreboard.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(seed) = arguments.seed {
        return run_command(lives().env("OUTLAST_SEED", seed.to_string()));
    }
    let mut command = lives();
    command.env("OUTLAST_SEEDS", arguments.seeds.to_string());
    if let Some(first) = arguments.first {
        command.env("OUTLAST_FIRST_SEED", first.to_string());
    }
    let started = Instant::now();
    let mut results = Results::begin();
    results.tally.read(&run_and_read(&mut command)?);
    if let Some(broken) = results.broken() {
        return Err(broken.into());
    }
    (results.rounds, results.seconds) = (1, started.elapsed().as_secs());
    results.save(Results::SIMULATION)?;
    println!("\n{}", results.summary());
    Ok(())
}

/// In release, where a life takes some dozens of milliseconds.
fn lives() -> Command {
    let mut command = cargo(["test", "--locked", "--quiet", "--release", "--package", "outlast"]);
    command.args(["--features", "simulation", "--test", "simulation", "--"]);
    command.args(["in_no_life", "--nocapture"]);
    command
}
