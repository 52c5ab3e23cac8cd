//! Power losses of the file system under the queue, at random moments under load.
//! Method: ext4 in a file; its own shutdown call forgets what was not synced; mounted again it replays its journal, as
//! after a real power cut. The database is elsewhere and mostly away, so that nearly everything acknowledged is only in
//! the queue. Segments are small and kept for no time, so that every round begins and gives back many.

use std::sync::Arc;
use std::time::Duration;

use outlast_testkit::history::History;
use outlast_testkit::process::OutlastProcess;
use outlast_testkit::seeds;

use super::base::Base;
use super::e2e::{Api, bury_dead_letters, check, setup, until};
use super::volume::Volume;
use super::writers::Writers;
use super::{close, effort, or_skip};

/// For each of the two formats.
const LOSSES: u32 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn acknowledged_writes_survive_power_losses_of_a_real_file_system_as_json() {
    power_losses("json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn acknowledged_writes_survive_power_losses_of_a_real_file_system_as_bincode() {
    power_losses("bincode").await;
}

/// When the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// While the log is being opened.
    Opening,
    /// Under load, while the database is away.
    Queueing,
    /// Under load, while what waits is brought to the database.
    Draining,
}

async fn power_losses(format: &str) {
    let Some(volume) = or_skip("power losses", Volume::ext4(64)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let base = Base::new(directory.path());
    let seed = seeds(1)[0];
    println!("{format}: OUTLAST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut process = setup(directory.path(), &base.url())
        .with("queue.directory", &volume.path().join("queue").display().to_string())
        .with("queue.format", format)
        .with("queue.segment_bytes", "32KiB")
        .with("queue.write_bytes_max", "8KiB")
        .with("queue.retain", "0s")
        .start();
    let (api, history) = (Arc::new(Api::new(process.url())), Arc::<History>::default());
    api.collections().await;

    let losses = effort(LOSSES);
    for round in 0..losses {
        process.kill();
        let moment =
            [Moment::Queueing, Moment::Queueing, Moment::Queueing, Moment::Draining, Moment::Opening];
        let moment = moment[random.usize(0..5)];
        base.put(moment != Moment::Draining);
        lose_power(&volume, &mut process, &api, &history, &mut random, moment, round).await;
        if round % 4 == 3 || round + 1 == losses {
            base.give_back();
            tokio::task::block_in_place(|| process.restart());
            api.drained().await;
            bury_dead_letters(&api, &history).await;
            check(&history, &base.seen());
        }
    }
    let lost = api.metric("outlast_writes_lost_total").await;
    assert!(lost.abs() < 0.5, "{lost} writes cannot be read back");
    let told = close(&format!("power losses ({format}): {losses}"), &history, &base.seen());
    assert!(told.queued > 50 * u64::from(losses) && told.unknown > 0, "{told:?}");
    assert_eq!(process.terminate().code(), Some(0));
}

async fn lose_power(
    volume: &Volume,
    process: &mut OutlastProcess,
    api: &Arc<Api>,
    history: &Arc<History>,
    random: &mut fastrand::Rng,
    moment: Moment,
    round: u32,
) {
    if moment == Moment::Opening {
        process.spawn();
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
        volume.cut_power();
        process.kill();
    } else {
        tokio::task::block_in_place(|| process.restart());
        let writers = Writers::start(api, history, random.u64(..), round);
        // The moment is the point: nothing is waited for.
        tokio::time::sleep(Duration::from_millis(random.u64(0..400))).await;
        volume.cut_power();
        // From now on nothing is durable. Clients go on asking until the server has noticed, and a little longer.
        until("it is not ready any more", async || (api.get("/readyz").await.status == 503).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
        process.kill();
        writers.stop().await;
    }
    volume.remount();
}
