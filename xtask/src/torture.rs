//! `cargo xtask torture --minutes N`: the randomised tests of the log again and again, with new seeds each time.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::process::{cargo, output, root, run as run_command, run_and_read, target};
use crate::tally::Tally;

/// How long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Tests, by their names [default: all of them]
    #[arg(value_parser = TORMENTS.each_ref().map(|torment| torment.tests[torment.tests.len() - 1]))]
    tests: Vec<String>,
    /// Minutes; every test runs at least once
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

/// One kind of torment: a test, and how it is called.
struct Torment {
    name: &'static str,
    /// What `cargo test` is called with.
    tests: &'static [&'static str],
    /// What the test programs are called with.
    programs: &'static [&'static str],
}

static TORMENTS: [Torment; 7] = [
    Torment {
        name: "power losses, simulated",
        tests: &["--workspace", "--test", "histories"],
        programs: &["--nocapture"],
    },
    Torment {
        name: "failing calls",
        tests: &["--workspace", "--test", "errors"],
        programs: &["--nocapture"],
    },
    Torment {
        name: "against the specification",
        tests: &["--workspace", "--test", "model"],
        programs: &["--nocapture"],
    },
    Torment { name: "rot", tests: &["--workspace", "--test", "corruption"], programs: &["--nocapture"] },
    Torment {
        name: "schedules",
        tests: &["--workspace", "--features", "outlast-log/shuttle", "--test", "schedules"],
        programs: &["--nocapture"],
    },
    Torment {
        name: "the whole system, simulated",
        tests: &["--workspace", "--features", "outlast/simulation", "--test", "simulation"],
        programs: &["--nocapture"],
    },
    Torment {
        name: "the release binary on a real kernel",
        tests: &["--workspace", "--test", "kernel"],
        programs: &["--ignored", "--show-output"],
    },
];

/// Runs until the time is over or a promise is broken, and keeps what it came to.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chosen = |torment: &&Torment| {
        arguments.tests.is_empty()
            || torment.tests.last().is_some_and(|last| arguments.tests.iter().any(|it| it == last))
    };
    let chosen: Vec<&Torment> = TORMENTS.iter().filter(chosen).collect();
    let results = torture(&chosen, Duration::from_mins(arguments.minutes))?;
    results.save(Results::TORTURE)?;
    println!("\n{}", results.summary());
    Ok(())
}

/// Every torment once.
pub(crate) fn one_round() -> Result<Results> {
    torture(&TORMENTS.each_ref(), Duration::ZERO)
}

/// These torments in turn, once at least.
fn torture(torments: &[&Torment], time: Duration) -> Result<Results> {
    let binary = target()?.join("release/outlast");
    run_command(
        cargo([
            "build",
            "--locked",
            "--quiet",
            "--release",
            "--package",
            "outlast-server",
            "--bin",
            "outlast",
        ])
        .env("CARGO_TARGET_DIR", target()?),
    )?;
    let started = Instant::now();
    let mut results = Results::begin();
    while results.rounds == 0 || started.elapsed() < time {
        for torment in torments {
            if results.rounds > 0 && started.elapsed() >= time {
                break;
            }
            println!("\n=== {}, after {} s ===", torment.name, started.elapsed().as_secs());
            let mut tally = Tally::default();
            tally.read(&run_and_read(torment.command().env("OUTLAST_RELEASE_BINARY", &binary))?);
            if tally.units.is_empty() {
                return Err(format!("{}: the test did not say what it came to", torment.name).into());
            }
            results.tally.merge(&tally);
            if let Some(broken) = results.broken() {
                return Err(format!("{}: {broken}", torment.name).into());
            }
        }
        results.rounds += 1;
        results.seconds = started.elapsed().as_secs();
        println!("\n{}", results.summary());
    }
    Ok(results)
}

impl Torment {
    fn command(&self) -> Command {
        let mut command = cargo(["test", "--locked", "--quiet"]);
        command.args(self.tests).arg("--").args(self.programs);
        command
    }
}

/// Where results are kept from which the scoreboard is written: in the repository, since the machine that took an hour
/// for them may be gone when the next row is added.
pub(crate) fn results() -> PathBuf {
    root().join("docs/results")
}

/// What runs came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) rounds: u64,
    pub(crate) seconds: u64,
    pub(crate) tally: Tally,
}

impl Results {
    /// The name of the results of a long run.
    pub(crate) const TORTURE: &'static str = "torture";
    /// The name of the results of the last `cargo xtask simulate`.
    pub(crate) const SIMULATION: &'static str = "simulation";

    pub(crate) fn begin() -> Self {
        let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let date = output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default();
        Self { date, commit, ..Self::default() }
    }

    pub(crate) fn broken(&self) -> Option<String> {
        let broken = self.tally.units.iter().filter(|(_, unit)| !unit.broken().is_empty());
        let told = broken.map(|(name, unit)| format!("{name}: {}", unit.broken().join(", ")));
        Some(told.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    }

    /// A line for each kind of thing that was counted.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{} rounds in {} s", self.rounds, self.seconds);
        for (name, unit) in &self.tally.units {
            let _ = write!(text, "\n{name}: {}, {}", unit.count, unit.promises());
        }
        text
    }

    fn path(name: &str) -> PathBuf {
        results().join(format!("{name}.json"))
    }

    pub(crate) fn save(&self, name: &str) -> Result<()> {
        std::fs::create_dir_all(results())?;
        let value = json!({
            "date": self.date, "commit": self.commit, "rounds": self.rounds, "seconds": self.seconds,
            "tally": self.tally.to_json(),
        });
        Ok(std::fs::write(Self::path(name), format!("{value:#}\n"))?)
    }

    /// The last ones, if there are any.
    pub(crate) fn load(name: &str) -> Result<Option<Self>> {
        let Ok(text) = std::fs::read_to_string(Self::path(name)) else { return Ok(None) };
        let value: Value = serde_json::from_str(&text)?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| value[name].as_u64().unwrap_or_default();
        Ok(Some(Self {
            date: text("date"),
            commit: text("commit"),
            rounds: number("rounds"),
            seconds: number("seconds"),
            tally: Tally::from_json(&value["tally"]),
        }))
    }
}
