//! [`Terminal`]: a pseudo terminal with a real program in it, its screen as text, and what is typed there.
#![allow(clippy::panic, reason = "a tool for tests: its panic is the message of a failed test")]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// The longest that a test waits for the screen, or for the program to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A program and its terminal. The program is killed when this is dropped.
pub struct Terminal {
    keyboard: File,
    /// The program's end, so that its settings can still be read when the program has ended.
    inside: OwnedFd,
    parser: Arc<Mutex<vt100::Parser>>,
    program: Child,
    before: Termios,
}

impl Terminal {
    /// Starts a program in a new terminal of this size, as the session leader, as a terminal emulator does.
    ///
    /// # Panics
    /// When there is no pseudo terminal, or the program cannot be started.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let outside = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&outside).expect("its other end is ours");
        unlockpt(&outside).expect("its other end opens");
        let name = ptsname(&outside, Vec::new()).expect("its other end has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inside = rustix::fs::open(name, flags, Mode::empty()).expect("its other end");
        resize(&outside, rows, columns);
        let before = tcgetattr(&inside).expect("the settings of a terminal");

        let end = || Stdio::from(inside.try_clone().expect("another handle"));
        let mut within = Command::new("setsid");
        within.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => within.env(variable, value),
                None => within.env_remove(variable),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            within.current_dir(directory);
        }
        within.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let program = within.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid of util-linux");

        let parser = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(columns), 0)));
        let outside = File::from(outside);
        let mut output = outside.try_clone().expect("another handle");
        let shown = Arc::clone(&parser);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Self { keyboard: outside, inside, parser, program, before }
    }

    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands on the screen, line by line.
    pub fn screen(&self) -> String {
        self.parser().screen().contents()
    }

    /// Whether any character on it has a colour.
    pub fn is_coloured(&self) -> bool {
        let parser = self.parser();
        let (rows, columns) = parser.screen().size();
        let (rows, columns) = (rows.get(), columns.get());
        (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).any(|(row, column)| {
            let cell = parser.screen().cell(row, column);
            cell.is_some_and(|cell| {
                cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default
            })
        })
    }

    /// Waits until the screen is as wished, and returns it.
    ///
    /// # Panics
    /// When it is not within a minute: with what is shown.
    #[track_caller]
    pub fn until(&self, what: &str, wished: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if wished(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}; this is shown:\n{screen}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Presses keys: characters, or what a terminal sends for others.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a keyboard");
    }

    /// Gives it another size, as somebody who drags the corner of its window does.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.parser().screen_mut().set_size(cells(rows), cells(columns));
        resize(&self.keyboard, rows, columns);
    }

    /// Sends the program a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.program);
        kill_process(process, signal).expect("a child of ours");
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// When it does not end within a minute.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; this is shown:\n{}", self.screen());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What is not as it was before the program began; empty when the terminal was given back as it was.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn left_behind(&self) -> Vec<&'static str> {
        let after = tcgetattr(&self.inside).expect("the settings of a terminal");
        let parser = self.parser();
        let screen = parser.screen();
        [
            ("input is not as it was", after.local_modes != self.before.local_modes),
            ("input is translated in another way", after.input_modes != self.before.input_modes),
            ("output is not as it was", after.output_modes != self.before.output_modes),
            ("the other screen is shown", screen.alternate_screen()),
            ("the cursor is hidden", screen.hide_cursor()),
        ]
        .into_iter()
        .filter_map(|(what, is_so)| is_so.then_some(what))
        .collect()
    }

    /// Waits until the terminal is as it was: what a program wrote last is read a little later than it ends.
    ///
    /// # Panics
    /// When it is not: with what is not.
    #[track_caller]
    pub fn given_back(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.left_behind().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.left_behind());
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn resize(terminal: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal that has a size");
}

/// A screen has at least one row and one column.
fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap_or(NonZero::<u16>::MIN)
}
