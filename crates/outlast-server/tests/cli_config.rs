//! `outlast config explain` and `check`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OUTLAST_")) {
        command.env_remove(name);
    }
    command.args(args).env("OUTLAST_QUEUE__MAX_BYTES", "2GiB").current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_setting_is_explained_with_its_default_its_value_and_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["config", "explain", "queue.max_bytes"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "Most bytes that may wait.",
        "Default:  1GiB",
        "Now:      2GiB, from: OUTLAST_QUEUE__MAX_BYTES",
        "max_bytes in [queue] of the file, OUTLAST_QUEUE__MAX_BYTES, or --set queue.max_bytes=VALUE",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = run(directory.path(), &["config", "explain", "queue.max_bytes", "--json"]);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&explained["default"], &explained["value"]), (&"1GiB".into(), &"2GiB".into()));

    let unknown = run(directory.path(), &["config", "explain", "queue.max_byte"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("did you mean queue.max_bytes?"), "{unknown:?}");

    std::fs::write(directory.path().join("outlast.toml"), "[database]\npassword = \"canary\"\n").unwrap();
    let secret = run(directory.path(), &["config", "explain", "database.password"]);
    let said = text(&secret.stdout);
    assert!(said.contains("outlast.toml:2") && !said.contains("canary"), "{said}");
}

#[test]
fn a_wrong_configuration_is_explained_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("outlast.toml"), "[queue]\nformat = \"xml\"\n").unwrap();
    let output = run(directory.path(), &["config", "explain", "queue.format"]);
    assert_eq!(output.status.code(), Some(78));
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("Takes:    json, bincode") && !said.contains("Now:"), "{said}");
    assert!(complained.contains("outlast.toml:2"), "{complained}");
}

#[test]
fn check_finds_what_a_start_would_refuse_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let check = |args: &[&str]| run(directory.path(), &[&["config", "check"], args].concat());
    let well = check(&[]);
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert_eq!(text(&well.stdout), "the configuration is in order (no file is read)\n");
    let nowhere = ["--set", "server.tls_certificate=nowhere.pem", "--set", "server.tls_key=nowhere.pem"];
    let collector = "traces.endpoint=http://127.0.0.1:4318/v1/traces";
    assert_eq!(check(&["--set", collector]).status.code(), Some(0));
    for (args, why) in [
        (&nowhere as &[&str], "nowhere.pem"),
        (&["--set", collector, "--set", "traces.headers=s3cret"], "traces.headers must be NAME=VALUE"),
        (&["--listen", "0.0.0.0:0"], "no tokens are configured"),
        (&["--database-url", "mysql://x"], "no adapter for \"mysql\""),
        (&["--database-url", "surrealdb://host"], "database.url"),
        (&["--set", "queue.max_writes=0"], "too small"),
    ] {
        let wrong = check(args);
        assert_eq!(wrong.status.code(), Some(78), "{args:?}: {wrong:?}");
        assert!(text(&wrong.stderr).contains(why), "{args:?}: {wrong:?}");
        let wrong = check(&[args, &["--json"]].concat());
        let report: Value = serde_json::from_slice(&wrong.stdout).unwrap();
        assert_eq!((wrong.status.code(), &report["valid"]), (Some(78), &false.into()));
        assert!(report["mistakes"][0].as_str().unwrap().contains(why), "{report}");
    }
    std::fs::write(directory.path().join("outlast.toml"), "[queue]\nretain = \"1h\"\n").unwrap();
    assert!(text(&check(&[]).stdout).contains("in order (outlast.toml)"));
    std::fs::write(directory.path().join("outlast.toml"), "[queue]\nretain = 1\nmax_write = 1\n").unwrap();
    let both = text(&check(&[]).stderr);
    assert!(both.contains("outlast.toml:2") && both.contains("outlast.toml:3"), "{both}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing but the file: {left:?}");
}
