//! The binary as it is shipped against the kernel that it runs on: power losses of a real file system, system calls that
//! fail, a full disk, and kill -9 at named calls and at random moments.
//! Method: clients write and record what they were told; whatever happened then, in the end the database must agree
//! with them. Every fault is proven to have fired, from the trace or from what the file system forgot.
//!
//! `cargo xtask ci kernel` builds the release binary, names it in `OUTLAST_RELEASE_BINARY` and runs this.
//! `OUTLAST_EFFORT=10` makes ten times as many rounds. What a machine does not allow is skipped with a line that says
//! so, and is a failure where the variable CI is set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "../e2e/mod.rs"]
mod e2e;
// Its own client: reqwest would hide when what is sent.
#[path = "../support/stream.rs"]
mod stream;

mod base;
mod database;
mod faults;
mod full_disk;
mod kills;
mod power;
mod trace;
mod volume;
mod writers;

use std::collections::BTreeMap;

use outlast_testkit::history::{History, Seen, Summary, Violation};

/// So many rounds, or more of them if asked.
fn effort(rounds: u32) -> u32 {
    let factor = std::env::var("OUTLAST_EFFORT").map_or(1.0, |text| text.parse().expect("a number"));
    (f64::from(rounds) * factor).ceil() as u32
}

/// What a test needs of the machine; without it the test is skipped, visibly.
fn or_skip<T>(test: &str, needed: Result<T, String>) -> Option<T> {
    println!("{test}: {}", e2e::binary().display());
    needed.map_err(|why| skip(test, &why)).ok()
}

fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test} cannot be left out in CI: {why}");
    println!("SKIPPED: {test}: {why}");
}

/// Says in one line what came of everything, and fails if a promise was broken.
#[track_caller]
fn close(what: &str, history: &History, seen: &BTreeMap<String, Seen>) -> Summary {
    let violations = history.check(seen).err().unwrap_or_default();
    let of = |kind: fn(&Violation) -> bool| violations.iter().filter(|violation| kind(violation)).count();
    let lost = of(|violation| matches!(violation, Violation::Lost(_) | Violation::Unexplained(_)));
    let invented = of(|v| matches!(v, Violation::Invented(_) | Violation::RefusedTookEffect(_)));
    let reordered = of(|violation| matches!(violation, Violation::Reordered(..)));
    let doubled = of(|v| matches!(v, Violation::Doubled(_) | Violation::Miscounted(_)));
    let told = history.summary();
    println!(
        "{what}, acknowledged {}, lost {lost}, invented {invented}, reordered {reordered}, doubled {doubled}",
        told.applied + told.queued
    );
    e2e::check(history, seen)
}
