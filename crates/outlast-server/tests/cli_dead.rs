//! `outlast dead edit`: a dead letter with another content, from a file, from standard input, or out of an editor. And
//! `dead runs`: what became of a run that nobody waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;

use std::io::Write as _;
use std::process::{Command, Stdio};

use cli::Server;
use outlast_testkit::process::Finished;

/// A dead letter: a record is created that exists. Its id, and what it would do.
fn letter(server: &Server, record: &str) -> (String, String) {
    server.ok(&["write", "put", record, "{}"]);
    server.ok(&["pause"]);
    let create = ["write", "create", record, r#"{"n":1,"exact":1.50}"#, "--wait", "0s", "--json"];
    let id = server.json(&create)["id"].as_str().unwrap().to_owned();
    server.ok(&["resume"]);
    server.until("it is dead", &["dead", "list", "--json"], |page| page["total"] == 1);
    let shown = server.ok(&["dead", "show", &id]);
    (id, shown)
}

fn applied(server: &Server, id: &str) {
    let waited = server.ok(&["write", "wait", id, "--for", "60s"]);
    assert_eq!(waited, format!("applied as {id}\n"));
}

#[test]
fn a_letter_is_edited_from_a_file_after_a_look_at_what_is_changed() {
    let server = Server::start();
    let (id, shown) = letter(&server, "a/1");
    std::fs::write(server.directory.path().join("letter.json"), shown.replace("create", "put")).unwrap();
    let edit = ["dead", "edit", &id, "--file", "letter.json"];
    let asked = server.run(&edit);
    assert_eq!((asked.code, asked.stdout.as_str()), (Some(2), ""), "{asked:?}");
    for part in ["-     \"op\": \"create\"", "+     \"op\": \"put\"", "--yes"] {
        assert!(asked.stderr.contains(part), "{part}: {asked:?}");
    }
    assert_eq!(server.json(&["dead", "list", "--json"])["total"], 1, "nothing was done");
    let done = server.ok(&[&edit[..], &["--yes"]].concat());
    assert_eq!(done, format!("{id} edited and queued again\n"));
    applied(&server, &id);
    assert_eq!(server.ok(&["write", "get", "a/1"]), "{\"id\":\"1\",\"exact\":1.50,\"n\":1}\n");
    let audit = std::fs::read_to_string(server.directory.path().join("queue/audit.jsonl")).unwrap();
    let action = format!("\"action\":\"POST /v1/dead-letters/{id}/edit\"");
    assert!(audit.contains(&action), "it is found by the id as it is told: {audit}");
}

#[test]
fn what_is_wrong_with_an_edit_is_said_and_the_letter_stays() {
    let server = Server::start();
    let (id, shown) = letter(&server, "a/1");
    let list = r#"[{"op":"put","collection":"a","id":"2","data":{}}]"#;
    for (input, why) in [
        (list, "an edited write keeps its records"),
        ("[", "not valid JSON"),
        ("{}", "a list of operations"),
        (&shown, "nothing is changed"),
    ] {
        let said = server.with_stdin(&["dead", "edit", &id, "--file", "-", "--yes"], input);
        assert!(said.code == Some(1) && said.stderr.contains(why), "{input}: {said:?}");
    }
    let absent = server.run(&["dead", "edit", &id, "--file", "nowhere.json", "--yes"]);
    assert!(absent.code == Some(1) && absent.stderr.contains("nowhere.json"), "{absent:?}");
    let no_terminal = server.run(&["dead", "edit", &id, "--yes"]);
    assert!(no_terminal.code == Some(2) && no_terminal.stderr.contains("--file"), "{no_terminal:?}");
    let unknown = server.run(&["dead", "edit", "1-9999", "--file", "-", "--yes"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("was not found"), "{unknown:?}");
    assert_eq!(server.json(&["dead", "list", "--json"])["total"], 1);

    let edited = r#"[{"op":"patch","collection":"a","id":"1","data":{"from":"a pipe"}}]"#;
    let done = server.with_stdin(&["dead", "edit", &id, "--file", "-", "--yes", "--json"], edited);
    assert_eq!(cli::json(&done)["id"], id.as_str());
    applied(&server, &id);
    assert_eq!(server.json(&["write", "get", "a/1"])["from"], "a pipe");
}

/// Begins a run that waits for the database, and leaves it.
fn begin_and_leave(server: &Server) {
    let mut left = server.command(&["dead", "retry", "--kind", "exists", "--yes"]).spawn().unwrap();
    server.until("it waits", &["dead", "runs", "--json"], |page| page["runs"][0]["state"] == "waiting");
    left.kill().unwrap();
    left.wait().unwrap();
}

#[test]
fn a_run_goes_on_without_its_command_and_can_be_looked_at_and_stopped() {
    let mut server = Server::start();
    letter(&server, "a/1");
    assert!(server.process.terminate().success());
    // A server that starts without its database waits for it before it decides anything.
    let path = |name: &str| server.directory.path().join(name);
    let (database, away, log) = (path("database.db"), path("away.db"), path("queue/audit.jsonl"));
    std::fs::rename(&database, &away).unwrap();
    std::fs::create_dir(&database).unwrap();
    server.process.restart();
    assert_eq!(server.ok(&["dead", "runs"]), "no run since the server was started\n");
    begin_and_leave(&server);

    let listed = server.ok(&["dead", "runs"]);
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (row[0], &row[2..]),
        ("1", &["retry", "waiting", "0", "0", "1", "kind", "exists"][..]),
        "{listed}"
    );
    let shown = server.ok(&["dead", "runs", "show", "1"]);
    for part in ["Run 1: retry, waiting\n", "Letters:  kind exists\n", "Done:     0 of 1, 0 failed\n"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let stopped = server.ok(&["dead", "runs", "stop", "1"]);
    assert_eq!(stopped, "run 1 has ended: 0 of 1 queued again; stopped by an operator\n");
    let again = server.ok(&["dead", "runs", "stop", "1"]);
    assert_eq!(again, "run 1 had ended already: 0 of 1 queued again; stopped by an operator\n");
    let run = server.json(&["dead", "runs", "show", "1", "--json"]);
    assert_eq!((&run["state"], &run["done"]), (&"stopped".into(), &0.into()), "{run}");
    assert!(server.ok(&["dead", "runs", "show", "1"]).contains("Stopped:  stopped by an operator\n"));
    for verb in ["show", "stop"] {
        let unknown = server.run(&["dead", "runs", verb, "9"]);
        assert!(unknown.code == Some(1) && unknown.stderr.contains("run 9 is not known"), "{unknown:?}");
    }

    begin_and_leave(&server);
    assert!(server.process.terminate().success());
    let noted = std::fs::read_to_string(log).unwrap();
    let last = noted.lines().last().unwrap();
    for part in ["run 2 ended", "stopped: 0 of 1 done, 0 failed; the server was stopped"] {
        assert!(last.contains(part), "{part}: {noted}");
    }

    std::fs::remove_dir(&database).unwrap();
    std::fs::rename(&away, &database).unwrap();
    server.process.restart();
    let discarded = server.ok(&["dead", "discard", "--all", "--yes"]);
    assert_eq!(discarded, "1 of 1 discarded\n", "the letter was left");
    let ended = "done: 1 of 1 done, 0 failed";
    server.until("its end is noted", &["audit", "--json"], |page| page["entries"][0]["detail"] == ended);
    let audit = server.ok(&["audit"]);
    for part in ["200 run 2 over 1 dead letter\n", "run 2 ended", ended] {
        assert!(audit.contains(part), "{part}: {audit}");
    }
}

/// On a terminal, with this command as the editor and these answers.
fn on_a_terminal(server: &Server, id: &str, editor: &str, answers: &str) -> Finished {
    let command = format!("{} dead edit {id} --url {}", env!("CARGO_BIN_EXE_outlast"), server.process.url());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(server.directory.path())
        .env("VISUAL", editor)
        .env("TMPDIR", server.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    terminal.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    let output = terminal.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn an_editor_is_opened_again_until_what_it_leaves_is_taken() {
    let server = Server::start();
    let (id, _) = letter(&server, "a/1");
    let untouched = on_a_terminal(&server, &id, "true", "");
    assert!(untouched.code == Some(1) && untouched.stdout.contains("nothing was changed"), "{untouched:?}");
    let broken = on_a_terminal(&server, &id, "false", "");
    assert!(broken.code == Some(1) && broken.stdout.contains("the editor false ended with"), "{broken:?}");
    let declined = on_a_terminal(&server, &id, "sed -i s/create/put/", "no\n");
    assert!(declined.code == Some(1) && declined.stdout.contains("nothing was done"), "{declined:?}");
    assert!(declined.stdout.contains("your edit is in"), "{declined:?}");
    assert_eq!(server.json(&["dead", "list", "--json"])["total"], 1);

    // First a word that no operation has, which the server refuses; then, since that is said above the text, the right one.
    std::fs::write(
        server.directory.path().join("editor.sh"),
        "if grep -q '^# NOT TAKEN: .*upsert' \"$1\"; then sed -i 's/\"upsert\"/\"put\"/' \"$1\"
         else sed -i 's/create/upsert/' \"$1\"; fi",
    )
    .unwrap();
    let done = on_a_terminal(&server, &id, "sh editor.sh", "yes\nyes\n");
    assert_eq!(done.code, Some(0), "{done:?}");
    for part in ["+     \"op\": \"upsert\"", "+     \"op\": \"put\"", "edited and queued again"] {
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    applied(&server, &id);
}
