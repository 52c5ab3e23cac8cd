//! The command line: `serve` runs the server, `log` looks at the files of a queue without one, everything else talks HTTP
//! to a running one.

mod arguments;
mod ask;
mod audit;
mod bulk;
mod check;
mod client;
mod dead;
mod drill;
mod edit;
mod files;
mod lane;
mod log;
mod outage;
mod output;
mod pages;
mod progress;
mod queue;
mod queue_import;
mod runs;
mod serve;
mod status;
mod stream;
mod suggest;
mod tail;
mod top;
mod write;
mod write_bulk;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::{Arguments, Command, ConfigCommand};
use output::Failure;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It did not: the message says why.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// The end of a log is torn, as a crash leaves it.
    Torn = 3,
    /// The data are not in order: damaged files, a malformed import.
    Data = 65,
    /// The server could not be reached.
    Unreachable = 69,
    /// Another process has the queue directory.
    Locked = 75,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command line to its end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::outgoing::choose_cryptography();
    let args: Vec<OsString> = args.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to do when even this cannot be printed.
            let _ = error.print();
            let exit = if asked { Exit::Ok } else { check::usage(&args) };
            return exit.into();
        }
    };
    let done = dispatch(&arguments).and_then(|()| match arguments.command {
        // What it prints is a greeting: a server that served and was stopped did what was asked.
        Command::Serve(_) => Ok(()),
        _ => output::written(),
    });
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(Failure { exit, message }) => {
            if !message.is_empty() {
                eprintln!("outlast: {message}");
            }
            exit.into()
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Serve(overrides) => serve::run(global, overrides),
        Command::Config { command: ConfigCommand::Show(overrides) } => files::show(global, overrides),
        Command::Config { command: ConfigCommand::Explain { key, overrides } } => {
            files::explain(global, key, overrides)
        }
        Command::Config { command: ConfigCommand::Check(overrides) } => files::check(global, overrides),
        Command::Config { command: ConfigCommand::Init { output } } => files::init(global, output.as_deref()),
        Command::Status(arguments) => {
            client::with(global, async |client| status::run(&client, arguments).await)
        }
        Command::Top(arguments) => client::with(global, async |client| top::run(&client, arguments).await),
        Command::Check(arguments) => check::run(global, arguments),
        Command::IsReady { wait } => {
            client::with(global, async |client| check::is_ready(&client, *wait).await)
        }
        Command::Tail => client::with(global, async |client| tail::run(&client).await),
        Command::Queue { command } => client::with(global, async |client| queue::run(&client, command).await),
        Command::Dead { command } => client::with(global, async |client| dead::run(&client, command).await),
        Command::Outage { command } => {
            client::with(global, async |client| outage::run(&client, command).await)
        }
        Command::Audit { limit } => client::with(global, async |client| audit::run(&client, *limit).await),
        Command::Write { command } => client::with(global, async |client| write::run(&client, command).await),
        Command::Log { key_file, command } => log::run(global, key_file.as_deref(), command),
        Command::Drill(arguments) => drill::run(global, arguments),
        Command::Completions { shell } => {
            pages::completions(*shell);
            Ok(())
        }
        Command::Man { directory } => pages::man(global, directory.as_deref()),
        Command::Pause(arguments) => {
            client::with(global, async |client| lane::pause(&client, arguments).await)
        }
        Command::Resume(arguments) => {
            client::with(global, async |client| lane::resume(&client, arguments).await)
        }
    }
}
