//! A small file system that the queue fills, or somebody beside it.
//! Method: real file systems of 24 MiB, filled to the last byte, with the database away and then back.

use std::sync::Arc;

use outlast_testkit::history::{Change, History, Token, Told};
use outlast_testkit::process::OutlastProcess;
use serde_json::json;

use super::base::Base;
use super::e2e::{Api, Dialect, bury_dead_letters, setup, until, write};
use super::volume::Volume;
use super::{close, or_skip};

const MIB: u64 = 24;
const CLIENTS: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_full_ext4_refuses_clearly_loses_nothing_and_goes_on_by_itself() {
    if let Some(volume) = or_skip("a full disk", Volume::ext4(MIB)) {
        full_disk("ext4", &volume).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_full_tmpfs_refuses_clearly_loses_nothing_and_goes_on_by_itself() {
    if let Some(volume) = or_skip("a full tmpfs", Volume::tmpfs(MIB)) {
        full_disk("tmpfs", &volume).await;
    }
}

async fn full_disk(name: &str, volume: &Volume) {
    let directory = tempfile::tempdir().unwrap();
    let base = Base::new(directory.path());
    let mut process = setup(directory.path(), &base.url())
        .with("queue.directory", &volume.path().join("queue").display().to_string())
        .with("queue.segment_bytes", "1MiB")
        .with("queue.write_bytes_max", "64KiB")
        .with("queue.retain", "0s")
        .start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::<History>::default());
    api.collections().await;
    process.terminate();
    base.take_away();
    process.restart();

    // Somebody else takes everything, and gives it back.
    write_some(&api, &history, 50).await;
    volume.fill();
    let mut refused = write_until_refused(&api, &history).await;
    is_refused(&api).await;
    volume.free();
    process.wait_until("/readyz");
    write_some(&api, &history, 50).await;

    // The queue takes everything, somebody else the rest.
    refused += write_until_refused(&api, &history).await;
    is_refused(&api).await;
    volume.fill();
    is_refused(&api).await;
    let before = api.status().await.accounting;

    // The database is back: what waits goes there, and the refused ones among it to the dead letters.
    base.give_back();
    api.drained().await;
    let buried = bury_dead_letters(&api, &history).await;
    assert!(before.pending > 1000 && buried > 20, "{before:?}, {buried} dead letters");
    process.wait_until("/readyz");
    write_some(&api, &history, 50).await;
    assert_eq!(api.drained().await.accounting.dead, buried);

    stops_and_starts_when_full(volume, &mut process, &api, &history, &base).await;
    let told =
        close(&format!("full {name}: refused {refused}, dead letters {buried}"), &history, &base.seen());
    assert!(told.queued > 2000, "{told:?}");
}

/// On a disk that the queue has filled the server stops as it should, and starts again.
async fn stops_and_starts_when_full(
    volume: &Volume,
    process: &mut OutlastProcess,
    api: &Arc<Api>,
    history: &Arc<History>,
    base: &Base,
) {
    assert_eq!(process.terminate().code(), Some(0));
    base.take_away();
    process.restart();
    write_until_refused(api, history).await;
    volume.fill();
    assert_eq!(process.terminate().code(), Some(0), "{}", process.errors());
    process.restart();
    base.give_back();
    api.drained().await;
    bury_dead_letters(api, history).await;
    process.wait_until("/readyz");
}

/// One more write is refused, in words that help.
async fn is_refused(api: &Api) {
    let reply = api.put("/v1/records/documents/refused", &json!({ "pad": "x".repeat(60_000) })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "log-failed"), "{reply:?}");
    reply.retry_after();
    let problem = reply.json();
    assert!(problem["detail"].as_str().unwrap().contains("no space left"), "{problem}");
    assert_eq!(problem["outcome_unknown"], false, "{problem}");
    let ready = api.get("/readyz").await;
    assert!(ready.status == 503 && ready.text.contains("is full"), "{ready:?}");
    let health = api.get("/health").await;
    assert!(health.status == 503 && health.text.contains("the disk is full"), "{health:?}");
}

/// So many writes, all of which must be taken.
async fn write_some(api: &Arc<Api>, history: &Arc<History>, count: u32) {
    for _ in 0..count {
        let told = large(api, history, false).await;
        assert!(matches!(told, Told::Queued | Told::Applied), "{told:?}");
    }
}

/// Clients write until each was refused. Returns how many were.
async fn write_until_refused(api: &Arc<Api>, history: &Arc<History>) -> u32 {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (api, history) = (api.clone(), history.clone());
            tokio::spawn(async move {
                for number in 1_u32.. {
                    match large(&api, &history, number % 8 == 0).await {
                        Told::Queued => {}
                        told => return assert!(matches!(told, Told::Refused(_)), "{told:?}"),
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    until("it is not ready any more", async || (api.get("/readyz").await.status == 503).then_some(())).await;
    CLIENTS
}

/// A write of some KiB; one that the database will refuse if it is to die.
async fn large(api: &Api, history: &History, dies: bool) -> Told {
    let pad = "x".repeat(4000);
    let record = format!("documents/d{:016x}", fastrand::u64(..));
    let change = |token: Token| {
        let by = token.to_string();
        if dies {
            Change::Patch(json!({ "patched": by, "pad": pad }))
        } else {
            Change::Put(json!({ "by": by, "pad": pad }))
        }
    };
    write(api, history, Dialect::Sqlite, record, change, None).await
}
