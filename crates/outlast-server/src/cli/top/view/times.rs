//! Moments as people read them.

use jiff::Timestamp;

use super::super::super::output::{safe, span};

/// The time of day in UTC, with the day unless it is today.
pub(super) fn moment(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(at) => clock(at, now),
        Err(_) => safe(text, 40),
    }
}

/// The same of a time.
pub(super) fn clock(at: Timestamp, now: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let time = at.strftime("%H:%M:%SZ").to_string();
    if day(at) == day(now) { time } else { format!("{} {time}", day(at)) }
}

/// How long ago.
pub(super) fn ago(text: &str, now: Timestamp) -> String {
    text.parse().map_or_else(|_| "?".to_owned(), |at: Timestamp| since(at, now))
}

/// From then to now.
pub(super) fn since(at: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(at).as_secs_f64())
}
