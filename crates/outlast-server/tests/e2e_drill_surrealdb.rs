//! The outage drill, on a real SurrealDB server under load: what makes a database unusable without the courtesy of a
//! closed connection. Method: that of `e2e_drill_postgres.rs`, which has more cases; a server that is killed:
//! `e2e_outage_surrealdb.rs`.
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use e2e::{Api, Dialect, Load, Mix, bury_dead_letters, check, flows, in_surreal, noticed, setup};
use outlast_testkit::proxy::{Faults, Mode, Proxy};
use outlast_testkit::seeds;
use outlast_testkit::surreal::{Storage, SurrealServer};

const FLAPS: u64 = 20;
const USER: &str = "DEFINE USER OVERWRITE drill ON DATABASE ROLES OWNER PASSWORD";

async fn over(api: &Api, name: &str) {
    api.until(name, |status| status.outage.is_none()).await;
    flows(api, name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_kind_of_outage_loses_doubles_or_blames_anything() {
    let seed = seeds(1)[0];
    println!("OUTLAST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let server = SurrealServer::start(Storage::File(directory.path().join("surreal")));
    let sql = |statement: &str| drop(server.sql("proof", "drill", statement));
    sql(&format!("{USER} 'secret'"));
    let proxy = Proxy::start(server.authority().parse::<SocketAddr>().unwrap()).await.unwrap();
    let url = format!("surrealdb://drill:secret@{}/proof/drill", proxy.address());
    let process = setup(directory.path(), &url)
        .with("health.probe_interval", "2s")
        .with("health.probe_timeout", "1s")
        .start();
    let api = Arc::new(Api::new(process.url()));
    let mut load = Load::start(api.clone(), &Mix { pause_ms: 200, ..Mix::new(Dialect::Surreal, seed) }).await;

    flows(&api, "before everything").await;
    proxy.set(Mode::BlackHole).await;
    noticed(&api, "connections that swallow everything").await;
    let faults = proxy.faults();
    assert!(Faults::count(&faults.swallowed) + Faults::count(&faults.held) > 0);
    proxy.set(Mode::Pass).await;
    over(&api, "the black hole is gone").await;

    server.freeze();
    noticed(&api, "a database that is stopped where it stands").await;
    server.thaw();
    over(&api, "it goes on").await;

    // Sessions that are open stay signed in.
    sql(&format!("{USER} 'another'"));
    proxy.cut();
    noticed(&api, "credentials revoked").await;
    sql(&format!("{USER} 'secret'"));
    over(&api, "credentials given back").await;

    // Two seconds there and back: what is open still serves, but a session takes longer than `connect_timeout` to make.
    proxy.set(Mode::Delay(Duration::from_secs(1))).await;
    let applied = api.status().await.accounting.applied;
    let slow = "two seconds of latency: slow or away";
    let status = api
        .until(slow, |status| !status.database.is_connected() || status.accounting.applied > applied + 50)
        .await;
    println!("{slow}: {:?}, {} applied", status.database, status.accounting.applied - applied);
    proxy.set(Mode::Pass).await;
    over(&api, "fast again").await;

    sql(
        "DEFINE FIELD migrated ON documents TYPE option<int>; DEFINE INDEX migrated ON documents FIELDS migrated",
    );
    flows(&api, "the schema was migrated in the middle").await;

    for flap in 0..FLAPS {
        proxy.set(Mode::Refuse).await;
        api.until("a flap is noticed", |status| !status.database.is_connected()).await;
        proxy.set(Mode::Pass).await;
        api.until("a flap is over", |status| status.database.is_connected()).await;
        if flap % 5 == 0 {
            flows(&api, "between flaps").await;
        }
    }
    over(&api, "no more flaps").await;
    load.stop().await;

    let status = api.drained().await;
    let dead = bury_dead_letters(&api, &load.history).await;
    let told = check(&load.history, &in_surreal(&server, "proof", "drill"));
    println!("{told:?}, {dead} dead letters, {:?}", status.accounting);
    assert_eq!(told.unknown, 0, "Outlast was there all the time");
    assert_eq!(status.accounting.dead, dead);
    assert_eq!(api.metric("outlast_writes_lost_total").await, 0.0);
    let outages = api.outages().await;
    assert!(!outages.is_empty() && outages.iter().all(|outage| outage.lost == 0), "{outages:?}");
}
