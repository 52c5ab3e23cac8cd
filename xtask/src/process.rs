//! Other programs, and where things lie.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::Result;

/// Beginnings of the names of variables that describe one package.
const OF_A_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// The root of the workspace from which cargo runs this program. Not that from which it was built: clones that share a
/// folder for what they build share this program, too.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let mut root = PathBuf::from(manifest);
        root.pop();
        root
    })
}

/// What is too large to be built twice: `$HOME/.cache/outlast`.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").ok_or("the variable HOME is not set")?;
    Ok(Path::new(&home).join(".cache/outlast"))
}

/// `cargo` with these arguments, in the root of the workspace.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    // Left behind by the cargo that runs this program. Build scripts watch some of them, and would have everything
    // behind them built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_A_PACKAGE.iter().any(|start| name.starts_with(start))) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it with its output on this terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{} does not start: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command)).into()) }
}

/// Runs it with its output on this terminal, and returns that, errors included.
pub(crate) fn run_and_read(command: &mut Command) -> Result<String> {
    let (reader, writer) = std::io::pipe()?;
    let errors = writer.try_clone()?;
    let mut child = command
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{} does not start: {error}", shown(command)))?;
    // Our ends of the pipe: it must end with the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;
    if status.success() { Ok(text) } else { Err(format!("{}: {status}", shown(command)).into()) }
}

/// What it prints on standard output, without the last newline; nothing when it fails or is not there.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).current_dir(root()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program =
        Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(program, |line, argument| format!("{line} {}", argument.to_string_lossy()))
}

/// Where cargo builds: the folder above the profile in which this program lies.
pub(crate) fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target =
        program.parent().and_then(Path::parent).ok_or("this program does not lie in a target folder")?;
    Ok(target.to_owned())
}
