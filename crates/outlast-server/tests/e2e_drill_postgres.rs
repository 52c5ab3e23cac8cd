//! The outage drill, on a real PostgreSQL server under load: everything that makes a database unusable without the
//! courtesy of a closed connection. Method: one server and one load for all cases; in each the fault is seen to have
//! fired, Outlast notices and never says that the database is there before it is; in the end every write took effect
//! once, no refusal came from an outage, and the database that returned was not overrun: it is seen what other clients
//! of it get meanwhile, and how Outlast's batches grow. Ten minutes of outage: `outlast/tests/simulation/outage.rs`; a
//! full disk of the database: `kernel/database.rs`.
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Api, Dialect, Load, Mix, bury_dead_letters, check, flows, in_postgres, noticed, setup};
use outlast::status::{DeadLetters, LaneState};
use outlast_testkit::postgres::{PostgresServer, is_installed};
use outlast_testkit::proxy::{Faults, Mode, Proxy};
use outlast_testkit::seeds;
use reqwest::Method;
use serde_json::json;

const FLAPS: u64 = 20;
/// With the time-out of a probe it bounds how long it takes until a silent database is noticed, two of them. How long it
/// took is printed; in virtual time it is asserted (`outlast/tests/simulation/outage.rs`).
const PROBE_INTERVAL: &str = "2s";
/// Transactions that the returning database may see at once: there is one lane, and one batch is sent ahead of its turn.
const TRANSACTIONS_MAX: u64 = 2;
/// The size of the first batches after a return (`drainer/ramp.rs`), and a backlog that takes several larger ones.
const FIRST_BATCH: &str = "16.0";
const BACKLOG: u64 = 500;
/// Outlast's transactions that have written something, and those that wait for another, as each does for the position
/// before it writes.
const WRITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'drill' AND state <> 'idle' \
                       AND (backend_xid IS NOT NULL OR wait_event_type = 'Lock')";

struct Drill {
    server: Arc<PostgresServer>,
    proxy: Proxy,
    api: Arc<Api>,
    /// Returns that met a backlog large enough to see batches grow. That none begins large:
    /// `outlast/tests/simulation/drain.rs`.
    ramps: AtomicU64,
}

/// Ends who looks on, also when the drill fails: the test would wait for it for ever.
struct EndsWith(Arc<AtomicBool>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Drill {
    /// As the superuser, beside Outlast.
    fn sql(&self, statements: &str) -> String {
        self.server.query("drill", statements)
    }

    /// Ends Outlast's sessions, so that new ones must be made.
    fn end_sessions(&self) {
        self.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'drill'");
    }

    /// How many batches there were so far: small ones, and all.
    async fn batches(&self) -> [u64; 2] {
        let small = format!("outlast_apply_batch_size_bucket{{le=\"{FIRST_BATCH}\"}}");
        let batches = self.api.metrics([&small, "outlast_apply_batch_size_count"]).await;
        batches.map(|count| count.round() as u64)
    }

    /// The outage is over and the load flows. Returns how many of Outlast's transactions were seen at once.
    async fn over(&self, name: &str) -> u64 {
        let (server, returned) = (self.server.clone(), Arc::new(AtomicBool::new(false)));
        let look = {
            let returned = returned.clone();
            move || {
                let (mut peak, mut slowest) = (0, Duration::ZERO);
                while !returned.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    let seen = server.query("drill", WRITING);
                    slowest = slowest.max(asked.elapsed());
                    peak = peak.max(seen.parse::<u64>().unwrap());
                }
                (peak, slowest)
            }
        };
        let waiting = self.api.status().await.queue.writes;
        let before = self.batches().await;
        let end = EndsWith(returned);
        let looking = tokio::task::spawn_blocking(look);
        self.api.until(name, |status| status.outage.is_none()).await;
        let after = self.batches().await;
        flows(&self.api, name).await;
        drop(end);
        let (peak, slowest) = looking.await.unwrap();
        let [small, all] = [0, 1].map(|at| after[at] - before[at]);
        println!(
            "{name}: {waiting} waited; {small} batches of at most {FIRST_BATCH} and {} larger ones until it was over; \
             {peak} transactions at once; the slowest query of another client took {slowest:?}, with starting it",
            all - small
        );
        if waiting > BACKLOG {
            self.ramps.fetch_add(1, Ordering::SeqCst);
            assert!(
                small > 0 && all > small,
                "{name}: it did not begin small and grow: {small} of {all} batches"
            );
        }
        peak
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_kind_of_outage_loses_doubles_or_blames_anything() {
    if !is_installed() {
        return;
    }
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let server = Arc::new(PostgresServer::start());
    server.create_database("drill");
    server.query("drill", "CREATE ROLE drill LOGIN PASSWORD 'secret'; ALTER DATABASE drill OWNER TO drill");
    let proxy = Proxy::start(server.authority().parse::<SocketAddr>().unwrap()).await.unwrap();
    let url = format!("postgres://drill:secret@{}/drill", proxy.address());
    let process = setup(directory.path(), &url)
        .with("health.probe_interval", PROBE_INTERVAL)
        .with("health.probe_timeout", "1s")
        .start();
    let api = Arc::new(Api::new(process.url()));
    let mut load =
        Load::start(api.clone(), &Mix { pause_ms: 200, ..Mix::new(Dialect::Postgres, seed) }).await;
    let drill = Drill { server, proxy, api, ramps: AtomicU64::new(0) };
    let mut peak = 0;

    flows(&drill.api, "before everything").await;
    drill.proxy.set(Mode::BlackHole).await;
    noticed(&drill.api, "connections that swallow everything").await;
    // It meets a request, or the answer to one that was under way.
    let faults = drill.proxy.faults();
    assert!(Faults::count(&faults.swallowed) + Faults::count(&faults.held) > 0);
    drill.proxy.set(Mode::Pass).await;
    peak = peak.max(drill.over("the black hole is gone").await);

    drill.server.freeze();
    noticed(&drill.api, "a database that is stopped where it stands").await;
    drill.server.thaw();
    peak = peak.max(drill.over("it goes on").await);

    // The role is no superuser, to whom the limit would not apply.
    drill.sql("ALTER ROLE drill CONNECTION LIMIT 0");
    drill.end_sessions();
    noticed(&drill.api, "no connection left").await;
    drill.sql("ALTER ROLE drill CONNECTION LIMIT -1");
    peak = peak.max(drill.over("connections are given again").await);

    drill.sql("ALTER ROLE drill PASSWORD 'another'");
    drill.end_sessions();
    noticed(&drill.api, "credentials revoked").await;
    drill.sql("ALTER ROLE drill PASSWORD 'secret'");
    peak = peak.max(drill.over("credentials given back").await);

    drill.sql("ALTER ROLE drill SET default_transaction_read_only = on");
    drill.end_sessions();
    noticed(&drill.api, "read-only").await;
    drill.sql("ALTER ROLE drill RESET default_transaction_read_only");
    drill.end_sessions();
    peak = peak.max(drill.over("writable again").await);

    drill.proxy.set(Mode::Delay(Duration::from_millis(250))).await;
    flows(&drill.api, "slow, and still applied").await;
    assert!(Faults::count(&drill.proxy.faults().delayed) > 0);
    drill.proxy.set(Mode::Pass).await;
    peak = peak.max(drill.over("fast again").await);

    // Two seconds there and back: what is open still serves, but a session takes longer than `connect_timeout` to make.
    drill.proxy.set(Mode::Delay(Duration::from_secs(1))).await;
    let applied = drill.api.status().await.accounting.applied;
    let status = drill
        .api
        .until("two seconds of latency: slow or away", |status| {
            !status.database.is_connected() || status.accounting.applied > applied + 50
        })
        .await;
    println!(
        "two seconds of latency: {:?}, {} applied",
        status.database,
        status.accounting.applied - applied
    );
    drill.proxy.set(Mode::Pass).await;
    peak = peak.max(drill.over("fast once more").await);

    // A migration takes each table for itself, then changes what cached plans were made for. It is two transactions:
    // one that held both could meet a batch that took them the other way round, and PostgreSQL would pick its victim.
    for migration in [
        "BEGIN; LOCK TABLE documents; SELECT pg_sleep(1); ALTER TABLE documents ADD COLUMN migrated bigint DEFAULT 7; COMMIT",
        "ALTER TABLE counters ADD COLUMN migrated text",
    ] {
        drill.sql(migration);
    }
    flows(&drill.api, "the schema was migrated in the middle").await;

    for flap in 0..FLAPS {
        drill.proxy.set(Mode::Refuse).await;
        drill.api.until("a flap is noticed", |status| !status.database.is_connected()).await;
        drill.proxy.set(Mode::Pass).await;
        drill.api.until("a flap is over", |status| status.database.is_connected()).await;
        if flap % 5 == 0 {
            flows(&drill.api, "between flaps").await;
        }
    }
    peak = peak.max(drill.over("no more flaps").await);
    load.stop().await;

    let status = drill.api.drained().await;
    let dead = bury_dead_letters(&drill.api, &load.history).await;
    let told = check(&load.history, &in_postgres(&drill.server, "drill"));
    println!("peak of transactions at once {peak}, {told:?}, {dead} dead letters, {:?}", status.accounting);
    assert!(peak <= TRANSACTIONS_MAX, "{peak} transactions at once");
    assert!(drill.ramps.load(Ordering::SeqCst) > 0, "no return met a backlog of {BACKLOG} writes");
    assert_eq!(told.unknown, 0, "Outlast was there all the time");
    assert_eq!(status.accounting.dead, dead);
    assert_eq!(drill.api.metric("outlast_writes_lost_total").await, 0.0);
    let outages = drill.api.outages().await;
    assert!(!outages.is_empty() && outages.iter().all(|outage| outage.lost == 0), "{outages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_and_made_again_buries_nothing() {
    const WRITES: u64 = 200;
    if !is_installed() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = PostgresServer::shared();
    server.create_database("dropped");
    let make = "CREATE TABLE items (id text PRIMARY KEY, data jsonb NOT NULL)";
    let setup = || setup(directory.path(), &server.url("dropped"));
    // Outlast's own tables are made; from then on no table is.
    let process = setup().start();
    Api::new(process.url()).applies().await;
    drop(process);
    server.query("dropped", make);
    let process =
        setup().with("database.create_collections", "false").with("delivery.storm_threshold", "5").start();
    let api = Api::new(process.url());
    api.applies().await;
    assert_eq!(api.put("/v1/records/items/before", &json!({})).await.status, 200);
    server.query("dropped", "DROP TABLE items");
    for at in 0..WRITES {
        let path = format!("/v1/records/items/{at}");
        let sent = api.send(Method::PUT, &path, Some(&json!({ "n": at })), Some("respond-async")).await;
        assert_eq!(sent.unwrap().status, 202);
    }
    let status =
        api.until("the storm is noticed", |status| matches!(status.lane, LaneState::Storm { .. })).await;
    let LaneState::Storm { reasons, .. } = &status.lane else { unreachable!() };
    assert!(reasons.iter().any(|(reason, _)| reason.contains("items")), "{reasons:?}");
    assert!(status.accounting.dead < 5, "{:?}", status.accounting);
    assert_eq!(api.put("/v1/records/items/meanwhile", &json!({})).await.status, 202, "writes are taken");

    server.query("dropped", make);
    api.drained().await;
    let letters = api.get("/v1/dead-letters").await.json();
    let letters: DeadLetters = serde_json::from_value(letters).unwrap();
    for letter in &letters.letters {
        let retry = api.post(&format!("/v1/dead-letters/{}/retry", letter.id), &json!({})).await;
        assert_eq!(retry.status, 200, "{retry:?}");
    }
    let status = api.drained().await;
    assert_eq!((status.accounting.dead, status.accounting.discarded), (0, 0));
    let right = "SELECT count(*) FROM items WHERE data ->> 'n' = id OR id = 'meanwhile'";
    assert_eq!(server.query("dropped", right), (WRITES + 1).to_string());
}
