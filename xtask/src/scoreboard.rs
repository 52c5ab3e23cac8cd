//! `cargo xtask scoreboard`: what was proven, how often, on what and when, as `docs/scoreboard.md`.

use std::fmt::Write as _;

use crate::Result;
use crate::machine;
use crate::process::{cargo, root, run_and_read};
use crate::sabotage;
use crate::torture::{Results, one_round};

/// Where the results of one round are kept.
const ONE_ROUND: &str = "one-round";

/// The row whose long run is a command of its own.
const WHOLE_SYSTEM: &str = "Whole system, simulated";

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only write the page, from what was run last
    #[arg(long)]
    write_only: bool,
}

/// A row: what is proven, and which closing lines say how often.
struct Row {
    title: &'static str,
    /// Beginnings of the names of what tests count.
    units: &'static [&'static str],
    target: &'static str,
    how: &'static str,
}

const ROWS: [Row; 11] = [
    Row {
        title: "Power loss, simulated",
        units: &["crash points"],
        target: "10,000 in CI",
        how: "every short history of the log at every instant, long random ones, and power losses while recovering; \
              what was not synced is lost, kept, reordered or torn (`outlast-log/tests/histories.rs`)",
    },
    Row {
        title: "Power loss of a real file system",
        units: &["power losses"],
        target: "30 in CI",
        how: "ext4 under the release binary is shut down without its journal being written \
              (`outlast-server/tests/kernel/power.rs`)",
    },
    Row {
        title: "kill -9",
        units: &["kills"],
        target: "50 in CI",
        how: "the release binary, at named system calls and at random moments (`kernel/kills.rs`)",
    },
    Row {
        title: "Errors of the disk, simulated",
        units: &["failing calls"],
        target: "every call",
        how: "each call of a reference workload fails in each way, once and for ever (`outlast-log/tests/errors.rs`)",
    },
    Row {
        title: "Errors of the disk, real",
        units: &[
            "all in all",
            "writes without space",
            "starts that failed",
            "failed syncs",
            "full",
            "refused",
        ],
        target: "",
        how: "system calls of the release binary fail, its file system is full (`kernel/faults.rs`, `full_disk.rs`)",
    },
    Row {
        title: "Rot",
        units: &["bytes", "flips", "cuts", "rotten"],
        target: "every byte of 64 KiB",
        how: "every byte flipped, files cut at every length (`outlast-log/tests/corruption/`)",
    },
    Row {
        title: "Reference model",
        units: &["model operations"],
        target: "100,000 in CI",
        how: "random operations, crashes and faults included, against a list in memory (`outlast-log/tests/model/`)",
    },
    Row {
        title: "Schedules",
        units: &["schedules"],
        target: "10,000 in CI",
        how: "the log's threads under a scheduler that chooses who goes on (`outlast-log/tests/schedules/`)",
    },
    Row {
        title: WHOLE_SYSTEM,
        units: &["simulated lives"],
        target: "200 in CI, 20,000 by one command",
        how: "library, log and a database with a temper in virtual time, with clients, operators, crashes and power \
              losses; then the conservation law has to hold (`outlast/tests/simulation/`; in the second column \
              `cargo xtask simulate`)",
    },
    Row {
        title: "Determinism",
        units: &["seeds lived"],
        target: "20 in CI",
        how: "the same seed gives the same life, bit for bit, in one process and in two (`outlast/tests/simulation/`)",
    },
    Row {
        title: "Fuzzing",
        units: &["executions"],
        target: "",
        how: "`cargo xtask fuzz`: decoding, opening and importing arbitrary bytes, guided by coverage (`fuzz/`)",
    },
];

/// Runs every torment and the fuzzing once, unless told not to, and writes the page.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.write_only {
        let mut once = one_round()?;
        once.tally.read(&run_and_read(&mut cargo(["run", "--quiet", "--package", "xtask", "--", "fuzz"]))?);
        once.save(ONE_ROUND)?;
    }
    let once = Results::load(ONE_ROUND)?.ok_or("nothing was run yet: leave out --write-only")?;
    let long = Results::load(Results::TORTURE)?;
    let simulated = Results::load(Results::SIMULATION)?;
    let page = page(&once, long.as_ref(), simulated.as_ref(), sabotage::last_result().as_deref())?;
    std::fs::write(root().join("docs/scoreboard.md"), page)?;
    println!("wrote docs/scoreboard.md");
    Ok(())
}

fn page(
    once: &Results,
    long: Option<&Results>,
    simulated: Option<&Results>,
    sabotage: Option<&str>,
) -> Result<String> {
    let mut text = String::from(
        "# Scoreboard\n\nWritten by `cargo xtask scoreboard` from what tests counted themselves. A test that sees a \
         promise broken fails, and a run that failed has no figures here.\n\n",
    );
    for line in machine::short() {
        writeln!(text, "- {line}")?;
    }
    writeln!(text, "- One round (what CI runs): {}", described(once))?;
    match long {
        Some(long) => {
            writeln!(text, "- The long run (`cargo xtask torture --minutes N`): {}", described(long))?;
        }
        None => writeln!(text, "- The long run (`cargo xtask torture --minutes N`): none yet")?,
    }
    if let Some(simulated) = simulated {
        writeln!(text, "- The simulation (`cargo xtask simulate`): {}", described(simulated))?;
    }
    writeln!(text, "\n| | one round | the long run | target | what is done |\n|---|---:|---:|---|---|")?;
    for row in &ROWS {
        let figures =
            |results: Option<&Results>| results.map_or_else(|| "-".to_owned(), |it| figures(row, it));
        let long = if row.title == WHOLE_SYSTEM { simulated.or(long) } else { long };
        let (one_round, long_run) = (figures(Some(once)), figures(long));
        writeln!(text, "| {} | {one_round} | {long_run} | {} | {} |", row.title, row.target, row.how)?;
    }
    let sabotage = sabotage.unwrap_or("not run yet");
    writeln!(
        text,
        "| Planted bugs | {sabotage} | - | all | `cargo xtask sabotage`: each patch in `sabotage/` must make a test fail |"
    )?;
    let all = std::iter::once(once).chain(long).chain(simulated);
    let mut counted = String::new();
    for (name, sum) in all.flat_map(|results| &results.tally.units) {
        if !sum.promises().is_empty() {
            writeln!(counted, "- {name}: {}, {}", sum.count, sum.promises())?;
        }
    }
    write!(text, "\n## Counted by the tests that compare in the end\n\n{counted}\n")?;
    let seeds = |results: &Results| results.tally.seeds.join(", ");
    writeln!(
        text,
        "## Seeds\n\nEvery run draws new ones and prints them; `OUTLAST_SEED` replays one. Some of the last:\n"
    )?;
    writeln!(text, "- one round: {}", seeds(once))?;
    if let Some(long) = long {
        writeln!(text, "- the long run: {}", seeds(long))?;
    }
    write!(text, "\n{}", std::fs::read_to_string(root().join("docs/bugs.md"))?.replacen("# ", "## ", 1))?;
    Ok(text)
}

fn described(results: &Results) -> String {
    let Results { date, commit, rounds, seconds, .. } = results;
    format!("commit {commit}, begun {date}, {rounds} rounds in {} min", seconds / 60)
}

/// What a row's tests counted.
fn figures(row: &Row, results: &Results) -> String {
    let of_row = |name: &str| row.units.iter().any(|unit| name.starts_with(unit));
    let units = results.tally.units.iter().filter(|(name, _)| of_row(name));
    let told: Vec<String> = units.map(|(name, unit)| format!("{} {name}", thousands(unit.count))).collect();
    if told.is_empty() { "-".to_owned() } else { told.join("<br>") }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    #[test]
    fn a_row_shows_what_its_tests_counted() {
        let mut tally = Tally::default();
        tally.read("kills at random moments: 1234567, lost 0\nkills at 9 named points: 5, lost 0");
        let results = Results { tally, ..Results::default() };
        let row = |title| ROWS.iter().find(|row| row.title == title).unwrap();
        assert_eq!(
            figures(row("kill -9"), &results),
            "5 kills at 9 named points<br>1,234,567 kills at random moments"
        );
        assert_eq!(figures(row("Rot"), &results), "-");
    }
}
