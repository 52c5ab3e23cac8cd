//! From single measurements to figures that can be compared. `tools/peers` builds this file, too.

use std::time::Duration;

use crate::Result;

/// What one round of one contender gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// How many a second.
    pub(crate) rate: f64,
    /// How many calls that were.
    pub(crate) calls: usize,
    /// Half of the calls took at most so many microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 99 of 100 calls took at most so many microseconds.
    pub(crate) p99_us: Option<f64>,
    /// Further figures by name.
    pub(crate) more: Vec<(&'static str, f64)>,
}

impl Sample {
    /// So many things done in this time.
    pub(crate) fn of_total(done: usize, time: Duration) -> Self {
        Self { rate: done as f64 / time.as_secs_f64(), calls: done, ..Self::default() }
    }

    /// The same where each call did so many things.
    pub(crate) fn times(mut self, many: usize) -> Self {
        self.rate *= many as f64;
        self
    }

    /// Calls that took so many nanoseconds each, all in all in this time.
    pub(crate) fn of_calls(mut nanos: Vec<u64>, time: Duration) -> Result<Self> {
        if nanos.is_empty() {
            return Err("not a single call ended in the time of a round".into());
        }
        nanos.sort_unstable();
        let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part).round() as usize] as f64 / 1000.0;
        Ok(Self {
            rate: nanos.len() as f64 / time.as_secs_f64(),
            calls: nanos.len(),
            p50_us: Some(at(0.50)),
            p99_us: Some(at(0.99)),
            more: Vec::new(),
        })
    }
}

/// What is compared: does it round after round, each time for about so long.
pub(crate) struct Contender<'a> {
    /// Its name in the table.
    pub(crate) name: String,
    /// One round.
    pub(crate) run: Box<dyn FnMut(Duration) -> Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    /// Named.
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut(Duration) -> Result<Sample> + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// Every round of one contender.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// The contender.
    pub(crate) name: String,
    /// Its rounds, in order.
    pub(crate) samples: Vec<Sample>,
}

/// Round by round, in turn: A B C, A B C. So what else happens on the machine falls on all of them.
pub(crate) fn interleave(
    contenders: Vec<Contender<'_>>,
    rounds: usize,
    time: Duration,
) -> Result<Vec<Series>> {
    let mut contenders = contenders;
    let empty = |contender: &Contender<'_>| Series { name: contender.name.clone(), samples: Vec::new() };
    let mut series: Vec<Series> = contenders.iter().map(empty).collect();
    for round in 1..=rounds {
        for (contender, series) in contenders.iter_mut().zip(&mut series) {
            let sample = (contender.run)(time).map_err(|error| format!("{}: {error}", contender.name))?;
            eprintln!("  round {round}/{rounds}: {}: {:.0}/s", contender.name, sample.rate);
            series.samples.push(sample);
        }
    }
    Ok(series)
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of these values; `None` when there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

/// By what contenders are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// By their rate: more is better.
    Rate,
    /// By the median time of a call: less is better.
    Median,
}

impl Compare {
    fn value(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.rate),
            Self::Median => sample.p50_us,
        }
    }

    /// `series` to `reference`, round by round: what disturbed one round mostly disturbed both.
    pub(crate) fn ratio(self, series: &Series, reference: &Series) -> Option<Spread> {
        let pairs = series.samples.iter().zip(&reference.samples);
        Spread::of(pairs.filter_map(|(one, other)| Some(self.value(one)? / self.value(other)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_also_of_an_even_number() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_compares_rounds_that_stood_beside_each_other() {
        let series = |rates: [f64; 3]| Series {
            name: String::new(),
            samples: rates.map(|rate| Sample { rate, ..Sample::default() }).to_vec(),
        };
        let ratio = Compare::Rate.ratio(&series([10.0, 1.0, 30.0]), &series([5.0, 1.0, 10.0]));
        assert_eq!(ratio, Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Compare::Median.ratio(&series([1.0; 3]), &series([1.0; 3])), None);
    }

    #[test]
    fn calls_give_their_rate_and_their_percentiles() {
        let nanos = (1..=101).rev().map(|micros| micros * 1000).collect();
        let sample = Sample::of_calls(nanos, Duration::from_secs(2)).unwrap();
        assert_eq!((sample.rate, sample.p50_us, sample.p99_us), (50.5, Some(51.0), Some(100.0)));
        assert!(Sample::of_calls(Vec::new(), Duration::from_secs(1)).is_err());
    }
}
