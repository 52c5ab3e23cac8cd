//! The first view: the three answers, what they rest on, and what happened. Of its rows the less needed go first when
//! there is no room for all.

use jiff::Timestamp;
use outlast::health::{ConnectionState, Level};
use outlast::outage::Outage;
use outlast::status::{LaneState, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};

use super::super::super::output::{grouped, safe, size, span};
use super::super::super::status::{accepting, clear, lane, lost_words};
use super::super::state::{History, Known};
use super::theme::{Mood, Theme};
use super::times::{ago, moment};

/// The column of names.
const NAME: u16 = 12;
/// The column of a chart's figures.
const FIGURES: u16 = 24;
/// A chart's values are counted in thousandths: rates below 1 are not nothing.
const FINE: f64 = 1000.0;
/// Reasons of dead letters; the view of dead letters has them all.
const DEAD_SHOWN: usize = 3;

/// A line, or a chart of one line.
enum Row {
    Text(Line<'static>),
    Chart { name: &'static str, values: Vec<Option<f64>>, figures: String },
}

/// With how little it is needed: the greatest goes first.
struct Ranked {
    rank: u8,
    row: Row,
}

/// Draws as much of it as there is room for.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, known: &Known, theme: Theme) {
    let Some(status) = &known.status else {
        frame.render_widget(Line::raw("Asking the server ..."), area);
        return;
    };
    let mut rows = Rows { theme, width: area.width, found: Vec::new() };
    answers(&mut rows, status);
    rows.blank(30);
    connection(&mut rows, known, status);
    queue(&mut rows, status);
    letters(&mut rows, known, status);
    rows.blank(31);
    charts(&mut rows, &known.history);
    rows.blank(32);
    events(&mut rows, known);
    for (line, row) in rows.that_fit(area.height).into_iter().enumerate() {
        let line = Rect { y: area.y + line as u16, height: 1, ..area };
        match row {
            Row::Text(text) => frame.render_widget(text, line),
            Row::Chart { name, values, figures } => chart(frame, line, name, &values, &figures, theme),
        }
    }
}

/// Rows as they are found.
struct Rows {
    theme: Theme,
    width: u16,
    found: Vec<Ranked>,
}

impl Rows {
    fn push(&mut self, rank: u8, row: Row) {
        self.found.push(Ranked { rank, row });
    }

    fn blank(&mut self, rank: u8) {
        self.push(rank, Row::Text(Line::default()));
    }

    /// A name and what is to be said of it.
    fn say(&mut self, rank: u8, name: &str, words: &str, mood: Mood) {
        let column = usize::from(NAME);
        let room = usize::from(self.width).saturating_sub(column);
        let name = Span::styled(format!("{name:<column$}"), self.theme.quiet());
        self.push(
            rank,
            Row::Text(Line::from(vec![name, Span::styled(safe(words, room), self.theme.mood(mood))])),
        );
    }

    /// Leaves out the last of the least needed, again and again.
    fn that_fit(mut self, height: u16) -> Vec<Row> {
        while self.found.len() > usize::from(height) {
            let worst = self.found.iter().map(|row| row.rank).max();
            let Some(last) = self.found.iter().rposition(|row| Some(row.rank) == worst) else { break };
            self.found.remove(last);
        }
        self.found.into_iter().map(|ranked| ranked.row).collect()
    }
}

fn answers(rows: &mut Rows, status: &Status) {
    let connected = matches!(status.database, ConnectionState::Connected { .. });
    let flows = connected && status.lane == LaneState::Running;
    let accepting_mood = match (status.accepting, flows) {
        (false, _) => Mood::Bad,
        (true, true) => Mood::Good,
        (true, false) => Mood::Warning,
    };
    rows.say(0, "Accepting?", &accepting(status), accepting_mood);
    let fine = status.losses.writes == 0 && status.accounting_holds;
    let words = lost_words(&status.losses, status.accounting_holds);
    rows.say(1, "Lost?", &words, if fine { Mood::Good } else { Mood::Bad });
    let calm = status.queue.writes == 0 || (flows && status.outage.is_none());
    rows.say(2, "Clear?", &clear(status), if calm { Mood::Good } else { Mood::Warning });
}

fn connection(rows: &mut Rows, known: &Known, status: &Status) {
    let (words, mood) = database(&status.database, known.now);
    rows.say(3, "Database", &words, mood);
    if let ConnectionState::Failed { reason, .. } = &status.database {
        rows.say(4, "Reason", reason, mood);
    }
    if let Some(outage) = known.outages.iter().find(|outage| Some(outage.id) == status.outage) {
        rows.say(4, "Outage", &outage_words(outage, known.now), Mood::Warning);
    }
    let mood = if status.lane == LaneState::Running { Mood::Plain } else { Mood::Warning };
    let lanes =
        if status.queue.lanes > 1 { format!(", {} lanes", status.queue.lanes) } else { String::new() };
    rows.say(6, "Delivery", &format!("{}{lanes}", lane(&status.lane)), mood);
    // The database, the lane and the queue have rows of their own.
    let others = status.components.iter().filter(|component| {
        component.level != Level::Healthy && !["database", "lane", "queue"].contains(&component.name.as_str())
    });
    for component in others {
        let mood = if component.level == Level::Critical { Mood::Bad } else { Mood::Warning };
        rows.say(8, &safe(&component.name, usize::from(NAME) - 1), &component.message, mood);
    }
}

fn database(state: &ConnectionState, now: Timestamp) -> (String, Mood) {
    let for_and_since = |since: &String| format!("for {} (since {})", ago(since, now), moment(since, now));
    match state {
        ConnectionState::Connected { since } => (format!("connected {}", for_and_since(since)), Mood::Good),
        ConnectionState::Connecting { since } => {
            (format!("connecting {}", for_and_since(since)), Mood::Warning)
        }
        ConnectionState::Failed { since, .. } => (format!("AWAY {}", for_and_since(since)), Mood::Bad),
        ConnectionState::Disconnected => ("not connected yet".to_owned(), Mood::Warning),
    }
}

fn outage_words(outage: &Outage, now: Timestamp) -> String {
    let state = match &outage.reconnected_at {
        Some(at) => format!("the database is back since {}, draining", moment(at, now)),
        None => format!("since {}", moment(&outage.started_at, now)),
    };
    format!(
        "no. {}, {state}; {} queued, peak {}; reads refused: {}",
        outage.id,
        grouped(outage.writes_queued),
        grouped(outage.peak_writes),
        grouped(outage.reads_refused)
    )
}

fn queue(rows: &mut Rows, status: &Status) {
    let queue = &status.queue;
    let part = |now: u64, most: u64| now as f64 / most.max(1) as f64;
    let full = part(queue.writes, queue.writes_max).max(part(queue.bytes, queue.bytes_max));
    let mood = match full {
        full if full >= 0.9 => Mood::Bad,
        full if full >= 0.75 => Mood::Warning,
        _ => Mood::Plain,
    };
    let words = format!(
        "{} of {} writes, {} of {}, {:.0} % full",
        grouped(queue.writes),
        grouped(queue.writes_max),
        size(queue.bytes),
        size(queue.bytes_max),
        (full * 100.0).floor()
    );
    rows.say(5, "Queue", &words, mood);
    let mut more = Vec::new();
    if queue.writes > 0 {
        more.push(format!("the oldest for {}", span(queue.oldest_age_seconds)));
    }
    if let Some(seconds) = queue.time_to_full_seconds {
        more.push(format!("full in about {}", span(seconds as f64)));
    }
    if queue.drain_rate > 0.0 {
        more.push(format!("drains at {}/s", rate(queue.drain_rate)));
    }
    if let Some(limit) = queue.throttle {
        more.push(format!("throttled to {}/s", grouped(limit)));
    }
    if !more.is_empty() {
        rows.say(7, "", &more.join(", "), Mood::Plain);
    }
    let accounting = &status.accounting;
    let terms = [
        (accounting.applied, "applied"),
        (accounting.pending, "pending"),
        (accounting.parked, "parked"),
        (accounting.dead, "dead"),
        (accounting.discarded, "discarded"),
    ];
    let terms: Vec<String> = terms
        .into_iter()
        .filter(|(count, name)| *count > 0 || *name == "applied")
        .map(|(count, name)| format!("{} {name}", grouped(count)))
        .collect();
    let equals = if status.accounting_holds { "=" } else { "IS NOT" };
    let words = format!("{} accepted {equals} {}", grouped(accounting.accepted), terms.join(" + "));
    rows.say(12, "Accounts", &words, if status.accounting_holds { Mood::Plain } else { Mood::Bad });
}

fn letters(rows: &mut Rows, known: &Known, status: &Status) {
    let (dead, parked) = (status.accounting.dead, status.accounting.parked);
    if parked > 0 {
        rows.say(9, "Parked", &format!("{} wait for their next attempt", grouped(parked)), Mood::Warning);
    }
    if dead == 0 {
        rows.say(20, "Dead", "none", Mood::Plain);
        return;
    }
    let groups = known.dead.as_ref().map(|dead| dead.groups.as_slice()).unwrap_or_default();
    let words: Vec<String> = groups
        .iter()
        .take(DEAD_SHOWN)
        .map(|group| {
            format!("{} {}: {}", grouped(group.count), group.reason.kind.as_str(), group.reason.message)
        })
        .collect();
    let words = match words.as_slice() {
        [] => grouped(dead),
        [only] => only.clone(),
        _ => format!("{} in all; {}", grouped(dead), words.join("; ")),
    };
    rows.say(8, "Dead", &words, Mood::Warning);
}

fn charts(rows: &mut Rows, history: &History) {
    let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    let mut add = |rank, name, values: Vec<Option<f64>>, unit: &str| {
        let last = values.last().copied().flatten();
        let most = values.iter().copied().flatten().fold(0.0, f64::max);
        let last = last.map_or_else(|| "none".to_owned(), |last| format!("{}{unit}", rate(last)));
        let figures = format!("{last}, most {}", rate(most));
        rows.push(rank, Row::Chart { name, values, figures });
    };
    add(13, "Waiting", some(&history.writes), "");
    add(10, "Accepted", some(&history.accepted_per_second), "/s");
    add(11, "Applied", some(&history.applied_per_second), "/s");
    add(14, "Latency", history.latency_ms.clone(), " ms");
}

/// With as many digits as are worth reading.
fn rate(value: f64) -> String {
    match value {
        value if value >= 100.0 => grouped(value.round() as u64),
        value if value > 0.0 && value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    }
}

fn chart(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &'static str,
    values: &[Option<f64>],
    figures: &str,
    theme: Theme,
) {
    let [left, middle, right] =
        Layout::horizontal([Constraint::Length(NAME), Constraint::Fill(1), Constraint::Length(FIGURES)])
            .spacing(0)
            .areas(area);
    frame.render_widget(Line::styled(name, theme.quiet()), left);
    if values.is_empty() {
        frame.render_widget(Line::raw("no samples yet: the server takes one every 5 s"), middle.union(right));
        return;
    }
    // The newest at the right edge, one for each cell.
    let newest = values.iter().rev().take(usize::from(middle.width));
    let heights = newest.map(|value| value.map(|value| (value.max(0.0) * FINE) as u64));
    let bars = Sparkline::default()
        .data(heights.collect::<Vec<_>>())
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol(" ")
        .absent_value_style(Style::new())
        .style(theme.chart());
    frame.render_widget(bars, middle);
    frame.render_widget(Line::raw(format!(" {figures}")), right);
}

fn events(rows: &mut Rows, known: &Known) {
    let heading = "What happened since this screen was opened, newest first";
    rows.push(15, Row::Text(Line::styled(heading, Theme::strong())));
    if known.events.is_empty() {
        rows.push(16, Row::Text(Line::styled("nothing yet", rows.theme.quiet())));
    }
    for event in &known.events {
        let (at, words) = event.split_once(' ').unwrap_or(("", event));
        let at = moment(at, known.now);
        let room = usize::from(rows.width).saturating_sub(at.chars().count() + 1);
        rows.push(33, Row::Text(Line::raw(format!("{at} {}", safe(words, room)))));
    }
}
