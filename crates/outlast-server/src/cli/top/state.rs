//! What the server said and which keys were pressed: everything that the screen shows. No terminal, no network.

use std::collections::VecDeque;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use jiff::Timestamp;
use outlast::error::Refusal;
use outlast::outage::Outage;
use outlast::status::{DeadGroup, Status};
use serde::Deserialize;
use serde_json::Value;

use super::asking::News;

/// Samples kept: an hour.
const SAMPLES_MAX: usize = 720;
/// Events kept.
const EVENTS_MAX: usize = 200;
/// Rows that page up and page down go.
const PAGE: usize = 10;

/// What can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Overview,
    Queue,
    Dead,
    Outages,
}

impl View {
    /// All of them, in order.
    pub(super) const ALL: [Self; 4] = [Self::Overview, Self::Queue, Self::Dead, Self::Outages];

    /// Its place among them.
    pub(super) fn place(self) -> usize {
        self as usize
    }

    fn step(self, by: usize) -> Self {
        Self::ALL[(self.place() + by) % Self::ALL.len()]
    }
}

/// The last hour in samples, oldest first.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct History {
    /// Unix milliseconds.
    at: Vec<i64>,
    /// Writes that waited.
    pub(super) writes: Vec<f64>,
    pub(super) accepted_per_second: Vec<f64>,
    pub(super) applied_per_second: Vec<f64>,
    /// Of a transaction, on average; none when there was none.
    pub(super) latency_ms: Vec<Option<f64>>,
}

impl History {
    /// The time of the newest sample.
    pub(super) fn last_at(&self) -> Option<i64> {
        self.at.last().copied()
    }

    fn extend(&mut self, newer: Self) {
        fn add<T>(column: &mut Vec<T>, newer: Vec<T>) {
            column.extend(newer);
            column.drain(..column.len().saturating_sub(SAMPLES_MAX));
        }
        add(&mut self.at, newer.at);
        add(&mut self.writes, newer.writes);
        add(&mut self.accepted_per_second, newer.accepted_per_second);
        add(&mut self.applied_per_second, newer.applied_per_second);
        add(&mut self.latency_ms, newer.latency_ms);
    }
}

/// A write that waits or is dead.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) accepted_at: String,
    /// Of a dead letter.
    #[serde(default)]
    pub(super) died_at: String,
    /// Of one that waits: pending or parked.
    #[serde(default)]
    pub(super) status: String,
    /// Refused attempts of one that waits.
    #[serde(default)]
    pub(super) attempts: u64,
    /// Refused attempts of a dead letter.
    #[serde(default)]
    pub(super) history: Vec<Value>,
    /// The last refusal.
    #[serde(default)]
    pub(super) reason: Option<Refusal>,
    pub(super) operations: Vec<Value>,
}

/// Dead letters: how many of each reason, and the first of them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Letters {
    pub(super) total: u64,
    pub(super) groups: Vec<DeadGroup>,
    pub(super) groups_total: u64,
    #[serde(rename = "letters")]
    pub(super) first: Vec<Entry>,
}

/// A server that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Silence {
    /// The first question without an answer.
    pub(super) since: Timestamp,
    /// Why, at the last one.
    pub(super) reason: String,
}

/// What the server said.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// When it is drawn: ages are counted from here.
    pub(super) now: Timestamp,
    pub(super) status: Option<Status>,
    /// Newest first.
    pub(super) outages: Vec<Outage>,
    pub(super) history: History,
    /// In words, newest first.
    pub(super) events: VecDeque<String>,
    pub(super) queue: Option<Vec<Entry>>,
    pub(super) dead: Option<Letters>,
    pub(super) silence: Option<Silence>,
}

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    Quit,
    /// As Ctrl-Z does elsewhere.
    Suspend,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct State {
    /// Where the server is.
    pub(super) server: String,
    /// What is looked at.
    pub(super) view: View,
    /// Whether the keys are explained.
    pub(super) help: bool,
    /// The row that is looked at, in each view.
    selected: [usize; View::ALL.len()],
    latest: Known,
    /// What a paused screen shows.
    held: Option<Known>,
    /// Whether something came since it was drawn.
    new: bool,
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            view: View::Overview,
            help: false,
            selected: [0; View::ALL.len()],
            latest: Known::default(),
            held: None,
            new: true,
        }
    }

    /// What is to be shown: the latest, or what a pause holds.
    pub(super) fn shown(&self) -> &Known {
        self.held.as_ref().unwrap_or(&self.latest)
    }

    /// Whether the screen is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.held.is_some()
    }

    /// Whether there is something that was not drawn.
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// It is being drawn.
    pub(super) fn drawn(&mut self, now: Timestamp) {
        self.new = false;
        self.latest.now = now;
    }

    /// The row that is looked at, of so many.
    pub(super) fn selected(&self, rows: usize) -> Option<usize> {
        (rows > 0).then(|| self.selected[self.view.place()].min(rows - 1))
    }

    /// Takes in what the server said. A paused screen keeps what it shows.
    pub(super) fn hear(&mut self, news: News, now: Timestamp) {
        let latest = &mut self.latest;
        match news {
            News::Picture(picture) => {
                latest.status = Some(picture.status);
                latest.outages = picture.outages;
                latest.silence = None;
            }
            News::History(newer) => latest.history.extend(newer),
            News::Queue(writes) => latest.queue = Some(writes),
            News::Dead(letters) => latest.dead = Some(*letters),
            News::Event(words) => {
                latest.events.push_front(words);
                latest.events.truncate(EVENTS_MAX);
            }
            News::Silent(reason) => {
                let since = latest.silence.as_ref().map_or(now, |silence| silence.since);
                latest.silence = Some(Silence { since, reason });
            }
        }
        self.new = self.held.is_none();
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Next::Quit,
                KeyCode::Char('z') => Next::Suspend,
                _ => Next::Stay,
            };
        }
        match key.code {
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc | KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('p' | ' ') => {
                self.held = if self.held.is_some() { None } else { Some(self.latest.clone()) };
            }
            KeyCode::Tab | KeyCode::Right => self.look_at(self.view.step(1)),
            KeyCode::BackTab | KeyCode::Left => self.look_at(self.view.step(View::ALL.len() - 1)),
            KeyCode::Char(digit @ '1'..='4') => self.look_at(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Up => self.go(|row| row.saturating_sub(1)),
            KeyCode::Down => self.go(|row| row + 1),
            KeyCode::PageUp => self.go(|row| row.saturating_sub(PAGE)),
            KeyCode::PageDown => self.go(|row| row + PAGE),
            KeyCode::Home => self.go(|_| 0),
            KeyCode::End => self.go(|_| usize::MAX - PAGE),
            _ => {}
        }
        Next::Stay
    }

    fn look_at(&mut self, view: View) {
        self.view = view;
        self.help = false;
    }

    /// To another row of the view, of those that there are.
    fn go(&mut self, to: impl Fn(usize) -> usize) {
        let known = self.shown();
        let rows = match self.view {
            View::Overview => 0,
            View::Queue => known.queue.as_ref().map_or(0, Vec::len),
            View::Dead => known.dead.as_ref().map_or(0, |dead| dead.first.len()),
            View::Outages => known.outages.len(),
        };
        let row = &mut self.selected[self.view.place()];
        *row = to((*row).min(rows.saturating_sub(1))).min(rows.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode) -> Next {
        state.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn event(n: usize) -> News {
        News::Event(format!("event {n}"))
    }

    #[test]
    fn a_paused_screen_shows_what_it_showed_and_then_all_that_happened_meanwhile() {
        let mut state = State::new("");
        state.hear(event(1), Timestamp::UNIX_EPOCH);
        state.drawn(Timestamp::UNIX_EPOCH);
        press(&mut state, KeyCode::Char('p'));
        state.hear(event(2), Timestamp::UNIX_EPOCH);
        assert!(state.is_paused() && !state.is_new());
        assert_eq!(state.shown().events, ["event 1"]);
        press(&mut state, KeyCode::Char(' '));
        assert_eq!(state.shown().events, ["event 2", "event 1"]);
    }

    #[test]
    fn keys_lead_from_view_to_view_and_out() {
        let mut state = State::new("");
        let seen: Vec<View> = [
            KeyCode::Tab,
            KeyCode::Right,
            KeyCode::Tab,
            KeyCode::Tab,
            KeyCode::BackTab,
            KeyCode::Left,
            KeyCode::Char('2'),
        ]
        .map(|code| {
            assert_eq!(press(&mut state, code), Next::Stay);
            state.view
        })
        .to_vec();
        let expected =
            [View::Queue, View::Dead, View::Outages, View::Overview, View::Outages, View::Dead, View::Queue];
        assert_eq!(seen, expected);
        press(&mut state, KeyCode::Char('?'));
        assert!(state.help);
        assert_eq!((press(&mut state, KeyCode::Esc), state.help), (Next::Stay, false));
        assert_eq!(press(&mut state, KeyCode::Esc), Next::Quit);
        assert_eq!(press(&mut state, KeyCode::Char('q')), Next::Quit);
        let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        assert_eq!((state.press(control('c')), state.press(control('z'))), (Next::Quit, Next::Suspend));
    }

    #[test]
    fn rows_end_where_the_list_ends() {
        let mut state = State::new("");
        state.latest.outages = vec![Outage::default(); 3];
        state.view = View::Outages;
        for (code, row) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::End, 2),
            (KeyCode::Down, 2),
            (KeyCode::PageUp, 0),
            (KeyCode::PageDown, 2),
            (KeyCode::Home, 0),
        ] {
            press(&mut state, code);
            assert_eq!(state.selected(3), Some(row), "{code:?}");
        }
        assert_eq!(state.selected(0), None);
    }

    #[test]
    fn an_hour_of_samples_is_kept() {
        let samples = |from: i64, count: usize| History {
            at: (from..).take(count).collect(),
            writes: vec![1.0; count],
            accepted_per_second: vec![1.0; count],
            applied_per_second: vec![1.0; count],
            latency_ms: vec![None; count],
        };
        let mut history = History::default();
        history.extend(samples(0, 700));
        history.extend(samples(700, 100));
        assert_eq!(
            (history.at.first(), history.last_at(), history.writes.len()),
            (Some(&80), Some(799), 720)
        );
    }

    #[test]
    fn silence_counts_from_its_first_moment_and_ends_with_an_answer() {
        let mut state = State::new("");
        let later = Timestamp::from_second(9).unwrap();
        state.hear(News::Silent("refused".to_owned()), Timestamp::UNIX_EPOCH);
        state.hear(News::Silent("no answer".to_owned()), later);
        let silence = Silence { since: Timestamp::UNIX_EPOCH, reason: "no answer".to_owned() };
        assert_eq!(state.shown().silence, Some(silence));
    }
}
