//! `outlast drill`: an outage on purpose, on a server of its own, under load, and a proof that nothing came of it.

mod base;
mod load;
mod proxy;
mod server;
mod verify;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use outlast::status::{DeadLetters, Status};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::arguments::{Global, inputs};
use super::output::{Failure, grouped, print, print_json, safe};
use super::progress::Progress;
use crate::config::{self, DatabaseConfig};
use base::Base;
use load::{Load, Story};
use server::Server;
use verify::{Verdict, verify};

/// The longest that the drill waits for a state.
const PATIENCE: Duration = Duration::from_mins(1);
/// For the first connection: a wrong address or password should be told soon.
const PATIENCE_FIRST: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// So many writes must be applied before each outage, and be queued in it before and after the server is killed.
const ENOUGH: u64 = 200;
const PAGE: usize = 1000;
/// Records that are removed with one write.
const REMOVED_AT_ONCE: usize = 500;

#[derive(Debug, Args)]
pub(super) struct DrillArguments {
    /// Drill with this database server, through a proxy that cuts the connections, in a collection drill_... of its own
    /// [default: an SQLite database of the drill's own]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The same with the database of the configuration: database.url, and its password
    #[arg(long, conflicts_with = "database")]
    configured: bool,
    /// How often the database is taken away
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Clients that write at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
}

/// One outage of the drill.
struct Outage {
    /// What the server said was the matter.
    reason: String,
    /// Writes that were told *queued* after it was noticed, until the database was given back.
    queued: u64,
    away: Duration,
    drained: Duration,
}

/// Everything that the drill did.
#[derive(Default)]
struct Report {
    outages: Vec<Outage>,
    kills: u64,
    stories: Vec<Story>,
    cut: Option<u64>,
}

/// A folder for the drill alone, removed in the end.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("outlast-{name}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::failed(format!("{} could not be made: {error}", path.display())))?;
        Ok(Self { path, keep: false })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed from the folder for temporary files is removed by whoever cleans that.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the drill. Ends with 0 only when nothing was lost, doubled or reversed, and every fault was seen to happen.
pub(super) fn run(global: &Global, arguments: &DrillArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the runtime could not be started: {error}")))?;
    let name = format!("drill_{:08x}", fastrand::u32(..));
    let mut scratch = Scratch::new(&name)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = whole(global, arguments, &name, &mut scratch) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let Some(outcome) = outcome else {
        scratch.keep = false;
        return Err(Failure::failed("interrupted"));
    };
    if scratch.keep {
        let path = scratch.path.display();
        eprintln!("outlast: the queue, the database and the server's log are kept in {path}");
    }
    outcome
}

/// The drill, and what it found.
async fn whole(
    global: &Global,
    arguments: &DrillArguments,
    collection: &str,
    scratch: &mut Scratch,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut password = None;
    let base = if let Some(url) = &arguments.database {
        Base::server(url, "--database").await?
    } else if arguments.configured {
        let database = config::load(&inputs(global, None))?.config.database;
        password = password_of(&database)?;
        Base::server(&database.url, "database.url").await?
    } else {
        Base::embedded(&scratch.path)?
    };
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()
        .map_err(|error| Failure::failed(error.to_string()))?;
    let server = Server::new(&scratch.path, base.url(), password);
    // Some steps of each round, and the proof.
    let progress = Progress::counts(global.json, "starting", u64::from(arguments.rounds) * STEPS + 1);
    let mut drill =
        Drill { global, arguments, collection, base, server, http, progress, report: Report::default() };
    // Whatever goes wrong from here on is worth a look at the files.
    scratch.keep = true;
    let verdict = drill.run().await?;
    scratch.keep = !verdict.is_clean();
    drill.progress.end();
    let left = match (&drill.base, verdict.is_clean()) {
        (Base::Server { .. }, true) => {
            drill.clean_up().await?;
            Some(format!(
                "left in the database: the empty collection {collection}, and rows of this drill in outlast_position and \
                 outlast_keys"
            ))
        }
        (Base::Server { .. }, false) => Some(format!("its records are kept in the collection {collection}")),
        (Base::Embedded { .. }, _) => None,
    };
    tokio::task::block_in_place(|| drill.server.stop())?;
    if global.json {
        print_json(&as_json(&drill.report, &verdict, &drill.base.shown(), began.elapsed()));
    } else {
        tell(&drill.report, &verdict, left.as_deref(), began.elapsed());
    }
    if verdict.is_clean() { Ok(()) } else { Err(Failure::failed("")) }
}

/// How the drill's server, which runs in another folder, learns the password of the configuration. One that stands in a
/// file stays there.
fn password_of(database: &DatabaseConfig) -> Result<Option<(&'static str, OsString)>, Failure> {
    if let Some(path) = &database.password_file {
        let absolute = std::path::absolute(path);
        let path = absolute.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        return Ok(Some((server::PASSWORD_FILE, path.into())));
    }
    Ok(database.password.as_ref().map(|password| (server::PASSWORD, password.expose().into())))
}

/// Steps of a round that the bar shows.
const STEPS: u64 = 5;

struct Drill<'a> {
    global: &'a Global,
    arguments: &'a DrillArguments,
    collection: &'a str,
    base: Base,
    server: Server,
    http: reqwest::Client,
    progress: Progress,
    report: Report,
}

impl Drill<'_> {
    async fn run(&mut self) -> Result<Verdict, Failure> {
        self.server.start()?;
        self.say(&format!(
            "server    outlast {} on {}, {} clients",
            env!("CARGO_PKG_VERSION"),
            self.base.shown(),
            self.arguments.clients
        ));
        if let Base::Server { .. } = self.base {
            self.say(&format!(
                "writes    to the collection {}, which no other uses; only connections of this drill are cut",
                self.collection
            ));
        }
        let connected = |status: &Status| status.database.is_connected();
        self.until_within(PATIENCE_FIRST, "the database is connected", connected).await?;
        let load = Load::start(self.arguments.clients, self.collection, &self.server.address(), &self.http);
        for round in 1..=self.arguments.rounds {
            self.round(round, &load).await?;
        }
        let acknowledged = load.acknowledged();
        self.step(format!("verifying {} writes", grouped(acknowledged)));
        self.report.stories = load.stop().await?;
        self.report.cut = self.base.cut();
        if self.report.cut == Some(0) {
            return Err(Failure::failed("no connection to the database was ever cut: nothing is proven"));
        }
        let status = self.until("nothing waits", |status| status.queue.writes == 0).await?;
        if !status.accounting_holds {
            return Err(Failure::failed("the accounting identity of the server does not hold"));
        }
        let (records, dead) = (self.records().await?, self.dead().await?);
        Ok(verify(&self.report.stories, records, &dead))
    }

    /// The server is killed while all is well; the database goes, and the server is killed again; it comes back, and the
    /// server is killed while it drains.
    async fn round(&mut self, round: u16, load: &Load) -> Result<(), Failure> {
        let of = format!("{round} of {}", self.arguments.rounds);
        self.step(format!("round {of}: all is well"));
        self.applies_more().await?;
        self.kill_and_start()?;
        self.applies_more().await?;

        self.step(format!("round {of}: the database is away"));
        let gone = Instant::now();
        self.base.take_away()?;
        let status = self.until("the outage is noticed", |status| !status.database.is_connected()).await?;
        let reason = match &status.database {
            outlast::health::ConnectionState::Failed { reason, .. } => safe(reason, 120),
            other => other.name().to_owned(),
        };
        let before = load.queued();
        self.until("writes are queued", |_| load.queued() >= before + ENOUGH).await?;

        self.step(format!("round {of}: the server is killed in the outage"));
        self.kill_and_start()?;
        self.until("writes are queued again", |_| load.queued() >= before + 2 * ENOUGH).await?;
        let queued = load.queued() - before;

        self.step(format!("round {of}: the database is back, {} writes were queued", grouped(queued)));
        let (away, back) = (gone.elapsed(), Instant::now());
        self.base.give_back()?;
        let applied = self.status().await.map_or(0, |status| status.accounting.applied);
        self.until("the backlog drains", |status| status.accounting.applied > applied).await?;

        self.step(format!("round {of}: the server is killed while it drains"));
        self.kill_and_start()?;
        // As many as there are clients may be under way at any moment.
        let few = u64::from(self.arguments.clients);
        let drained = |status: &Status| {
            status.database.is_connected() && status.outage.is_none() && status.queue.writes <= few
        };
        self.until("the backlog is drained", drained).await?;
        let drained = back.elapsed();
        self.say(&format!(
            "outage {round:<3}{} writes queued in {:.1} s without the database, the server killed meanwhile; drained in {:.1} s",
            grouped(queued),
            away.as_secs_f64(),
            drained.as_secs_f64()
        ));
        self.report.outages.push(Outage { reason, queued, away, drained });
        Ok(())
    }

    fn step(&self, what: String) {
        self.progress.say(what);
        self.progress.add(1);
    }

    fn say(&self, line: &str) {
        if !self.global.json {
            self.progress.print(line);
        }
    }

    fn kill_and_start(&mut self) -> Result<(), Failure> {
        self.report.kills += 1;
        // The clients go on meanwhile.
        tokio::task::block_in_place(|| self.server.kill().and_then(|()| self.server.start()))
    }

    async fn applies_more(&mut self) -> Result<(), Failure> {
        let before = self.until("the server answers", |_| true).await?.accounting.applied;
        let enough = |status: &Status| status.accounting.applied >= before + ENOUGH;
        self.until("writes are applied", enough).await.map(|_| ())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let failed = |error: reqwest::Error| Failure::failed(format!("{path}: {error}"));
        let answer =
            self.http.get(format!("{}{path}", self.server.address().url())).send().await.map_err(failed)?;
        let text = answer.error_for_status().map_err(failed)?.text().await.map_err(failed)?;
        serde_json::from_str(&text).map_err(|error| Failure::failed(format!("{path}: {error}")))
    }

    async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/queue").await
    }

    /// Looks until the status is as wished.
    async fn until(&mut self, what: &str, wished: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
        self.until_within(PATIENCE, what, wished).await
    }

    async fn until_within(
        &mut self,
        patience: Duration,
        what: &str,
        wished: impl Fn(&Status) -> bool,
    ) -> Result<Status, Failure> {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if let Ok(status) = &status
                && wished(status)
            {
                return Ok(status.clone());
            }
            self.server.lives()?;
            if began.elapsed() > patience {
                let last = match status {
                    Ok(status) => format!("database {:?}, delivery {:?}", status.database, status.lane),
                    Err(failure) => failure.message,
                };
                let (seconds, last) = (patience.as_secs(), safe(&last, 600));
                return Err(Failure::failed(format!("waited {seconds} s in vain: {what}; {last}")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Every record of the drill's collection.
    async fn records(&self) -> Result<HashMap<String, Value>, Failure> {
        let mut records = HashMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/records/{}?limit={PAGE}{cursor}", self.collection);
            let mut page: Value = self.get(&path).await?;
            let Value::Array(found) = page["records"].take() else { return Ok(records) };
            records.extend(
                found.into_iter().filter_map(|record| Some((record["id"].as_str()?.to_owned(), record))),
            );
            let Some(next) = page["next"].as_str() else { return Ok(records) };
            cursor = format!("&cursor={next}");
        }
    }

    /// The reason of each dead letter.
    async fn dead(&self) -> Result<Vec<String>, Failure> {
        let mut kinds = Vec::new();
        let mut after = String::new();
        loop {
            let page: DeadLetters = self.get(&format!("/v1/dead-letters?limit={PAGE}{after}")).await?;
            kinds.extend(page.letters.iter().map(|letter| letter.reason.kind.as_str().to_owned()));
            let Some(next) = page.next else { return Ok(kinds) };
            after = format!("&after={next}");
        }
    }

    /// Removes the drill's records from somebody's database.
    async fn clean_up(&self) -> Result<(), Failure> {
        let records: Vec<String> = self.records().await?.into_keys().collect();
        for some in records.chunks(REMOVED_AT_ONCE) {
            let operations: Vec<Value> = some
                .iter()
                .map(|id| json!({ "op": "delete", "collection": self.collection, "id": id }))
                .collect();
            let request = self.http.post(format!("{}/v1/transactions", self.server.address().url()));
            let sent = request.json(&json!({ "operations": operations })).send().await;
            sent.and_then(reqwest::Response::error_for_status).map_err(|error| {
                Failure::failed(format!("the drill's records could not be removed: {error}"))
            })?;
        }
        Ok(())
    }
}

/// Sums of what the clients were told.
struct Totals {
    acknowledged: u64,
    applied: u64,
    queued: u64,
    sent_again: u64,
}

impl Totals {
    fn of(report: &Report) -> Self {
        let sum = |part: fn(&Story) -> u64| report.stories.iter().map(part).sum();
        Self {
            acknowledged: sum(|story| story.applied + story.queued),
            applied: sum(|story| story.applied),
            queued: sum(|story| story.queued),
            sent_again: sum(|story| story.sent_again),
        }
    }
}

fn tell(report: &Report, verdict: &Verdict, left: Option<&str>, took: Duration) {
    let totals = Totals::of(report);
    print(&format!(
        "verified  {} acknowledged writes in {:.0} s: {} told applied, {} told queued, {} sent again under their keys; \
         the server was killed {} times",
        grouped(totals.acknowledged),
        took.as_secs_f64(),
        grouped(totals.applied),
        grouped(totals.queued),
        grouped(totals.sent_again),
        report.kills
    ));
    if let Some(cut) = report.cut {
        print(&format!("          {} connections to the database were cut", grouped(cut)));
    }
    if let Some(left) = left {
        print(&format!("          {left}"));
    }
    for example in &verdict.examples {
        print(&format!("BROKEN    {example}"));
    }
    print(&format!(
        "{} lost, {} double, {} out of order",
        grouped(verdict.lost),
        grouped(verdict.double),
        grouped(verdict.out_of_order)
    ));
}

fn as_json(report: &Report, verdict: &Verdict, database: &str, took: Duration) -> Value {
    let totals = Totals::of(report);
    let outages: Vec<Value> = report
        .outages
        .iter()
        .map(|outage| {
            json!({
                "reason": outage.reason,
                "writes_queued": outage.queued,
                "away_seconds": outage.away.as_secs_f64(),
                "drained_seconds": outage.drained.as_secs_f64(),
            })
        })
        .collect();
    json!({
        "database": database,
        "seconds": took.as_secs_f64(),
        "outages": outages,
        "kills": report.kills,
        "connections_cut": report.cut,
        "acknowledged": totals.acknowledged,
        "applied": totals.applied,
        "queued": totals.queued,
        "sent_again": totals.sent_again,
        "lost": verdict.lost,
        "double": verdict.double,
        "out_of_order": verdict.out_of_order,
        "examples": verdict.examples,
    })
}
