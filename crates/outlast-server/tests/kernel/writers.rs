//! Clients that write to ledgers as fast as they are answered, whatever they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outlast_testkit::history::{Change, History, Told};
use serde_json::json;
use tokio::task::JoinHandle;

use super::e2e::{Api, Dialect, write};

const CLIENTS: u32 = 16;
/// Every round has its own, so that their lists stay short.
const LEDGERS: u32 = 8;

/// Clients at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(crate) fn start(api: &Arc<Api>, history: &Arc<History>, seed: u64, round: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let stop = Arc::<AtomicBool>::default();
        let tasks = (0..CLIENTS).map(|_| {
            let random = fastrand::Rng::with_seed(random.u64(..));
            tokio::spawn(work(api.clone(), history.clone(), random, round, stop.clone()))
        });
        Self { tasks: tasks.collect(), stop }
    }

    /// Lets every client have its last answer.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn work(
    api: Arc<Api>,
    history: Arc<History>,
    mut random: fastrand::Rng,
    round: u32,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::SeqCst) {
        let prefer = random.bool().then_some("respond-async");
        let told = if random.u8(0..24) == 0 {
            // Refused, and a dead letter when nobody waits.
            let record = format!("documents/nobody{}", random.u64(..));
            let change = |token: outlast_testkit::history::Token| {
                Change::Patch(json!({ "patched": token.to_string() }))
            };
            write(&api, &history, Dialect::Sqlite, record, change, prefer).await
        } else {
            note(&api, &history, &format!("r{round}n{}", random.u32(0..LEDGERS)), prefer).await
        };
        if matches!(told, Told::Refused(_) | Told::Unknown) {
            // A client that is refused comes back a little later.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One note to a ledger.
pub(crate) async fn note(api: &Api, history: &History, ledger: &str, prefer: Option<&str>) -> Told {
    write(api, history, Dialect::Sqlite, format!("counters/{ledger}"), |_| Change::Note, prefer).await
}
