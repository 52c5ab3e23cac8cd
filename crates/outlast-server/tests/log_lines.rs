//! A server is walked through an outage with its log lines as JSON: each change of a state has exactly one line, with the
//! fields of the table in `docs/operations.md`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;

use outlast_testkit::found;
use outlast_testkit::process::{OutlastProcess, Setup};
use serde_json::Value;
use support::{JSON, Reply, send};

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");

/// The fields of every line with that event, in order.
fn lines(process: &OutlastProcess, event: &str) -> Vec<Value> {
    let all = process.errors();
    let parsed = all.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
        for member in ["timestamp", "level", "target"] {
            assert!(value[member].is_string(), "{line}");
        }
        let mut fields = value["fields"].clone();
        fields["level"] = value["level"].clone();
        fields
    });
    parsed.filter(|fields| fields["event"] == event).collect()
}

/// One member of each line.
fn of(process: &OutlastProcess, event: &str, member: &str) -> Vec<String> {
    let texts = lines(process, event);
    texts
        .iter()
        .map(|fields| fields[member].as_str().unwrap_or_else(|| panic!("{fields}")).to_owned())
        .collect()
}

async fn put(address: SocketAddr, id: u32, wait: &str) -> Reply {
    let path = format!("/v1/records/things/{id}");
    send(address, "PUT", &path, &[JSON, ("prefer", wait)], "{}").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_a_state_has_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let (database, away) = (directory.path().join("database.db"), directory.path().join("away.db"));
    let mut process = Setup::new(BINARY, directory.path(), &format!("sqlite://{}", database.display()))
        .with("log.format", "json")
        .with("log.level", "info")
        .with("queue.max_writes", "20")
        .with("health.probe_interval", "100ms")
        .with("health.probe_max_interval", "500ms")
        .start();
    let address: SocketAddr = process.url().trim_start_matches("http://").parse().unwrap();
    let ask = async |method: &str, path: &str| send(address, method, path, &[], "").await;
    found("a write that is applied at once", async || {
        (put(address, 0, "wait=10").await.header("write-status") == "applied").then_some(())
    })
    .await;

    // Away, until the queue is full.
    std::fs::rename(&database, &away).unwrap();
    let state = async || ask("GET", "/v1/queue").await.json()["database"]["state"].clone();
    found("the failure", async || (state().await == "failed").then_some(())).await;
    let mut number = 0;
    found("a full queue", async || {
        number += 1;
        (put(address, number, "respond-async").await.status == 503).then_some(())
    })
    .await;
    found("the line about it", async || {
        (of(&process, "queue_state", "state").last()? == "full").then_some(())
    })
    .await;
    // Paused by hand meanwhile, and back.
    assert_eq!(ask("POST", "/v1/queue/pause").await.status, 200);
    std::fs::rename(&away, &database).unwrap();
    found("the connection", async || (state().await == "connected").then_some(())).await;
    assert_eq!(ask("POST", "/v1/queue/resume").await.status, 200);
    found("the end", async || (!of(&process, "outage_ended", "message").is_empty()).then_some(())).await;
    found("room", async || (of(&process, "queue_state", "state").last()? == "ok").then_some(())).await;
    // Nothing happens any more, and nothing is said any more: some probes later it is the same.
    let before = process.errors().lines().count();
    let probes = async || {
        let text = ask("GET", "/metrics").await.body;
        let line =
            text.lines().find(|line| line.starts_with("outlast_database_last_success_timestamp_seconds "));
        line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
    };
    let seen = probes().await;
    found("another probe", async || (probes().await != seen).then_some(())).await;
    assert_eq!(process.errors().lines().count(), before, "{}", process.errors());
    assert!(process.terminate().success());

    let steps: Vec<(String, String)> = of(&process, "database_state", "from")
        .into_iter()
        .zip(of(&process, "database_state", "to"))
        .collect();
    let expected = [
        ("connecting", "connected"),
        ("connected", "failed"),
        ("failed", "connected"),
        ("connected", "disconnected"),
    ];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(steps, expected);
    let failed = &lines(&process, "database_state")[1];
    assert_eq!(failed["level"], "WARN");
    assert!(failed["reason"].is_string() && failed["noticed_by"].is_string(), "{failed}");

    let (started, ended) = (lines(&process, "outage_started"), lines(&process, "outage_ended"));
    assert_eq!((started.len(), ended.len()), (1, 1), "{started:?} {ended:?}");
    assert_eq!((&started[0]["outage"], &ended[0]["outage"]), (&1.into(), &1.into()));
    assert_eq!(
        (&ended[0]["lost"], &ended[0]["dead"], &ended[0]["queued"]),
        (&0.into(), &0.into(), &20.into())
    );
    assert_eq!(of(&process, "lane_state", "state"), ["paused", "running"]);

    let steps = of(&process, "queue_state", "state");
    assert!(steps.windows(2).all(|pair| pair[0] != pair[1]), "{steps:?}");
    assert_eq!(
        (steps.iter().filter(|step| *step == "full").count(), steps.last().unwrap().as_str()),
        (1, "ok")
    );
    let full = lines(&process, "queue_state").into_iter().find(|fields| fields["state"] == "full").unwrap();
    assert_eq!((&full["writes"], &full["writes_max"]), (&20.into(), &20.into()));

    for event in ["configuration", "log_opened", "started", "stopping", "closing", "stopped"] {
        assert_eq!(lines(&process, event).len(), 1, "{event}: {}", process.errors());
    }
    let settings: Value = serde_json::from_str(&of(&process, "configuration", "settings")[0]).unwrap();
    assert_eq!(settings["queue.max_writes"], 20, "{settings}");
    assert!(settings.get("queue.max_bytes").is_none(), "{settings}");
    assert_eq!(of(&process, "operator", "action"), ["POST /v1/queue/pause", "POST /v1/queue/resume"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_lanes_is_told_while_it_waits_and_when_it_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", directory.path().join("database.db").display());
    let start = |lanes: &str| {
        Setup::new(BINARY, directory.path(), &database)
            .with("log.format", "json")
            .with("log.level", "info")
            .with("delivery.lanes", lanes)
            .start()
    };
    let mut process = start("1");
    let address = |process: &OutlastProcess| process.url().trim_start_matches("http://").parse().unwrap();
    let to = address(&process);
    found("a write that is applied at once", async || {
        (put(to, 0, "wait=10").await.header("write-status") == "applied").then_some(())
    })
    .await;
    assert_eq!(process.cli(&["pause"]).code, Some(0));
    assert_eq!(put(to, 1, "respond-async").await.status, 202);
    assert!(process.terminate().success());

    let mut process = start("4");
    let to = address(&process);
    let in_words = |process: &OutlastProcess| process.cli(&["status"]).stdout;
    found("the line about it", async || (!lines(&process, "lanes_wait").is_empty()).then_some(())).await;
    let line = "Lanes:     1 in use; 4 are configured, and come into use when nothing waits\n";
    assert!(in_words(&process).contains(line), "{}", in_words(&process));
    let queue = async || send(to, "GET", "/v1/queue", &[], "").await.json()["queue"].clone();
    assert_eq!(queue().await["lanes_configured"], 4);
    assert_eq!(process.cli(&["resume"]).code, Some(0));
    found("four lanes", async || (queue().await["lanes"] == 4).then_some(())).await;
    assert!(queue().await.get("lanes_configured").is_none());
    assert!(!in_words(&process).contains("Lanes:"), "{}", in_words(&process));
    found("the line that it is", async || (!lines(&process, "lanes_changed").is_empty()).then_some(())).await;
    assert!(process.terminate().success());
    let (waited, changed) = (lines(&process, "lanes_wait"), lines(&process, "lanes_changed"));
    assert_eq!((waited.len(), changed.len()), (1, 1), "{waited:?} {changed:?}");
    assert_eq!(
        (&waited[0]["lanes"], &waited[0]["configured"], &waited[0]["waiting"]),
        (&1.into(), &4.into(), &1.into())
    );
    assert_eq!((&changed[0]["lanes"], &changed[0]["before"]), (&4.into(), &1.into()));
}
