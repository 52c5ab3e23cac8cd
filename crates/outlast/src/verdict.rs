//! After any doubt: what the position in the database means. The table of design section 4 as a pure function.

use outlast_log::Sequence;

use crate::database::Position;

/// What this log knows when it reads the position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// The local copy of the watermark.
    pub cursor: Sequence,
    /// Whether a position of this queue was ever in a database: then its absence is not a beginning.
    pub bound: bool,
    /// The highest sequence that is no longer in the log.
    pub retained_after: Sequence,
    /// The last sequence given out. Of earlier epochs the tail may have been lost with the power, so that whatever
    /// they gave counts as issued.
    pub issued: Sequence,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is in doubt, or the batch in flight did commit: the cursor moves to `to` (or stays), go on.
    GoOn { to: Sequence },
    /// The database came back older: rewind to `to` and replay.
    Heal { to: Sequence },
    /// A gap that cannot be filled: the database stands at `at`, the log begins after `retained_after`.
    Gap { at: Sequence, retained_after: Sequence },
    /// No position, though there was one.
    Wiped,
    /// Somebody else uses this queue's identity.
    Fenced,
}

/// Decides. `is_owner` tells whether an owner id belongs to an epoch of this log.
pub(crate) fn decide(seen: Option<&Position>, known: Known, is_owner: impl Fn(&str) -> bool) -> Verdict {
    let Some(position) = seen else {
        return if known.bound || known.cursor > Sequence::START {
            Verdict::Wiped
        } else if known.retained_after > Sequence::START {
            Verdict::Gap { at: Sequence::START, retained_after: known.retained_after }
        } else {
            Verdict::GoOn { to: Sequence::START }
        };
    };
    let at = position.sequence.0;
    if at > known.issued || !is_owner(&position.owner) {
        Verdict::Fenced
    } else if at < known.retained_after {
        // Also ahead of the cursor: after a crash that is an old note, and the log let go of more.
        Verdict::Gap { at, retained_after: known.retained_after }
    } else if at >= known.cursor {
        Verdict::GoOn { to: at }
    } else {
        Verdict::Heal { to: at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Sequence64;

    fn seq(text: &str) -> Sequence {
        text.parse().unwrap()
    }

    fn at(sequence: &str, owner: &str) -> Position {
        Position { sequence: Sequence64(seq(sequence)), generation: 7, owner: owner.into() }
    }

    /// Every row of the table in design section 4.
    #[test]
    fn every_row_of_the_table_of_doubts() {
        let known =
            Known { cursor: seq("3-10"), bound: true, retained_after: seq("3-4"), issued: seq("3-20") };
        let ours = |owner: &str| owner == "ours" || owner == "earlier";
        for (seen, expected) in [
            (Some(at("3-10", "ours")), Verdict::GoOn { to: seq("3-10") }),
            (Some(at("3-15", "ours")), Verdict::GoOn { to: seq("3-15") }),
            (Some(at("3-10", "earlier")), Verdict::GoOn { to: seq("3-10") }),
            (Some(at("3-7", "ours")), Verdict::Heal { to: seq("3-7") }),
            (Some(at("3-4", "ours")), Verdict::Heal { to: seq("3-4") }),
            (Some(at("3-3", "ours")), Verdict::Gap { at: seq("3-3"), retained_after: seq("3-4") }),
            (Some(at("2-9999", "earlier")), Verdict::Gap { at: seq("2-9999"), retained_after: seq("3-4") }),
            (None, Verdict::Wiped),
            (Some(at("3-21", "ours")), Verdict::Fenced),
            (Some(at("4-1", "ours")), Verdict::Fenced),
            (Some(at("3-10", "somebody")), Verdict::Fenced),
            (Some(at("3-7", "somebody")), Verdict::Fenced),
        ] {
            assert_eq!(decide(seen.as_ref(), known, ours), expected, "{seen:?}");
        }
    }

    /// Found by the simulation: the cursor's last notes were lost with the power, and the database went back meanwhile.
    #[test]
    fn a_gap_is_a_gap_however_old_the_cursor_is() {
        let known = Known { cursor: seq("2-9"), bound: true, retained_after: seq("3-4"), issued: seq("4-0") };
        let seen = at("3-2", "earlier");
        let gap = Verdict::Gap { at: seq("3-2"), retained_after: seq("3-4") };
        assert_eq!(decide(Some(&seen), known, |_| true), gap);
    }

    #[test]
    fn a_new_queue_begins_where_there_is_no_position() {
        let known = Known {
            cursor: Sequence::START,
            bound: false,
            retained_after: Sequence::START,
            issued: seq("1-5"),
        };
        assert_eq!(decide(None, known, |_| true), Verdict::GoOn { to: Sequence::START });
        assert_eq!(decide(None, Known { bound: true, ..known }, |_| true), Verdict::Wiped);
    }

    #[test]
    fn the_lost_tail_of_an_earlier_epoch_counts_as_issued() {
        let known = Known {
            cursor: Sequence::START,
            bound: true,
            retained_after: Sequence::START,
            issued: seq("4-0"),
        };
        assert_eq!(decide(Some(&at("3-999", "ours")), known, |_| true), Verdict::GoOn { to: seq("3-999") });
    }
}
