//! Dead letters by the many: groups, plans, runs on the server, export, the audit log, and the command line for them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use outlast::{Operation, Refusal, RefusalKind, Write};
use outlast_server::config::{Role, Token};
use outlast_testkit::faulty::Temper;
use outlast_testkit::{eventually, found};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{JSON, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the judge says: records of `odd` break the schema, those of `taken` exist.
fn judge(write: &Write) -> Option<(Refusal, bool)> {
    let record = write.operations().iter().flat_map(Operation::records).next()?;
    match record.collection.as_str() {
        "odd" => Some((Refusal::new(RefusalKind::Schema, "field \"age\" must be a number"), false)),
        "taken" => {
            let id = record.id.as_str();
            Some((
                Refusal::new(RefusalKind::Exists, format!("the record \"{id}\" of \"taken\" exists")),
                false,
            ))
        }
        _ => None,
    }
}

async fn start() -> Server {
    let server = Server::start_with(|config| {
        config.outlast.max_attempts = 1;
        config.outlast.storm_threshold = 10_000;
    })
    .await;
    server.database.judge(judge);
    server
}

/// Writes that are refused after their callers have left; returns their ids, in order.
async fn bury(server: &Server, collection: &str, ids: std::ops::Range<u32>) -> Vec<String> {
    let before = server.outlast.status().accounting.dead;
    let mut written = Vec::new();
    for id in ids {
        let path = format!("/v1/records/{collection}/{id}");
        let reply = server.send("PUT", &path, &[JSON, ("prefer", "respond-async")], r#"{"v":1}"#).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        written.push(reply.header("write-id").to_owned());
    }
    let (outlast, wanted) = (server.outlast.clone(), before + written.len() as u64);
    eventually("all of them are dead", || outlast.status().accounting.dead == wanted).await;
    written
}

async fn ask(server: &Server, action: &str, body: &Value) -> support::Reply {
    server.json("POST", &format!("/v1/dead-letters/{action}"), &body.to_string()).await
}

async fn run(server: &Server, id: &Value) -> Value {
    server.get(&format!("/v1/dead-letters/runs/{id}")).await.json()
}

/// The run, once its state is as wished.
async fn run_until(server: &Server, id: &Value, state: &str) -> Value {
    found(&format!("run {id} is {state}"), async || {
        Some(run(server, id).await).filter(|run| run["state"] == state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_grouped_by_what_is_not_their_own_and_a_group_is_a_filter() {
    let server = start().await;
    bury(&server, "odd", 0..3).await;
    bury(&server, "taken", 0..5).await;
    let page = server.get("/v1/dead-letters?limit=2").await.json();
    assert_eq!((&page["total"], &page["groups_total"]), (&json!(8), &json!(2)), "{page}");
    let taken = json!({ "reason": { "kind": "exists", "message": "the record \"…\" of \"taken\" exists" }, "count": 5 });
    assert_eq!(page["groups"][0], taken);
    assert_eq!(page["groups"][1]["count"], 3);

    let message =
        url::form_urlencoded::byte_serialize(taken["reason"]["message"].as_str().unwrap().as_bytes())
            .collect::<String>();
    let of_group = server.get(&format!("/v1/dead-letters?kind=exists&message={message}")).await.json();
    assert_eq!(of_group["total"], 5);
    assert_eq!(
        of_group["letters"][0]["reason"]["message"], "the record \"0\" of \"taken\" exists",
        "in full"
    );
    let exported = server.get(&format!("/v1/dead-letters/export?message={message}")).await;
    assert_eq!(exported.header("content-type"), "application/x-ndjson");
    assert_eq!(
        exported.body.matches("\"kind\":\"exists\"").count(),
        10,
        "letter and history: {}",
        exported.body
    );
    bury(&server, "odd", 100..330).await;
    let all = server.get("/v1/dead-letters/export").await;
    let lines: Vec<&str> = all.body.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(lines.len(), 238, "in several pieces");
    server.get("/v1/dead-letters/export?limit=1").await.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_does_what_was_planned_in_the_order_of_ids_and_nothing_else() {
    let server = start().await;
    let odd = bury(&server, "odd", 0..2).await;
    let ids = bury(&server, "taken", 0..30).await;
    let filter = json!({ "kind": "exists" });
    let plan = ask(&server, "retry", &json!({ "filter": filter, "plan": true })).await.json();
    assert_eq!((&plan["count"], &plan["action"]), (&json!(30), &json!("retry")), "{plan}");
    assert_eq!(server.get("/v1/dead-letters").await.json()["total"], 32, "a plan does nothing");

    let token = &plan["token"];
    for (action, body) in [
        ("discard", json!({ "filter": filter, "token": token })),
        ("retry", json!({ "filter": {}, "token": token })),
        ("retry", json!({ "filter": filter, "token": "1-1.00" })),
        ("retry", json!({ "filter": filter, "confirm": 29 })),
    ] {
        ask(&server, action, &body).await.problem(409, "conflict");
    }
    for body in [
        json!({ "filter": {} }),
        json!({ "plan": true }),
        json!({ "filter": { "kinds": "x" }, "plan": true }),
        json!({ "filter": { "kind": "odd" }, "plan": true }),
        json!({ "filter": filter, "plan": true, "confirm": 30 }),
    ] {
        ask(&server, "retry", &body).await.problem(400, "invalid-request");
    }

    let later = bury(&server, "taken", 100..101).await;
    let records = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = records.clone();
    server.database.judge(move |write| {
        seen.lock().unwrap().push(write.records().next().unwrap().id.as_str().to_owned());
        None
    });
    let begun = ask(&server, "retry", &json!({ "filter": filter, "token": token })).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    assert_eq!(begun.header("location"), "/v1/dead-letters/runs/1");
    let ended = run_until(&server, &begun.json()["id"], "done").await;
    assert_eq!(
        (&ended["total"], &ended["done"], &ended["failed"]),
        (&json!(30), &json!(30), &json!(0)),
        "{ended}"
    );
    for id in &ids {
        assert_eq!(server.get(&format!("/v1/writes/{id}?wait=30s")).await.json()["status"], "applied");
    }
    let mut order = records.lock().unwrap().clone();
    order.dedup();
    assert_eq!(order, (0..30).map(|id| id.to_string()).collect::<Vec<_>>());
    let left = server.get("/v1/dead-letters").await.json();
    let left: Vec<&str> =
        left["letters"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(left, [&odd[..], &later[..]].concat(), "what died after the plan is left alone");

    let all = ask(&server, "discard", &json!({ "filter": {}, "confirm": 3 })).await.json();
    run_until(&server, &all["id"], "done").await;
    let accounting = server.outlast.status().accounting;
    assert_eq!((accounting.dead, accounting.discarded, accounting.holds()), (0, 3, true));
    let runs = server.get("/v1/dead-letters/runs").await.json();
    assert_eq!(
        (&runs["runs"][0]["action"], &runs["runs"][1]["action"]),
        (&json!("discard"), &json!("retry"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_stops_a_run_and_nothing_is_lost() {
    let server = Server::start_with(|config| {
        config.outlast.max_attempts = 1;
        config.outlast.storm_threshold = 10_000;
        config.outlast.max_writes = 20;
    })
    .await;
    server.database.judge(judge);
    bury(&server, "taken", 0..15).await;
    bury(&server, "taken", 15..30).await;
    server.database.acquit();
    server.outlast.pause(None).await.unwrap();
    let begun = ask(&server, "retry", &json!({ "filter": {}, "confirm": 30 })).await.json();
    let stopped = run_until(&server, &begun["id"], "stopped").await;
    assert_eq!((&stopped["done"], &stopped["failed"]), (&json!(20), &json!(0)), "{stopped}");
    let message = stopped["message"].as_str().unwrap();
    assert!(
        message.contains("the queue is full: 20 of 20 writes") && message.contains("as before"),
        "{stopped}"
    );
    let accounting = server.outlast.status().accounting;
    assert_eq!((accounting.pending, accounting.dead, accounting.holds()), (20, 10, true));

    server.outlast.resume(None).await.unwrap();
    assert!(server.outlast.drain(Duration::from_secs(30)).await.unwrap());
    let begun = ask(&server, "retry", &json!({ "filter": {}, "confirm": 10 })).await.json();
    run_until(&server, &begun["id"], "done").await;
    assert!(server.outlast.drain(Duration::from_secs(30)).await.unwrap());
    let accounting = server.outlast.status().accounting;
    assert_eq!((accounting.applied, accounting.dead, accounting.holds()), (30, 0, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_letter_is_queued_again_and_noted_without_its_content() {
    let server = start().await;
    let id = bury(&server, "odd", 7..8).await.remove(0);
    let path = format!("/v1/dead-letters/{id}/edit");
    let edit = async |operation: &str| {
        server.json("POST", &path, &format!(r#"{{"operations":[{operation}]}}"#)).await
    };
    for (operation, why) in [
        (r#"{"op":"put","collection":"odd","id":"8","data":{}}"#, "it would write to odd/8 instead of odd/7"),
        (r#"{"op":"put","collection":"odd","id":"7","data":{},"dta":1}"#, "unknown field"),
        (r#"{"op":"put","collection":"od-d","id":"7","data":{}}"#, "not a valid name"),
        (r#"{"op":"statement","statement":"DELETE FROM odd"}"#, "statements are not taken"),
        ("", "1 to 1000 operations"),
    ] {
        let problem = edit(operation).await.problem(400, "invalid-request");
        assert!(problem.contains(why), "{operation}: {problem}");
    }
    let large = "x".repeat(server.outlast.options().write_bytes_max as usize - 70);
    let large = format!(r#"{{"op":"put","collection":"odd","id":"7","data":{{"v":"{large}"}}}}"#);
    edit(&large).await.problem(413, "too-large");
    let absent = r#"{"operations":[{"op":"delete","collection":"odd","id":"7"}]}"#;
    server.json("POST", "/v1/dead-letters/1-9999/edit", absent).await.problem(404, "not-found");
    assert_eq!(server.outlast.status().accounting.dead, 1, "it is as it was");

    server.database.acquit();
    let exact = r#"{"op":"put","collection":"odd","id":"7","data":{"canary":18446744073709551617,"v":1.50}}"#;
    let edited = edit(exact).await;
    assert_eq!((edited.status, &edited.json()["id"]), (200, &json!(id)), "{edited:?}");
    assert_eq!(server.get(&format!("/v1/writes/{id}?wait=30s")).await.json()["status"], "applied");
    let record = server.get("/v1/records/odd/7").await.body;
    assert!(record.contains(r#""canary":18446744073709551617"#) && record.contains("1.50"), "{record}");
    let audit = server.get("/v1/audit").await.body;
    assert!(!audit.contains("canary"), "{audit}");
    let last = &serde_json::from_str::<Value>(&audit).unwrap()["entries"][0];
    assert_eq!((&last["action"], &last["status"]), (&json!(format!("POST {path}")), &json!(200)));
    assert!(last["request"].as_str().unwrap().ends_with(" bytes"), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_told_as_events() {
    let server = start().await;
    bury(&server, "taken", 0..3).await;
    let mut events = tokio::net::TcpStream::connect(server.address).await.unwrap();
    events.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    read_until(&mut events, &mut text, "listening").await;
    ask(&server, "discard", &json!({ "filter": {}, "confirm": 3 })).await.json();
    for wanted in ["event: dead_letter_run", "\"state\":\"running\"", "\"state\":\"done\""] {
        read_until(&mut events, &mut text, wanted).await;
    }
}

async fn read_until(events: &mut tokio::net::TcpStream, text: &mut String, wanted: &str) {
    let mut bytes = [0; 4096];
    while !text.contains(wanted) {
        let reading = tokio::time::timeout(Duration::from_secs(30), events.read(&mut bytes));
        let read = reading.await.unwrap_or_else(|_| panic!("no {wanted} in {text}")).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
}

/// Its text is the name and `-token`.
fn token(name: &str, role: Role) -> Token {
    let sha256 = Sha256::digest(format!("{name}-token")).into();
    Token { name: name.into(), role, sha256, expires: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_of_an_operator_is_noted_with_who_what_and_the_result() {
    let server = Server::start_with(|config| {
        config.server.tokens = vec![token("night shift", Role::Operator), token("app", Role::Reader)];
    })
    .await;
    let auth = ("authorization", "Bearer night shift-token");
    let send =
        async |method: &str, path: &str, body: &str| server.send(method, path, &[JSON, auth], body).await;
    send("POST", "/v1/queue/throttle", r#"{"writes_per_second":500}"#).await;
    send("POST", "/v1/dead-letters/1-99/retry", "").await.problem(404, "not-found");
    send("GET", "/v1/queue", "").await;
    let foreign = server.send("POST", "/v1/queue/pause", &[("authorization", "Bearer app-token")], "").await;
    foreign.problem(403, "forbidden");
    let entries = send("GET", "/v1/audit", "").await.json()["entries"].clone();
    assert_eq!(entries.as_array().unwrap().len(), 2, "{entries}");
    let (retry, throttle) = (&entries[0], &entries[1]);
    assert_eq!((&throttle["who"], &throttle["status"]), (&json!("night shift"), &json!(200)));
    assert_eq!(throttle["action"], "POST /v1/queue/throttle");
    assert_eq!(throttle["request"], json!({ "writes_per_second": 500 }));
    assert_eq!((&retry["status"], &retry["detail"]), (&json!(404), &json!("dead letter 1-99 was not found")));
    let kept = std::fs::read_to_string(server.directory().join("queue/audit.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 2, "{kept}");

    let me = send("GET", "/v1/me", "").await.json();
    assert_eq!((&me["name"], &me["role"]), (&json!("night shift"), &json!("operator")));
    let me = server.send("GET", "/v1/me", &[("authorization", "Bearer app-token")], "").await.json();
    assert_eq!((&me["name"], &me["role"]), (&json!("app"), &json!("reader")));
    let me = Server::start().await.get("/v1/me").await.json();
    assert_eq!((&me["name"], &me["role"]), (&json!("local"), &json!("operator")));
}

/// What the audit log says of each: who, action, status and detail; oldest first.
async fn noted(server: &Server, headers: &[(&str, &str)]) -> Vec<[Value; 4]> {
    let answer = server.send("GET", "/v1/audit", headers, "").await.json();
    let entries = answer["entries"].as_array().unwrap().iter().rev();
    entries.map(|entry| ["who", "action", "status", "detail"].map(|member| entry[member].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_an_operator_gives_up_is_noted_and_one_that_its_writer_takes_back_is_not() {
    let cancel = async |server: &Server, auth: &[(&str, &str)]| -> String {
        let headers = [&[JSON, ("prefer", "respond-async")], auth].concat();
        let reply = server.send("PUT", "/v1/records/a/1", &headers, "{}").await;
        let path = format!("/v1/writes/{}", reply.header("write-id"));
        assert_eq!(server.send("DELETE", &path, auth, "").await.status, 200);
        path
    };
    let server = Server::start_with(|config| {
        config.server.tokens = vec![token("night shift", Role::Operator), token("app", Role::Writer)];
    })
    .await;
    server.outlast.pause(None).await.unwrap();
    let operator = [("authorization", "Bearer night shift-token")];
    cancel(&server, &[("authorization", "Bearer app-token")]).await;
    let given_up = cancel(&server, &operator).await;
    server.send("DELETE", "/v1/writes/1-9999", &operator, "").await.problem(404, "not-found");
    let entry =
        |who: &str, path: &str| [json!(who), json!(format!("DELETE {path}")), json!(200), json!(null)];
    let entries = noted(&server, &operator).await;
    assert_eq!(entries[0], entry("night shift", &given_up));
    assert_eq!((entries.len(), &entries[1][2]), (2, &json!(404)), "{entries:?}");

    let open = Server::start().await;
    open.outlast.pause(None).await.unwrap();
    let given_up = cancel(&open, &[]).await;
    assert_eq!(noted(&open, &[]).await, [entry("local", &given_up)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_noted_when_it_begins_and_when_it_ends() {
    let server = start().await;
    bury(&server, "odd", 0..1).await;
    bury(&server, "taken", 0..3).await;
    let body = json!({ "filter": { "kind": "schema" }, "confirm": 1 });
    assert_eq!(ask(&server, "discard", &body).await.status, 200);
    let entries = found("the end is noted", async || {
        Some(noted(&server, &[]).await).filter(|entries| entries.len() == 2)
    })
    .await;
    let action = json!("POST /v1/dead-letters/discard");
    let first = [json!("local"), action, json!(200), json!("run 1 over 1 dead letter")];
    let ended = json!("done: 1 of 1 done, 0 failed");
    assert_eq!(entries, [first, [json!("local"), json!("run 1 ended"), Value::Null, ended]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_has_the_same_powers() {
    let server = start().await;
    bury(&server, "odd", 0..2).await;
    bury(&server, "taken", 0..4).await;
    let outlast = async |args: &[&str]| -> (Option<i32>, String, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outlast"));
        command.args(args).arg("--url").arg(format!("http://{}", server.address));
        command.current_dir(server.directory()).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, groups, _) = outlast(&["dead", "groups"]).await;
    assert!(
        code == Some(0) && groups.contains("4      exists  the record \"…\" of \"taken\" exists"),
        "{groups}"
    );
    let (_, groups, _) = outlast(&["dead", "groups", "--kind", "schema", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&groups).unwrap()["total"], 2, "{groups}");
    let (code, exported, _) = outlast(&["dead", "export", "--collection", "taken"]).await;
    assert_eq!((code, exported.lines().count()), (Some(0), 4));

    let (code, _, error) = outlast(&["dead", "discard", "--kind", "schema"]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("this would discard 2 dead letters") && error.contains("--yes"), "{error}");
    for wrong in [&["dead", "retry"] as &[&str], &["dead", "retry", "1-1", "--all"]] {
        assert_eq!(outlast(wrong).await.0, Some(2), "{wrong:?}");
    }
    let (code, said, error) = outlast(&["dead", "discard", "--kind", "schema", "--yes"]).await;
    assert_eq!((code, said.trim()), (Some(0), "2 of 2 discarded"), "{error}");
    server.database.acquit();
    let (code, said, error) = outlast(&["dead", "retry", "--all", "--yes", "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let run: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&run["done"], &run["state"]), (&json!(4), &json!("done")));
    assert_eq!(outlast(&["dead", "groups"]).await.1.trim(), "no dead letters");
    let (code, said, _) = outlast(&["dead", "discard", "--all"]).await;
    assert_eq!((code, said.trim()), (Some(0), "0 of 0 discarded"), "nothing to be asked about");

    assert_eq!(outlast(&["outage", "list"]).await.1.trim(), "no outage yet");
    assert_eq!(outlast(&["outage", "report"]).await.0, Some(1));
    server.database.set(Temper::Away);
    let queue = server.outlast.clone();
    eventually("the outage is noticed", || !queue.is_healthy()).await;
    server.database.set(Temper::Calm);
    eventually("it is over", || queue.outages().first().is_some_and(|outage| outage.drained_at.is_some()))
        .await;
    let (code, report, _) = outlast(&["outage", "report"]).await;
    assert!(code == Some(0) && report.starts_with("# Outage 1\n") && report.contains("**0**"), "{report}");
    assert!(outlast(&["outage", "list"]).await.1.contains("drained"));
    let (_, shown, _) = outlast(&["outage", "show", "1", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["lost"], 0);
}
