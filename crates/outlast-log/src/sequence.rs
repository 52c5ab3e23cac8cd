//! [`Sequence`]: the number that the log gives a write.

use std::fmt;
use std::str::FromStr;

/// Bits of a sequence that count writes within one epoch.
const COUNTER_BITS: u32 = 40;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;
/// 23 bits: with the counter's 40 a sequence fits a signed 64-bit integer, as databases have them.
const EPOCH_MAX: u32 = (1 << 23) - 1;

/// Names a write: the epoch of the log that took it (high bits) and a counter within that epoch (low bits).
///
/// Sequences only grow and are never used twice: each opening of a log is a new epoch, recorded durably before
/// the first append. So a tail that was applied and then lost in a power cut can never make a new write look
/// applied. Printed as `EPOCH-COUNTER`, for example `3-17`; that is also the *write id* that callers see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(u64);

impl Sequence {
    /// Before every write: the position of a lane that has applied nothing.
    pub const START: Self = Self(0);

    /// The sequence of `counter` in `epoch`, or `None` when either does not fit (23 and 40 bits).
    pub const fn new(epoch: u32, counter: u64) -> Option<Self> {
        if epoch > EPOCH_MAX || counter > COUNTER_MAX {
            return None;
        }
        Some(Self(((epoch as u64) << COUNTER_BITS) | counter))
    }

    /// The opening of the log that gave this sequence; 0 only for [`Sequence::START`].
    pub const fn epoch(self) -> u32 {
        (self.0 >> COUNTER_BITS) as u32
    }

    /// The count within the epoch, starting at 1.
    pub const fn counter(self) -> u64 {
        self.0 & COUNTER_MAX
    }

    /// As an integer: what databases and the binary format store. Below 2^63.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From that integer, or `None` when it is not below 2^63.
    pub const fn from_u64(value: u64) -> Option<Self> {
        if value >> 63 == 0 { Some(Self(value)) } else { None }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch(), self.counter())
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not of the form `EPOCH-COUNTER`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a write id has the form EPOCH-COUNTER, for example 3-17")]
pub struct ParseSequenceError;

impl FromStr for Sequence {
    type Err = ParseSequenceError;

    /// Reads only what `Display` prints, so that a write has one name: no signs, no leading zeros.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, counter) = text.split_once('-').ok_or(ParseSequenceError)?;
        let sequence = epoch
            .parse()
            .ok()
            .zip(counter.parse().ok())
            .and_then(|(epoch, counter)| Self::new(epoch, counter))
            .ok_or(ParseSequenceError)?;
        if sequence.to_string() == text { Ok(sequence) } else { Err(ParseSequenceError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_one_form_only() {
        for sequence in
            [Sequence::START, Sequence::new(3, 17).unwrap(), Sequence::new(EPOCH_MAX, COUNTER_MAX).unwrap()]
        {
            assert_eq!(sequence.to_string().parse(), Ok(sequence));
            assert!(i64::try_from(sequence.as_u64()).is_ok());
        }
        for bad in
            ["", "-", "3", "3-", "-3", "+3-1", "03-1", "3-01", "3-1-1", "8388608-1", "1-1099511627776", "x-1"]
        {
            assert_eq!(bad.parse::<Sequence>(), Err(ParseSequenceError), "{bad}");
        }
    }

    #[test]
    fn a_later_epoch_is_greater_than_any_counter() {
        assert!(Sequence::new(2, 1).unwrap() > Sequence::new(1, COUNTER_MAX).unwrap());
    }
}
