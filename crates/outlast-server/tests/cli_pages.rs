//! Completions and manual pages cover every command, and tell nobody's secrets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.args(args).env("OUTLAST_TOKEN", "canary").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        let script = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        for word in ["is-ready", "throttle", "idempotency-key"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(!script.contains("canary"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("outlast.bash");
    std::fs::write(&script, run(&["completions", "bash"]).stdout).unwrap();
    // The shell itself: it completes the last word of a command line.
    let complete = format!(
        "source {}; COMP_WORDS=(outlast queue thr); COMP_CWORD=2; _outlast outlast thr queue; echo ${{COMPREPLY[@]}}",
        script.display()
    );
    let completed = Command::new("bash").args(["-c", &complete]).output().unwrap();
    assert_eq!(text(&completed.stdout), "throttle\n", "{completed:?}");
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = run(&["man", pages.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in
        ["outlast", "outlast-drill", "outlast-queue-export", "outlast-config-explain", "outlast-write-put"]
    {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        assert!(!page.contains("canary"), "{name}");
    }
    let printed = text(&run(&["man"]).stdout);
    assert!(printed.contains(".TH outlast 1") && printed.contains("drill"), "{printed}");
    assert!(printed.contains("Exit codes") && !printed.contains("canary"), "{printed}");
}
