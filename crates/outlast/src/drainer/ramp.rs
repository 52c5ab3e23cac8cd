//! How many writes go into one transaction, as a pure function of how the last ones went.

use std::time::Duration;

/// After a return the database gets this many at first.
const FIRST: usize = 16;
/// A transaction that takes longer than this is a reason to take smaller ones, whatever is usual.
const SLOW: Duration = Duration::from_millis(500);
/// Slow is what takes so many times as long as usual, and this much longer: below that the machine's own noise decides.
const FACTOR: u32 = 2;
const NOISE: Duration = Duration::from_millis(5);
/// So many slow ones in a row are no accident.
const IN_A_ROW: u32 = 2;
/// What is usual follows a slower database by this part of the difference with every transaction.
const FOLLOWS: u32 = 16;
/// Sizes are told apart by their powers of two.
const CLASSES: usize = usize::BITS as usize;

/// Grows the batch while the database keeps up, so that its return is not followed by a second blow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ramp {
    size: usize,
    max: usize,
    /// How long transactions of each size usually take.
    usual: [Option<Duration>; CLASSES],
    slow_in_a_row: u32,
}

impl Ramp {
    pub(super) fn new(max: usize) -> Self {
        Self { size: FIRST.min(max), max, usual: [None; CLASSES], slow_in_a_row: 0 }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A batch of `writes` took so long.
    pub(super) fn took(&mut self, writes: usize, time: Duration) {
        let class = writes.max(1).ilog2() as usize;
        let usual = self.usual(class).unwrap_or(time);
        self.usual[class] = Some(time.min(usual + time.saturating_sub(usual) / FOLLOWS));
        let is_slow = time > usual * FACTOR + NOISE;
        self.slow_in_a_row = if is_slow { self.slow_in_a_row + 1 } else { 0 };
        if time > SLOW || self.slow_in_a_row >= IN_A_ROW {
            self.slow_in_a_row = 0;
            self.size = (self.size / 2).max(FIRST.min(self.max));
        } else if !is_slow && writes >= self.size {
            self.size = (self.size * 2).min(self.max);
        }
    }

    /// Of a size that was never seen: as many times as long as a smaller one as it is larger.
    fn usual(&self, class: usize) -> Option<Duration> {
        let known = (0..=class).rev().find_map(|smaller| Some((smaller, self.usual[smaller]?)));
        known.map(|(smaller, time)| time.saturating_mul(1 << (class - smaller).min(16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(20);

    /// Full batches that take so long.
    fn drain(ramp: &mut Ramp, batches: usize, time: Duration) {
        for _ in 0..batches {
            ramp.took(ramp.size(), time);
        }
    }

    #[test]
    fn batches_begin_small_grow_while_quick_and_shrink_when_slow() {
        let mut ramp = Ramp::new(500);
        assert_eq!(ramp.size(), 16);
        ramp.took(3, Duration::from_millis(1));
        assert_eq!(ramp.size(), 16, "a batch that was not full says nothing");
        drain(&mut ramp, 10, QUICK);
        assert_eq!(ramp.size(), 500);
        ramp.took(500, Duration::from_secs(2));
        assert_eq!(ramp.size(), 250);
        drain(&mut ramp, 10, Duration::from_secs(2));
        assert_eq!(ramp.size(), 16);
        assert_eq!(Ramp::new(4).size(), 4);
    }

    #[test]
    fn batches_shrink_when_they_take_longer_than_usual_and_one_slow_one_is_an_accident() {
        let mut ramp = Ramp::new(500);
        drain(&mut ramp, 10, QUICK);
        ramp.took(500, QUICK * 5);
        assert_eq!(ramp.size(), 500, "a checkpoint, say");
        ramp.took(500, QUICK);
        drain(&mut ramp, 2, QUICK * 5);
        assert_eq!(ramp.size(), 250);
        drain(&mut ramp, 2, QUICK * 5);
        assert_eq!(ramp.size(), 125);
        drain(&mut ramp, 5, QUICK);
        assert_eq!(ramp.size(), 500, "and grow again when it has passed");
    }

    #[test]
    fn a_database_that_stays_slower_gets_large_batches_again() {
        let mut ramp = Ramp::new(500);
        drain(&mut ramp, 10, QUICK);
        drain(&mut ramp, 100, QUICK * 4);
        assert_eq!(ramp.size(), 500);
    }

    #[test]
    fn time_that_grows_with_the_size_is_as_usual() {
        let mut ramp = Ramp::new(100_000);
        for _ in 0..20 {
            ramp.took(ramp.size(), Duration::from_micros(ramp.size() as u64 * 4));
        }
        assert_eq!(ramp.size(), 100_000);
    }
}
