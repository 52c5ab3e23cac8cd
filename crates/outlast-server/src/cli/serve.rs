//! `outlast serve`: from the configuration to a running server, and to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast::Outlast;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Exit;
use super::arguments::{Global, Overrides, inputs};
use super::output::{Failure, print};
use crate::alerts;
use crate::config::{self, Config, LogFormat};
use crate::database;
use crate::http::{self, App, Tls};
use crate::traces::Traces;

/// What is left for the library after requests have used up the whole deadline: it must still sync its log.
const CLOSING_TIME_MIN: Duration = Duration::from_secs(2);

/// Runs the server until a signal ends it.
pub(super) fn run(global: &Global, overrides: &Overrides) -> Result<(), Failure> {
    let loaded = config::load(&inputs(global, Some(overrides)))?;
    if let Some(why) = config::refuse_open_door(&loaded.config) {
        return Err(Failure::new(Exit::Config, why));
    }
    start_logging(&loaded.config);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the runtime could not be started: {error}")))?;
    let shown = config::as_json(&loaded);
    tell_configuration(&shown);
    runtime.block_on(serve(global, loaded.config, shown))
}

async fn serve(global: &Global, mut config: Config, shown: serde_json::Value) -> Result<(), Failure> {
    let mut signals =
        Signals::new().map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?;
    let hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?;
    let tls = match (&config.server.tls_certificate, &config.server.tls_key) {
        (Some(certificate), Some(key)) => {
            let tls = Tls::open(certificate, key);
            Some(Arc::new(
                tls.map_err(|why| Failure::new(Exit::Config, format!("server.tls_certificate: {why}")))?,
            ))
        }
        _ => None,
    };
    let (traces, export) =
        Traces::start(&config.traces).map_err(|why| Failure::new(Exit::Config, why))?.unzip();
    config.outlast.tracer = traces.clone().map(|traces| traces as Arc<dyn outlast::trace::Tracer>);
    let database = database::open(&config.database, config.outlast.lanes == 1)
        .map_err(|why| Failure::new(Exit::Config, why))?;
    let database_name = database.describe();
    let outlast = Outlast::open(database, config.outlast.clone()).await.map_err(|error| {
        let exit = if error.is_locked() { Exit::Locked } else { Exit::Failed };
        Failure::new(exit, error.to_string())
    })?;
    let listener = match TcpListener::bind(config.server.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let _ = outlast.shutdown(CLOSING_TIME_MIN).await;
            let detail =
                format!("cannot listen on {}: {error}; choose another server.listen", config.server.listen);
            return Err(Failure::failed(detail));
        }
    };
    let address = listener.local_addr().map_or(config.server.listen, |address| address);
    let queue = config.outlast.directory.display().to_string();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        listen = url,
        queue,
        database = database_name,
        "listening"
    );
    if global.json {
        print(
            &serde_json::json!({ "listening": url, "queue": queue, "database": database_name }).to_string(),
        );
    } else {
        let version = env!("CARGO_PKG_VERSION");
        print(&format!("outlast {version} listening on {url}, queue {queue}, database {database_name}"));
    }
    if config.server.insecure_listen && config.server.tokens.is_empty() && !address.ip().is_loopback() {
        tracing::warn!(%address, "no tokens are configured: everybody who reaches this address may do everything");
    }
    let alerts = alerts::start(outlast.clone(), &config.alerts, address);
    let app = App::with_configuration(outlast.clone(), config.server.clone(), shown, traces.clone());
    if let Some(traces) = &traces {
        traces.register(&outlast);
    }
    let (stop_export, stopped) = tokio::sync::watch::channel(false);
    let exporting = export.map(|export| tokio::spawn(export.run(stopped)));
    let fresh = tokio::spawn(http::keep_fresh(tls.clone(), hangup));
    let tokens = tokio::spawn(http::watch_tokens(outlast.clone(), config.server.tokens.clone()));
    let door = Door { listener, app, tls };
    let ended = run_until_signal(door, &outlast, config.server.shutdown_deadline, &mut signals).await;
    fresh.abort();
    tokens.abort();
    if let Some(alerts) = alerts {
        alerts.abort();
    }
    // What the last transactions were linked to is sent as well.
    stop_export.send_replace(true);
    if let Some(exporting) = exporting {
        let _ = exporting.await;
    }
    ended
}

/// Where requests come in.
struct Door {
    listener: TcpListener,
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
}

async fn run_until_signal(
    door: Door,
    outlast: &Outlast,
    deadline: Duration,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(http::serve(door.listener, door.app, door.tls, async {
        // An error means that the sender is gone: a stop as well.
        let _ = stopped.await;
    }));
    let name = signals.next().await;
    tracing::info!(event = "stopping", signal = name, "stopping; a second signal ends the process at once");
    let began = Instant::now();
    let _ = stop.send(());
    let closing = async {
        let cut = serving.await.unwrap_or_default();
        if cut > 0 {
            tracing::warn!(connections = cut, "cut at the deadline (server.shutdown_deadline)");
        }
        outlast.shutdown(deadline.saturating_sub(began.elapsed()).max(CLOSING_TIME_MIN)).await
    };
    tokio::select! {
        closed = closing => match closed {
            Ok(()) => {
                tracing::info!(event = "stopped", "stopped");
                Ok(())
            }
            Err(error) => Err(Failure::failed(format!("the queue was not closed cleanly: {error}"))),
        },
        // What is acknowledged is durable already: nothing is lost by not waiting.
        name = signals.next() => Err(Failure::failed(format!("{name} again: ended at once"))),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What somebody has set, and where, in one line; secrets are hidden.
fn tell_configuration(shown: &serde_json::Value) {
    let settings =
        shown.as_object().into_iter().flatten().filter(|(_, setting)| setting["source"] != "default");
    let settings: serde_json::Map<_, _> =
        settings.map(|(key, setting)| (key.clone(), setting["value"].clone())).collect();
    let settings = serde_json::Value::Object(settings);
    tracing::info!(event = "configuration", %settings, "settings that are not defaults");
}

fn start_logging(config: &Config) {
    // The level was tried when the configuration was read.
    let filter = EnvFilter::try_new(&config.log.level).unwrap_or_default();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a program around this one has set up logging already.
    let _ = match config.log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Every connection needs a file descriptor, and the usual soft limit of 1,024 is below `server.max_connections`.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
