//! `outlast write` says what happened to a write, in words, as JSON and as an exit code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;

use cli::Server;

#[test]
fn records_are_written_and_read_from_arguments_files_and_standard_input() {
    let server = Server::start();
    let said = server.ok(&["write", "put", "a/1", r#"{"price":1.50,"n":18446744073709551615}"#]);
    assert!(said.starts_with("put a/1: applied as 1-"), "{said}");
    let record = server.ok(&["write", "get", "a/1"]);
    assert_eq!(record, "{\"id\":\"1\",\"n\":18446744073709551615,\"price\":1.50}\n", "digit for digit");

    std::fs::write(server.directory.path().join("document.json"), r#"{"n":null,"from":"a file"}"#).unwrap();
    server.ok(&["write", "patch", "a/1", "@document.json"]);
    assert_eq!(server.json(&["write", "get", "a/1"])["from"], "a file");
    let piped = server.with_stdin(&["write", "put", "a/x/y z", "-"], r#"{"from":"a pipe"}"#);
    assert_eq!(piped.code, Some(0), "{piped:?}");
    assert_eq!(server.json(&["write", "get", "a/x/y z"])["from"], "a pipe");

    let created = server.json(&["write", "create", "a", r#"{"new":true}"#, "--json"]);
    assert_eq!(created["status"], "applied");
    let record = created["record"].as_str().unwrap();
    assert_eq!(server.json(&["write", "get", record])["new"], true, "{created}");
    server.ok(&["write", "delete", "a/1"]);
    let gone = server.run(&["write", "get", "a/1"]);
    assert_eq!((gone.code, gone.stdout.as_str()), (Some(1), ""));
    assert!(gone.stderr.contains("was not found"), "{gone:?}");
}

#[test]
fn a_refused_write_ends_with_1_and_a_wrong_command_line_with_2() {
    let server = Server::start();
    server.ok(&["write", "create", "a/1", "{}"]);
    let exists = server.run(&["write", "create", "a/1", "{}"]);
    assert_eq!((exists.code, exists.stdout.as_str()), (Some(1), ""));
    assert!(exists.stderr.contains("The record exists already"), "{exists:?}");
    let malformed = server.run(&["write", "put", "a/1", "{"]);
    assert!(malformed.code == Some(1) && malformed.stderr.contains("not valid JSON"), "{malformed:?}");
    let absent = server.run(&["write", "put", "a/1", "@nowhere.json"]);
    assert!(absent.code == Some(1) && absent.stderr.contains("nowhere.json"), "{absent:?}");
    for (args, why) in [
        (&["put", "a", "{}"] as &[&str], "COLLECTION/ID"),
        (&["put", "a-b/1", "{}"], "not a valid name"),
        (&["delete", "a/.."], "outlast write bulk"),
        (&["put", "outlast_keys/1", "{}"], "reserved"),
        (&["put", "a/1", "{}", "--wait", "10"], "for example 200ms"),
        (&["put", "a/1", "{}", "--idempotency-key", "a b"], "visible ASCII"),
        (&["put", "a/1"], "DOCUMENT"),
    ] {
        let said = server.run(&[&["write"], args].concat());
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.stderr.contains(why), "{args:?}: {said:?}");
    }
}

#[test]
fn in_an_outage_a_write_is_queued_and_can_be_waited_for_and_cancelled() {
    let server = Server::start();
    server.take_database_away();
    let queued = server.json(&["write", "put", "a/1", "{}", "--json"]);
    assert_eq!((&queued["status"], &queued["record"]), (&"pending".into(), &"a/1".into()), "{queued}");
    let id = queued["id"].as_str().unwrap();
    let said = server.ok(&["write", "put", "a/2", "{}", "--wait", "100ms"]);
    assert!(said.contains("queued as 1-") && said.contains("1 before it"), "{said}");
    let still = server.run(&["write", "wait", id, "--for", "10ms"]);
    assert!(still.code == Some(1) && still.stdout.contains(&format!("queued as {id}")), "{still:?}");

    let second = server.json(&["write", "patch", "a/none", "{}", "--json"]);
    let second = second["id"].as_str().unwrap();
    let third = server.json(&["write", "put", "a/3", "{}", "--json"]);
    let third = third["id"].as_str().unwrap();
    let asked = server.run(&["write", "cancel", third]);
    assert_eq!(asked.code, Some(2), "{asked:?}");
    assert!(asked.stderr.contains("cancel 1 write") && asked.stderr.contains("put a/3"), "{asked:?}");
    assert!(asked.stderr.contains("--yes"), "{asked:?}");

    let created = server.json(&["write", "create", "a", r#"{"new":true}"#, "--json"]);
    let named = server.ok(&["write", "create", "a", "{}", "--wait", "10ms"]);
    assert!(named.starts_with("create a/") && named.contains(": queued as 1-"), "{named}");

    server.give_database_back();
    server.ok(&["write", "wait", created["id"].as_str().unwrap(), "--for", "60s"]);
    let record = created["record"].as_str().unwrap();
    assert_eq!(server.json(&["write", "get", record])["new"], true, "{created}");
    let waited = server.ok(&["write", "wait", id, "--for", "60s"]);
    assert_eq!(waited, format!("applied as {id}\n"));
    let dead = server.run(&["write", "wait", second, "--for", "60s"]);
    assert_eq!(dead.code, Some(1), "{dead:?}");
    assert!(dead.stdout.contains("is a dead letter") && dead.stdout.contains("dead show"), "{dead:?}");
    server.ok(&["write", "wait", third, "--for", "60s"]);
    let late = server.run(&["write", "cancel", third, "--yes"]);
    assert!(late.code == Some(1) && late.stderr.contains("applied"), "{late:?}");

    server.ok(&["pause"]);
    let paused = server.json(&["write", "put", "a/4", "{}", "--wait", "0s", "--json"]);
    let cancelled = server.json(&["write", "cancel", paused["id"].as_str().unwrap(), "--yes", "--json"]);
    assert_eq!(cancelled["status"], "discarded");
    server.ok(&["resume"]);
    assert_eq!(server.run(&["write", "get", "a/4"]).code, Some(1));
}

#[test]
fn a_key_makes_a_write_that_is_sent_twice_take_effect_once() {
    let server = Server::start();
    let create = ["write", "create", "a", r#"{"item":"tea"}"#, "--idempotency-key", "order-7"];
    let first = server.ok(&create);
    let again = server.ok(&create);
    assert!(
        first.contains("applied as 1-") && again.contains("applied before under this key"),
        "{first}{again}"
    );
    let replayed = server.json(&[&create[..], &["--json"]].concat());
    assert_eq!(replayed["replayed"], true);
    let other = server.run(&["write", "create", "a", "{}", "--idempotency-key", "order-7"]);
    assert!(other.code == Some(1) && other.stderr.contains("idempotency key"), "{other:?}");
}

#[test]
fn wait_outlasts_an_outage() {
    let server = Server::start();
    server.take_database_away();
    let mut waiting =
        server.command(&["write", "put", "a/1", "{}", "--wait", "60s", "--json"]).spawn().unwrap();
    server.until("it is queued", &["queue", "list", "--json"], |page| page["writes"][0]["id"].is_string());
    assert!(waiting.try_wait().unwrap().is_none(), "it does not wait");
    server.give_database_back();
    let output = waiting.wait_with_output().unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &receipt["status"]), (Some(0), &"applied".into()), "{receipt}");
}
