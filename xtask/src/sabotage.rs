//! `cargo xtask sabotage`: plants known bugs, one at a time, in a copy of the sources, and sees whether the tests that
//! are there for them fail. A planted bug that survives is a test that is missing.
//!
//! Each is a patch in `sabotage/`. The lines before its first `diff` say what it breaks, and which tests have to see
//! that: `# tests: -p outlast-log --test commit`. Of a bug in the protocol also `# lives: 10`: in so many simulated lives it
//! must be seen, of 200 or of those in `# seeds: 1200`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{cargo, output, root, run as run_command, shown, target};
use crate::torture::results;

/// The patches, in the root of the workspace.
const FOLDER: &str = "sabotage";
/// Where it is kept what became of each, beside the results of other runs: a line for each that was caught, with the commit
/// at which it was tried last.
const RESULT: &str = "sabotage.txt";
/// A test that has not ended by then hangs: some planted bugs make somebody wait for ever.
const PATIENCE: Duration = Duration::from_mins(6);
/// How `timeout` ends when it had to end something.
const OUT_OF_PATIENCE: i32 = 124;

/// Which bugs to plant.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Beginnings of the names of patches [default: all of them]
    names: Vec<String>,
    /// Only see whether every patch still fits the code
    #[arg(long)]
    check: bool,
}

/// One planted bug.
#[derive(Debug)]
struct Bug {
    name: String,
    patch: PathBuf,
    /// What `cargo test` is called with.
    tests: Vec<String>,
    /// In so many simulated lives it must be caught.
    lives: u64,
    /// Of so many.
    seeds: Option<String>,
}

/// What became of it.
enum Fate {
    /// By a test of this name.
    Caught(String),
    Survived,
    /// In so few simulated lives that it may well survive the next time.
    Rarely(u64),
    /// It says nothing: it does not apply, or not build.
    Useless(String),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check();
    }
    let chosen = |bug: &Bug| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| bug.name.starts_with(name.as_str()))
    };
    let bugs: Vec<Bug> = bugs()?.into_iter().filter(chosen).collect();
    if bugs.is_empty() {
        return Err(format!("no patch in {FOLDER}/ has such a name").into());
    }
    let scratch = Scratch::new(&target()?.join("sabotage"))?;
    scratch.prove_clean(&bugs)?;
    let mut kept = Kept::load();
    let mut caught = 0;
    for bug in &bugs {
        let started = Instant::now();
        let fate = scratch.try_out(bug)?;
        kept.note(bug, &fate)?;
        let words = match fate {
            Fate::Caught(test) => {
                caught += 1;
                format!("caught    {test}")
            }
            Fate::Survived => "SURVIVED".to_owned(),
            Fate::Rarely(lives) => format!("RARELY    in {lives} lives; {} are asked for", bug.lives),
            Fate::Useless(why) => format!("USELESS   {why}"),
        };
        println!("{:<44} {:>4.0} s  {words}", bug.name, started.elapsed().as_secs_f64());
    }
    println!("sabotage: {caught} of {} caught", bugs.len());
    if caught == bugs.len() { Ok(()) } else { Err("not every planted bug was caught".into()) }
}

/// How many of all are caught, in words, each by its last try; `None` if there was none.
pub(crate) fn last_result() -> Option<String> {
    let (kept, bugs) = (Kept::load(), bugs().ok()?);
    let caught: Vec<&String> = bugs.iter().filter_map(|bug| kept.0.get(&bug.name)).collect();
    let mut when: Vec<&str> =
        caught.iter().filter_map(|line| Some(line.rsplit_once(", commit ")?.1)).collect();
    when.sort_unstable();
    when.dedup();
    (!caught.is_empty())
        .then(|| format!("{} of {} caught (at {})", caught.len(), bugs.len(), when.join("; ")))
}

/// For each bug that was caught when it was last tried, by which test and when.
struct Kept(BTreeMap<String, String>);

impl Kept {
    fn load() -> Self {
        let text = fs::read_to_string(results().join(RESULT)).unwrap_or_default();
        let line = |line: &str| line.split_once(": ").map(|(name, rest)| (name.to_owned(), rest.to_owned()));
        Self(text.lines().filter_map(line).collect())
    }

    fn note(&mut self, bug: &Bug, fate: &Fate) -> Result<()> {
        let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
        let date = output("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default();
        match fate {
            Fate::Caught(test) => {
                self.0.insert(bug.name.clone(), format!("{test}, commit {commit} of {date}"));
            }
            Fate::Survived | Fate::Rarely(_) | Fate::Useless(_) => {
                self.0.remove(&bug.name);
            }
        }
        let lines: Vec<String> = self.0.iter().map(|(name, rest)| format!("{name}: {rest}")).collect();
        fs::create_dir_all(results())?;
        Ok(fs::write(results().join(RESULT), lines.join("\n") + "\n")?)
    }
}

/// Does every patch still apply?
pub(crate) fn check() -> Result<()> {
    let bugs = bugs()?;
    let stale: Vec<&str> = bugs
        .iter()
        .filter(|bug| !apply(root(), &bug.patch, &["--check"]).is_ok_and(|fits| fits))
        .map(|bug| bug.name.as_str())
        .collect();
    if !stale.is_empty() {
        return Err(format!("these planted bugs no longer fit the code: {}", stale.join(", ")).into());
    }
    println!("sabotage: all {} planted bugs fit the code", bugs.len());
    Ok(())
}

fn bugs() -> Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    for file in fs::read_dir(root().join(FOLDER))? {
        let patch = file?.path();
        if patch.extension().is_some_and(|extension| extension == "patch") {
            bugs.push(bug(patch)?);
        }
    }
    bugs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(bugs)
}

fn bug(patch: PathBuf) -> Result<Bug> {
    let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(&patch)?;
    let tests =
        text.lines().take_while(|line| line.starts_with('#')).find_map(|line| line.strip_prefix("# tests: "));
    let tests =
        tests.ok_or_else(|| format!("{name} does not say in a line `# tests: ...` what catches it"))?;
    let tests = tests.split_whitespace().map(str::to_owned).collect();
    let lives = text.lines().find_map(|line| line.strip_prefix("# lives: ")).map_or(Ok(0), str::parse)?;
    let seeds = text.lines().find_map(|line| line.strip_prefix("# seeds: ")).map(str::to_owned);
    Ok(Bug { name, patch, tests, lives, seeds })
}

/// False if it does not fit.
fn apply(tree: &Path, patch: &Path, how: &[&str]) -> Result<bool> {
    let mut git = Command::new("git");
    git.arg("apply").args(how).arg(patch).current_dir(tree);
    // As a tool that patches files: the copy lies inside a repository and does not belong to it.
    git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree)).env_remove("GIT_DIR");
    Ok(git.stderr(Stdio::null()).status()?.success())
}

/// A copy of the sources with build products of its own, which stay for the next time.
struct Scratch {
    tree: PathBuf,
    build: PathBuf,
}

impl Scratch {
    fn new(folder: &Path) -> Result<Self> {
        let scratch = Self { tree: folder.join("tree"), build: folder.join("build") };
        scratch.refresh()?;
        Ok(scratch)
    }

    /// Every file is as in the sources. One that is already is not touched, so that it is not built again.
    fn refresh(&self) -> Result<()> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
        let listed = git.output()?;
        if !listed.status.success() {
            return Err(format!("{}: {}", shown(&git), String::from_utf8_lossy(&listed.stderr)).into());
        }
        let names = String::from_utf8(listed.stdout)?;
        for name in names.split_terminator('\0') {
            let (from, to) = (root().join(name), self.tree.join(name));
            let Ok(bytes) = fs::read(&from) else { continue }; // removed, and git does not know yet
            if fs::read(&to).is_ok_and(|old| old == bytes) {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&self.tree))?;
            fs::write(&to, bytes)?;
        }
        Ok(())
    }

    /// Without any bug the tests pass; otherwise that they fail says nothing.
    fn prove_clean(&self, bugs: &[Bug]) -> Result<()> {
        let calls: BTreeSet<&[String]> = bugs.iter().map(|bug| &bug.tests[..]).collect();
        for tests in calls {
            println!("clean: {}", tests.join(" "));
            run_command(self.cargo(tests, true).stdout(Stdio::null()).stderr(Stdio::null()))?;
        }
        Ok(())
    }

    fn try_out(&self, bug: &Bug) -> Result<Fate> {
        self.refresh()?;
        if !apply(&self.tree, &bug.patch, &[])? {
            return Ok(Fate::Useless("does not apply".to_owned()));
        }
        let mut build = self.cargo(&bug.tests, false);
        if !build.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            return Ok(Fate::Useless("does not build".to_owned()));
        }
        let fate = self.test(bug)?;
        self.refresh()?;
        Ok(fate)
    }

    fn cargo(&self, tests: &[String], run: bool) -> Command {
        let mut cargo = cargo(["test", "--locked", "--quiet"]);
        cargo.args(tests).args((!run).then_some("--no-run"));
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
        cargo
    }

    fn test(&self, bug: &Bug) -> Result<Fate> {
        let tests = self.cargo(&bug.tests, true);
        // Ends also the test programs that cargo has started.
        let mut limited = Command::new("timeout");
        limited.arg(PATIENCE.as_secs().to_string()).arg(tests.get_program()).args(tests.get_args());
        limited.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
        limited.envs(bug.seeds.iter().map(|seeds| ("OUTLAST_SEEDS", seeds)));
        let output = limited.stderr(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(match (output.status.code(), wrong_lives(&said)) {
            (Some(0), _) => Fate::Survived,
            (Some(OUT_OF_PATIENCE), _) => Fate::Caught("a test that waits for ever".to_owned()),
            (_, Some(lives)) if lives < bug.lives => Fate::Rarely(lives),
            (_, Some(lives)) => Fate::Caught(format!("{} in {lives} lives", first_failure(&said))),
            (_, None) => Fate::Caught(first_failure(&said)),
        })
    }
}

/// In how many simulated lives something was wrong, if the tests were a simulation.
fn wrong_lives(output: &str) -> Option<u64> {
    let told = output.lines().find(|line| line.starts_with("simulated lives"))?;
    told.split_once(", wrong ")?.1.split(' ').next()?.parse().ok()
}

/// The name of the first test that failed: cargo ends with the program in which one did, and that with a list.
fn first_failure(output: &str) -> String {
    let list = output.rsplit("\nfailures:\n").next().filter(|list| list.len() < output.len());
    let name = list.and_then(|list| list.lines().map(str::trim).find(|line| !line.is_empty()));
    name.unwrap_or("the test program stopped").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_named() {
        let output = "\nrunning 2 tests\n\nfailures:\n\n---- b::x stdout ----\nno\n\nfailures:\n    b::x\n    y\n\ntest result";
        assert_eq!(first_failure(output), "b::x");
        assert_eq!(first_failure("\nrunning 2 tests\nabort"), "the test program stopped");
        assert_eq!(wrong_lives("x\nsimulated lives of a queue: 200, wrong 17 (39664 writes)\n"), Some(17));
        assert_eq!(wrong_lives(output), None);
    }
}
