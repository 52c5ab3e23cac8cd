//! The table of settings: the one source for reading, `config show`, `config init` and `docs/configuration.md`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::alerts::{AlertKind, Webhook};
use super::token::Token;
use super::value::{Bounds, LogFormat, Readiness, Secret, Slot};

/// The port on which the server listens unless told otherwise.
pub(super) const DEFAULT_PORT: u16 = 6885;

/// Everything that can be configured, with its defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The section `server`.
    pub server: ServerConfig,
    /// The section `database`.
    pub database: DatabaseConfig,
    /// The section `alerts`.
    pub alerts: AlertsConfig,
    /// The section `traces`.
    pub traces: TracesConfig,
    /// The section `log`.
    pub log: LogConfig,
    /// Where the keys of the section `queue` come from.
    pub encryption: EncryptionConfig,
    /// The sections `queue`, `delivery` and `health`: the library's own options.
    pub outlast: outlast::options::Options,
}

/// The HTTP server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How long a caller waits for *applied* while the database is connected.
    pub wait: Duration,
    /// Largest request body in bytes.
    pub max_body_bytes: u64,
    /// Most connections at once.
    pub max_connections: u64,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// How long a connection may stay open without a request, or without taking the bytes of an answer.
    pub idle_timeout: Duration,
    /// How long requests under way may take to finish after a signal to stop.
    pub shutdown_deadline: Duration,
    /// Whether transactions may hold statements of the database's language.
    pub allow_statements: bool,
    /// What `/readyz` demands.
    pub readiness: Readiness,
    /// Whether to listen beyond this machine without tokens.
    pub insecure_listen: bool,
    /// A file with the certificate that it shows, and those that lead to it; with it, it speaks TLS and nothing else.
    pub tls_certificate: Option<PathBuf>,
    /// A file with the private key of that certificate.
    pub tls_key: Option<PathBuf>,
    /// Who may do what; without any, everybody who reaches the address may do everything.
    pub tokens: Vec<Token>,
}

/// The database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Which one, and where.
    pub url: String,
    /// Its password, apart from the URL.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Whether collections that are missing are made by the first write to them.
    pub create_collections: bool,
    /// How long one request to the database may take.
    pub request_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// The keys with which the queue's files are encrypted.
#[derive(Debug, Clone)]
pub struct EncryptionConfig {
    /// Keys, with commas between them.
    pub keys: Option<Secret>,
    /// A file with a key on each line.
    pub key_file: Option<PathBuf>,
    /// Whether new segments are encrypted.
    pub encrypt: bool,
}

/// Who is told when something needs somebody.
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Where alerts are posted to.
    pub webhooks: Vec<Webhook>,
    /// Which ones.
    pub on: Vec<AlertKind>,
    /// How often an alert that lasts is told again, if it is.
    pub repeat: Option<Duration>,
}

/// Traces for OpenTelemetry.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    /// Where spans are posted to; without it there are none.
    pub endpoint: Option<Url>,
    /// Headers that are sent with them.
    pub headers: Option<Secret>,
    /// Which part of the traces that begin here is kept, from 0 to 1.
    pub sample_ratio: f64,
    /// Who this is.
    pub service_name: String,
}

/// The server's own log lines (not the log of writes).
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Which lines: a level, or directives per module.
    pub level: String,
    /// How they are written.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig {
                listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
                wait: Duration::from_secs(10),
                max_body_bytes: 2 << 20,
                max_connections: 10_000,
                header_timeout: Duration::from_secs(10),
                body_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_secs(75),
                shutdown_deadline: Duration::from_secs(25),
                allow_statements: false,
                readiness: Readiness::Queue,
                insecure_listen: false,
                tls_certificate: None,
                tls_key: None,
                tokens: Vec::new(),
            },
            database: DatabaseConfig {
                url: "sqlite://outlast-data/database.db".to_owned(),
                password: None,
                password_file: None,
                create_collections: true,
                request_timeout: Duration::from_secs(30),
                connect_timeout: Duration::from_secs(5),
            },
            alerts: AlertsConfig {
                webhooks: Vec::new(),
                on: AlertKind::ALL.to_vec(),
                repeat: Some(Duration::from_hours(1)),
            },
            traces: TracesConfig {
                endpoint: None,
                headers: None,
                sample_ratio: 1.0,
                service_name: "outlast".to_owned(),
            },
            log: LogConfig { level: "info".to_owned(), format: LogFormat::Text },
            encryption: EncryptionConfig { keys: None, key_file: None, encrypt: true },
            outlast: outlast::options::Options::new("outlast-data/queue"),
        }
    }
}

/// One setting.
pub struct Setting {
    /// Its name: `section.key`.
    pub key: &'static str,
    /// Its place in the configuration.
    pub slot: fn(&mut Config) -> Slot<'_>,
    /// Smallest and largest value.
    pub bounds: Bounds,
    /// What it does, in a sentence or two.
    pub help: &'static str,
}

const MS: u64 = 1;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const ANY: Bounds = (0, u64::MAX);
const POSITIVE: Bounds = (1, u64::MAX);

const fn setting(
    key: &'static str,
    slot: fn(&mut Config) -> Slot<'_>,
    bounds: Bounds,
    help: &'static str,
) -> Setting {
    Setting { key, slot, bounds, help }
}

/// The sections in the order in which they are shown, with what they are about.
pub(super) const SECTIONS: [(&str, &str); 9] = [
    ("server", "The HTTP server."),
    ("database", "The database that writes are brought to."),
    ("queue", "The log that keeps writes until the database has them."),
    ("delivery", "How writes are brought to the database."),
    ("health", "How the database is watched, and what follows from it."),
    ("privacy", "What people are not shown."),
    ("alerts", "Who is told when something needs somebody: JSON posted to URLs."),
    ("traces", "Spans for OpenTelemetry, sent to a collector over OTLP."),
    ("log", "The server's own log lines, on standard error."),
];

/// Every setting, section by section.
#[rustfmt::skip]
pub(super) static SETTINGS: &[Setting] = &[
    setting("server.listen", |c| Slot::Address(&mut c.server.listen), ANY,
        "Where the server listens. An address that is not of this machine alone needs tokens, or insecure_listen."),
    setting("server.wait", |c| Slot::Duration(&mut c.server.wait), (0, HOUR),
        "How long a caller waits for its write to be applied while the database is connected; after that it gets 202 and a receipt. A request may ask for another time with Prefer: wait=SECONDS."),
    setting("server.max_body_bytes", |c| Slot::Bytes(&mut c.server.max_body_bytes), (KIB, GIB),
        "Largest body of a request. A larger one gets 413 before anything is accepted."),
    setting("server.max_connections", |c| Slot::Count(&mut c.server.max_connections), (1, 1_000_000),
        "Most connections at once. One more gets 503 and is closed."),
    setting("server.header_timeout", |c| Slot::Duration(&mut c.server.header_timeout), (10 * MS, HOUR),
        "How long a client may take to send the head of a request."),
    setting("server.body_timeout", |c| Slot::Duration(&mut c.server.body_timeout), (10 * MS, HOUR),
        "How long a client may take to send the body of a request. Of a stream of writes: each line, and to read results."),
    setting("server.idle_timeout", |c| Slot::Duration(&mut c.server.idle_timeout), (10 * MS, DAY),
        "How long a connection stays open without a request, with a client that does not take its answer, or without the next line of a stream of writes."),
    setting("server.shutdown_deadline", |c| Slot::Duration(&mut c.server.shutdown_deadline), (0, HOUR),
        "How long requests under way may take to finish after SIGTERM or SIGINT."),
    setting("server.allow_statements", |c| Slot::Flag(&mut c.server.allow_statements), ANY,
        "Whether transactions may hold statements of the database's language. Whoever may write can then run any statement that the database account may."),
    setting("server.readiness", |c| Slot::Choice(&mut c.server.readiness), ANY,
        "What /readyz demands: queue, that a write can be durably accepted; database, that the database is connected as well."),
    setting("server.insecure_listen", |c| Slot::Flag(&mut c.server.insecure_listen), ANY,
        "Listen on an address beyond this machine although no tokens are configured. Everybody who reaches it may then do everything, also web pages that give this machine a name of their own."),
    setting("server.tls_certificate", |c| Slot::PathOrNone(&mut c.server.tls_certificate), ANY,
        "A PEM file with the server's certificate, and those that lead to it. With it and tls_key the server speaks HTTPS, and nothing else. Both files are read again when they change, and on SIGHUP."),
    setting("server.tls_key", |c| Slot::PathOrNone(&mut c.server.tls_key), ANY,
        "A PEM file with the private key of tls_certificate."),
    setting("server.tokens", |c| Slot::Tokens(&mut c.server.tokens), ANY,
        "Bearer tokens: [[server.tokens]] tables with name, role (reader, writer or operator) and sha256 (hexadecimal, of the token's text), and perhaps expires (2027-01-31T12:00:00Z, or 2027-01-31 for the whole of that day, UTC): from then on it is refused, and 14 days before health and a log line warn. Elsewhere NAME:ROLE:SHA256 or NAME:ROLE:SHA256:EXPIRES, several with commas between them."),

    setting("database.url", |c| Slot::Url(&mut c.database.url), ANY,
        "The database: sqlite://PATH, postgres://USER:PASSWORD@HOST:5432/DATABASE (?sslmode=verify-full for TLS, more hosts after commas), surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE, or surrealdbs:// for TLS; with the feature surrealdb-embedded also surrealkv://PATH and mem://."),
    setting("database.password", |c| Slot::Secret(&mut c.database.password), ANY,
        "Its password, when it should not stand in the URL."),
    setting("database.password_file", |c| Slot::PathOrNone(&mut c.database.password_file), ANY,
        "A file that holds the password; spaces and newlines at its end are left out."),
    setting("database.create_collections", |c| Slot::Flag(&mut c.database.create_collections), ANY,
        "Whether the first write to a collection that does not exist makes it. Otherwise such a write is refused."),
    setting("database.request_timeout", |c| Slot::Duration(&mut c.database.request_timeout), (10 * MS, HOUR),
        "How long one request to the database may take before its connection is given up."),
    setting("database.connect_timeout", |c| Slot::Duration(&mut c.database.connect_timeout), (10 * MS, HOUR),
        "How long connecting to the database may take."),

    setting("queue.directory", |c| Slot::Path(&mut c.outlast.directory), ANY,
        "Where the log lives. One process at a time."),
    setting("queue.max_writes", |c| Slot::Count(&mut c.outlast.max_writes), POSITIVE,
        "Most writes that may wait."),
    setting("queue.max_bytes", |c| Slot::Bytes(&mut c.outlast.max_bytes), (64 * KIB, u64::MAX),
        "Most bytes that may wait."),
    setting("queue.format", |c| Slot::Choice(&mut c.outlast.format), ANY,
        "Format of new segments: json can be read with cat, grep and jq; bincode is smaller. Segments of both may stand side by side."),
    setting("queue.compression", |c| Slot::Choice(&mut c.outlast.compression), ANY,
        "zstd compresses full segments in the background; zstdcat reads them. Rot costs more then: a damaged byte takes the 64 KiB around it along."),
    setting("queue.encryption_key_file", |c| Slot::PathOrNone(&mut c.encryption.key_file), ANY,
        "A file with keys as `outlast log keygen` makes them, one per line, that only the server's user may read. What the log and the dead letters say is then encrypted: the first key encrypts new segments, all of them decrypt. Whoever loses a key loses what it has encrypted."),
    setting("queue.encryption_key", |c| Slot::Secret(&mut c.encryption.keys), ANY,
        "The same keys without a file, with commas between them: for the environment."),
    setting("queue.encrypt", |c| Slot::Flag(&mut c.encryption.encrypt), ANY,
        "Whether new segments are encrypted if there is a key. With false they are written in clear, and the keys are still used for older ones."),
    setting("queue.segment_bytes", |c| Slot::Bytes(&mut c.outlast.segment_bytes), (16 * KIB, 2 * GIB),
        "Size of one file of the log."),
    setting("queue.sync_interval", |c| Slot::Duration(&mut c.outlast.sync_interval), (MS, HOUR),
        "The longest that a write stays unsynced while nobody waits for it to be durable in the log."),
    setting("queue.retain", |c| Slot::Duration(&mut c.outlast.retain), ANY,
        "How long applied writes are kept, for healing a database that comes back older than it left."),
    setting("queue.retain_bytes", |c| Slot::Bytes(&mut c.outlast.retain_bytes), ANY,
        "Most bytes of applied writes that are kept for healing."),
    setting("queue.max_age", |c| Slot::DurationOrNone(&mut c.outlast.max_age), (SECOND, u64::MAX),
        "A write that waited longer becomes a dead letter. Time spent in an outage does not count, unless max_age_includes_outages is true."),
    setting("queue.max_age_includes_outages", |c| Slot::Flag(&mut c.outlast.max_age_includes_outages), ANY,
        "Whether max_age counts the time during which the database could not take the write, too."),
    setting("queue.write_bytes_max", |c| Slot::Bytes(&mut c.outlast.write_bytes_max), (KIB, GIB),
        "Largest single write. A larger one gets 413."),
    setting("queue.on_full", |c| Slot::RejectOrDuration(&mut c.outlast.block_when_full), (MS, HOUR),
        "What happens when the queue is full: reject answers 503 at once; a duration waits that long for room first."),

    setting("delivery.max_attempts", |c| Slot::SmallCount(&mut c.outlast.max_attempts), (1, 1_000_000),
        "How often the database may refuse a queued write before it is a dead letter. Outages do not count."),
    setting("delivery.backoff", |c| Slot::Duration(&mut c.outlast.backoff), (MS, DAY),
        "First pause after a refusal; it doubles, with full jitter."),
    setting("delivery.backoff_max", |c| Slot::Duration(&mut c.outlast.backoff_max), (MS, DAY),
        "Longest pause after a refusal."),
    setting("delivery.batch_max", |c| Slot::MemoryCount(&mut c.outlast.batch_max), (1, 100_000),
        "Most writes in one transaction."),
    setting("delivery.batch_bytes_max", |c| Slot::MemoryBytes(&mut c.outlast.batch_bytes_max), (KIB, GIB),
        "Most bytes in one transaction."),
    setting("delivery.lanes", |c| Slot::SmallCount(&mut c.outlast.lanes), (1, 16),
        "How many transactions may be under way at once. Writes to one record stay in order; those to different records may change places. A new number takes effect when nothing waits."),
    setting("delivery.storm_threshold", |c| Slot::SmallCount(&mut c.outlast.storm_threshold), (1, 1_000_000),
        "So many refusals in a row, of different records, pause delivery: then something is wrong with the database, not with the writes."),
    setting("delivery.hold_record_on_dead_letter", |c| Slot::Flag(&mut c.outlast.hold_record_on_dead_letter), ANY,
        "Whether later writes to a record wait while it has a dead letter."),
    setting("delivery.drain_rate", |c| Slot::CountOrNone(&mut c.outlast.drain_rate), POSITIVE,
        "Most writes per second while a backlog is drained."),
    setting("delivery.key_retention", |c| Slot::Duration(&mut c.outlast.key_retention), (SECOND, u64::MAX),
        "How long idempotency keys are remembered in the database."),

    setting("health.probe_interval", |c| Slot::Duration(&mut c.outlast.probe_interval), (10 * MS, HOUR),
        "Pause between probes of the database while it is connected."),
    setting("health.probe_max_interval", |c| Slot::Duration(&mut c.outlast.probe_max_interval), (10 * MS, HOUR),
        "Longest pause between probes while it is not."),
    setting("health.probe_timeout", |c| Slot::Duration(&mut c.outlast.probe_timeout), (10 * MS, HOUR),
        "A probe that takes longer has failed."),
    setting("health.unavailable_timeout", |c| Slot::Duration(&mut c.outlast.unavailable_timeout), (0, DAY),
        "An outage that lasts longer is critical."),
    setting("health.retry_after_max", |c| Slot::Duration(&mut c.outlast.retry_after_max), (SECOND, 60 * SECOND),
        "Longest Retry-After."),
    setting("health.read_wait", |c| Slot::Duration(&mut c.outlast.read_wait), (0, HOUR),
        "How long a read waits for a connection that failed a short while ago."),
    setting("health.after_timeout", |c| Slot::Choice(&mut c.outlast.after_timeout), ANY,
        "What happens to writes once an outage is critical: queue takes them all the same, reject answers 503."),

    setting("privacy.redact", |c| Slot::Fields(&mut c.outlast.redact), ANY,
        "Fields whose values are hidden wherever writes and refusals are shown to people: in the dashboard, lists of the queue and of dead letters, exports over HTTP, receipts, errors, events, alerts, log lines and the audit log. password is a member of that name wherever it stands, customers.email a member of the documents of customers, *.card.number a path in every collection; * stands for any name. Of the database's words about such a write only those of a fixed list are left, and names. Records that are read are not changed. An operator sees everything with ?redact=false or --unredacted."),

    setting("alerts.webhooks", |c| Slot::Webhooks(&mut c.alerts.webhooks), ANY,
        "URLs that alerts are posted to as JSON: when one begins, again while it lasts, and when it is over. Whoever has such a URL can post there, so only its host is ever shown. In the file an array; elsewhere several with commas between them."),
    setting("alerts.on", |c| Slot::Alerts(&mut c.alerts.on), ANY,
        "Which alerts: outage (longer than health.unavailable_timeout), queue (75 % full, and again at 90 %), dead_letters (any), delivery (halted, or a refusal storm), log (failed, or its disk is full), losses (acknowledged writes that cannot be read back)."),
    setting("alerts.repeat", |c| Slot::DurationOrNone(&mut c.alerts.repeat), (SECOND, u64::MAX),
        "How often an alert that lasts is told again."),

    setting("traces.endpoint", |c| Slot::UrlOrNone(&mut c.traces.endpoint), ANY,
        "Where spans are posted to as OTLP (protobuf over HTTP), for example http://localhost:4318/v1/traces: one for each request, and one for each transaction, linked to the requests whose writes it applies. Without it OTEL_EXPORTER_OTLP_TRACES_ENDPOINT counts, or OTEL_EXPORTER_OTLP_ENDPOINT with /v1/traces behind it."),
    setting("traces.headers", |c| Slot::Secret(&mut c.traces.headers), ANY,
        "Headers that are sent with them, as NAME=VALUE with commas between them; also from OTEL_EXPORTER_OTLP_HEADERS."),
    setting("traces.sample_ratio", |c| Slot::Ratio(&mut c.traces.sample_ratio), ANY,
        "Which part of the traces that begin here is kept, from 0 to 1; also from OTEL_TRACES_SAMPLER_ARG. A request that brings a traceparent is kept if that says so."),
    setting("traces.service_name", |c| Slot::Text(&mut c.traces.service_name), ANY,
        "The name of this service in traces; also from OTEL_SERVICE_NAME."),

    setting("log.level", |c| Slot::Text(&mut c.log.level), ANY,
        "Which lines: error, warn, info, debug or trace, or directives such as info,outlast=debug."),
    setting("log.format", |c| Slot::Choice(&mut c.log.format), ANY,
        "text for people, json for machines."),
];

/// The setting of that name.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The environment variable of a setting: `OUTLAST_SECTION__KEY`.
pub fn variable(key: &str) -> String {
    format!("OUTLAST_{}", key.to_ascii_uppercase().replacen('.', "__", 1))
}
