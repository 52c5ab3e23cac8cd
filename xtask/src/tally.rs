//! What tests say at their end, added up: `crash points: 78004, lost 0, invented 0`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Words that a closing line must not count anything but 0 of.
const BROKEN: [&str; 12] = [
    "lost",
    "invented",
    "reordered",
    "double",
    "doubled",
    "failed reopenings",
    "false acknowledgements",
    "acknowledged and lost",
    "panics",
    "divergences",
    "deadlocks",
    "wrong",
];
/// How a test closes whose first violation ends it: there is nothing to count then.
const HELD: &str = "every promise held";
/// The most seeds that are worth keeping.
const SEEDS_MAX: usize = 12;

/// Closing lines by what they count, each a sum of runs.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Tally {
    /// For each unit, `crash points` say: how many, and the other counts of its lines.
    pub(crate) units: BTreeMap<String, Unit>,
    /// Some of the seeds that were printed.
    pub(crate) seeds: Vec<String>,
}

/// The sum of closing lines that count the same thing.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Unit {
    pub(crate) count: u64,
    pub(crate) others: BTreeMap<String, u64>,
}

impl Unit {
    /// What a promise forbids, if any of it was counted.
    pub(crate) fn broken(&self) -> Vec<String> {
        let bad = self.others.iter().filter(|(word, count)| BROKEN.contains(&word.as_str()) && **count > 0);
        bad.map(|(word, count)| format!("{word} {count}")).collect()
    }

    /// The counts that must be 0, as they stood in the lines.
    pub(crate) fn promises(&self) -> String {
        let kept = self.others.iter().filter(|(word, _)| BROKEN.contains(&word.as_str()));
        kept.map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
    }
}

impl Tally {
    /// Adds every closing line and every seed of a test's output.
    pub(crate) fn read(&mut self, output: &str) {
        for line in output.lines() {
            if let Some((_, seed)) = line.split_once("OUTLAST_SEED=") {
                let seed = seed.split_whitespace().next().unwrap_or_default();
                if self.seeds.len() < SEEDS_MAX && !seed.is_empty() {
                    self.seeds.push(seed.to_owned());
                }
            }
            if let Some((name, closing)) = closing_line(line) {
                self.add(&name, &closing);
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, unit) in &other.units {
            self.add(name, unit);
        }
        let room = SEEDS_MAX.saturating_sub(self.seeds.len());
        self.seeds.extend(other.seeds.iter().take(room).cloned());
    }

    fn add(&mut self, name: &str, unit: &Unit) {
        let sum = self.units.entry(name.to_owned()).or_default();
        sum.count += unit.count;
        for (word, count) in &unit.others {
            *sum.others.entry(word.clone()).or_default() += count;
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let units = self
            .units
            .iter()
            .map(|(name, unit)| (name.clone(), json!({ "count": unit.count, "others": unit.others })));
        json!({ "units": units.collect::<Map<_, _>>(), "seeds": self.seeds })
    }

    pub(crate) fn from_json(value: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let units = value["units"].as_object().into_iter().flatten().map(|(name, unit)| {
            let others = unit["others"].as_object().into_iter().flatten();
            let others = others.map(|(word, count)| (word.clone(), number(count))).collect();
            (name.clone(), Unit { count: number(&unit["count"]), others })
        });
        let seeds = value["seeds"].as_array().into_iter().flatten();
        let seeds = seeds.filter_map(|seed| seed.as_str().map(str::to_owned)).collect();
        Self { units: units.collect(), seeds }
    }
}

/// `SOMETHING: UNIT: NUMBER, WORDS NUMBER, ...`: a line is one when it counts what must be 0, or says [`HELD`]; the rest is
/// talk.
fn closing_line(line: &str) -> Option<(String, Unit)> {
    let colon = line
        .match_indices(": ")
        .find(|(at, _)| line[at + 2..].starts_with(|first: char| first.is_ascii_digit()))?;
    let (before, after) = (&line[..colon.0], &line[colon.0 + 2..]);
    // Before what a test prints stand the dots with which `cargo test --quiet` counts tests.
    let name = before.rsplit(": ").next()?.trim().trim_start_matches('.');
    // What stands in brackets, or behind a semicolon, explains.
    let after = after.split([';', '(']).next()?;
    let mut parts = after.split(", ");
    let count = leading_number(parts.next()?)?;
    let others: BTreeMap<String, u64> = parts.filter_map(word_and_number).collect();
    if !line.ends_with(HELD) && !others.keys().any(|word| BROKEN.contains(&word.as_str())) {
        return None;
    }
    Some((name.to_owned(), Unit { count, others }))
}

fn leading_number(part: &str) -> Option<u64> {
    part.split_whitespace().next()?.parse().ok()
}

fn word_and_number(part: &str) -> Option<(String, u64)> {
    let (word, number) = part.trim().rsplit_once(' ')?;
    let plain = word.chars().all(|letter| letter.is_ascii_alphabetic() || letter == ' ' || letter == '-');
    Some((word.to_owned(), number.parse().ok()?)).filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 1 test
OUTLAST_SEED=17
every history up to 3 steps (1222 histories): crash points: 78004, at 31101 instants, 12 of them while recovering, lost 0, failed reopenings 0; Losses { writes: 7 }
model operations: 119580, divergences 0 (crashes: 4102, of which 2527 lost something)
test result: ok. 8 passed; 0 failed; 0 ignored; finished in 1.01s
Sqlite: 30 kills, Summary { applied: 3 }
calls: failing calls: 12; every promise held
..failing calls: 3; every promise held
long histories: crash points: 6, lost 1, failed reopenings 0
";

    #[test]
    fn closing_lines_are_told_from_talk_and_added_up() {
        let mut tally = Tally::default();
        tally.read(OUTPUT);
        assert_eq!(
            tally.units.keys().collect::<Vec<_>>(),
            ["crash points", "failing calls", "model operations"]
        );
        let points = &tally.units["crash points"];
        assert_eq!((points.count, points.others["failed reopenings"]), (78010, 0));
        assert_eq!(points.broken(), ["lost 1"]);
        assert_eq!(tally.units["failing calls"].count, 15);
        assert_eq!(tally.units["model operations"].count, 119_580);
        assert_eq!(tally.seeds, ["17"]);
        assert_eq!(Tally::from_json(&tally.to_json()), tally);
        tally.merge(&tally.clone());
        assert_eq!(tally.units["crash points"].broken(), ["lost 2"]);
    }
}
