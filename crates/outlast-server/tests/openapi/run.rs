//! One run of schemathesis against a server.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use outlast_testkit::schemathesis;

/// What is generated follows from it; `OUTLAST_SEED` is another.
const SEED: u64 = 6885;

/// A run, and what is different from one of everything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run<'a> {
    /// Who asks; a server without tokens asks nobody.
    pub(crate) token: Option<&'a str>,
    /// Of `examples,coverage,fuzzing,stateful`.
    pub(crate) phases: &'a str,
    /// Requests for each operation and kind of data, beside those of the phase coverage.
    pub(crate) examples: u32,
    /// Only operations whose path this expression matches, if any is given.
    pub(crate) only: Option<&'a str>,
    /// Operations (by their ids) that are left out, each with the reason at the place where it is named.
    pub(crate) without: &'a [&'a str],
    /// Whether only valid requests are made.
    pub(crate) valid: bool,
    /// Whether 503 is what has to be answered.
    pub(crate) unavailable: bool,
}

/// All checks that there are, with what each of them cannot know of this interface.
fn configuration(run: &Run<'_>) -> String {
    let mut text = String::from("hooks = \"hooks\"\n");
    // A valid write can be one that the database refuses (409 and 422), or larger than it takes (413): whether it is, no
    // schema can say.
    text.push_str("[checks.positive_data_acceptance]\n");
    text.push_str("expected-statuses = [\"2xx\", 401, 403, 404, 409, 413, 422, 503]\n");
    text.push_str("[checks.not_a_server_error]\n");
    let _ = writeln!(
        text,
        "expected-statuses = [\"2xx\", \"4xx\"{}]",
        if run.unavailable { ", 503" } else { "" }
    );
    // Without tokens there is nothing to ignore.
    let _ = writeln!(text, "[checks.ignored_auth]\nenabled = {}", run.token.is_some());
    // No test asserts a time.
    text.push_str("[checks]\nmax_response_time = 600\n");
    text
}

/// Runs it, and fails with what it found.
///
/// # Panics
/// When an answer is not as the document says.
pub(crate) fn check(name: &str, url: &str, run: &Run<'_>) {
    let Some(program) = schemathesis::program() else { return };
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("schemathesis.toml"), configuration(run)).unwrap();
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi/hooks.py");
    std::fs::copy(hooks, place.path().join("hooks.py")).unwrap();
    let seed = std::env::var("OUTLAST_SEED").unwrap_or_else(|_| SEED.to_string());
    println!("{name}: OUTLAST_SEED={seed}");
    let mut command = Command::new(program);
    command.current_dir(place.path()).env("PYTHONPATH", place.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(["--no-color", "run", &format!("{url}/openapi.json"), "--checks", "all", "--workers", "1"]);
    command.args(["--seed", &seed, "--phases", run.phases, "--max-examples", &run.examples.to_string()]);
    command.args(["--generation-database", "none", "--request-timeout", "30", "--warnings", "off"]);
    if let Some(token) = run.token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    if run.valid {
        command.args(["--mode", "positive"]);
    }
    if let Some(only) = run.only {
        command.args(["--include-path-regex", only]);
    }
    for id in run.without {
        command.args(["--exclude-operation-id", id]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // What it counted; with the failures above when there are any.
    let shown = said.find("= SUMMARY =").filter(|_| output.status.success()).map_or(&*said, |at| &said[at..]);
    println!("{shown}");
    assert!(
        output.status.success(),
        "{name}: the answers are not as /openapi.json says; seed {seed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // A run that asked nothing would find nothing.
    assert!(said.contains("Test cases:") && said.contains(" passed"), "{name}: nothing was asked");
}
