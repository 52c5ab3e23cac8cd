//! The report of an outage as Markdown, for the ticket.

use std::fmt::Write as _;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use outlast::outage::Outage;

use super::app::{Answer, Call, content, not_stored};
use super::dead::find_outage;

/// `GET /v1/outages/{id}/report`.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn report(call: Call) -> Answer {
    call.known_query([])?;
    let outage = find_outage(&call)?;
    let mut response: Response = content(StatusCode::OK, "text/markdown; charset=utf-8", markdown(&outage));
    let name = format!("inline; filename=\"outage-{}.md\"", outage.id);
    if let Ok(name) = HeaderValue::try_from(name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(not_stored(response))
}

fn markdown(outage: &Outage) -> String {
    let none = || "not yet".to_owned();
    let rows = [
        ("Began", outage.started_at.clone()),
        ("Noticed by", outage.detected_by.clone()),
        ("Reason", outage.reason.clone()),
        ("Database back", outage.reconnected_at.clone().unwrap_or_else(none)),
        ("Backlog drained", outage.drained_at.clone().unwrap_or_else(none)),
        ("Database away for", format!("{:.1} s", outage.duration_seconds)),
        ("Writes queued", outage.writes_queued.to_string()),
        ("Most that waited at once", outage.peak_writes.to_string()),
        ("Oldest wait", format!("{:.1} s", outage.oldest_age_seconds)),
        ("Reads refused", outage.reads_refused.to_string()),
        ("Dead letters", outage.dead.to_string()),
        ("**Lost writes**", format!("**{}**", outage.lost)),
        ("Writes healed", outage.healed_writes.to_string()),
    ];
    let mut text = format!("# Outage {}\n\n{}\n\n|  |  |\n|---|---|\n", outage.id, summary(outage));
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {} |", cell(&value));
    }
    for (name, value) in [("Healed from", &outage.healed_from), ("Missing for good", &outage.missing)] {
        if let Some(value) = value {
            let _ = writeln!(text, "| {name} | {} |", cell(value));
        }
    }
    text
}

fn summary(outage: &Outage) -> String {
    let state = match (&outage.drained_at, &outage.reconnected_at) {
        (Some(_), _) => "It is over: everything that waited is decided.",
        (None, Some(_)) => "The database is back, and the backlog is being drained.",
        (None, None) => "It lasts: the database does not answer.",
    };
    let queued = outage.writes_queued;
    format!("{state} {queued} writes were accepted and queued meanwhile; {} were lost.", outage.lost)
}

/// The database's words in one cell of a table, whatever they are.
fn cell(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '<' | '`' | '[' => clean.extend(['\\', c]),
            c if c.is_control() => clean.push(' '),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_said_stays_in_its_cell() {
        let outage =
            Outage { id: 7, reason: "a | b\n<script>".into(), writes_queued: 5, ..Outage::default() };
        let text = markdown(&outage);
        assert!(text.starts_with("# Outage 7\n"));
        assert!(text.contains("| Reason | a \\| b \\<script> |"), "{text}");
        assert!(text.contains("**0**") && text.contains("5 writes were accepted"), "{text}");
    }
}
