//! `outlast top`: how things stand, live on a terminal, for whoever watches an incident or a drain.
//!
//! `asking.rs` asks the server and listens to its events, `state.rs` keeps what it said and which keys were pressed,
//! `view/` draws that, and nothing but that. Here they meet the terminal.

mod asking;
mod state;
mod terminal;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use crossterm::event::Event;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Exit;
use super::client::Client;
use super::output::Failure;
use super::status::Picture;
use crate::config::units;
use asking::News;
use state::{Next, State};
use terminal::Screen;
use view::Theme;

/// Pieces of news that are not drawn yet. Beyond that the server's stream waits, and the server counts what is missed.
const NEWS_KEPT: usize = 256;
/// What changes is drawn at most so often; keys at once.
const FRAME: Duration = Duration::from_millis(50);
/// Ages grow also when nothing happens.
const REDRAW: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// Pause between two looks at the server
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::parse_duration)]
    interval: Duration,
}

/// Shows the screen until somebody leaves it. A server that goes away is part of the picture.
pub(super) async fn run(client: &Client, arguments: &TopArguments) -> Result<(), Failure> {
    needs_a_terminal(client)?;
    // The first time a server that is not there is more likely a wrong address.
    let picture = Picture::take(client).await?;
    let mut state = State::new(client.base());
    state.hear(News::Picture(Box::new(picture)), Timestamp::now());

    let (tell, heard) = mpsc::channel(NEWS_KEPT);
    let (look, view) = watch::channel(state.view);
    let mut screen = Screen::enter().map_err(|error| broken(&error))?;
    let ended = tokio::select! {
        ended = show(&mut screen, state, heard, look) => ended,
        () = asking::keep(client, arguments.interval, view, tell.clone()) => Ok(()),
        () = asking::listen(client, tell) => Ok(()),
    };
    // Before anything is printed about the end.
    drop(screen);
    ended.map_err(|error| broken(&error))
}

fn needs_a_terminal(client: &Client) -> Result<(), Failure> {
    let usage = |why: &str, instead: &str| Err(Failure::new(Exit::Usage, format!("{why}; use {instead}")));
    if client.json {
        return usage("`outlast top` is a screen and prints no JSON", "`outlast status --watch --json`");
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return usage(
            "`outlast top` needs a terminal, and this is none",
            "`outlast status --watch`, which prints a line per look",
        );
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return usage("`outlast top` cannot draw on a dumb terminal (TERM=dumb)", "`outlast status --watch`");
    }
    Ok(())
}

fn broken(error: &io::Error) -> Failure {
    Failure::failed(format!("the terminal cannot be used: {error}"))
}

/// Draws what is heard and does what keys say, until one says quit or a signal comes.
async fn show(
    screen: &mut Screen,
    mut state: State,
    mut heard: mpsc::Receiver<News>,
    look: watch::Sender<state::View>,
) -> io::Result<()> {
    let theme = Theme::from_environment();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut keys = terminal::keys();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drawn = None;
    loop {
        tokio::select! {
            Some(news) = heard.recv() => {
                state.hear(news, Timestamp::now());
                continue;
            }
            event = keys.recv() => match event {
                Some(Event::Key(key)) => match state.press(key) {
                    Next::Quit => return Ok(()),
                    Next::Suspend => screen.suspend()?,
                    Next::Stay => {}
                },
                // Another size.
                Some(_) => {}
                // Nobody can press a key any more.
                None => return Ok(()),
            },
            _ = frames.tick() => {
                if drawn.is_some_and(|at: Instant| at.elapsed() < REDRAW) && !state.is_new() {
                    continue;
                }
            }
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
        look.send_if_modified(|looked| std::mem::replace(looked, state.view) != state.view);
        state.drawn(Timestamp::now());
        screen.draw(|frame| view::draw(frame, &state, theme))?;
        drawn = Some(Instant::now());
    }
}
