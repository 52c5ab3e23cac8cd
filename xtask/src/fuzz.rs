//! `cargo xtask fuzz`: builds the fuzz targets with coverage and runs each for some time, from the corpus in `fuzz/`.
//!
//! libFuzzer on stable Rust: coverage comes from LLVM's own pass, without any sanitizer (there is no `unsafe` in what is
//! fuzzed).

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::process::{cargo, output, root, run as run_command, target};

const TARGETS: [&str; 3] = ["frames", "opening", "import"];
/// How long a target runs, unless told otherwise.
const SECONDS: u64 = 20;
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Targets [default: all of them]
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long each of them runs; 0 for the corpus alone
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Adds what reaches new code to the corpus in `fuzz/`
    #[arg(long)]
    grow: bool,
}

/// What CI runs: each target for a while, from its corpus. Opening has threads and random salts, so that what it reaches
/// differs from run to run.
pub(crate) fn run_bounded() -> Result<()> {
    run(&Arguments { targets: Vec::new(), seconds: SECONDS, grow: false })
}

/// Fails when a target finds something: the input is then in `fuzz/artifacts`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let host = output("rustc", &["--print", "host-tuple"]).ok_or("rustc does not say what it builds for")?;
    let folder = target()?.join("fuzz");
    let mut build = cargo(["build", "--locked", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // A target is named so that build scripts and macros are built without coverage.
    build.args(["--target", &host]).env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", COVERAGE.join(" "));
    run_command(&mut build)?;
    for name in TARGETS
        .iter()
        .filter(|name| arguments.targets.is_empty() || arguments.targets.iter().any(|it| it == *name))
    {
        println!("\n--- {name}, {} s ---", arguments.seconds);
        fuzz(&folder, &folder.join(&host).join("release").join(name), name, arguments)?;
    }
    Ok(())
}

fn fuzz(folder: &Path, program: &Path, name: &str, arguments: &Arguments) -> Result<()> {
    let corpus = root().join("fuzz/corpus").join(name);
    let artifacts = root().join("fuzz/artifacts").join(name);
    let found = folder.join("corpus").join(name);
    for directory in [&corpus, &artifacts, &found] {
        std::fs::create_dir_all(directory)?;
    }
    let mut command = Command::new(program);
    // A hang is anything longer than this, and memory has a bound.
    command.args([
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-max_len=4096",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    command.arg(match arguments.seconds {
        0 => "-runs=0".to_owned(),
        seconds => format!("-max_total_time={seconds}"),
    });
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    // New inputs go into the first.
    match (arguments.seconds, arguments.grow) {
        (0, _) => command.arg(&corpus),
        (_, true) => command.args([&corpus, &found]),
        (_, false) => command.args([&found, &corpus]),
    };
    let output = command.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let stat = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map_or("?", str::trim);
    if !output.status.success() {
        println!("{said}");
        return Err(format!("{name} found something: {}", found_input(&said)?).into());
    }
    let (executions, memory) = (stat("stat::number_of_executed_units:"), stat("stat::peak_rss_mb:"));
    println!("executions: {executions}, panics 0 (of {name}, with {memory} MB)");
    Ok(())
}

/// What libFuzzer has stored, as a line that can be copied from the output of a machine that is gone.
fn found_input(said: &str) -> Result<String> {
    let path = said.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let Some(path) = path else { return Ok("no input was stored".to_owned()) };
    let panic = said.lines().skip_while(|line| !line.contains("panicked at")).take(2);
    let panic = panic.collect::<Vec<_>>().join(" ");
    Ok(format!("{panic}; {path} is b\"{}\"", std::fs::read(path)?.escape_ascii()))
}
