//! What good, bad and unimportant look like; without colours where the user wants none.

use ratatui::style::{Color, Modifier, Style};

/// How it looks.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Theme {
    colours: bool,
}

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    Plain,
    Warning,
    Bad,
}

impl Theme {
    /// <https://no-color.org>: any value of NO_COLOR but an empty one means none.
    pub(in super::super) fn from_environment() -> Self {
        Self { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    #[cfg(test)]
    pub(super) fn of(colours: bool) -> Self {
        Self { colours }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// Words themselves say how good it is; this only underlines it.
    pub(super) fn mood(self, mood: Mood) -> Style {
        match mood {
            Mood::Good => self.coloured(Color::Green),
            Mood::Plain => Style::new(),
            Mood::Warning => self.coloured(Color::Yellow),
            Mood::Bad => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Names of values, keys, headings of columns.
    pub(super) fn quiet(self) -> Style {
        self.coloured(Color::Gray).add_modifier(Modifier::DIM)
    }

    /// What is looked at.
    pub(super) fn chosen() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Headings.
    pub(super) fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Charts.
    pub(super) fn chart(self) -> Style {
        self.coloured(Color::Cyan)
    }
}
