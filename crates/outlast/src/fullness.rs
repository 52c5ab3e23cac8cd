//! How full the queue is, in steps, for one log line per step.

/// It falls to a lower step only this far below its bound: what goes up and down there is told once.
const SLACK: f64 = 0.05;

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Fullness {
    /// Below three quarters.
    #[default]
    Room,
    /// At least three quarters.
    Warning,
    /// At least nine tenths.
    Critical,
    /// A write was refused, or had to wait, because there was no room.
    Full,
}

impl Fullness {
    /// The word for it in log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Room => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Full => "full",
        }
    }

    fn bound(self) -> f64 {
        match self {
            Self::Room => 0.0,
            Self::Warning => 0.75,
            Self::Critical => 0.9,
            Self::Full => 1.0,
        }
    }

    /// The step after a look: `usage` is 1 when it is full; `refused`, whether a write found no room since the last look.
    pub(crate) fn next(self, usage: f64, refused: bool) -> Self {
        if refused {
            return Self::Full;
        }
        let reached =
            [Self::Full, Self::Critical, Self::Warning].into_iter().find(|step| usage >= step.bound());
        let reached = reached.unwrap_or_default();
        if reached >= self || usage < self.bound() - SLACK { reached } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_taken_once_however_it_trembles_at_a_bound() {
        let mut step = Fullness::Room;
        let mut taken = Vec::new();
        for (usage, refused) in [
            (0.5, false),
            (0.75, false),
            (0.74, false),
            (0.76, false),
            (0.91, false),
            (0.89, false),
            (0.99, true),
            (0.99, false),
            (1.0, true),
            (0.96, false),
            (0.94, false),
            (0.86, false),
            (0.84, false),
            (0.5, false),
        ] {
            let next = step.next(usage, refused);
            if next != step {
                taken.push((usage, next.name()));
            }
            step = next;
        }
        let expected = [
            (0.75, "warning"),
            (0.91, "critical"),
            (0.99, "full"),
            (0.94, "critical"),
            (0.84, "warning"),
            (0.5, "ok"),
        ];
        assert_eq!(taken, expected);
    }
}
