//! A bar on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

/// How far a long command is. On standard error, and only where a person looks.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Through so many bytes.
    pub(super) fn bytes(json: bool, what: &'static str, bytes: u64) -> Self {
        Self::new(json, what, bytes, "{msg} {bar:40} {bytes} of {total_bytes}, {eta} left")
    }

    /// Through so many things.
    pub(super) fn counts(json: bool, what: &'static str, count: u64) -> Self {
        Self::new(json, what, count, "{msg} {bar:40} {human_pos} of {human_len}")
    }

    fn new(json: bool, what: &'static str, length: u64, template: &str) -> Self {
        if json || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(length).with_message(what);
        let style = ProgressStyle::with_template(template);
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn add(&self, amount: u64) {
        self.0.inc(amount);
    }

    /// So much is left; more than ever when the work grows.
    pub(super) fn left(&self, amount: u64) {
        let length = self.0.length().unwrap_or_default().max(amount);
        self.0.set_length(length);
        self.0.set_position(length - amount);
    }

    /// What is under way.
    pub(super) fn say(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.set_message(what);
    }

    /// Prints a line above the bar, which goes on.
    pub(super) fn print(&self, line: &str) {
        self.0.suspend(|| super::output::print(line));
    }

    /// Takes the bar away: what comes next is the answer.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
