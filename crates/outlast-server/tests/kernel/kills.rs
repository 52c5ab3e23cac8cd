//! kill -9 at named system calls and at random moments, under load.
//! Method: `strace` kills the server at the entry of the N-th call of a kind on files of a role; its trace shows the call
//! that never returned. After each kill the server starts again on what is left, brings everything to the database, and
//! the database must agree with what clients were told so far.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_testkit::history::History;
use outlast_testkit::process::OutlastProcess;
use outlast_testkit::seeds;
use tempfile::TempDir;

use super::base::Base;
use super::e2e::{Api, PATIENCE, bury_dead_letters, check, setup};
use super::trace::{Fault, Role, Trace, can_trace};
use super::writers::Writers;
use super::{close, effort, or_skip};

const RANDOM_KILLS: u32 = 25;
/// A server that is asked to stop cuts a segment only when it is less than three quarters full.
const ATTEMPTS: u32 = 20;

/// In which state the server meets the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum While {
    /// It starts, after a kill in which nothing had been written.
    Starting,
    /// Clients write, and the database is away.
    Queueing,
    /// Clients write, and the database has what waits brought to it.
    Applying,
    /// It stops, having been asked to.
    Stopping,
}

/// A point: its name, the call, on what, the how-manyeth of a thread, and while what.
type Point = (&'static str, &'static str, Role, &'static str, While);

const POINTS: [Point; 32] = [
    ("write of an epoch", "pwrite64", Role::Epochs, "1", While::Starting),
    ("sync of an epoch", "fdatasync", Role::Epochs, "1", While::Starting),
    ("second writing of an end", "pwrite64", Role::Segment, "1", While::Starting),
    ("cut of a torn end", "ftruncate", Role::Segment, "1", While::Starting),
    ("sync of a cut end", "fdatasync", Role::Segment, "1", While::Starting),
    ("creation of the first segment", "openat", Role::Prefilling, "1", While::Starting),
    ("prefill of the first segment", "pwrite64", Role::Prefilling, "1", While::Starting),
    ("sync of that prefill", "fdatasync", Role::Prefilling, "1", While::Starting),
    ("header of the first segment", "pwrite64", Role::Segment, "2", While::Starting),
    ("sync of the first segment", "fdatasync", Role::Segment, "2", While::Starting),
    ("name of the first segment", "rename", Role::Prefilling, "1", While::Starting),
    ("directory sync of the first segment", "fsync", Role::Directory, "1", While::Starting),
    ("removal of an empty segment", "unlink", Role::Segment, "1", While::Starting),
    ("write of entries", "pwrite64", Role::Segment, "9", While::Queueing),
    ("sync of entries", "fdatasync", Role::Segment, "9", While::Queueing),
    ("name of the next segment", "rename", Role::Spare, "1", While::Queueing),
    ("directory sync", "fsync", Role::Directory, "2", While::Queueing),
    ("creation of a spare", "openat", Role::Prefilling, "2", While::Queueing),
    ("prefill of a spare", "pwrite64", Role::Prefilling, "3", While::Queueing),
    ("sync of a spare", "fdatasync", Role::Prefilling, "3", While::Queueing),
    ("name of a spare", "rename", Role::Prefilling, "2", While::Queueing),
    ("write of a sidecar", "pwrite64", Role::NewSidecar, "2", While::Queueing),
    ("sync of a sidecar", "fdatasync", Role::NewSidecar, "2", While::Queueing),
    ("name of a sidecar", "rename", Role::NewSidecar, "2", While::Queueing),
    ("write of entries and marks", "pwrite64", Role::Segment, "9", While::Applying),
    ("recycling of a segment", "rename", Role::Segment, "1", While::Applying),
    ("next use of a segment", "rename", Role::Recycled, "1", While::Applying),
    ("removal of a segment", "unlink", Role::Segment, "1", While::Applying),
    ("removal of a sidecar", "unlink", Role::Sidecar, "1", While::Applying),
    ("sync of a dead letter", "fdatasync", Role::DeadSegment, "3", While::Applying),
    ("commit of the database", "fsync", Role::DatabaseLog, "3", While::Applying),
    ("cut of the last segment", "ftruncate", Role::Segment, "1", While::Stopping),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn acknowledged_writes_survive_kill_9_at_every_named_system_call() {
    if or_skip("kills at named points", can_trace()).is_none() {
        return;
    }
    let mut stage = Stage::new("json").await;
    let rounds = effort(1);
    for round in 0..rounds {
        for (index, point) in POINTS.into_iter().enumerate() {
            let (name, call, ..) = point;
            let hit = stage.kill_at(point, round * POINTS.len() as u32 + index as u32).await;
            println!("killed at the {name}: {hit}");
            assert!(hit.contains(call), "{name}: {hit}");
            stage.recover().await;
        }
    }
    let kills = POINTS.len() as u32 * rounds;
    stage.close(&format!("kills at {} named points: {kills}", POINTS.len())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn acknowledged_writes_survive_kill_9_at_random_moments() {
    println!("kills at random moments: {}", super::e2e::binary().display());
    let mut stage = Stage::new("bincode").await;
    let kills = effort(RANDOM_KILLS);
    for round in 0..kills {
        stage.process.kill();
        let away = stage.random.bool();
        stage.base.put(away);
        let writers = if stage.random.u8(0..5) == 0 {
            stage.process.spawn();
            None
        } else {
            tokio::task::block_in_place(|| stage.process.restart());
            Some(stage.writers(round))
        };
        // The moment is the point: nothing is waited for.
        let longest = if writers.is_some() { 300 } else { 60 };
        tokio::time::sleep(Duration::from_millis(stage.random.u64(0..longest))).await;
        stage.process.kill();
        if let Some(writers) = writers {
            writers.stop().await;
        }
        stage.recover().await;
    }
    stage.close(&format!("kills at random moments: {kills}")).await;
}

/// A server, its clients and its database.
struct Stage {
    process: OutlastProcess,
    api: Arc<Api>,
    history: Arc<History>,
    base: Base,
    random: fastrand::Rng,
    directory: TempDir,
}

impl Stage {
    async fn new(format: &str) -> Self {
        let seed = seeds(1)[0];
        println!("{format}: OUTLAST_SEED={seed}");
        let directory = tempfile::tempdir().unwrap();
        let base = Base::new(directory.path());
        let process = setup(directory.path(), &base.url())
            .with("queue.format", format)
            .with("queue.segment_bytes", "32KiB")
            .with("queue.write_bytes_max", "8KiB")
            .with("queue.retain", "0s")
            .start();
        let api = Arc::new(Api::new(process.url()));
        api.collections().await;
        let random = fastrand::Rng::with_seed(seed);
        Self { process, api, history: Arc::default(), base, random, directory }
    }

    fn writers(&mut self, round: u32) -> Writers {
        Writers::start(&self.api, &self.history, self.random.u64(..), round)
    }

    /// Runs the server until it is killed at that point. Returns the call.
    async fn kill_at(&mut self, (name, call, role, when, during): Point, round: u32) -> String {
        for _ in 0..ATTEMPTS {
            self.prepare(during);
            let trace = self.start(Fault { call, role, inject: "signal=KILL", when });
            let writers = match during {
                While::Starting => None,
                While::Queueing | While::Applying => Some(self.writers(round)),
                While::Stopping => {
                    tokio::task::block_in_place(|| self.process.wait_until("/livez"));
                    let writers = self.writers(round);
                    tokio::time::sleep(Duration::from_millis(self.random.u64(0..100))).await;
                    writers.stop().await;
                    None
                }
            };
            let status =
                if during == While::Stopping { self.process.terminate() } else { self.end(name).await };
            if let Some(writers) = writers {
                writers.stop().await;
            }
            trace.ended();
            if status.signal() == Some(9) {
                return trace.killed_at().unwrap_or_else(|| panic!("{name}: no call in {:?}", trace.calls()));
            }
            assert_eq!((status.code(), during), (Some(0), While::Stopping), "{name}: {status}");
        }
        panic!("{ATTEMPTS} times there was no {name}");
    }

    fn prepare(&mut self, during: While) {
        if during == While::Stopping {
            // Otherwise the next start would cut what a kill left.
            tokio::task::block_in_place(|| self.process.restart());
            self.process.terminate();
        } else {
            self.process.kill();
        }
        self.base.put(during != While::Applying);
        if during == While::Starting {
            tokio::task::block_in_place(|| self.process.restart());
            self.process.kill();
        }
    }

    fn start(&mut self, fault: Fault) -> Trace {
        let queue: PathBuf = self.directory.path().join("queue");
        let (wrapper, trace) = fault.wrapper(self.directory.path(), &queue, &self.base.file());
        self.process.setup().run_under(wrapper);
        self.process.spawn();
        self.process.setup().run_under(Vec::new());
        trace
    }

    async fn end(&mut self, name: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "there was no {name} within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts again and brings everything to the database.
    async fn recover(&mut self) {
        self.base.give_back();
        tokio::task::block_in_place(|| self.process.restart());
        self.api.drained().await;
        bury_dead_letters(&self.api, &self.history).await;
        check(&self.history, &self.base.seen());
    }

    async fn close(mut self, what: &str) {
        let lost = self.api.metric("outlast_writes_lost_total").await;
        assert!(lost.abs() < 0.5, "{lost} writes cannot be read back");
        let told = close(what, &self.history, &self.base.seen());
        assert!(told.queued > 500 && told.applied > 100 && told.unknown > 0, "{told:?}");
        assert_eq!(self.process.terminate().code(), Some(0));
    }
}
