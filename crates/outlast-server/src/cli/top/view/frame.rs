//! The frame of every view: where, which view, whether the server answers, and the keys. Gives way on a small terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Tabs, Wrap};

use super::super::super::output::{grouped, safe};
use super::super::state::{Known, State, View};
use super::theme::{Mood, Theme};
use super::{lists, overview, times};

/// From so many lines on there is a head; from more on there are tabs, and the keys.
const HEAD_FROM: u16 = 5;
const TABS_FROM: u16 = 8;
const KEYS_FROM: u16 = 10;

const HELP: &str = "\
Tab, Right        the next view; Shift-Tab, Left: the one before
1 2 3 4           Overview, Queue, Dead letters, Outages
Up, Down          another row of a list; also PgUp, PgDn, Home, End
p, space          pause the screen: the server goes on, and is shown again with the next p
?, h              these keys
q, Esc, Ctrl-C    leave

All times are UTC. This screen only looks; to act, leave it:
outlast pause | resume      delivery by hand
outlast queue --help        what waits
outlast dead --help         retry or discard dead letters
outlast outage report       the report of the last outage";

/// Draws everything.
pub(in super::super) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let (area, known) = (frame.area(), state.shown());
    let height = |wanted: bool, lines: u16| Constraint::Length(if wanted { lines } else { 0 });
    let [head, tabs, notice, body, keys] = Layout::vertical([
        height(area.height >= HEAD_FROM, 1),
        height(area.height >= TABS_FROM, 1),
        height(known.silence.is_some(), if area.height >= TABS_FROM { 2 } else { 1 }),
        Constraint::Fill(1),
        height(area.height >= KEYS_FROM, 1),
    ])
    .areas(area);
    frame.render_widget(self::head(state, theme, head.width), head);
    frame.render_widget(self::tabs(state), tabs);
    if let Some(silence) = &known.silence {
        let words = format!(
            "NO ANSWER for {}; trying again. What you see is from before.",
            times::since(silence.since, known.now)
        );
        let reason = safe(&silence.reason, usize::from(notice.width));
        let lines = vec![Line::styled(words, theme.mood(Mood::Bad)), Line::raw(reason)];
        frame.render_widget(Paragraph::new(lines), notice);
    }
    if state.help {
        frame.render_widget(Paragraph::new(HELP).wrap(Wrap { trim: false }), body);
    } else {
        view(frame, body, state, theme);
    }
    let words = "q leave  p pause  Tab view  Up/Down row  ? help";
    frame.render_widget(Line::styled(words, theme.quiet()), keys);
}

fn view(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    match state.view {
        View::Overview => overview::draw(frame, area, state.shown(), theme),
        View::Queue => lists::queue(frame, area, state, theme),
        View::Dead => lists::dead(frame, area, state, theme),
        View::Outages => lists::outages(frame, area, state, theme),
    }
}

/// The server and its database on the left, whether this is live on the right.
fn head(state: &State, theme: Theme, width: u16) -> Line<'static> {
    let known = state.shown();
    let now = times::clock(known.now, known.now);
    let (live, mood) = if state.is_paused() {
        (format!("PAUSED at {now}"), Mood::Warning)
    } else if known.silence.is_some() {
        (format!("no answer {now}"), Mood::Bad)
    } else {
        (format!("live {now}"), Mood::Good)
    };
    let database = known.status.as_ref().map_or("", |status| status.database_name.as_str());
    let room = usize::from(width).saturating_sub(live.chars().count() + 2);
    let place = safe(&format!("outlast {}  {}", state.server, database), room);
    let gap = " ".repeat((usize::from(width)).saturating_sub(place.chars().count() + live.chars().count()));
    Line::from(vec![
        Span::styled(place, Theme::strong()),
        Span::raw(gap),
        Span::styled(live, theme.mood(mood)),
    ])
}

fn tabs(state: &State) -> Tabs<'static> {
    let counted = |name: &str, count: u64| {
        if count == 0 { name.to_owned() } else { format!("{name} {}", grouped(count)) }
    };
    let known: &Known = state.shown();
    let (waiting, dead) =
        known.status.as_ref().map_or((0, 0), |status| (status.queue.writes, status.accounting.dead));
    let titles = View::ALL.map(|view| match view {
        View::Overview => "Overview".to_owned(),
        View::Queue => counted("Queue", waiting),
        View::Dead => counted("Dead letters", dead),
        View::Outages => counted("Outages", known.outages.len() as u64),
    });
    Tabs::new(titles).select(state.view.place()).highlight_style(Theme::chosen()).divider("|")
}
