//! `cargo xtask ci`: everything that has to hold, step by step, each named and timed.

mod readme;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::Result;
use crate::process::{cargo, root, run as run_command, run_and_read, target};
use crate::surreal::{Build, SURREAL, SURREAL2, surreal, test_embedded};

/// How long fetching the database of advisories may take before the step goes on without it.
const ADVISORIES_LIMIT: Duration = Duration::from_mins(1);

/// What a step came to when it did not fail.
enum Done {
    Whole,
    /// All but this.
    Without(String),
}

/// Which checks to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Steps [default: all of them]
    #[arg(value_enum)]
    steps: Vec<Step>,
}

/// A step. CI runs all of them, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Is everything formatted?
    Format,
    /// Clippy on everything, warnings are errors
    Lints,
    /// Licences, bans, sources and advisories of dependencies
    Deny,
    /// Build the SurrealDB servers for the tests
    Surreal,
    /// All tests
    Tests,
    /// The rules of the test kit on SurrealDB's engine within a process, which is a feature
    Embedded,
    /// The release binary against the kernel: power losses, failing system calls, a full disk, kill -9
    Kernel,
    /// The log's threads in many orders, chosen by shuttle
    Schedules,
    /// The whole system in virtual time, many lives of a queue
    Simulation,
    /// The protocol as a model: every interleaving of a small world
    Model,
    /// Fuzz the log for a while
    Fuzz,
    /// Does every planted bug still fit the code?
    Sabotage,
    /// Does every document build, without a broken link?
    Documents,
    /// Do the README's promises name tests, and do its sessions work?
    Promises,
}

impl Step {
    fn run(self) -> Result<Done> {
        match self {
            Self::Format => format(),
            Self::Lints => lints(),
            Self::Deny => deny(),
            Self::Surreal => server(),
            Self::Tests => tests(),
            Self::Embedded => embedded(),
            Self::Kernel => kernel(),
            Self::Schedules => schedules(),
            Self::Simulation => simulation(),
            Self::Model => model(),
            Self::Fuzz => fuzz(),
            Self::Sabotage => planted_bugs(),
            Self::Documents => documents(),
            Self::Promises => promises(),
        }
    }
}

/// Runs every step, also after one has failed, and says at the end what failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chosen = |step: &Step| arguments.steps.is_empty() || arguments.steps.contains(step);
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for step in Step::value_variants().iter().copied().filter(chosen) {
        let name = format!("{step:?}").to_ascii_lowercase();
        println!("\n=== {name} ===");
        let started = Instant::now();
        let outcome = step.run();
        let seconds = started.elapsed().as_secs_f64();
        let word = match &outcome {
            Ok(Done::Whole) => "ok".to_owned(),
            Ok(Done::Without(what)) => format!("ok, SKIPPED: {what}"),
            Err(error) => format!("FAILED: {error}"),
        };
        println!("--- {name}: {word} ({seconds:.1} s)");
        lines.push(format!("{seconds:>7.1} s  {name}: {word}"));
        if outcome.is_err() {
            failed.push(name);
        }
    }
    println!("\n=== all steps ===\n{}", lines.join("\n"));
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

fn format() -> Result<Done> {
    run_command(&mut cargo(["fmt", "--all", "--check"]))?;
    Ok(Done::Whole)
}

fn lints() -> Result<Done> {
    // The others are what only their features build.
    let builds: [&[&str]; 3] = [
        &["--all-targets"],
        &["--lib", "--test", "simulation", "--features", "outlast/simulation"],
        &["--lib", "--test", "schedules", "--features", "outlast-log/shuttle"],
    ];
    for build in builds {
        let clippy = ["clippy", "--locked", "--workspace"].iter().chain(build);
        run_command(&mut cargo(clippy.chain(&["--", "-D", "warnings"])))?;
    }
    Ok(Done::Whole)
}

fn deny() -> Result<Done> {
    run_command(cargo(["deny", "--version"]).stdout(Stdio::null()))
        .map_err(|error| format!("cargo-deny is missing ({error}): `.ci/run` installs it"))?;
    let check = ["deny", "--workspace", "--locked", "check", "--hide-inclusion-graph"];
    run_command(&mut cargo(check.into_iter().chain(["licenses", "bans", "sources"])))?;
    if !fetched_advisories()? {
        println!(
            "SKIPPED: the database of advisories (github.com/RustSec/advisory-db) cannot be reached from here"
        );
        return Ok(Done::Without("advisories, their database cannot be reached".to_owned()));
    }
    run_command(&mut cargo(check.into_iter().chain(["--disable-fetch", "advisories"])))?;
    Ok(Done::Whole)
}

/// False when the database of advisories cannot be fetched in time.
fn fetched_advisories() -> Result<bool> {
    let mut fetching = cargo(["deny", "fetch", "db"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + ADVISORIES_LIMIT;
    loop {
        if let Some(status) = fetching.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() >= deadline {
            fetching.kill()?;
            fetching.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Minutes the first time, nothing afterwards.
fn server() -> Result<Done> {
    for (variable, build) in [(SURREAL, Build::Tests), (SURREAL2, Build::TestsOnTwo)] {
        let path = match std::env::var_os(variable) {
            Some(path) => PathBuf::from(path),
            None => surreal(build)?,
        };
        println!("{}", path.display());
        if !path.exists() {
            return Err(format!("{} does not exist", path.display()).into());
        }
    }
    Ok(Done::Whole)
}

/// Without PostgreSQL its tests are left out, but not in CI: `.ci/run` installs it. The tests for the other programs skip
/// themselves.
fn tests() -> Result<Done> {
    let all = ["test", "--locked", "--workspace", "--no-fail-fast"];
    let mut missing = Vec::new();
    if outlast_testkit::postgres::is_installed() {
        run_command(&mut cargo(all))?;
        if !outlast_testkit::pooler::is_installed() {
            missing.push("PgBouncer");
        }
    } else {
        run_command(&mut cargo(all.into_iter().chain(["--exclude", "outlast-postgres"])))?;
        missing.push("PostgreSQL");
    }
    if !outlast_testkit::browser::is_installed() {
        missing.push("Chromium, Node.js or npm");
    }
    if !outlast_testkit::schemathesis::is_possible() {
        missing.push("Python with venv");
    }
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&str| std::env::split_paths(&searched).any(|path| path.join(program).is_file());
    missing.extend(["promtool", "systemd-analyze", "kubectl"].into_iter().filter(|program| !found(program)));
    let skipped = || Done::Without(format!("{}, not installed", missing.join(", ")));
    Ok(if missing.is_empty() { Done::Whole } else { skipped() })
}

/// Apart from the workspace, since the engine takes long to build.
fn embedded() -> Result<Done> {
    test_embedded()?;
    Ok(Done::Whole)
}

/// Tests that need the binary as it is shipped, and much of the machine. They print what they left out, and in a line
/// each what they found.
fn kernel() -> Result<Done> {
    let target = target()?;
    let build =
        ["build", "--locked", "--quiet", "--release", "--package", "outlast-server", "--bin", "outlast"];
    run_command(cargo(build).env("CARGO_TARGET_DIR", &target))?;
    let test = ["test", "--locked", "--workspace", "--test", "kernel"];
    let shown = ["--", "--ignored", "--show-output"];
    let mut tests = cargo(test.into_iter().chain(shown));
    tests.env("OUTLAST_RELEASE_BINARY", target.join("release/outlast"));
    let output = run_and_read(&mut tests)?;
    let skipped: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("SKIPPED: ")).collect();
    Ok(if skipped.is_empty() { Done::Whole } else { Done::Without(skipped.join("; ")) })
}

/// A build of its own of the log and what stands above it. With the whole workspace, so that everything below is the
/// same as for all other tests.
fn schedules() -> Result<Done> {
    let build =
        ["test", "--locked", "--workspace", "--features", "outlast-log/shuttle", "--test", "schedules"];
    run_command(&mut cargo(build.into_iter().chain(["--", "--nocapture"])))?;
    Ok(Done::Whole)
}

/// A build of its own, as that of [`schedules`].
fn simulation() -> Result<Done> {
    let build =
        ["test", "--locked", "--workspace", "--features", "outlast/simulation", "--test", "simulation"];
    run_command(&mut cargo(build.into_iter().chain(["--", "--nocapture"])))?;
    Ok(Done::Whole)
}

/// Some minutes. Larger worlds by hand, when the protocol or its model has changed.
fn model() -> Result<Done> {
    let explore = |arguments: &[&str]| {
        let mut python = Command::new("python3");
        run_command(python.arg("docs/model/protocol.py").args(arguments).current_dir(root()))
    };
    let worlds: [&[&str]; 4] = [
        &[],
        &["--writes", "4", "--records", "2", "--faults", "kills=0,powers=1,backs=0,losses=0,refusals=1"],
        &["--writes", "3", "--records", "2", "--faults", "kills=0,powers=0,backs=1,losses=1,refusals=1"],
        &["--writes", "3", "--faults", "kills=0,powers=0,backs=0,losses=0,refusals=2"],
    ];
    for world in worlds {
        explore(world)?;
    }
    // It can tell right from wrong.
    explore(&["--every-break"])?;
    Ok(Done::Whole)
}

/// That the tests catch them takes longer: `cargo xtask sabotage`.
fn planted_bugs() -> Result<Done> {
    crate::sabotage::check()?;
    Ok(Done::Whole)
}

/// A while each; longer by hand: `cargo xtask fuzz --seconds N`.
fn fuzz() -> Result<Done> {
    crate::fuzz::run_bounded()?;
    Ok(Done::Whole)
}

fn documents() -> Result<Done> {
    let mut doc = cargo(["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
    run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Done::Whole)
}

fn promises() -> Result<Done> {
    let text =
        std::fs::read_to_string(root().join("README.md")).map_err(|error| format!("README.md: {error}"))?;
    let problems = readme::problems(&text, &|path| std::fs::read_to_string(root().join(path)).ok());
    if !problems.is_empty() {
        return Err(problems.join("; ").into());
    }
    let sessions = readme::sessions(&text);
    if sessions.is_empty() {
        return Err("README.md shows no curl command".into());
    }
    let target = target()?;
    let mut build = cargo(["build", "--locked", "--quiet", "--bin", "outlast"]);
    run_command(build.env("CARGO_TARGET_DIR", &target))?;
    readme::play(&target.join("debug/outlast"), &sessions)?;
    println!("every promise names its tests, and {} sessions work as they are shown", sessions.len());
    Ok(Done::Whole)
}
