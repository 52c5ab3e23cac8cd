//! On what, when and of what was measured.

use std::fs;
use std::path::Path;

use crate::process::output;
use crate::surreal::SURREAL;

/// What it runs on: lines for the head of a report.
pub(crate) fn short() -> Vec<String> {
    vec![
        format!("Machine: {}", machine()),
        format!("Built with {}", output("rustc", &["--version"]).unwrap_or_default()),
        format!("Written at commit {}, {}", commit(), date()),
    ]
}

/// The same for a report of speed, with what bears on that.
pub(crate) fn describe(directory: &Path) -> Vec<String> {
    let place = directory.to_string_lossy();
    let disk = output("df", &["--output=source,fstype", &place])
        .and_then(|text| text.lines().nth(1).map(str::to_owned));
    let disk = disk.map(|line| line.split_whitespace().collect::<Vec<_>>().join(", ")).unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let surreal = std::env::var(SURREAL)
        .unwrap_or_else(|_| "as the tests build it, optimised lightly (opt-level 1)".to_owned());
    vec![
        format!("Machine: {}; files on {disk}", machine()),
        format!("Load average when the measuring began: {load}"),
        format!("SurrealDB server: {surreal}"),
        format!("Built with {}, `--release`", output("rustc", &["--version"]).unwrap_or_default()),
        format!("Commit {}", commit()),
        format!("Date: {}", date()),
    ]
}

fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = line_after("/proc/cpuinfo", "model name");
    let memory = line_after("/proc/meminfo", "MemTotal");
    let kernel = output("uname", &["-sr"]).unwrap_or_default();
    format!("{processors} x {model}, {memory} of memory, {kernel}")
}

fn date() -> String {
    output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let clean = output("git", &["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| changes.is_empty());
    if clean { commit } else { format!("{commit} with changes that are not committed") }
}

fn line_after(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or_else(String::new, |rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
}
