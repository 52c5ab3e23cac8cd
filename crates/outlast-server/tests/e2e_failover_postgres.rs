//! PostgreSQL comes back older than it left: a standby that lagged is promoted, a base backup is restored. Method: both
//! happen under load, several times; counters, lists of tokens and a table that triggers fill show that every write took
//! effect exactly once.
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::sync::Arc;

use e2e::{Api, Dialect, Load, Mix, bury_dead_letters, check, in_postgres, setup, until};
use outlast_testkit::postgres::{PostgresServer, is_installed, url};
use outlast_testkit::seeds;

const DATABASE: &str = "failover";
/// One line for each change of a ledger, written by the database itself in the same transaction.
const AUDIT: &str = "CREATE TABLE audit (number bigserial, ledger text, token text, count bigint); \
    CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO audit (ledger, token, count) \
    VALUES (NEW.id, NEW.data -> 'tokens' ->> -1, (NEW.data ->> 'count')::bigint); RETURN NULL; END $$; \
    CREATE TRIGGER note_it AFTER INSERT OR UPDATE ON counters FOR EACH ROW \
    WHEN (NEW.data ? 'tokens') EXECUTE FUNCTION note_it()";
/// At least so many commits the standby never gets before the primary dies, round by round.
const LAGS: [u64; 10] = [0, 1, 5, 20, 50, 100, 150, 200, 300, 400];
const ROUNDS: u64 = 3;

/// A load on a database with an audit table.
struct Drill {
    api: Arc<Api>,
    load: Load,
    /// Ends with it.
    _process: (outlast_testkit::process::OutlastProcess, tempfile::TempDir),
}

impl Drill {
    async fn start(server: &PostgresServer, authority: &str) -> Self {
        let seed = seeds(1)[0];
        println!("OUTLAST_SEED={seed}");
        let directory = tempfile::tempdir().unwrap();
        server.create_database(DATABASE);
        let process = setup(directory.path(), &url(authority, DATABASE)).start();
        let api = Arc::new(Api::new(process.url()));
        api.collections().await;
        server.query(DATABASE, AUDIT);
        let mix = Mix { clients: 32, ledgers: 20, documents: 50, ..Mix::new(Dialect::Postgres, seed) };
        let load = Load::start(api.clone(), &mix).await;
        Self { api, load, _process: (process, directory) }
    }

    /// Waits until so many more writes are applied.
    async fn applies(&self, more: u64) {
        let applied = self.api.status().await.accounting.applied;
        self.api.until("writes are applied", |status| status.accounting.applied > applied + more).await;
    }

    /// Waits until one outage more than so many has been noticed and is over, while the load goes on.
    async fn is_over(&self, outages: usize) {
        until("the outage is over, under load", async || {
            let is_over = self.api.outages().await.len() > outages;
            (is_over && self.api.status().await.outage.is_none()).then_some(())
        })
        .await;
    }

    async fn healed(&self) -> u64 {
        self.api.metric("outlast_writes_healed_total").await.round() as u64
    }

    /// Everything that was promised, against what stands in the database.
    async fn end(mut self, server: &PostgresServer, what: &str) {
        self.load.stop().await;
        let status = self.api.drained().await;
        let dead = bury_dead_letters(&self.api, &self.load.history).await;
        let told = check(&self.load.history, &in_postgres(server, DATABASE));
        let healed = self.healed().await;
        println!("{what}, {healed} writes healed, {told:?}, {dead} dead letters, lost 0, double 0");
        assert!(healed > 0, "the database was never older than it had been");
        assert_eq!(self.api.metric("outlast_writes_lost_total").await, 0.0);
        assert_eq!((status.accounting.dead, status.accounting.discarded), (dead, 0));
        // The ledgers' own lists could hide a change that was undone; the triggers' lines could not.
        let twice = "SELECT token, count(*) FROM audit GROUP BY token HAVING count(*) > 1";
        assert_eq!(server.query(DATABASE, twice), "", "applied twice, as the triggers saw it");
        let counts =
            "SELECT (SELECT sum((data ->> 'count')::bigint) FROM counters) = (SELECT count(*) FROM audit)";
        assert_eq!(server.query(DATABASE, counts), "t", "the triggers saw what the ledgers count");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lagged_is_promoted_ten_times_and_gets_exactly_what_it_missed() {
    if !is_installed() {
        return;
    }
    let mut primary = PostgresServer::start();
    let mut standby = primary.standby();
    let drill = Drill::start(&primary, &format!("{},{}", primary.authority(), standby.authority())).await;
    for lag in LAGS {
        drill.applies(100).await;
        // It follows so far; from here on the network between them is cut.
        let followed = primary.query(DATABASE, "SELECT pg_current_wal_flush_lsn()");
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{followed}'");
        until("the standby has caught up", async || {
            (standby.query("postgres", &caught_up) == "t").then_some(())
        })
        .await;
        standby.cut_off();
        if lag > 0 {
            drill.applies(lag).await;
        }
        let (healed, outages) = (drill.healed().await, drill.api.outages().await.len());
        primary.kill();
        standby.promote();
        drill.is_over(outages).await;
        let healed = drill.healed().await - healed;
        println!("{lag} or more commits that the standby never had: {healed} writes healed");
        assert!(healed >= lag, "only {healed} healed");
        let port = primary.port();
        drop(primary);
        primary = standby;
        standby = primary.standby_at(port);
    }
    drill.end(&primary, &format!("{} failovers", LAGS.len())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_backup_that_is_restored_under_load_gets_exactly_what_came_after_it() {
    if !is_installed() {
        return;
    }
    let mut server = PostgresServer::start();
    let drill = Drill::start(&server, &server.authority()).await;
    for _ in 0..ROUNDS {
        drill.applies(100).await;
        let backup = server.backup();
        drill.applies(150).await;
        let (healed, outages) = (drill.healed().await, drill.api.outages().await.len());
        server.kill();
        server.restore(backup);
        drill.is_over(outages).await;
        let healed = drill.healed().await - healed;
        assert!(healed >= 150, "only {healed} healed");
    }
    drill.end(&server, &format!("{ROUNDS} base backups restored")).await;
}
