//! The views that are lists: what waits, dead letters, outages. Below a list stands more about the row that is looked at.

use jiff::Timestamp;
use outlast::outage::Outage;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, TableState, Wrap};

use super::super::super::output::{dead_letters, grouped, safe, span};
use super::super::super::queue::{what_it_does, what_they_do};
use super::super::super::suggest::suggestion;
use super::super::state::{Entry, Letters, State};
use super::theme::Theme;
use super::times::{ago, moment};

/// From so many lines on there is room for more about a row.
const DETAILS_FROM: u16 = 12;
/// Lines for the groups of dead letters, with their heading.
const GROUPS_MAX: u16 = 6;

/// What waits, in order.
pub(super) fn queue(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let known = state.shown();
    let Some(writes) = &known.queue else { return asking(frame, area) };
    if writes.is_empty() {
        return frame.render_widget(Line::raw("Nothing waits."), area);
    }
    let now = known.now;
    let rows = writes.iter().map(|write| {
        [
            safe(&write.id, 60),
            ago(&write.accepted_at, now),
            safe(&write.status, 20),
            grouped(write.attempts),
            what_they_do(&write.operations),
        ]
    });
    let all = known.status.as_ref().map_or(0, |status| status.queue.writes);
    let heading = format!("{} wait; the first {} in order", grouped(all), grouped(writes.len() as u64));
    let widths = [
        Constraint::Length(20),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let selected = state.selected(writes.len());
    let details = selected.and_then(|row| writes.get(row)).map(|write| about_write(write, now));
    let header = ["WRITE", "WAITS FOR", "STATUS", "REFUSED", "WHAT"];
    let list = List { heading: vec![heading], header, widths, rows: rows.collect(), selected, details };
    list.draw(frame, area, theme);
}

fn about_write(write: &Entry, now: Timestamp) -> Vec<String> {
    let accepted = format!("{}, accepted {}", safe(&write.id, 60), moment(&write.accepted_at, now));
    let refused = refusal(write).map(|reason| format!("Last refused: {reason}"));
    [accepted, all_they_do(write)].into_iter().chain(refused).collect()
}

/// Dead letters: by reason, then one by one.
pub(super) fn dead(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let known = state.shown();
    let Some(page) = &known.dead else { return asking(frame, area) };
    if page.total == 0 {
        return frame.render_widget(Line::raw("No dead letters."), area);
    }
    let now = known.now;
    let rows = page.first.iter().map(|letter| {
        [
            safe(&letter.id, 60),
            ago(&letter.died_at, now),
            letter.reason.as_ref().map_or("", |reason| reason.kind.as_str()).to_owned(),
            grouped(letter.history.len() as u64),
            what_they_do(&letter.operations),
        ]
    });
    let selected = state.selected(page.first.len());
    let details = selected.and_then(|row| page.first.get(row)).map(|letter| about_letter(letter, now));
    let widths = [
        Constraint::Length(20),
        Constraint::Length(12),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let header = ["WRITE", "DEAD FOR", "KIND", "REFUSED", "WHAT"];
    let heading = groups(page, area.height);
    List { heading, header, widths, rows: rows.collect(), selected, details }.draw(frame, area, theme);
}

/// How many there are of each reason, as far as there is room.
fn groups(page: &Letters, height: u16) -> Vec<String> {
    let most = usize::from(GROUPS_MAX.min(height / 3)).max(1) - 1;
    let mut lines = vec![dead_letters(page.total)];
    let fits = page.groups.len() <= most;
    let shown = if fits { page.groups.len() } else { most.saturating_sub(1) };
    lines.extend(page.groups.iter().take(shown).map(|group| {
        let (kind, message) = (group.reason.kind.as_str(), safe(&group.reason.message, 300));
        format!("{:>9}  {kind}: {message}", grouped(group.count))
    }));
    if !fits && most > 0 {
        lines.push(format!(
            "           and {} more reasons: outlast dead groups",
            page.groups_total.saturating_sub(shown as u64)
        ));
    }
    lines
}

fn about_letter(letter: &Entry, now: Timestamp) -> Vec<String> {
    let (accepted, died) = (moment(&letter.accepted_at, now), moment(&letter.died_at, now));
    let times = format!("{}, accepted {accepted}, died {died}", safe(&letter.id, 60));
    let helps = letter.reason.as_ref().map(|reason| suggestion(reason.kind).to_owned());
    [times, all_they_do(letter)].into_iter().chain(refusal(letter)).chain(helps).collect()
}

/// Outages, newest first.
pub(super) fn outages(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let known = state.shown();
    if known.status.is_none() {
        return asking(frame, area);
    }
    if known.outages.is_empty() {
        return frame.render_widget(Line::raw("No outage yet."), area);
    }
    let now = known.now;
    let rows = known.outages.iter().map(|outage| {
        [
            outage.id.to_string(),
            moment(&outage.started_at, now),
            span(outage.duration_seconds),
            grouped(outage.writes_queued),
            ending(outage, now),
        ]
    });
    let selected = state.selected(known.outages.len());
    let details = selected.and_then(|row| known.outages.get(row)).map(|outage| about_outage(outage, now));
    let widths = [
        Constraint::Length(5),
        Constraint::Length(21),
        Constraint::Length(12),
        Constraint::Length(11),
        Constraint::Fill(1),
    ];
    let header = ["NO", "BEGAN", "AWAY", "QUEUED", "STATE"];
    let heading = match known.outages.len() as u64 {
        1 => "1 outage".to_owned(),
        many => format!("{} outages, newest first", grouped(many)),
    };
    let heading = vec![heading];
    List { heading, header, widths, rows: rows.collect(), selected, details }.draw(frame, area, theme);
}

fn ending(outage: &Outage, now: Timestamp) -> String {
    match (&outage.drained_at, &outage.reconnected_at) {
        (Some(at), _) => format!("drained {}", moment(at, now)),
        (None, Some(_)) => "draining".to_owned(),
        (None, None) => "LASTS".to_owned(),
    }
}

fn about_outage(outage: &Outage, now: Timestamp) -> Vec<String> {
    let back = match &outage.reconnected_at {
        Some(at) => format!("back {}, {}", moment(at, now), ending(outage, now)),
        None => "the database is still away".to_owned(),
    };
    let mut lines = vec![
        format!(
            "Outage {}, noticed by a {}: {}",
            outage.id,
            safe(&outage.detected_by, 20),
            safe(&outage.reason, 300)
        ),
        format!(
            "{} queued, {} at once at most, the oldest for {}; reads refused: {}",
            grouped(outage.writes_queued),
            grouped(outage.peak_writes),
            span(outage.oldest_age_seconds),
            grouped(outage.reads_refused)
        ),
        format!(
            "lost: {}, dead letters: {}, healed: {}; {}",
            grouped(outage.lost),
            grouped(outage.dead),
            grouped(outage.healed_writes),
            back
        ),
    ];
    if let Some(missing) = &outage.missing {
        lines.push(format!("missing for good: {}", safe(missing, 100)));
    }
    lines
}

/// A list with five columns.
struct List {
    heading: Vec<String>,
    header: [&'static str; 5],
    widths: [Constraint; 5],
    rows: Vec<[String; 5]>,
    selected: Option<usize>,
    details: Option<Vec<String>>,
}

impl List {
    fn draw(self, frame: &mut Frame<'_>, area: Rect, theme: Theme) {
        let details = self.details.filter(|_| area.height >= DETAILS_FROM).unwrap_or_default();
        let below = if details.is_empty() { 0 } else { details.len() as u16 + 2 };
        let [heading, list, details_area] = Layout::vertical([
            Constraint::Length(self.heading.len() as u16),
            Constraint::Fill(1),
            Constraint::Length(below),
        ])
        .areas(area);
        let lines: Vec<Line<'_>> = self.heading.into_iter().map(Line::raw).collect();
        frame.render_widget(Paragraph::new(lines), heading);
        let table = Table::new(self.rows.into_iter().map(Row::new), self.widths)
            .header(Row::new(self.header).style(theme.quiet()))
            .row_highlight_style(Theme::chosen());
        frame.render_stateful_widget(table, list, &mut TableState::new().with_selected(self.selected));
        let lines: Vec<Line<'_>> = std::iter::once(String::new()).chain(details).map(Line::raw).collect();
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), details_area);
    }
}

fn asking(frame: &mut Frame<'_>, area: Rect) {
    frame.render_widget(Line::raw("Asking the server ..."), area);
}

fn all_they_do(entry: &Entry) -> String {
    entry.operations.iter().map(what_it_does).collect::<Vec<_>>().join(", ")
}

fn refusal(entry: &Entry) -> Option<String> {
    let reason = entry.reason.as_ref()?;
    Some(format!("{}: {}", reason.kind.as_str(), safe(&reason.message, 300)))
}
