//! A bar on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::arguments::Global;

/// How far a long command is. On standard error, and only where a person looks.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(global: &Global, what: &'static str, bytes: u64) -> Self {
        if global.json || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(bytes).with_message(what);
        let style = ProgressStyle::with_template("{msg} {bar:40} {bytes} of {total_bytes}, {eta} left");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Takes the bar away: what comes next is the answer.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
