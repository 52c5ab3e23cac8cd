//! `outlast log`: the files of a queue, without a server.

mod export;
mod import;
mod words;

pub(super) use import::open as open_to_import;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use outlast::Sequence;
use outlast::offline::{OfflineError, Queue, Report, Verdict, repair};
use outlast::options::{Key, Options};
use outlast::redact::Redaction;
use serde_json::json;

use super::Exit;
use super::arguments::{Global, inputs};
use super::output::{Failure, print, print_json};
use super::progress::Progress;
use crate::config;

/// In each the directory is that of `queue.directory` if none is named.
#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Read every byte and tell what is wrong; changes nothing
    Verify {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
    },
    /// Mend what can be mended; what is damaged is kept in damaged/, nothing valid is thrown away
    Repair {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// What is in the files, in numbers; quick, changes nothing
    Stat {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
    },
    /// Write the writes in the files as lines of JSON, with every value; changes nothing
    Export {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
        #[command(flatten)]
        choice: Choice,
        /// Only from this sequence on
        #[arg(long, value_name = "SEQUENCE")]
        from: Option<Sequence>,
        /// Only up to this sequence
        #[arg(long, value_name = "SEQUENCE")]
        to: Option<Sequence>,
        /// Where to [default: standard output]; a file that exists is left alone
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put the writes of such a file into a queue, as new writes; all or none
    Import {
        /// The file, or - for standard input
        file: PathBuf,
        /// The queue directory, which need not exist [default: queue.directory]
        directory: Option<PathBuf>,
        /// Take dead letters as writes that wait
        #[arg(long)]
        retry_dead: bool,
        /// Take writes that were applied, too
        #[arg(long)]
        applied: bool,
        /// Take a file that is not whole, or from which lines were left out
        #[arg(long)]
        partial: bool,
        /// Take a file that was imported before, or that comes from this very queue: its writes are there twice then
        #[arg(long)]
        again: bool,
    },
    /// End an import that was interrupted, with what has come in
    AbandonImport {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
    },
    /// What waits in the files, in order; changes nothing
    List {
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
        #[command(flatten)]
        choice: Choice,
        /// Only after this sequence
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<Sequence>,
        /// Most lines to show
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Make a key for queue.encryption_key_file
    Keygen {
        /// Where to [default: standard output]; a file that exists is left alone
        file: Option<PathBuf>,
    },
    /// One write in the files, with what it does; changes nothing
    Show {
        /// Its id
        id: Sequence,
        /// The queue directory [default: queue.directory]
        directory: Option<PathBuf>,
        /// Show the values of the fields in privacy.redact, too
        #[arg(long)]
        unredacted: bool,
    },
}

/// Which writes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Choice {
    /// Those that wait: pending and parked
    #[arg(long)]
    pending: bool,
    /// Dead letters
    #[arg(long)]
    dead: bool,
    /// Everything that is in the files
    #[arg(long, conflicts_with_all = ["pending", "dead"])]
    all: bool,
    /// How far the database is, if you have looked: the (lowest) sequence in its table outlast_position, as it stands there or as
    /// 3-17 [default: as last noted in the log]
    #[arg(long, value_name = "SEQUENCE", value_parser = watermark)]
    watermark: Option<Sequence>,
}

/// Databases store the sequence as one integer.
fn watermark(text: &str) -> Result<Sequence, String> {
    let number = text.parse().ok().and_then(Sequence::from_u64);
    number.map_or_else(
        || text.parse().map_err(|_| "write 3-17, or the integer of outlast_position".to_owned()),
        Ok,
    )
}

/// Runs one of them.
pub(super) fn run(global: &Global, key_file: Option<&Path>, command: &LogCommand) -> Result<(), Failure> {
    let options = |directory: &Option<PathBuf>| options(global, key_file, directory.as_deref());
    match command {
        LogCommand::Verify { directory } => verify(global, &options(directory)?),
        LogCommand::Repair { directory, dry_run } => mend(global, &options(directory)?, *dry_run),
        LogCommand::Stat { directory } => stat(global, &options(directory)?),
        LogCommand::Export { directory, choice, from, to, output } => {
            let selection = export::selection(*choice, true, *from, *to);
            export::run(global, &options(directory)?, &selection, output.as_deref())
        }
        LogCommand::Import { file, directory, retry_dead, applied, partial, again } => {
            let how = outlast::offline::How {
                retry_dead: *retry_dead,
                applied: *applied,
                partial: *partial,
                again: *again,
            };
            import::run(global, file, &options(directory)?, how)
        }
        LogCommand::AbandonImport { directory } => import::abandon(global, &options(directory)?),
        LogCommand::List { directory, choice, after, limit } => {
            let selection = export::selection(*choice, false, None, None);
            let redaction = config::load(&inputs(global, None))?.config.outlast.redact;
            export::list(global, &options(directory)?, &selection, *after, *limit, &redaction)
        }
        LogCommand::Keygen { file } => keygen(global, file.as_deref()),
        LogCommand::Show { id, directory, unredacted } => {
            let redaction = if *unredacted {
                Redaction::default()
            } else {
                config::load(&inputs(global, None))?.config.outlast.redact
            };
            export::show(&options(directory)?, *id, &redaction)
        }
    }
}

/// Those of the configuration, with the directory and the key file that were named.
fn options(global: &Global, key_file: Option<&Path>, directory: Option<&Path>) -> Result<Options, Failure> {
    let mut inputs = inputs(global, None);
    if let Some(path) = key_file {
        let flag = |key: &str, value: String| ("--key-file".to_owned(), key.to_owned(), value);
        inputs.flags.push(flag("queue.encryption_key", "none".to_owned()));
        inputs.flags.push(flag("queue.encryption_key_file", path.display().to_string()));
    }
    let mut options = config::load(&inputs)?.config.outlast;
    if let Some(directory) = directory {
        directory.clone_into(&mut options.directory);
    }
    Ok(options)
}

/// Looks into the directory with the keys of these options.
fn look(options: &Options) -> Result<Queue, Failure> {
    Queue::look(&options.directory, &options.encryption.keys).map_err(|error| failure(&error))
}

/// A key on standard output, or in a new file that only its user may read.
fn keygen(global: &Global, file: Option<&Path>) -> Result<(), Failure> {
    let key =
        Key::generate().map_err(|error| Failure::failed(format!("there are no random numbers: {error}")))?;
    let Some(path) = file else {
        if global.json {
            print_json(&json!({ "id": key.id().to_string(), "key": key.to_text() }));
        } else {
            print(&key.to_text());
        }
        return Ok(());
    };
    let line = format!("# {}, made by outlast log keygen\n{}\n", key.id(), key.to_text());
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!(
            "{} exists already and was left alone; name another file",
            path.display()
        )),
        _ => Failure::failed(format!("{} could not be written: {error}", path.display())),
    })?;
    if global.json {
        print_json(&json!({ "id": key.id().to_string(), "written": path }));
    } else {
        print(&format!(
            "{} has the key {}. Keep a copy elsewhere: without it nothing that it has encrypted can be read",
            path.display(),
            key.id()
        ));
    }
    Ok(())
}

fn failure(error: &OfflineError) -> Failure {
    if error.is_locked() {
        return Failure::new(Exit::Locked, format!("{error}; or ask the running server: `outlast status`"));
    }
    Failure::failed(error.to_string())
}

fn verify(global: &Global, options: &Options) -> Result<(), Failure> {
    let queue = look(options)?;
    let progress = Progress::bytes(global.json, "verifying", queue.bytes());
    let report = queue.verify(&mut |bytes| progress.add(bytes)).map_err(|error| failure(&error))?;
    progress.end();
    tell(global, &report);
    ended(report.verdict)
}

fn stat(global: &Global, options: &Options) -> Result<(), Failure> {
    let queue = look(options)?;
    tell(global, &queue.stat().map_err(|error| failure(&error))?);
    Ok(())
}

fn mend(global: &Global, options: &Options, dry_run: bool) -> Result<(), Failure> {
    let bytes = look(options)?.bytes();
    let passes = if dry_run { 1 } else { 2 };
    let progress = Progress::bytes(global.json, "repairing", bytes * passes);
    let repaired =
        repair(&options.directory, &options.encryption.keys, dry_run, &mut |bytes| progress.add(bytes))
            .map_err(|error| failure(&error))?;
    progress.end();
    let last = repaired.after.as_ref().unwrap_or(&repaired.before);
    if global.json {
        let (before, after) = (&repaired.before, &repaired.after);
        print_json(
            &json!({ "dry_run": dry_run, "actions": repaired.actions, "before": before, "after": after }),
        );
    } else {
        let would = if dry_run { "would " } else { "" };
        for action in &repaired.actions {
            print(&format!("{would}{action}"));
        }
        if repaired.actions.is_empty() {
            print("nothing is to be mended");
        }
        print(&words::report(last));
    }
    ended(last.verdict)
}

fn tell(global: &Global, report: &Report) {
    if global.json {
        print_json(&json!(report));
    } else {
        print(&words::report(report));
    }
}

fn ended(verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Clean => Ok(()),
        Verdict::Torn => Err(Failure::new(Exit::Torn, "")),
        Verdict::Damaged => Err(Failure::new(Exit::Data, "")),
    }
}
