//! [`Prepared`]: statements that the server has read and planned, and keeps for a session.
//!
//! Only where a session is ours alone: behind a pooler the next transaction may meet another session, which has not read
//! them. A table that changes under a statement is no trouble: the server reads and plans it anew by itself.

use std::collections::HashMap;

/// Most statements that are kept at a time. Each kind of operation on a collection is one.
const KEPT_MAX: usize = 128;
/// Flights after which a statement is read anew. Its plan was made for tables as large as they were then.
const FLIGHTS_MAX: u64 = 256;

/// What the server keeps for one session.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    kept: HashMap<String, Kept>,
    /// Numbers that were given to statements.
    numbers: u64,
    /// Flights so far.
    flights: u64,
    /// Numbers of those that the server need not keep any longer.
    obsolete: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    number: u64,
    since: u64,
}

impl Prepared {
    /// The number of a statement that the server has, and whose plan is not too old.
    pub(crate) fn number_of(&self, text: &str) -> Option<u64> {
        let kept = self.kept.get(text)?;
        (self.flights - kept.since < FLIGHTS_MAX).then_some(kept.number)
    }

    /// The number of the statement that is the `nth` new one of the next flight, from 0 on. None gets it ever again.
    pub(crate) fn new_number(&self, nth: usize) -> u64 {
        self.numbers + nth as u64
    }

    /// Those that the server may forget.
    pub(crate) fn obsolete(&self) -> &[u64] {
        &self.obsolete
    }

    /// After a flight: the statements that were new in it, of which the server has read so many, and how many it has
    /// forgotten.
    pub(crate) fn flown(&mut self, new: Vec<String>, read: usize, forgotten: usize) {
        self.obsolete.drain(..forgotten.min(self.obsolete.len()));
        self.flights += 1;
        let first = self.numbers;
        self.numbers += new.len() as u64;
        for (number, text) in (first..).zip(new.into_iter().take(read)) {
            let kept = Kept { number, since: self.flights };
            self.obsolete.extend(self.kept.insert(text, kept).map(|former| former.number));
        }
        while self.kept.len() > KEPT_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.number);
            let Some(oldest) = oldest.map(|(text, _)| text.clone()) else { break };
            self.obsolete.extend(self.kept.remove(&oldest).map(|kept| kept.number));
        }
    }
}

/// Under which name the server keeps it.
pub(crate) fn name(number: u64) -> String {
    format!("outlast_{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_statement_is_known_once_the_server_has_read_it_and_no_number_is_given_twice() {
        let mut prepared = Prepared::default();
        assert_eq!((prepared.number_of("a"), prepared.new_number(0), prepared.new_number(1)), (None, 0, 1));
        prepared.flown(texts(&["a", "b"]), 1, 0);
        assert_eq!((prepared.number_of("a"), prepared.number_of("b")), (Some(0), None));
        assert_eq!(prepared.new_number(0), 2);
        prepared.flown(texts(&["b"]), 1, 0);
        assert_eq!((prepared.number_of("a"), prepared.number_of("b")), (Some(0), Some(2)));
    }

    #[test]
    fn an_old_plan_is_made_anew_and_the_former_one_forgotten() {
        let mut prepared = Prepared::default();
        prepared.flown(texts(&["a"]), 1, 0);
        for _ in 1..FLIGHTS_MAX {
            prepared.flown(Vec::new(), 0, 0);
            assert_eq!(prepared.number_of("a"), Some(0));
        }
        prepared.flown(Vec::new(), 0, 0);
        assert_eq!(prepared.number_of("a"), None);
        prepared.flown(texts(&["a"]), 1, 0);
        assert_eq!((prepared.number_of("a"), prepared.obsolete()), (Some(1), &[0][..]));
        prepared.flown(Vec::new(), 0, 0);
        assert_eq!(prepared.obsolete(), [0], "the server was told in vain, since something failed before");
        prepared.flown(Vec::new(), 0, 1);
        assert_eq!(prepared.obsolete(), [0; 0]);
    }

    #[test]
    fn the_oldest_make_room_for_new_ones() {
        let mut prepared = Prepared::default();
        let many: Vec<String> = (0..=KEPT_MAX).map(|number| number.to_string()).collect();
        prepared.flown(many.clone(), many.len(), 0);
        assert_eq!((prepared.number_of("0"), prepared.obsolete()), (None, &[0][..]));
        assert!(many[1..].iter().all(|text| prepared.number_of(text).is_some()));
    }
}
