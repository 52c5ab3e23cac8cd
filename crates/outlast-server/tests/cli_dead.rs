//! `outlast dead edit`: a dead letter with another content, from a file, from standard input, or out of an editor.
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
