//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::check::CheckArguments;
use super::drill::DrillArguments;
use super::lane::{PauseArguments, ResumeArguments};
use super::log::LogCommand;
use super::queue::Rate;
use super::queue_import::ImportArguments;
use super::status::StatusArguments;
use super::top::TopArguments;
use super::write::WriteCommand;
use crate::config::{Inputs, units};

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   not done: the message says why; `status` also when no writes are accepted; `check`: WARNING
  2   the command line is wrong; `check`: CRITICAL
  3   `log verify`: the end of the log is torn, as a crash leaves it; nothing acknowledged was in it; `check`: UNKNOWN
  65  the data are not in order: `log verify` found damage, or a file to import is malformed
  69  the server could not be reached
  75  another process has the queue directory
  78  the configuration is wrong

Settings come from flags, then variables OUTLAST_SECTION__KEY, then outlast.toml, then defaults: see `outlast config show`.";

/// Keeps accepting writes while the database is away, and brings every accepted write to it exactly once, in order.
#[derive(Debug, Parser)]
#[command(name = "outlast", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// For every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// The configuration file [default: outlast.toml, if it is there]
    #[arg(long, global = true, env = "OUTLAST_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The running server [default: where the configuration says that it listens]
    #[arg(long, global = true, env = "OUTLAST_URL", value_name = "URL")]
    pub(super) url: Option<String>,
    /// The bearer token for the running server; better given as the variable, which other users cannot see
    #[arg(long, global = true, env = "OUTLAST_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(super) token: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve(Overrides),
    /// How things stand: are writes accepted, was anything lost, when is the queue clear?
    Status(StatusArguments),
    /// The same live, as a screen on a terminal, with charts, what waits, dead letters and outages
    Top(TopArguments),
    /// For monitoring: OK, WARNING, CRITICAL or UNKNOWN, with the exit codes 0 to 3 of Nagios' plugins
    Check(CheckArguments),
    /// Whether writes can be durably accepted: 0 when they can
    IsReady {
        /// Wait for it at most so long, also for a server that is still starting
        #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
        wait: Option<Duration>,
    },
    /// Print what happens, as it happens: outages, pauses, dead letters
    Tail,
    /// The configuration: what it is and means, whether it is right, or a file to start from
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write and read records, and follow a write
    Write {
        #[command(subcommand)]
        command: WriteCommand,
    },
    /// The writes that wait, and an operator's hand on their delivery
    Queue {
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// The writes that the database refused
    Dead {
        #[command(subcommand)]
        command: DeadCommand,
    },
    /// Outages: what happened, and what became of the writes
    Outage {
        #[command(subcommand)]
        command: OutageCommand,
    },
    /// What operators did, and what came of it, newest first; for operators only
    Audit {
        /// Most entries to show
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// The files of a queue, without a server
    Log {
        /// A file with the keys of an encrypted queue [default: queue.encryption_key_file]
        #[arg(long, global = true, value_name = "FILE")]
        key_file: Option<PathBuf>,
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Finish what is under way, then queue everything
    Pause(PauseArguments),
    /// Go on after a pause, or after a halt with a decision
    Resume(ResumeArguments),
    /// Rehearse outages on a server of its own: load, a database that goes and returns, kill -9, and a proof
    Drill(DrillArguments),
    /// Print a script that makes a shell complete these commands
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// The folder for the pages of all commands, for example /usr/local/share/man/man1
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every value and where it came from; secrets are hidden
    Show(Overrides),
    /// What one setting means and takes, its default, its present value and where that came from
    Explain {
        /// Its name, for example queue.max_bytes
        key: String,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Try everything that a start would refuse; ends with 78 when something is wrong
    Check(Overrides),
    /// Write a commented outlast.toml; a file that exists is left alone
    Init {
        /// Where [default: what --config names, or outlast.toml]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// What waits and matches, in order
    List {
        #[command(flatten)]
        waiting: Waiting,
        /// Only after this write
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// Most writes to show
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// One write that waits, with what it does
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        hidden: Hidden,
    },
    /// Everything that waits and matches, as lines of JSON, to be looked at, kept, or imported into another queue
    Export {
        #[command(flatten)]
        waiting: Waiting,
        /// Where to [default: standard output]; a file that exists is left alone
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        hidden: Hidden,
    },
    /// Put the writes of an export into the queue of the running server; run twice, each write takes effect once
    Import(ImportArguments),
    /// Limit the rate at which a backlog is drained, until the server restarts
    Throttle {
        /// Writes per second, or none for no limit
        #[arg(value_name = "RATE")]
        rate: Rate,
    },
    /// Wait until nothing waits; ends with 1 when the time is over first
    Drain {
        /// The longest to wait
        #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = units::parse_duration)]
        at_most: Duration,
    },
    /// Finish what is under way, then queue everything
    Pause(PauseArguments),
    /// Go on after a pause, or after a halt with a decision
    Resume(ResumeArguments),
}

/// Which waiting writes; everything that is given must hold.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Waiting {
    /// Only those that touch this collection
    #[arg(long)]
    pub(super) collection: Option<String>,
    /// Only those that touch a record with this id
    #[arg(long, value_name = "ID")]
    pub(super) record: Option<String>,
    /// Only the write with this id
    #[arg(long, value_name = "ID")]
    pub(super) write: Option<String>,
    /// Only pending or only parked ones
    #[arg(long, value_parser = ["pending", "parked"])]
    pub(super) status: Option<String>,
    /// Only those with an operation of this kind
    #[arg(long, value_parser = ["create", "put", "patch", "delete", "statement"])]
    pub(super) op: Option<String>,
    /// Only those that were accepted at least so long ago
    #[arg(long, value_name = "DURATION")]
    pub(super) older_than: Option<String>,
    /// Only those that were accepted at most so long ago
    #[arg(long, value_name = "DURATION")]
    pub(super) newer_than: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadCommand {
    /// How many there are of each reason, and what can be done
    Groups(Matching),
    /// Dead letters, and how many there are of each reason
    List {
        #[command(flatten)]
        matching: Matching,
        /// Only after this write
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// Most letters to show
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// One dead letter with its history
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        hidden: Hidden,
    },
    /// Queue one dead letter again, or all that match
    Retry(Which),
    /// Change what one dead letter does, and queue it again
    Edit {
        /// Its id
        id: String,
        /// The operations, as `dead show` prints them; - for standard input [default: $VISUAL or $EDITOR is opened]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Do not ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
    /// Give one dead letter up for good, or all that match
    Discard(Which),
    /// The runs of retry and discard over many: what is under way, how each ended, and a way to stop one
    Runs {
        #[command(subcommand)]
        command: Option<RunsCommand>,
    },
    /// Print all that match, one a line, as JSON
    Export {
        #[command(flatten)]
        matching: Matching,
        #[command(flatten)]
        hidden: Hidden,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RunsCommand {
    /// One run: how far it is, and what failed
    Show {
        /// Its number
        id: u64,
    },
    /// Stop one behind the step that it is at; what it has done stays done
    Stop {
        /// Its number
        id: u64,
    },
}

/// Whether hidden values are shown.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Hidden {
    /// Show the values of the fields in privacy.redact, too: for operators only, and noted in the audit log
    #[arg(long)]
    pub(super) unredacted: bool,
}

impl Hidden {
    /// The parameter that asks for them.
    pub(super) fn query(self) -> Vec<(&'static str, String)> {
        if self.unredacted { vec![("redact", "false".to_owned())] } else { Vec::new() }
    }
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Matching {
    /// Only with this kind of reason: exists, not_found, constraint, schema, permission, too_large, key_reused, statement,
    /// expired or other
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Only with this message, as `dead groups` prints it
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// Only those that touch this collection
    #[arg(long)]
    pub(super) collection: Option<String>,
}

/// One dead letter, or many.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["id", "all", "kind", "message", "collection"]))]
pub(super) struct Which {
    /// The id of one
    #[arg(conflicts_with_all = ["all", "kind", "message", "collection"])]
    pub(super) id: Option<String>,
    /// All of them
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) matching: Matching,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum OutageCommand {
    /// All outages, newest first
    List,
    /// One outage
    Show {
        /// Its number [default: the last one]
        id: Option<u64>,
    },
    /// The report of one as Markdown; with --json as JSON
    Report {
        /// Its number [default: the last one]
        id: Option<u64>,
    },
}

/// Settings of the command line.
#[derive(Debug, Args)]
pub(super) struct Overrides {
    /// The database: sqlite://PATH, postgres://USER:PASSWORD@HOST/DATABASE or
    /// surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Where the log of writes lives
    #[arg(long, value_name = "DIRECTORY")]
    queue_directory: Option<String>,
    /// Where to listen, for example 127.0.0.1:6885
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Any setting: --set queue.max_writes=5000000
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    assignments: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(|| "write SECTION.KEY=VALUE".to_owned())
}

/// Where the configuration of this process comes from.
pub(super) fn inputs(global: &Global, overrides: Option<&Overrides>) -> Inputs {
    let mut flags = Vec::new();
    if let Some(overrides) = overrides {
        // The named flags come last: they are the more deliberate ones.
        for (key, value) in &overrides.assignments {
            flags.push((format!("--set {key}"), key.clone(), value.clone()));
        }
        for (flag, key, value) in [
            ("--database-url", "database.url", &overrides.database_url),
            ("--queue-directory", "queue.directory", &overrides.queue_directory),
            ("--listen", "server.listen", &overrides.listen),
        ] {
            if let Some(value) = value {
                flags.push((flag.to_owned(), key.to_owned(), value.clone()));
            }
        }
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("OUTLAST_") || name.starts_with("OTEL_"))
        .collect();
    Inputs { file: global.config.clone(), environment, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
