//! What must hold in every case of an outage drill.

use std::time::{Duration, Instant};

use super::Api;

/// How long a fault lasts after it was noticed: the time in which nothing may look well.
const LASTS: Duration = Duration::from_secs(2);

/// The load goes on and is applied.
pub async fn flows(api: &Api, what: &str) {
    let applied = api.status().await.accounting.applied;
    api.until(what, |status| status.accounting.applied > applied + 100).await;
}

/// Waits until the fault is noticed, then lets it last: all that time the database must not look well.
pub async fn noticed(api: &Api, name: &str) {
    let injected = Instant::now();
    let status = api.until(name, |status| !status.database.is_connected()).await;
    println!("{name}: noticed after {:?}: {:?}", injected.elapsed(), status.database);
    let noticed = Instant::now();
    let mut queued = status.queue.writes;
    while noticed.elapsed() < LASTS {
        let status = api.status().await;
        assert!(!status.database.is_connected(), "{name}: it looks well: {:?}", status.database);
        queued = status.queue.writes;
        let read = api.get("/v1/records/documents/nobody").await;
        assert_eq!(read.status, 503, "{name}: {read:?}");
        read.retry_after();
    }
    assert!(queued > 0, "{name}: nothing was written meanwhile");
}
