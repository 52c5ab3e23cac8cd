//! `outlast drill` takes a database away under load, kills the server, and proves that nothing came of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output};

use outlast_testkit::postgres::{PostgresServer, is_installed};
use serde_json::Value;

/// With nothing of anybody else in its way; its files go into `directory`.
fn drill(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.arg("drill").args(args).current_dir(directory).env("TMPDIR", directory);
    // Settings of the user are for another server.
    command.env("OUTLAST_QUEUE__MAX_WRITES", "1").env("OUTLAST_SERVER__LISTEN", "192.0.2.1:1");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_drill_with_the_embedded_database_ends_with_0_lost_0_double() {
    let directory = tempfile::tempdir().unwrap();
    let output = drill(directory.path(), &["--rounds", "2"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.last(), Some(&"0 lost, 0 double, 0 out of order"), "{said}");
    let outages = lines.iter().filter(|line| line.starts_with("outage ")).count();
    assert_eq!(outages, 2, "{said}");
    assert!(said.contains("the server was killed 6 times"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_report_for_machines_shows_that_every_fault_happened() {
    // A kill seldom meets no request of three clients at all; that none of many does is another matter.
    let sent_again = (0..5).any(|_| a_drill_for_machines()["sent_again"].as_u64() > Some(0));
    assert!(sent_again, "no answer was lost to a kill");
}

fn a_drill_for_machines() -> Value {
    let directory = tempfile::tempdir().unwrap();
    let output = drill(directory.path(), &["--rounds", "1", "--clients", "3", "--json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status.code(), Some(0), "{report}");
    let [outage] = report["outages"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert!(outage["writes_queued"].as_u64().unwrap() > 0, "{report}");
    assert!(outage["reason"].as_str().unwrap().contains("database.db"), "{report}");
    assert_eq!((&report["kills"], &report["connections_cut"]), (&3.into(), &Value::Null), "{report}");
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!(count("queued") > 0 && count("applied") > 0, "{report}");
    assert_eq!(count("acknowledged"), count("applied") + count("queued"));
    assert_eq!((count("lost"), count("double"), count("out_of_order")), (0, 0, 0), "{report}");
    report
}

#[test]
fn a_drill_with_a_server_cuts_its_connections_and_removes_its_records() {
    if !is_installed() {
        return;
    }
    let server = PostgresServer::start();
    server.create_database("drills");
    let url = server.url("drills");
    let directory = tempfile::tempdir().unwrap();
    let output = drill(directory.path(), &["--rounds", "1", "--database", &url, "--json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["connections_cut"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        (&report["lost"], &report["double"], &report["out_of_order"]),
        (&0.into(), &0.into(), &0.into())
    );
    let tables = server
        .query("drills", "SELECT string_agg(tablename, ',') FROM pg_tables WHERE tablename LIKE 'drill%'");
    assert!(tables.starts_with("drill_") && !tables.contains(','), "{tables}");
    assert_eq!(server.query("drills", &format!("SELECT count(*) FROM {tables}")), "0");
}

#[test]
fn the_database_of_the_configuration_is_drilled_with_as_serve_would_reach_it() {
    if !is_installed() {
        return;
    }
    let server = PostgresServer::start();
    server.create_database("drills");
    let mut url = url::Url::parse(&server.url("drills")).unwrap();
    let password = percent_decoded(url.password().unwrap());
    url.set_password(None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("secret"), password).unwrap();
    let settings = format!("[database]\nurl = \"{url}\"\npassword_file = \"files/secret\"\n");
    std::fs::write(files.join("my.toml"), settings).unwrap();
    let output = drill(directory.path(), &["--rounds", "1", "--configured", "--config", "files/my.toml"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said.contains("writes    to the collection drill_"), "{said}");
    assert!(said.contains(" connections to the database were cut"), "{said}");
    assert!(said.ends_with("0 lost, 0 double, 0 out of order\n"), "{said}");
    let tables = server
        .query("drills", "SELECT string_agg(tablename, ',') FROM pg_tables WHERE tablename LIKE 'drill%'");
    assert_eq!(server.query("drills", &format!("SELECT count(*) FROM {tables}")), "0");
}

fn percent_decoded(text: &str) -> String {
    let pair = format!("p={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().unwrap().1.into_owned()
}

#[test]
fn a_configuration_whose_database_cannot_be_drilled_with_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outlast.toml");
    for (settings, code, why) in [
        ("url = \"sqlite://mine.db\"", 2, "database.url: the drill takes the database away"),
        ("url = \"surrealdbs://root:canary@db/n/d\"", 2, "name an address of the same database without TLS"),
        ("url = \"postgres://u:canary@db/d?sslmode=require\"", 2, "without TLS"),
        ("url = \"postgres://u:canary@h1,h2/d\"", 2, "with one host"),
        ("url = \"postgres://u:canary@127.0.0.1:9/d\"", 69, "could not be reached"),
        ("url = \"postgres://u@127.0.0.1:9/d\"\npassword_file = \"gone\"", 78, "password_file gone"),
    ] {
        std::fs::write(&file, format!("[database]\n{settings}\n")).unwrap();
        let output = drill(directory.path(), &["--configured"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{settings}: {said}");
        assert!(said.contains(why) && !said.contains("canary"), "{settings}: {said}");
    }
    let both = drill(directory.path(), &["--configured", "--database", "postgres://u@h/d"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "only the configuration");
}

#[test]
fn a_database_that_cannot_be_drilled_with_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for (url, code, why) in [
        ("sqlite://mine.db", 2, "of its own"),
        ("surrealdbs://root:canary@db/n/d", 2, "TLS"),
        ("postgres://u:canary@127.0.0.1:9/d", 69, "could not be reached"),
    ] {
        let output = drill(directory.path(), &["--database", url]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{url}: {said}");
        assert!(said.contains(why) && !said.contains("canary"), "{url}: {said}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
