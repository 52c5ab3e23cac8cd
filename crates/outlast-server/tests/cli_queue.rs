//! `outlast queue`: an operator's hand on delivery, and what waits as a file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;

use std::os::unix::fs::PermissionsExt as _;

use cli::Server;
use serde_json::Value;

#[test]
fn pause_and_resume_are_verbs_of_the_queue_too() {
    let server = Server::start();
    assert!(server.ok(&["queue", "pause", "--for", "10m"]).contains("paused until"));
    assert_eq!(server.json(&["status", "--json"])["lane"]["state"], "paused");
    assert_eq!(server.ok(&["queue", "resume"]), "resumed\n");
    assert_eq!(server.json(&["status", "--json"])["lane"]["state"], "running");
    assert_eq!(server.run(&["queue", "resume", "--decision", "perhaps"]).code, Some(2));
}

#[test]
fn a_decision_is_asked_about_and_plain_resume_is_not() {
    let server = Server::start();
    server.ok(&["pause"]);
    server.ok(&["write", "put", "a/1", "{}", "--wait", "0s"]);
    for verb in [&["resume"] as &[&str], &["queue", "resume"]] {
        let asked = server.run(&[verb, &["--decision", "skip"]].concat());
        assert_eq!((asked.code, asked.stdout.as_str()), (Some(2), ""), "{asked:?}");
        for part in
            ["would apply only what was never applied", "not halted but paused", "1 write waits", "--yes"]
        {
            assert!(asked.stderr.contains(part), "{part}: {asked:?}");
        }
        assert_eq!(server.json(&["status", "--json"])["lane"]["state"], "paused", "nothing was done");
    }
    assert_eq!(server.ok(&["resume", "--decision", "skip", "--yes"]), "resumed\n");
}

#[test]
fn the_audit_log_says_who_did_what_and_what_came_of_it() {
    let server = Server::start();
    assert_eq!(server.ok(&["audit"]), "nothing is noted yet\n");
    server.ok(&["pause"]);
    assert_eq!(server.run(&["dead", "retry", "1-9999"]).code, Some(1));
    let said = server.ok(&["audit"]);
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["WHO", "WHEN", "ACTION", "RESULT"], "{said}");
    let retry = ["POST", "/v1/dead-letters/1-9999/retry", "404", "dead", "letter", "1-9999"];
    assert_eq!((lines[1][0], &lines[1][2..8]), ("local", &retry[..]), "{said}");
    assert_eq!((lines[2][0], &lines[2][2..]), ("local", &["POST", "/v1/queue/pause", "200"][..]), "{said}");
    let last = server.json(&["audit", "--limit", "1", "--json"]);
    assert_eq!(last["entries"].as_array().unwrap().len(), 1, "{last}");
    assert_eq!(last["entries"][0]["status"], 404, "{last}");
    assert_eq!(server.run(&["audit", "--limit", "0"]).code, Some(2));
}

#[test]
fn throttle_sets_and_lifts_the_limit() {
    let server = Server::start();
    assert!(server.ok(&["queue", "throttle", "1_500"]).contains("1,500 writes per second"));
    assert_eq!(server.json(&["status", "--json"])["queue"]["throttle"], 1500);
    assert_eq!(server.json(&["queue", "throttle", "none", "--json"])["writes_per_second"], Value::Null);
    assert_eq!(server.json(&["status", "--json"])["queue"].get("throttle"), Some(&Value::Null));
    for wrong in ["0", "fast", "1.5"] {
        let said = server.run(&["queue", "throttle", wrong]);
        assert_eq!(said.code, Some(2), "{said:?}");
    }
}

#[test]
fn drain_waits_until_nothing_waits_and_says_when_something_still_does() {
    let server = Server::start();
    assert_eq!(server.ok(&["queue", "drain"]), "drained: nothing waits\n");
    server.take_database_away();
    server.ok(&["write", "put", "a/1", "{}"]);
    let still = server.run(&["queue", "drain", "--for", "50ms"]);
    assert_eq!(still.code, Some(1), "{still:?}");
    assert!(still.stderr.contains("1 writes still wait"), "{still:?}");
    assert_eq!(server.json(&["queue", "drain", "--for", "0s", "--json"])["drained"], false);

    let mut draining = server.command(&["queue", "drain", "--for", "1m", "--json"]).spawn().unwrap();
    assert!(draining.try_wait().unwrap().is_none(), "it does not wait");
    server.give_database_back();
    let output = draining.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &answer["drained"]), (Some(0), &true.into()), "{answer}");
}

#[test]
fn export_writes_every_write_that_waits_in_order_over_many_pages() {
    const COUNT: usize = 1203;
    let server = Server::start();
    server.ok(&["pause"]);
    let documents: Vec<String> = (0..COUNT).map(|n| format!("{{\"n\":{n}}}")).collect();
    send(&server, &documents);
    let exported = server.run(&["queue", "export"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert_eq!(exported.stderr, "exported 1,203 writes\n");
    let lines: Vec<Value> = exported.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> =
        lines.iter().map(|line| line["operations"][0]["data"]["n"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..COUNT as u64), "{numbers:?}");

    let path = server.directory.path().join("waiting.ndjson");
    let said = server.ok(&["queue", "export", "--output", path.to_str().unwrap()]);
    assert!(said.starts_with("exported 1,203 writes to "), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), exported.stdout);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = server.run(&["queue", "export", "--output", path.to_str().unwrap()]);
    assert!(again.code == Some(1) && again.stderr.contains("exists already"), "{again:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), exported.stdout, "it is left alone");
}

#[test]
fn what_standard_output_did_not_take_is_a_failure_and_a_reader_that_has_gone_is_none() {
    let server = Server::start();
    server.ok(&["write", "put", "a/1", r#"{"n":1}"#]);
    server.ok(&["pause"]);
    send(&server, &["{}".to_owned()]);
    let commands: [&[&str]; 5] = [
        &["queue", "export"],
        &["queue", "list", "--json"],
        &["write", "get", "a/1"],
        &["dead", "groups"],
        &["status"],
    ];
    for args in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = server.command(args).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("standard output could not be written: No space left"), "{args:?}: {said}");

        let mut unread = server.command(args).spawn().unwrap();
        drop(unread.stdout.take());
        let output = unread.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    }
}

#[test]
fn what_somebody_wrote_into_a_record_commands_no_terminal() {
    const DOCUMENT: &str = "{\"title\":\"\u{9b}2J\u{7f}\u{85}ü\"}";
    const SHOWN: &str = r"\u009b2J\u007f\u0085ü";
    let server = Server::start();
    server.ok(&["write", "put", "a/1", DOCUMENT]);
    server.ok(&["pause"]);
    let queued = server.json(&["write", "create", "a/1", DOCUMENT, "--wait", "0s", "--json"]);
    let id = queued["id"].as_str().unwrap();
    let shows = |args: &[&str]| {
        let shown = server.ok(args);
        assert!(shown.contains(SHOWN), "{args:?}: {shown}");
        assert!(!shown.contains(['\u{9b}', '\u{7f}', '\u{85}']), "{args:?}: {shown:?}");
        shown
    };
    shows(&["write", "get", "a/1"]);
    shows(&["queue", "show", id]);
    shows(&["queue", "list", "--json"]);
    let exported = shows(&["queue", "export"]);
    assert_eq!(json(&exported)["operations"][0]["data"], json(DOCUMENT), "the value is the same");
    server.ok(&["resume"]);
    server.until("it is dead", &["dead", "list", "--json"], |page| page["total"] == 1);
    shows(&["dead", "show", id]);
    shows(&["dead", "export"]);
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Over one connection, since a process for each would take its time.
fn send(server: &Server, documents: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/v1/records/a/1", server.process.url());
    runtime.block_on(async {
        for document in documents {
            let request = client.put(&url).header("content-type", "application/json");
            let request = request.header("prefer", "respond-async").body(document.clone());
            assert_eq!(request.send().await.unwrap().status(), 202);
        }
    });
}
