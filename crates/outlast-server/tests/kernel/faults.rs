//! System calls of the server that fail: syncs, writes, renames, of the log and of what is around it.
//! Method: `strace` lets the N-th call of a kind on files of a role fail, and later ones succeed: what a kernel does that
//! has dropped the pages of a failed sync. The trace shows that the fault fired, and what was tried afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_testkit::history::{Cause, Change, History, Told};
use outlast_testkit::process::OutlastProcess;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::base::Base;
use super::e2e::{Api, Dialect, PATIENCE, bury_dead_letters, setup, until, write};
use super::stream::Stream;
use super::trace::{Fault, Role, Trace, can_trace};
use super::writers::note;
use super::{close, or_skip};

/// Clients that try after the log has failed.
const LATE: usize = 32;
/// More writes than any fault here is away.
const WRITES_MAX: usize = 2000;
/// Lines of a stream: more than are under way at once, several times.
const STREAMED: usize = 8000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn after_a_failed_call_of_the_log_nothing_is_acknowledged_and_nothing_acknowledged_is_lost() {
    if or_skip("failing system calls", can_trace()).is_none() {
        return;
    }
    let faults = [
        ("an early failed sync", "fdatasync", Role::Segment, "error=EIO", "3"),
        ("a failed sync", "fdatasync", Role::Segment, "error=EIO", "12"),
        ("a sync without space", "fdatasync", Role::Segment, "error=ENOSPC", "12"),
        ("a failed write", "pwrite64", Role::Segment, "error=EIO", "12"),
        ("a failed directory sync", "fsync", Role::Directory, "error=EIO", "2"),
        ("a failed rename", "rename", Role::Spare, "error=EIO", "1"),
        ("a failed sync of a spare", "fdatasync", Role::Prefilling, "error=EIO", "3"),
    ];
    for (name, call, role, inject, when) in faults {
        is_final(name, Fault { call, role, inject, when }).await;
    }
}

async fn is_final(name: &str, fault: Fault) {
    let mut stage = Stage::new(false).await;
    let trace = stage.start(fault);
    stage.process.wait_until("/readyz");
    // One client alone, so that each acknowledgement needs a sync of its own: it is acknowledged for as long as its syncs succeed.
    let mut acknowledged = 0;
    let last = loop {
        match note(&stage.api, &stage.history, "alone", None).await {
            Told::Queued => acknowledged += 1,
            told => break told,
        }
        assert!(acknowledged < WRITES_MAX, "{name}: never");
    };
    assert!(matches!(last, Told::Unknown | Told::Refused(Cause::Other)), "{name}: {last:?}");
    let why = until(name, async || {
        let reply = stage.api.get("/readyz").await;
        (reply.status == 503).then_some(reply.text)
    })
    .await;
    assert!(why.contains("the log has failed: could not"), "{name}: {why}");
    let late: Vec<_> = (0..LATE)
        .map(|_| {
            let (api, history) = (stage.api.clone(), stage.history.clone());
            tokio::spawn(async move { note(&api, &history, "late", None).await })
        })
        .collect();
    for client in late {
        assert_eq!(client.await.unwrap(), Told::Refused(Cause::Other), "{name}");
    }
    until("it says why", async || stage.process.errors().contains("the log takes no writes").then_some(()))
        .await;
    assert_eq!(stage.api.get("/livez").await.status, 503, "{name}: a restart would help");
    // Which of the two depends on what was still open when the log failed.
    let code = stage.process.terminate().code();
    assert!(matches!(code, Some(0 | 1)), "{name}: {code:?}, {last:?}");

    trace.ended();
    let calls = trace.calls();
    assert_eq!(trace.injected(), 1, "{name}: {calls:?}");
    let failed = calls.iter().position(|call| call.contains("(INJECTED")).unwrap();
    if fault.call == "fdatasync" && fault.role == Role::Segment {
        let committer = calls[failed].split(' ').next().unwrap_or_default();
        let good = |call: &&String| call.starts_with(committer) && call.ends_with("= 0");
        let synced = calls.iter().filter(good).count();
        assert!(acknowledged <= synced, "{name}: {acknowledged} acknowledged by {synced} syncs");
    }
    if matches!(fault.role, Role::Segment | Role::Spare) {
        assert_eq!(calls.len(), failed + 1, "{name}: it was tried again: {calls:?}");
    }
    stage.close(&format!("{name}: acknowledged before {acknowledged}, after 0; all in all")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_write_that_finds_no_space_waits_for_it_and_goes_on_by_itself() {
    if or_skip("a write without space", can_trace()).is_none() {
        return;
    }
    let mut stage = Stage::new(false).await;
    let fault = Fault { call: "pwrite64", role: Role::Segment, inject: "error=ENOSPC", when: "12..16" };
    let trace = stage.start(fault);
    stage.process.wait_until("/readyz");
    let (api, history) = (stage.api.clone(), stage.history.clone());
    let client = tokio::spawn(async move {
        for _ in 0..60 {
            assert_eq!(note(&api, &history, "alone", None).await, Told::Queued);
        }
    });
    let why = until("there is no space", async || {
        let reply = stage.api.get("/readyz").await;
        (reply.status == 503).then_some(reply.text)
    })
    .await;
    assert!(why.contains("is full"), "{why}");
    let refused = stage.api.put("/v1/records/documents/refused", &json!({})).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "log-failed"), "{refused:?}");
    assert_eq!(refused.json()["outcome_unknown"], false, "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("no space"), "{refused:?}");
    client.await.unwrap();
    stage.process.wait_until("/readyz");
    assert_eq!(stage.process.terminate().code(), Some(0));
    trace.ended();
    assert_eq!(trace.injected(), 5, "{:?}", trace.calls());
    stage.close("writes without space: 5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_start_that_fails_says_why_and_costs_nothing() {
    if or_skip("failing starts", can_trace()).is_none() {
        return;
    }
    let mut stage = Stage::new(false).await;
    let faults = [
        ("pwrite64", Role::Epochs, "error=EIO", "epochs.jsonl"),
        ("fdatasync", Role::Epochs, "error=EIO", "epochs.jsonl"),
        ("pwrite64", Role::Prefilling, "error=EIO", "prefilling"),
        ("rename", Role::Prefilling, "error=EIO", ".jsonl"),
        ("fsync", Role::Directory, "error=EIO", ".jsonl"),
    ];
    for (call, role, inject, named) in faults {
        stage.process.restart();
        for _ in 0..10 {
            assert_eq!(note(&stage.api, &stage.history, "before", None).await, Told::Queued);
        }
        let trace = stage.start(Fault { call, role, inject, when: "1" });
        let code = stage.ended().await;
        trace.ended();
        assert_eq!((code, trace.injected()), (Some(1), 1), "{call} {role:?}: {:?}", trace.calls());
        until("it says why", async || {
            let said = stage.process.errors();
            let said = said.lines().last().unwrap_or_default();
            (said.contains(named) && said.contains("Input/output error")).then_some(())
        })
        .await;
    }
    stage.close("starts that failed: 5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_dead_letter_whose_sync_fails_is_buried_after_a_restart() {
    if or_skip("a failing dead letter", can_trace()).is_none() {
        return;
    }
    let mut stage = Stage::new(true).await;
    let fault = Fault { call: "fdatasync", role: Role::DeadSegment, inject: "error=EIO", when: "3" };
    let trace = stage.start(fault);
    stage.process.wait_until("/readyz");
    for number in 0..20 {
        let (api, history) = (&stage.api, &stage.history);
        let change =
            |token: outlast_testkit::history::Token| Change::Patch(json!({ "patched": token.to_string() }));
        let prefer = Some("respond-async");
        write(api, history, Dialect::Sqlite, format!("documents/nobody{number}"), change, prefer).await;
        note(api, history, "beside", prefer).await;
    }
    until("the sync fails", async || (trace.injected() == 1).then_some(())).await;
    stage.process.kill();
    stage.process.restart();
    stage.api.drained().await;
    let buried = bury_dead_letters(&stage.api, &stage.history).await;
    assert!(buried > 0);
    stage.close(&format!("failed syncs of a dead letter: 1, dead letters {buried}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by cargo xtask ci kernel"]
async fn a_stream_whose_log_fails_on_the_way_is_told_the_truth_about_each_line() {
    if or_skip("a stream over a failing log", can_trace()).is_none() {
        return;
    }
    let mut stage = Stage::new(false).await;
    let fault = Fault { call: "fdatasync", role: Role::Segment, inject: "error=EIO", when: "6" };
    let trace = stage.start(fault);
    stage.process.wait_until("/readyz");
    let to = stage.process.url().strip_prefix("http://").unwrap().parse().unwrap();
    let Stream { mut reading, mut writing } = Stream::open(to, &[], None).await;
    let history = stage.history.clone();
    let sending = tokio::spawn(async move {
        let mut sent = Vec::new();
        // Small pieces, so that one sync does not take them all.
        for number in 0..STREAMED {
            let ledger = format!("s{}", number % 3);
            let (token, _) = history.begin(format!("counters/{ledger}"), |_| Change::Note);
            let line = Api::statement(Dialect::Sqlite.note(), &ledger, &token.to_string());
            sent.push(token);
            writing.send(&format!("{line}\n")).await.unwrap();
        }
        writing.end().await.unwrap();
        // Closing our half would be taken for leaving.
        (sent, writing)
    });
    reading.head().await;
    let results = reading.rest().await;
    let (sent, _writing) = sending.await.unwrap();
    assert_eq!(results.len(), sent.len(), "each line has a result");
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result["line"], at + 1, "{result}");
    }
    let status_of = |result: &Value| result["status"].as_str().unwrap().to_owned();
    let mut counts = BTreeMap::<String, usize>::new();
    for (token, result) in sent.iter().zip(&results) {
        let status = status_of(result);
        let told = match &*status {
            "queued" => Told::Queued,
            "unavailable" => Told::Refused(Cause::Other),
            "unknown" => Told::Unknown,
            _ => panic!("{result}"),
        };
        *counts.entry(status).or_default() += 1;
        stage.history.end(*token, told);
    }
    until("the sync fails", async || (trace.injected() == 1).then_some(())).await;
    let of = |status| counts.get(status).copied().unwrap_or(0);
    assert!(of("queued") > 0 && of("unavailable") > 0, "{counts:?}");
    let failed = results.iter().position(|result| result["status"] != "queued");
    assert!(
        results[failed.unwrap()..].iter().all(|result| result["status"] != "queued"),
        "nothing is acknowledged behind the failure: {counts:?}"
    );
    stage.process.terminate();
    trace.ended();
    stage.close(&format!("a stream over a failing log: {counts:?}; all in all")).await;
}

/// A server whose database is away or not, and everything that was ever told.
struct Stage {
    process: OutlastProcess,
    api: Arc<Api>,
    history: Arc<History>,
    base: Base,
    directory: TempDir,
}

impl Stage {
    async fn new(connected: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = Base::new(directory.path());
        let mut process = setup(directory.path(), &base.url())
            .with("queue.segment_bytes", "32KiB")
            .with("queue.write_bytes_max", "8KiB")
            .start();
        let api = Arc::new(Api::new(process.url()));
        api.collections().await;
        process.terminate();
        if !connected {
            base.take_away();
        }
        Self { process, api, history: Arc::default(), base, directory }
    }

    fn start(&mut self, fault: Fault) -> Trace {
        let queue = self.directory.path().join("queue");
        let (wrapper, trace) = fault.wrapper(self.directory.path(), &queue, &self.base.file());
        self.process.setup().run_under(wrapper);
        self.process.spawn();
        self.process.setup().run_under(Vec::new());
        trace
    }

    async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end:\n{}", self.process.errors());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts again without faults, and brings everything to the database.
    async fn close(mut self, what: &str) {
        self.base.give_back();
        self.process.restart();
        self.api.drained().await;
        bury_dead_letters(&self.api, &self.history).await;
        close(what, &self.history, &self.base.seen());
        assert_eq!(self.process.terminate().code(), Some(0));
    }
}
