//! The terminal: taken over, and given back as it was, however the screen ends.

use std::io;

use crossterm::event::{Event, read};
use ratatui::{DefaultTerminal, Frame};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

/// Keys that nobody has looked at yet.
const KEYS_KEPT: usize = 64;

/// The terminal while it is ours: raw, on its other screen. Given back when this is dropped, and before a panic is told.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                // A part of it may have been done.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }

    /// Draws anew; only what changed is sent.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }

    /// Stops as other programs do at Ctrl-Z, and goes on when the shell says so.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        self.0.show_cursor()?;
        ratatui::try_restore()?;
        kill_process(getpid(), Signal::TSTP)?;
        crossterm::terminal::enable_raw_mode()?;
        crossterm::execute!(io::stdout(), crossterm::terminal::EnterAlternateScreen)?;
        self.0.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Done before the panic was told. Leaving the other screen once more would put the cursor back over that.
            return;
        }
        // The terminal may be gone, which leaves nothing to restore.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// What is done at the terminal: keys and changes of its size. Ends when it is gone.
pub(super) fn keys() -> mpsc::Receiver<Event> {
    let (tell, keys) = mpsc::channel(KEYS_KEPT);
    // It waits in a system call that nothing but a key ends: so it ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use outlast_testkit::terminal::Terminal;

    use super::*;

    /// Set where the screen is to break.
    const BREAKS: &str = "OUTLAST_TEST_SCREEN_BREAKS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(BREAKS).is_some() {
            let mut screen = Screen::enter().unwrap();
            screen.draw(|frame| frame.render_widget("drawn", frame.area())).unwrap();
            screen.draw(|_| panic!("it broke")).unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "cli::top::terminal::tests::a_panic_gives_the_terminal_back_before_it_is_told";
        // A backtrace would not fit on the screen.
        command.args(["--exact", name, "--nocapture"]).env(BREAKS, "1").env("RUST_BACKTRACE", "0");
        let mut terminal = Terminal::start(&command, 24, 80);
        assert_eq!(terminal.ended().code(), Some(101));
        let told = terminal.until("the message", |screen| screen.contains("it broke"));
        assert!(!told.contains("drawn"), "{told}");
        terminal.given_back();
    }
}
