//! Habits of this project as typed code: `cargo xtask ci` runs everything, `cargo xtask bench` measures, `cargo xtask
//! torture` runs the randomised tests for as long as one likes, `cargo xtask fuzz` fuzzes, `cargo xtask simulate` lives
//! many lives of a queue in virtual time, `cargo xtask sabotage` tests the tests, `cargo xtask scoreboard` writes down what they came to.

mod bench;
mod ci;
mod fuzz;
mod machine;
mod package;
mod process;
mod sabotage;
mod scoreboard;
mod server;
mod simulate;
mod surreal;
mod tally;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The error of a command that only ever reports: a sentence for the person who ran it.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Habits of this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check: format, lints, licences, tests, documents, promises
    Ci(ci::Arguments),
    /// Measure, in release, and print Markdown tables
    Bench(bench::Arguments),
    /// Fuzz the log, each target for some seconds
    Fuzz(fuzz::Arguments),
    /// Run the randomised tests of the log again and again
    Torture(torture::Arguments),
    /// Build the Debian package, with manual pages and completions (needs cargo-deb)
    Package,
    /// Live many lives of a queue in virtual time, or one of them aloud
    Simulate(simulate::Arguments),
    /// Plant known bugs, one at a time, and see whether the tests catch them
    Sabotage(sabotage::Arguments),
    /// Write docs/scoreboard.md from what tests counted
    Scoreboard(scoreboard::Arguments),
    /// One measurement in a process of its own, for `bench`
    #[command(hide = true)]
    Cell(bench::CellArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Torture(arguments) => torture::run(&arguments),
        Command::Package => package::run(),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Sabotage(arguments) => sabotage::run(&arguments),
        Command::Scoreboard(arguments) => scoreboard::run(&arguments),
        Command::Cell(arguments) => bench::run_cell(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
