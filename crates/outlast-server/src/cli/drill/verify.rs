//! What the database must hold, against what it holds.

use std::collections::HashMap;

use serde_json::Value;

use super::load::{Story, link, put, single};
use crate::cli::output::safe;

/// Broken promises that are told one by one; of more only the number is.
const EXAMPLES_MAX: usize = 5;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) lost: u64,
    pub(super) double: u64,
    pub(super) out_of_order: u64,
    /// The first few, in words.
    pub(super) examples: Vec<String>,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.double == 0 && self.out_of_order == 0
    }

    fn lost(&mut self, what: String) {
        self.lost += 1;
        self.example(what);
    }

    fn double(&mut self, what: String) {
        self.double += 1;
        self.example(what);
    }

    fn out_of_order(&mut self, what: String) {
        self.out_of_order += 1;
        self.example(what);
    }

    fn example(&mut self, what: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what);
        }
    }

    /// A write was refused, though none of them can be in any order but a wrong one.
    fn refused(&mut self, kind: &str, whom: &str) {
        let what = format!("{whom} was refused: {}", safe(kind, 100));
        match kind {
            "exists" | "record_exists" => self.double(what),
            "not_found" | "record_not_found" => self.out_of_order(what),
            _ => self.lost(what),
        }
    }
}

/// Holds what clients were told against the records that the database has. `dead` are the reasons of dead letters.
pub(super) fn verify(stories: &[Story], mut records: HashMap<String, Value>, dead: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    for story in stories {
        let client = story.client;
        for (index, chain) in story.chains.iter().enumerate() {
            // The one that nobody answered was taken as a whole, or not at all.
            let taken = chain.unsure && records.contains_key(&link(client, index, chain.links));
            let links = chain.links + u64::from(taken);
            for number in 0..links {
                let name = link(client, index, number);
                let next = Some(number + 1).filter(|next| *next < links);
                check_link(&mut verdict, &name, records.remove(&name).as_ref(), number, next);
            }
        }
        for number in 0..story.singles {
            let name = single(client, number);
            if records.remove(&name).is_none_or(|record| record["n"] != number) {
                verdict.lost(format!("{name} is not there as it was acknowledged"));
            }
        }
        let name = put(client);
        let found = records.remove(&name).map(|record| record["n"].as_u64());
        match (story.puts, found) {
            (0, None) => {}
            (puts, Some(Some(found))) if found == puts => {}
            (puts, Some(Some(found))) => {
                verdict.out_of_order(format!("{name} has {found}, and {puts} was acknowledged last"));
            }
            (_, _) => verdict.lost(format!("{name} is not there as it was acknowledged")),
        }
        for code in &story.refused {
            verdict.refused(code, &format!("a write of client {client}"));
        }
    }
    for kind in dead {
        verdict.refused(kind, "a queued write");
    }
    // Nobody else writes to the collection, and every client's last write was acknowledged.
    for name in records.keys() {
        verdict.double(format!("{} took effect, and was not acknowledged", safe(name, 100)));
    }
    verdict
}

/// One link: it must be there, and know the one after it.
fn check_link(verdict: &mut Verdict, name: &str, record: Option<&Value>, number: u64, next: Option<u64>) {
    match record {
        Some(record) if record["n"] == number => match (record["next"].as_u64(), next) {
            (found, expected) if found == expected => {}
            (None, Some(next)) => verdict.lost(format!("{name} does not know link {next}")),
            (found, expected) => {
                verdict.out_of_order(format!("{name} leads to {found:?} instead of {expected:?}"));
            }
        },
        _ => verdict.lost(format!("{name} is not there as it was acknowledged")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::load::Chain;
    use super::*;

    fn story() -> Story {
        let chains = vec![Chain { links: 3, unsure: true }, Chain { links: 1, unsure: false }];
        Story { client: 3, chains, puts: 7, singles: 2, ..Story::default() }
    }

    fn records() -> HashMap<String, Value> {
        let records = [
            ("link-3-0-0", json!({ "n": 0, "next": 1 })),
            ("link-3-0-1", json!({ "n": 1, "next": 2 })),
            ("link-3-0-2", json!({ "n": 2 })),
            ("link-3-1-0", json!({ "n": 0 })),
            ("put-3", json!({ "n": 7 })),
            ("single-3-0", json!({ "n": 0 })),
            ("single-3-1", json!({ "n": 1 })),
        ];
        records.into_iter().map(|(name, record)| (name.to_owned(), record)).collect()
    }

    /// What is found after `change`: lost, double, out of order.
    fn found(change: impl FnOnce(&mut Story, &mut HashMap<String, Value>)) -> (u64, u64, u64) {
        let (mut story, mut records) = (story(), records());
        change(&mut story, &mut records);
        let verdict = verify(&[story], records, &[]);
        assert_eq!(verdict.is_clean(), verdict.examples.is_empty());
        (verdict.lost, verdict.double, verdict.out_of_order)
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        assert_eq!(found(|_, _| {}), (0, 0, 0));
        let unsure = |records: &mut HashMap<String, Value>| {
            records.insert("link-3-0-3".into(), json!({ "n": 3 }));
        };
        assert_eq!(found(|_, records| unsure(records)), (1, 0, 0), "half of the write that nobody answered");
        let whole = |records: &mut HashMap<String, Value>| {
            unsure(records);
            records.insert("link-3-0-2".into(), json!({ "n": 2, "next": 3 }));
        };
        assert_eq!(found(|_, records| whole(records)), (0, 0, 0), "all of it");
        assert_eq!(
            found(|story, records| {
                story.chains[0].unsure = false;
                whole(records);
            }),
            (0, 1, 1)
        );
        for name in ["link-3-1-0", "single-3-1", "put-3"] {
            assert_eq!(found(|_, records| drop(records.remove(name))), (1, 0, 0), "{name}");
        }
        let change = |name: &'static str, value: Value| {
            found(move |_, records| drop(records.insert(name.into(), value)))
        };
        assert_eq!(change("link-3-0-1", json!({ "n": 1 })), (1, 0, 0), "a patch is missing");
        assert_eq!(change("link-3-0-1", json!({ "n": 1, "next": 1 })), (0, 0, 1), "an older patch came last");
        assert_eq!(change("link-3-0-2", json!({ "n": 2, "next": 3 })), (0, 0, 1), "a patch that nobody sent");
        assert_eq!(change("put-3", json!({ "n": 6 })), (0, 0, 1), "an older put came last");
        assert_eq!(change("single-3-2", json!({ "n": 2 })), (0, 1, 0), "a record that nobody acknowledged");
        assert_eq!(found(|story, _| story.refused.push("record_exists".into())), (0, 1, 0));
        assert_eq!(found(|story, _| story.refused.push("record_not_found".into())), (0, 0, 1));
        assert_eq!(found(|story, _| story.refused.push("refused_schema".into())), (1, 0, 0));
        let dead = ["exists".to_owned(), "not_found".to_owned(), "other".to_owned()];
        let verdict = verify(&[story()], records(), &dead);
        assert_eq!((verdict.lost, verdict.double, verdict.out_of_order), (1, 1, 1));
    }
}
