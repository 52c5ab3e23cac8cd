//! `outlast top` in a real terminal, against a real server whose database and whose process are taken away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cli;

use std::process::Command;

use cli::Server;
use outlast_testkit::terminal::Terminal;
use rustix::process::Signal;

/// What a terminal sends for the key.
const TAB: &str = "\t";

fn top(server: &Server, rows: u16, columns: u16) -> Terminal {
    Terminal::start(&server.command(&["top", "--interval", "50ms"]), rows, columns)
}

fn all(parts: &[&str]) -> impl Fn(&str) -> bool {
    move |screen| parts.iter().all(|part| screen.contains(part))
}

#[test]
fn an_outage_is_seen_from_its_first_moment_to_its_end() {
    let mut server = Server::start();
    let mut terminal = top(&server, 24, 80);
    terminal.until("all is well", all(&["yes, and applied at once", "connected for", "now: nothing waits"]));
    assert!(terminal.is_coloured());
    server.take_database_away();
    server.ok(&["write", "put", "a/b", "{}", "--wait", "0s"]);
    terminal.until(
        "the outage",
        all(&["yes, into the queue", "AWAY for", "is gone", "outage 1 began", "1 of 1,000,000 writes"]),
    );
    terminal.press(TAB);
    terminal.until("what waits", all(&["1 wait", "pending", "put a/b"]));
    terminal.press("4");
    terminal.until("the outages", all(&["1 outage", "LASTS", "1 queued"]));

    terminal.press("p");
    terminal.until("the pause", all(&["PAUSED at"]));
    server.give_database_back();
    server.until("the outage is over", &["outage", "show", "--json"], |outage| {
        outage["drained_at"].is_string()
    });
    assert!(terminal.screen().contains("LASTS"), "a paused screen changed:\n{}", terminal.screen());
    terminal.press("p");
    terminal.until("the end of the outage", |screen| screen.contains("drained") && !screen.contains("LASTS"));

    terminal.press("1");
    terminal.until("the first view", all(&["What happened", "outage 1 ended"]));
    terminal.resize(6, 40);
    terminal.until("a small screen", |screen| {
        all(&["Accepting?", "Clear?"])(screen) && !screen.contains("What happened")
    });
    terminal.resize(24, 80);
    server.process.kill();
    terminal.until("the server is away", all(&["NO ANSWER for", "Accepting?", "could not be reached"]));
    server.process.restart();
    terminal.until("the server is back", |screen| screen.contains("live ") && !screen.contains("NO ANSWER"));

    terminal.press("q");
    assert_eq!(terminal.ended().code(), Some(0));
    terminal.given_back();
}

#[test]
fn a_signal_ends_it_and_gives_the_terminal_back() {
    let server = Server::start();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = top(&server, 24, 80);
        terminal.until("the screen", all(&["Accepting?"]));
        assert!(terminal.left_behind().contains(&"the other screen is shown"), "what is looked for, changes");
        terminal.signal(signal);
        assert_eq!(terminal.ended().code(), Some(0), "{signal:?}");
        terminal.given_back();
    }
}

#[test]
fn no_color_is_heeded() {
    let server = Server::start();
    let mut command = Command::new("env");
    let inside = server.command(&["top"]);
    command.arg("NO_COLOR=1").arg(inside.get_program()).args(inside.get_args());
    let terminal = Terminal::start(&command, 24, 80);
    terminal.until("the screen", all(&["Accepting?", "What happened"]));
    assert!(!terminal.is_coloured());
}

#[test]
fn where_there_is_no_terminal_it_names_what_to_use_instead() {
    let server = Server::start();
    let finished = server.run(&["top"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(
        finished.stderr.contains("needs a terminal") && finished.stderr.contains("status --watch"),
        "{finished:?}"
    );
    let finished = server.run(&["top", "--json"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("status --watch --json"), "{finished:?}");
}

#[test]
fn a_server_that_was_never_there_is_an_error_and_no_screen() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.args(["top", "--url", "http://127.0.0.1:9"]);
    let mut terminal = Terminal::start(&command, 24, 80);
    assert_eq!(terminal.ended().code(), Some(69));
    terminal.until("the message", all(&["could not be reached"]));
    terminal.given_back();
}
