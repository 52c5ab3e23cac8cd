//! The database's own disk: it fills up, and it loses its power. Method: PostgreSQL with its files on a small file system
//! of ours, under load. The server is told to sync no commit (`synchronous_commit = off`), as fast and careless ones are:
//! what somebody else commits that way is lost with the power, and nothing that Outlast said was applied.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use outlast_testkit::history::History;
use outlast_testkit::postgres::{PostgresServer, is_installed};
use outlast_testkit::process::OutlastProcess;
use outlast_testkit::seeds;
use serde_json::json;

use super::e2e::{Api, Dialect, Load, Mix, bury_dead_letters, in_postgres, setup};
use super::volume::{Volume, run};
use super::{close, effort, or_skip};

/// Room for a server and some load.
const MIB: u64 = 256;
const LOSSES: u32 = 4;
const SETTINGS: &str =
    "synchronous_commit = off\nwal_writer_delay = 10s\nmin_wal_size = '32MB'\nmax_wal_size = '32MB'\n";

struct World {
    server: PostgresServer,
    process: OutlastProcess,
    api: Arc<Api>,
    load: Load,
    _directory: tempfile::TempDir,
}

impl World {
    async fn begin(volume: &Volume) -> Self {
        // The server's user is another one.
        fs::set_permissions(volume.path().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let server = PostgresServer::start_in(volume.path(), SETTINGS);
        server.create_database("base");
        server.query("base", "CREATE TABLE careless (number bigint)");
        let process =
            setup(directory.path(), &server.url("base")).with("health.probe_interval", "500ms").start();
        let api = Arc::new(Api::new(process.url()));
        let seed = seeds(1)[0];
        println!("OUTLAST_SEED={seed}");
        let load = Load::start(api.clone(), &Mix { clients: 16, ..Mix::new(Dialect::Postgres, seed) }).await;
        // Making a cluster syncs nothing.
        run("sync", ["-f".as_ref(), volume.path().as_os_str()]).unwrap();
        Self { server, process, api, load, _directory: directory }
    }

    async fn flows(&self, what: &str) {
        let applied = self.api.status().await.accounting.applied;
        self.api.until(what, |status| status.accounting.applied > applied + 200).await;
    }

    async fn end(mut self, what: &str) {
        self.load.stop().await;
        let status = self.api.drained().await;
        assert_eq!(status.accounting.dead, bury_dead_letters(&self.api, &self.load.history).await);
        let history: &History = &self.load.history;
        let told = close(what, history, &in_postgres(&self.server, "base"));
        assert!(told.applied > 100 && told.queued > 100, "{told:?}");
        assert_eq!(self.process.terminate().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_database_whose_disk_is_full_is_waited_for() {
    let Some(volume) = or_skip("a database on a full disk", Volume::tmpfs(MIB)) else { return };
    if !is_installed() {
        return;
    }
    let mut world = World::begin(&volume).await;
    world.flows("healthy").await;
    volume.fill();
    let status = world.api.until("the full disk is noticed", |status| !status.database.is_connected()).await;
    println!("a database on a full disk: {:?}", status.database);
    let queued = status.queue.writes;
    world.api.until("writes are queued", |status| status.queue.writes > queued + 100).await;
    volume.free();
    // It may have given up by itself: without space for its own log it ends.
    tokio::task::block_in_place(|| world.server.restart());
    world.api.until("the outage is over", |status| status.outage.is_none()).await;
    world.flows("healthy again").await;
    world.end("a database on a full disk: 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn what_was_called_applied_survives_the_power_loss_of_a_careless_database() {
    let Some(volume) = or_skip("power losses of a database", Volume::ext4(MIB)) else { return };
    if !is_installed() {
        return;
    }
    let mut world = World::begin(&volume).await;
    let (losses, mut forgotten) = (effort(LOSSES), 0);
    for round in 0..losses {
        world.flows("healthy").await;
        // Every second time nobody else syncs what is committed carelessly.
        let alone = round % 2 == 1;
        if alone {
            assert_eq!(world.api.post("/v1/queue/pause", &json!({})).await.status, 200);
        }
        world.server.query("base", &format!("INSERT INTO careless VALUES ({round})"));
        volume.cut_power();
        if !alone {
            world.api.until("the outage is noticed", |status| !status.database.is_connected()).await;
        }
        tokio::task::block_in_place(|| {
            world.server.kill();
            volume.remount();
            world.server.restart();
        });
        if alone {
            assert_eq!(world.api.post("/v1/queue/resume", &json!({})).await.status, 200);
        }
        world.api.until("the outage is over", |status| status.outage.is_none()).await;
        let kept =
            world.server.query("base", &format!("SELECT count(*) FROM careless WHERE number = {round}"));
        forgotten += u32::from(kept == "0");
    }
    assert!(forgotten >= losses / 2, "only {forgotten} of {losses} power losses took what nobody had synced");
    world
        .end(&format!("power losses of a database: {losses}, commits of others forgotten {forgotten}"))
        .await;
}
