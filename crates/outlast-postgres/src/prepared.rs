//! [`Prepared`]: statements that the server has read and planned, and keeps for a session.
//!
//! Only where a session is ours alone: behind a pooler the next transaction may meet another session, which has not read
//! them. A table that changes under a statement is no trouble: the server reads and plans it anew by itself. One that is new,
//! and stands in front of it in the `search_path`, it does not notice: that shows when the statement is old.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most statements that are kept at a time. Each kind of operation on a collection is one.
const KEPT_MAX: usize = 128;
/// Flights after which a statement is read anew. Its plan was made for tables as large as they were then.
const FLIGHTS_MAX: u64 = 256;
/// The same in time: as long as a table's shape is believed.
const AGE_MAX: Duration = Duration::from_mins(1);

/// What the server keeps for one session.
#[derive(Debug)]
pub(crate) struct Prepared {
    kept: HashMap<String, Kept>,
    /// The number of the next statement.
    next: u64,
    /// Flights so far.
    flights: u64,
    /// Numbers of those that the server need not keep any longer.
    obsolete: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    number: u64,
    /// The flight after which it was there, and when.
    since: (u64, Instant),
}

impl Prepared {
    /// Nothing yet. Numbers begin with `first`: another one for each connection, should a session have been somebody
    /// else's before.
    pub(crate) fn new(first: u32) -> Self {
        Self { kept: HashMap::new(), next: first.into(), flights: 0, obsolete: Vec::new() }
    }

    /// The number of a statement that the server has, and whose plan is not too old.
    pub(crate) fn number_of(&self, text: &str, now: Instant) -> Option<u64> {
        let kept = self.kept.get(text)?;
        let (flights, at) = kept.since;
        (self.flights - flights < FLIGHTS_MAX && now.duration_since(at) < AGE_MAX).then_some(kept.number)
    }

    /// The number of the statement that is the `nth` new one of the next flight, from 0 on. None gets it ever again.
    pub(crate) fn new_number(&self, nth: usize) -> u64 {
        self.next + nth as u64
    }

    /// Those that the server may forget.
    pub(crate) fn obsolete(&self) -> &[u64] {
        &self.obsolete
    }

    /// After a flight: the statements that were new in it, of which the server has read so many, and how many it has
    /// forgotten.
    pub(crate) fn flown(&mut self, new: Vec<String>, read: usize, forgotten: usize, now: Instant) {
        self.obsolete.drain(..forgotten.min(self.obsolete.len()));
        self.flights += 1;
        let first = self.next;
        self.next += new.len() as u64;
        for (number, text) in (first..).zip(new.into_iter().take(read)) {
            let kept = Kept { number, since: (self.flights, now) };
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
        let (mut prepared, now) = (Prepared::new(0), Instant::now());
        assert_eq!(
            (prepared.number_of("a", now), prepared.new_number(0), prepared.new_number(1)),
            (None, 0, 1)
        );
        prepared.flown(texts(&["a", "b"]), 1, 0, now);
        assert_eq!((prepared.number_of("a", now), prepared.number_of("b", now)), (Some(0), None));
        assert_eq!(prepared.new_number(0), 2);
        prepared.flown(texts(&["b"]), 1, 0, now);
        assert_eq!((prepared.number_of("a", now), prepared.number_of("b", now)), (Some(0), Some(2)));
    }

    #[test]
    fn an_old_plan_is_made_anew_and_the_former_one_forgotten() {
        let (mut prepared, now) = (Prepared::new(0), Instant::now());
        prepared.flown(texts(&["a"]), 1, 0, now);
        for _ in 1..FLIGHTS_MAX {
            prepared.flown(Vec::new(), 0, 0, now);
            assert_eq!(prepared.number_of("a", now), Some(0));
        }
        prepared.flown(Vec::new(), 0, 0, now);
        assert_eq!(prepared.number_of("a", now), None);
        prepared.flown(texts(&["a"]), 1, 0, now);
        assert_eq!((prepared.number_of("a", now), prepared.obsolete()), (Some(1), &[0][..]));
        prepared.flown(Vec::new(), 0, 0, now);
        assert_eq!(prepared.obsolete(), [0], "the server was told in vain, since something failed before");
        prepared.flown(Vec::new(), 0, 1, now);
        assert_eq!(prepared.obsolete(), [0; 0]);
    }

    #[test]
    fn a_statement_that_is_not_used_for_long_is_read_anew() {
        let (mut prepared, now) = (Prepared::new(7), Instant::now());
        prepared.flown(texts(&["a"]), 1, 0, now);
        assert_eq!(prepared.number_of("a", now + AGE_MAX / 2), Some(7));
        assert_eq!(prepared.number_of("a", now + AGE_MAX), None);
    }

    #[test]
    fn the_oldest_make_room_for_new_ones() {
        let (mut prepared, now) = (Prepared::new(0), Instant::now());
        let many: Vec<String> = (0..=KEPT_MAX).map(|number| number.to_string()).collect();
        prepared.flown(many.clone(), many.len(), 0, now);
        assert_eq!((prepared.number_of("0", now), prepared.obsolete()), (None, &[0][..]));
        assert!(many[1..].iter().all(|text| prepared.number_of(text, now).is_some()));
    }
}
