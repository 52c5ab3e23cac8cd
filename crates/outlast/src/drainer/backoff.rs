//! Pauses between attempts, as pure functions.

use std::time::Duration;

/// The pause after the `attempt`-th refusal (from 1): up to `first` doubled each time, at most `max`, full jitter: any
/// moment of it is as likely ([AWS Architecture Blog](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
/// `random` is in 0..1.
pub(super) fn pause(attempt: u32, first: Duration, max: Duration, random: f64) -> Duration {
    let doubled = first.saturating_mul(1_u32 << attempt.saturating_sub(1).min(20)).min(max);
    doubled.mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_are_spread_from_zero() {
        let (first, max) = (Duration::from_secs(1), Duration::from_mins(1));
        for (attempt, most) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60)] {
            assert_eq!(pause(attempt, first, max, 1.0), Duration::from_secs(most));
            assert_eq!(pause(attempt, first, max, 0.0), Duration::ZERO);
        }
    }
}
