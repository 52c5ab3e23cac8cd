//! `outlast check` for monitoring, and `outlast is-ready` for scripts.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory as _, ValueEnum};
use outlast::health::Level;
use outlast::status::Status;
use reqwest::Method;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::Exit;
use super::arguments::{Arguments, Global};
use super::client::{self, Client};
use super::output::{Failure, dead_letters, grouped, print, print_json, safe, written};
use super::status::Picture;

/// Pause between two questions whether the server is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// How to print it; --json is the same as json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// WARNING from so full a queue on, in percent of its bounds
    #[arg(long, value_name = "PERCENT", default_value_t = 75, value_parser = clap::value_parser!(u8).range(..=100))]
    warning: u8,
    /// CRITICAL from so full a queue on, in percent of its bounds
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u8).range(..=100))]
    critical: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line with performance data, as Nagios and its relatives read it
    Text,
    /// One object, with every finding and value
    Json,
    /// For the textfile collector of Prometheus' node exporter
    Prometheus,
}

/// The four states of monitoring plugins, and their exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn lower(self) -> String {
        self.word().to_ascii_lowercase()
    }

    /// The numbers are those that monitoring expects, whatever they mean for other commands.
    fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Ok,
            Self::Warning => Exit::Failed,
            Self::Critical => Exit::Usage,
            Self::Unknown => Exit::Torn,
        }
    }
}

/// Something that is not as it should be.
struct Finding {
    state: State,
    about: &'static str,
    message: String,
}

/// A number with the limits from which on it is bad.
struct Measure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    warning: Option<u64>,
    critical: Option<u64>,
    most: Option<u64>,
}

/// What was found.
struct Report {
    findings: Vec<Finding>,
    measures: Vec<Measure>,
    /// What is said when nothing was found.
    well: String,
}

/// Looks at everything that can go wrong. The exit code is that of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL,
/// 3 UNKNOWN.
pub(super) fn run(global: &Global, arguments: &CheckArguments) -> Result<(), Failure> {
    let report = if arguments.warning > arguments.critical {
        Report::only(State::Unknown, "arguments", "--warning must not be above --critical")
    } else {
        match client::with(global, async |client| Picture::take(&client).await) {
            Ok(picture) => judge(&picture, arguments),
            // Who cannot reach it cannot write.
            Err(failure) if failure.exit == Exit::Unreachable => {
                Report::only(State::Critical, "server", &failure.message)
            }
            Err(failure) => Report::only(State::Unknown, "server", &failure.message),
        }
    };
    let format = if global.json { Format::Json } else { arguments.format };
    match format {
        Format::Text => print(&report.as_text()),
        Format::Json => print_json(&report.as_json()),
        Format::Prometheus => print(&report.as_metrics()),
    }
    match report.state() {
        // Monitoring that got no text must not take the code for a warning about the service.
        State::Ok => written().map_err(|failure| Failure::new(State::Unknown.exit(), failure.message)),
        other => Err(Failure::new(other.exit(), "")),
    }
}

/// How a wrong command line ends: for monitoring 2 would mean that the service is down.
pub(super) fn usage(args: &[OsString]) -> Exit {
    let take_values: Vec<String> = Arguments::command()
        .get_opts()
        .filter_map(|option| Some(format!("--{}", option.get_long()?)))
        .collect();
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        // What holds for every command may stand before it.
        if take_values.iter().any(|option| arg == option.as_str()) {
            args.next();
        } else if !arg.as_encoded_bytes().starts_with(b"-") {
            return if arg == "check" { State::Unknown.exit() } else { Exit::Usage };
        }
    }
    Exit::Usage
}

fn judge(picture: &Picture, arguments: &CheckArguments) -> Report {
    let status = &picture.status;
    let mut findings = Vec::new();
    let mut find = |state, about, message: String| findings.push(Finding { state, about, message });
    if !status.accepting {
        find(State::Critical, "accepting", "no writes are accepted".to_owned());
    }
    if !status.accounting_holds {
        find(State::Critical, "accounting", "the accounting identity does not hold".to_owned());
    }
    let queue = &status.queue;
    let bounds = [("writes", queue.writes, queue.writes_max), ("bytes", queue.bytes, queue.bytes_max)];
    for (name, value, most) in bounds {
        let state = if value >= share(most, arguments.critical) {
            State::Critical
        } else if value >= share(most, arguments.warning) {
            State::Warning
        } else {
            continue;
        };
        let percent = value as f64 * 100.0 / most.max(1) as f64;
        find(state, "queue", format!("the queue holds {percent:.0} % of the {name} that it may"));
    }
    for component in &status.components {
        let state = match component.level {
            Level::Critical => State::Critical,
            // Nothing is worse. It lasts until the server is started again, so that it can be put to rest.
            Level::Warning if component.name == "losses" => State::Critical,
            Level::Warning => State::Warning,
            Level::Healthy => continue,
        };
        // How full it may be is ours to judge, by the percentages that were given.
        if component.name != "queue" {
            find(state, "health", format!("{}: {}", component.name, component.message));
        }
    }
    if let Some(outage) = status.outage.filter(|_| status.database.is_connected()) {
        find(State::Warning, "outage", format!("the backlog of outage {outage} is being drained"));
    }
    let dead = status.accounting.dead;
    if dead > 0 {
        find(State::Warning, "dead", dead_letters(dead));
    }
    Report { findings, measures: measures(status, arguments), well: well(status) }
}

/// So many percent of a limit, rounded up: at least one, so that an empty queue is never too full.
fn share(most: u64, percent: u8) -> u64 {
    let exact = u128::from(most) * u128::from(percent);
    u64::try_from(exact.div_ceil(100)).unwrap_or(u64::MAX).max(1)
}

fn measures(status: &Status, arguments: &CheckArguments) -> Vec<Measure> {
    let queue = &status.queue;
    let plain =
        |name, unit, value: f64| Measure { name, unit, value, warning: None, critical: None, most: None };
    let bounded = |name, unit, value: u64, most| Measure {
        warning: Some(share(most, arguments.warning)),
        critical: Some(share(most, arguments.critical)),
        most: Some(most),
        ..plain(name, unit, value as f64)
    };
    vec![
        bounded("queue_writes", "", queue.writes, queue.writes_max),
        bounded("queue_bytes", "B", queue.bytes, queue.bytes_max),
        plain("queue_oldest_age_seconds", "s", queue.oldest_age_seconds),
        Measure { warning: Some(1), ..plain("dead_letters", "", status.accounting.dead as f64) },
        plain("lost_writes", "", status.losses.writes as f64),
        plain("accepting", "", f64::from(u8::from(status.accepting))),
        plain("database_connected", "", f64::from(u8::from(status.database.is_connected()))),
    ]
}

fn well(status: &Status) -> String {
    let queue = &status.queue;
    format!(
        "writes are accepted and applied, {} of {} wait, {} lost, no dead letters",
        grouped(queue.writes),
        grouped(queue.writes_max),
        if status.losses.writes == 0 { "none".to_owned() } else { grouped(status.losses.writes) }
    )
}

impl Report {
    fn only(state: State, about: &'static str, message: &str) -> Self {
        let findings = vec![Finding { state, about, message: message.to_owned() }];
        Self { findings, measures: Vec::new(), well: String::new() }
    }

    /// The worst of the findings decides.
    fn state(&self) -> State {
        self.findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
    }

    /// The worst first. A bar would end the text for the monitoring.
    fn as_text(&self) -> String {
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.state));
        let mut messages: Vec<String> =
            findings.iter().map(|finding| safe(&finding.message, 300).replace('|', "/")).collect();
        if messages.is_empty() {
            messages.push(self.well.clone());
        }
        let mut text = format!("OUTLAST {} - {}", self.state().word(), messages.join("; "));
        for (index, measure) in self.measures.iter().enumerate() {
            text.push_str(if index == 0 { " | " } else { " " });
            text.push_str(&measure.as_performance_data());
        }
        text
    }

    fn as_json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({ "status": finding.state.lower(), "about": finding.about, "message": finding.message })
            })
            .collect();
        let values: Map<String, Value> =
            self.measures.iter().map(|measure| (measure.name.to_owned(), json!(measure.value))).collect();
        let state = self.state();
        json!({ "status": state.lower(), "code": state.exit() as u8, "findings": findings, "values": values })
    }

    fn as_metrics(&self) -> String {
        let mut text = String::from(
            "# HELP outlast_check_status The outcome of outlast check: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.\n\
             # TYPE outlast_check_status gauge\n",
        );
        let _ = writeln!(text, "outlast_check_status {}", self.state().exit() as u8);
        for Measure { name, value, .. } in &self.measures {
            let _ = writeln!(text, "# TYPE outlast_check_{name} gauge\noutlast_check_{name} {value}");
        }
        text
    }
}

impl Measure {
    /// `label=value[unit];warning;critical;least;most`. A limit is a range there, and its end belongs to it: what is bad
    /// from 75 on is bad above 74.
    fn as_performance_data(&self) -> String {
        let below = |limit: Option<u64>| limit.map_or_else(String::new, |limit| (limit - 1).to_string());
        let most = self.most.map_or_else(String::new, |most| most.to_string());
        let (name, value, unit) = (self.name, self.value, self.unit);
        format!("{name}={value}{unit};{};{};0;{most}", below(self.warning), below(self.critical))
    }
}

/// Whether a write can be durably accepted; waits for it if asked to.
pub(super) async fn is_ready(client: &Client, at_most: Option<Duration>) -> Result<(), Failure> {
    let began = Instant::now();
    let at_most = at_most.unwrap_or_default();
    loop {
        let answer = client.send(Method::GET, "/readyz", &[], &[], None).await;
        let failure = match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                tell_ready(client, true, "");
                return Ok(());
            }
            Ok(answer) => {
                let why = answer.json().ok().and_then(|body| Some(body["output"].as_str()?.to_owned()));
                Failure::failed(why.unwrap_or_else(|| format!("it answered {}", answer.status)))
            }
            Err(failure) => failure,
        };
        if began.elapsed() >= at_most {
            tell_ready(client, false, &failure.message);
            return Err(Failure::new(failure.exit, if client.json { "" } else { &failure.message }));
        }
        tokio::time::sleep(READY_INTERVAL.min(at_most.saturating_sub(began.elapsed()))).await;
    }
}

fn tell_ready(client: &Client, ready: bool, why: &str) {
    if client.json {
        print_json(&json!({ "ready": ready, "reason": why }));
    } else {
        print(if ready { "ready" } else { "not ready" });
    }
}
