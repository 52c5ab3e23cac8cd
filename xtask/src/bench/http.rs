//! Writes over HTTP, healthy and in an outage, and what the server's processes cost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Settings;
use super::load::Load;
use super::place::Place;
use super::report::{Bound, Goal, Section, Table, number};
use super::stats::{Compare, Contender, Sample, Spread, interleave};
use super::workload::Workload;
use crate::Result;
use crate::process::{cargo, run, target};
use crate::server::{Server, cpu_seconds, unused_address};

/// Writes a second in an outage: what Redis with `appendfsync always` gave on this kind of machine.
const GOAL: f64 = 53_000.0;
/// Requests before the measuring begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// Limits that no round reaches.
pub(super) const UNLIMITED: [&str; 6] =
    ["--set", "queue.max_writes=1000000000", "--set", "queue.max_bytes=1TiB", "--set", "log.level=warn"];

/// Builds the release binary.
pub(super) fn binary() -> Result<PathBuf> {
    let target = target()?;
    let mut build = cargo(["build", "--locked", "--quiet", "--release", "--bin", "outlast"]);
    run(build.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("release/outlast"))
}

/// The URL of a database that is away: nobody listens there.
pub(super) fn away() -> Result<String> {
    Ok(format!("surrealdb://root:root@{}/bench/bench", unused_address()?))
}

/// Starts the server in a folder of its own, on this database.
pub(super) fn start(binary: &Path, directory: &Path, database: &str) -> Result<Server> {
    std::fs::create_dir_all(directory)?;
    let arguments =
        [&["--queue-directory", "queue", "--database-url", database][..], &UNLIMITED[..]].concat();
    Server::start(binary, directory, &arguments)
}

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let binary = binary()?;
    let connections = settings.callers;
    let document = Workload::new()?.document().as_str().to_owned();
    let folder = |name: &str| settings.directory.join(format!("http-{name}"));
    let outage = start(&binary, &folder("outage"), &away()?)?;
    let probe = Load::get(outage.address(), "/livez", connections);
    let queued = Load::post(outage.address(), "/v1/records/bench", &document, 202, connections);
    let mut loads = vec![
        ("GET /livez: HTTP and nothing else".to_owned(), &outage, probe),
        ("POST in an outage: queued, 202".to_owned(), &outage, queued),
    ];
    let mut others = Vec::new();
    for (number, other) in settings.beside.iter().enumerate() {
        others.push((other.display(), start(other, &folder(&format!("beside-{number}")), &away()?)?));
    }
    for (name, server) in &others {
        let load = Load::post(server.address(), "/v1/records/bench", &document, 202, connections);
        loads.push((format!("the same by {name}"), server, load));
    }
    let mut healthy = Vec::new();
    for &kind in &settings.databases {
        let directory = folder(&format!("{kind:?}").to_ascii_lowercase());
        std::fs::create_dir_all(&directory)?;
        let place = Place::start(kind, &directory);
        let server = start(&binary, &directory, &place.make("http"))?;
        wait_until_connected(&server)?;
        healthy.push((place, server));
    }
    for (place, server) in &healthy {
        let load = Load::post(server.address(), "/v1/records/bench", &document, 201, connections);
        loads.push((format!("POST, healthy: applied by {}, 201", place.short()), server, load));
    }
    for (name, _, load) in &loads {
        load.run(WARM_UP).map_err(|error| format!("{name}: {error}"))?;
    }
    let contenders = loads
        .iter()
        .map(|(name, server, load)| Contender::new(name.clone(), move |time| round(server, load, time)));
    let series = interleave(contenders.collect(), settings.rounds, settings.time)?;
    let rates = Spread::of(series[1].samples.iter().map(|sample| sample.rate));
    let what = format!("writes queued in an outage over {connections} connections");
    let goal = rates.map(|measured| Goal { what, bound: Bound::AtLeast(GOAL), measured, unit: "/s" });
    Ok(Section {
        title: format!("HTTP, {connections} connections that stay open"),
        tables: vec![Table::compare(
            format!("{} bytes of JSON in a request", document.len()),
            &series,
            0,
            Compare::Rate,
        )],
        goals: goal.into_iter().collect(),
        notes: notes(&series[1].samples),
    })
}

/// What limits the outage, from the figures themselves.
fn notes(outage: &[Sample]) -> Vec<String> {
    let figure = |name: &str| {
        let values = outage.iter().flat_map(|sample| &sample.more).filter(|(other, _)| *other == name);
        Spread::of(values.map(|(_, value)| *value)).map_or(0.0, |spread| spread.median)
    };
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (server, client) = (figure(SERVER_CPUS), figure(CLIENT_CPUS));
    vec![
        "The load generator runs on the same machine and takes its processors away from the server. The database does, too, when healthy.".to_owned(),
        format!(
            "In the outage the server kept {} of {processors} processors busy ({} µs for each write), the load generator {}; together {}. {} writes shared one sync.",
            number(server), number(figure(CPU_EACH)), number(client), number(server + client), number(figure(EACH_SYNC))
        ),
    ]
}

/// How many processors the server kept busy.
pub(super) const SERVER_CPUS: &str = "server CPUs";
const CLIENT_CPUS: &str = "client CPUs";
/// Of the server, by request.
pub(super) const CPU_EACH: &str = "server CPU µs each";
const EACH_SYNC: &str = "requests a sync";

/// One round, with what it cost.
pub(super) fn round(server: &Server, load: &Load, time: Duration) -> Result<Sample> {
    let figures = || -> Result<[f64; 3]> {
        Ok([server.cpu_seconds()?, cpu_seconds("self")?, server.metric("outlast_log_syncs_total")?])
    };
    let before = figures()?;
    let mut sample = load.run(time)?;
    let after = figures()?;
    let [server, client, syncs] = [0, 1, 2].map(|index| after[index] - before[index]);
    let seconds = time.as_secs_f64();
    let requests = sample.rate * seconds;
    sample.more.push((SERVER_CPUS, server / seconds));
    sample.more.push((CLIENT_CPUS, client / seconds));
    sample.more.push((CPU_EACH, server * 1e6 / requests));
    if syncs > 0.0 {
        sample.more.push((EACH_SYNC, requests / syncs));
    }
    Ok(sample)
}

/// Ends when the server has reached its database.
pub(super) fn wait_until_connected(server: &Server) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    loop {
        let health = server.get("/health")?;
        if health.starts_with("HTTP/1.1 200")
            && server.metric("outlast_database_last_success_timestamp_seconds")? > 0.0
        {
            return Ok(());
        }
        if std::time::Instant::now() >= deadline {
            return Err(format!("the server does not reach its database:\n{health}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
