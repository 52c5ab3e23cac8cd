//! Tables and goals as Markdown.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::stats::{Compare, Series, Spread};
use crate::Result;

/// What a topic found.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its heading.
    pub(crate) title: String,
    /// The tables.
    pub(crate) tables: Vec<Table>,
    /// What was to be reached.
    pub(crate) goals: Vec<Goal>,
    /// What must be known to read the tables.
    pub(crate) notes: Vec<String>,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    /// What it is about.
    pub(crate) title: String,
    /// Names of the columns; that of the first is empty.
    pub(crate) header: Vec<String>,
    /// Rows, as long as the header.
    pub(crate) rows: Vec<Vec<String>>,
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Not larger.
    AtMost(f64),
    /// Not smaller.
    AtLeast(f64),
}

/// A goal and what was measured.
#[derive(Debug)]
pub(crate) struct Goal {
    /// Of what.
    pub(crate) what: String,
    /// What was to be reached.
    pub(crate) bound: Bound,
    /// What was.
    pub(crate) measured: Spread,
    /// In which unit, with a space before it; empty for a ratio.
    pub(crate) unit: &'static str,
}

impl Goal {
    /// Whether the median reaches it.
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.measured.median <= bound,
            Bound::AtLeast(bound) => self.measured.median >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.is_met() { "met" } else { "NOT met" };
        let (word, bound) = match self.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
        };
        let Spread { median, min, max } = self.measured;
        let [bound, median, min, max] = [bound, median, min, max].map(number);
        let unit = self.unit;
        write!(f, "**{met}**: {}: {median}{unit} ({min} to {max}); goal: {word} {bound}{unit}", self.what)
    }
}

impl Table {
    /// One row for each contender, compared with the one at `reference`.
    pub(crate) fn compare(
        title: impl Into<String>,
        series: &[Series],
        reference: usize,
        by: Compare,
    ) -> Self {
        let mut more: Vec<&'static str> = Vec::new();
        for (name, _) in series.iter().flat_map(|series| &series.samples).flat_map(|sample| &sample.more) {
            if !more.contains(name) {
                more.push(name);
            }
        }
        let ratio = match by {
            Compare::Rate => "rate as a ratio",
            Compare::Median => "p50 as a ratio",
        };
        let fixed = ["", "rounds", "per s", "min to max", "p50 µs", "p99 µs", ratio, "min to max"];
        let header = fixed.into_iter().chain(more.iter().copied()).map(str::to_owned).collect();
        let rows = series.iter().map(|one| row(one, &series[reference], by, &more)).collect();
        Self { title: title.into(), header, rows }
    }
}

fn row(series: &Series, reference: &Series, by: Compare, more: &[&'static str]) -> Vec<String> {
    let samples = || series.samples.iter();
    let middle =
        |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| number(spread.median));
    let range = |spread: Option<Spread>| {
        spread.map_or_else(
            || "-".to_owned(),
            |spread| format!("{} to {}", number(spread.min), number(spread.max)),
        )
    };
    let rate = Spread::of(samples().map(|sample| sample.rate));
    let ratio = by.ratio(series, reference);
    let mut cells = vec![
        series.name.clone(),
        series.samples.len().to_string(),
        middle(rate),
        range(rate),
        middle(Spread::of(samples().filter_map(|sample| sample.p50_us))),
        middle(Spread::of(samples().filter_map(|sample| sample.p99_us))),
        middle(ratio),
        range(ratio),
    ];
    cells.extend(more.iter().map(|name| {
        let values = samples().flat_map(|sample| &sample.more).filter(|(other, _)| other == name);
        middle(Spread::of(values.map(|(_, value)| *value)))
    }));
    cells
}

/// With as many digits as are worth reading, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, _)| (whole, &text[whole.len()..]));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && digit != '-' && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(f, "| {} |", self.header.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.header.len().saturating_sub(1)))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n", self.title)?;
        let list = |lines: Vec<String>| {
            lines.iter().fold(String::new(), |mut text, line| {
                let _ = writeln!(text, "- {line}");
                text
            })
        };
        if !self.goals.is_empty() {
            writeln!(f, "{}", list(self.goals.iter().map(Goal::to_string).collect()))?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "{}", list(self.notes.clone()))?;
        }
        self.tables.iter().try_for_each(|table| writeln!(f, "{table}"))
    }
}

/// Puts the section into the page, in the place of the one with its title or behind the others. These stay as they are.
pub(crate) fn write(page: &Path, head: &str, section: &Section) -> Result<()> {
    let old = std::fs::read_to_string(page).unwrap_or_default();
    let mut sections: Vec<String> =
        old.split("\n## ").skip(1).map(|kept| format!("## {}", kept.trim_end())).collect();
    let new = section.to_string().trim_end().to_owned();
    let title = new.lines().next().unwrap_or_default();
    match sections.iter_mut().find(|kept| kept.lines().next() == Some(title)) {
        Some(kept) => *kept = new,
        None => sections.push(new),
    }
    Ok(std::fs::write(page, format!("{head}\n{}\n", sections.join("\n\n")))?)
}

#[cfg(test)]
mod tests {
    use super::super::stats::Sample;
    use super::*;

    #[test]
    fn a_section_that_is_measured_again_leaves_the_others_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page.md");
        let section = |title: &str, note: &str| Section {
            title: title.to_owned(),
            notes: vec![note.to_owned()],
            ..Section::default()
        };
        for (title, note) in [("Reading", "one"), ("Reading back", "two"), ("Reading", "three")] {
            write(&path, "# Speed\n", &section(title, note)).unwrap();
        }
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "# Speed\n\n## Reading\n\n- three\n\n## Reading back\n\n- two\n");
    }

    #[test]
    fn numbers_have_the_digits_that_are_worth_reading() {
        let cases = [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.0, "1,234")];
        for (value, text) in cases.into_iter().chain([(1_234_567.0, "1,234,567"), (-1234.0, "-1,234")]) {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_goal_that_is_missed_says_so() {
        let measured = Spread { median: 3.9, min: 3.0, max: 5.0 };
        let goal = |bound| Goal { what: "x".into(), bound, measured, unit: "" };
        assert!(
            goal(Bound::AtLeast(4.0))
                .to_string()
                .contains("**NOT met**: x: 3.90 (3.00 to 5.00); goal: at least 4.00")
        );
        assert!(goal(Bound::AtMost(4.0)).to_string().contains("**met**"));
    }

    #[test]
    fn rows_are_as_long_as_the_header_also_where_a_figure_is_missing() {
        let sample = |more| Sample { rate: 10.0, more, ..Sample::default() };
        let series = [
            Series { name: "a".into(), samples: vec![sample(vec![])] },
            Series { name: "b".into(), samples: vec![sample(vec![("syncs/s", 2.0)])] },
        ];
        let table = Table::compare("t", &series, 0, Compare::Rate);
        assert!(table.rows.iter().all(|row| row.len() == table.header.len()));
        assert_eq!(table.rows[0].last().map(String::as_str), Some("-"));
        assert_eq!(table.rows[1].last().map(String::as_str), Some("2.00"));
    }
}
