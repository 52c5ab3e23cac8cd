//! `outlast write bulk`, `outlast queue import` and the filters of `outlast queue list`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;

use std::path::Path;

use cli::{Server, json};
use serde_json::Value;

fn put(collection: &str, id: &str, n: usize) -> String {
    format!("{{\"op\":\"put\",\"collection\":\"{collection}\",\"id\":\"{id}\",\"data\":{{\"n\":{n}}}}}\n")
}

fn at(server: &Server, name: &str) -> String {
    server.directory.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_file_of_writes_is_sent_and_what_became_of_it_is_summed_up() {
    const COUNT: usize = 3000;
    let server = Server::start();
    let file = at(&server, "writes.ndjson");
    let lines: String = (0..COUNT).map(|n| put("a", &(n % 7).to_string(), n)).collect();
    std::fs::write(&file, format!("\n{lines}")).unwrap();
    let said = server.ok(&["write", "bulk", &file]);
    assert_eq!(said, "3,000 lines answered: 3,000 applied\n");
    for record in 0..7 {
        let last = (0..COUNT).rev().find(|n| n % 7 == record).unwrap();
        let record: Value =
            serde_json::from_str(&server.ok(&["write", "get", &format!("a/{record}")])).unwrap();
        assert_eq!(record["n"], last);
    }
    let piped = server.with_stdin(&["write", "bulk", "--json"], &put("a", "piped", 1));
    assert_eq!((piped.code, &json(&piped)["applied"]), (Some(0), &1.into()), "{piped:?}");
    let nothing = server.with_stdin(&["write", "bulk", "-"], "");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), "0 lines answered\n"), "{nothing:?}");
}

#[test]
fn lines_that_are_not_accepted_are_kept_to_be_corrected_and_sent_again() {
    let server = Server::start();
    let (file, failures) = (at(&server, "writes.ndjson"), at(&server, "failures.ndjson"));
    let wrong = "{\"op\":\"put\",\"collection\":\"a\"}\n";
    let create = put("a", "1", 2).replace("put", "create");
    std::fs::write(&file, format!("{}\n{wrong}{create}{}", put("a", "1", 1), put("a", "2", 1))).unwrap();
    let sent = server.run(&["write", "bulk", &file, "--failures", &failures]);
    assert_eq!(sent.code, Some(1), "{sent:?}");
    assert!(sent.stdout.starts_with("4 lines answered: 2 applied, 1 rejected, 1 invalid\n"), "{sent:?}");
    assert!(sent.stdout.contains("line 3: invalid: \"put\" needs \"id\""), "blank lines count: {sent:?}");
    assert!(sent.stdout.contains("line 4: rejected: "), "{sent:?}");
    assert_eq!(std::fs::read_to_string(&failures).unwrap(), format!("{wrong}{create}"));
    let again = server.run(&["write", "bulk", &file, "--failures", &failures]);
    assert!(again.code == Some(1) && again.stderr.contains("exists already"), "{again:?}");

    let strict = server.run(&["write", "bulk", &file, "--strict", "--json"]);
    let summary = json(&strict);
    assert_eq!(
        (strict.code, &summary["invalid"], &summary["applied"]),
        (Some(1), &1.into(), &1.into()),
        "{strict:?}"
    );
    assert_eq!(summary["first_unanswered"], 4, "{strict:?}");
    assert_eq!(summary["failures"][0]["problem"]["type"], "/problems/invalid-request");
}

fn accounting(server: &Server, term: &str) -> u64 {
    server.json(&["status", "--json"])["accounting"][term].as_u64().unwrap()
}

/// Two servers, each with a database of its own.
#[test]
fn what_waits_in_one_queue_is_imported_into_another_and_only_once() {
    const COUNT: usize = 700;
    let (from, to) = (Server::start(), Server::start());
    from.ok(&["pause"]);
    let lines: String = (0..COUNT).map(|n| put("a", &(n % 3).to_string(), n)).collect();
    let sent = from.with_stdin(&["write", "bulk", "--json"], &lines);
    assert_eq!(json(&sent)["queued"], COUNT, "{sent:?}");
    let keyed = ["write", "put", "a/keyed", "{\"exact\":1.50}", "--idempotency-key", "mine"];
    from.ok(&keyed);
    let file = at(&from, "waiting.ndjson");
    from.ok(&["queue", "export", "--output", &file]);

    let own = from.run(&["queue", "import", &file, "--yes"]);
    assert!(own.code == Some(1) && own.stderr.contains("comes from this very queue"), "{own:?}");
    let asked = to.run(&["queue", "import", &file]);
    assert!(asked.code == Some(2) && asked.stderr.contains("import 701 writes from queue "), "{asked:?}");
    assert!(asked.stderr.contains("--yes"), "{asked:?}");

    to.ok(&["pause"]);
    assert_eq!(to.ok(&["queue", "import", &file, "--yes"]), "imported 701 of 701 writes\n");
    let again = to.ok(&["queue", "import", &file, "--yes"]);
    assert_eq!(again, "imported 701 of 701 writes (701 of them waited there already)\n");
    assert_eq!(to.json(&["status", "--json"])["queue"]["writes"], COUNT + 1);
    to.ok(&["resume"]);
    to.ok(&["queue", "drain"]);
    for record in 0..3 {
        let last = (0..COUNT).rev().find(|n| n % 3 == record).unwrap();
        let record: Value = serde_json::from_str(&to.ok(&["write", "get", &format!("a/{record}")])).unwrap();
        assert_eq!(record["n"], last);
    }
    assert!(to.ok(&["write", "get", "a/keyed"]).contains("1.50"));
    // And once they are applied: what was written since stays.
    to.ok(&["write", "put", "a/0", "{\"n\":-1}"]);
    let third = to.json(&["queue", "import", &file, "--yes", "--json"]);
    assert_eq!((&third["imported"], &third["refused"]), (&701.into(), &0.into()), "{third}");
    to.ok(&["queue", "drain"]);
    assert!(to.ok(&["write", "get", "a/0"]).contains("-1"));
    // A client's own key stays what it was, so that the client too may come again.
    assert!(to.ok(&keyed).contains("applied before under this key"));
}

#[test]
fn an_import_waits_for_room_in_the_queue_and_goes_on() {
    let (from, to) = (Server::start(), Server::start_with(&[("queue.max_writes", "50")]));
    from.ok(&["pause"]);
    let lines: String = (0..400).map(|n| put("a", "1", n)).collect();
    from.with_stdin(&["write", "bulk"], &lines);
    let file = at(&from, "waiting.ndjson");
    from.ok(&["queue", "export", "--output", &file]);
    let before = accounting(&to, "applied");
    to.ok(&["pause"]);
    let importing = to.command(&["queue", "import", &file, "--yes"]).spawn().unwrap();
    to.until("the queue is full", &["status", "--json"], |status| status["queue"]["writes"] == 50);
    to.ok(&["resume"]);
    let output = importing.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "imported 400 of 400 writes\n", "{output:?}");
    to.ok(&["queue", "drain"]);
    assert!(to.ok(&["write", "get", "a/1"]).contains("399"));
    assert_eq!(accounting(&to, "applied") - before, 400, "each once");
}

#[test]
fn a_file_that_is_not_in_order_is_refused_before_anything_is_imported() {
    let server = Server::start();
    let (file, before) = (at(&server, "broken.ndjson"), accounting(&server, "accepted"));
    let good = r#"{"queue":"q","id":"1-1","operations":[{"op":"delete","collection":"a","id":"1"}]}"#;
    for (text, why) in [
        (format!("{good}\nnonsense\n"), "line 2: column 2: "),
        (format!("{good}\n\n{good}\n"), "line 3: write 1-1 stands in a line before already"),
        (good.replace("\"delete\"", "\"put\""), "line 1: operation \"put\" needs \"data\""),
        (good.replace("\"queue\":\"q\",", ""), "missing field `queue`"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let said = server.run(&["queue", "import", &file, "--yes"]);
        assert!(said.code == Some(65) && said.stderr.contains(why), "{text}: {said:?}");
    }
    assert_eq!(accounting(&server, "accepted"), before);
    let missing = server.run(&["queue", "import", Path::new(&file).with_extension("none").to_str().unwrap()]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
}

#[test]
fn what_waits_is_searched_by_the_server() {
    let server = Server::start();
    server.ok(&["pause"]);
    let lines: String =
        (0..30).map(|n| put(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string(), n)).collect();
    server.with_stdin(
        &["write", "bulk"],
        &format!("{lines}{{\"op\":\"delete\",\"collection\":\"odd\",\"id\":\"7\"}}\n"),
    );
    let found = |filter: &[&str]| {
        let page = server.json(&[&["queue", "list", "--json"], filter].concat());
        page["writes"].as_array().unwrap().len()
    };
    assert_eq!(found(&[]), 31);
    assert_eq!(found(&["--collection", "even"]), 15);
    assert_eq!(found(&["--collection", "odd", "--record", "7"]), 2);
    assert_eq!(found(&["--record", "8", "--collection", "odd"]), 0);
    assert_eq!(found(&["--op", "delete"]), 1);
    assert_eq!(found(&["--status", "parked"]), 0);
    assert_eq!(found(&["--older-than", "1h"]), 0);
    assert_eq!(found(&["--newer-than", "1h", "--limit", "3"]), 3);
    let all = server.json(&["queue", "list", "--json"]);
    let id = all["writes"][4]["id"].as_str().unwrap();
    assert_eq!(found(&["--write", id]), 1);
    assert_eq!(found(&["--write", id, "--collection", "odd"]), 0);
    assert!(server.ok(&["queue", "list", "--collection", "odd", "--limit", "1"]).contains("odd/1"));
    let exported = server.ok(&["queue", "export", "--collection", "odd"]);
    assert_eq!(exported.lines().count(), 16);
    assert_eq!(server.run(&["queue", "list", "--status", "applied"]).code, Some(2));
}
