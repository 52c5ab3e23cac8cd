//! [`Limits`]: how long the server itself may spend on a transaction, so that nothing goes on after we have left.

use std::time::Duration;

use tokio::time::Instant;

use crate::flight::{Flight, Text};
use crate::prepared::Prepared;

/// The part of the time left after which the server breaks a statement off: the rest is for its answer.
const OWN_SHARE: f64 = 0.8;

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// What is set for one transaction; `$1` to `$3` are its time limits. Also the body of a function, which the server need
/// not read anew for each batch.
macro_rules! settings {
    () => {
        "set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), \
         set_config('idle_in_transaction_session_timeout', $3, true), \
         set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true), \
         set_config('extra_float_digits', '1', true), set_config('tcp_keepalives_idle', '10', true), \
         set_config('tcp_keepalives_interval', '5', true), set_config('tcp_keepalives_count', '3', true)"
    };
}
pub(crate) use settings;

/// The time limits of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// When we leave.
    pub(crate) deadline: Instant,
    /// The longest wait for a lock.
    pub(crate) lock_timeout: Duration,
}

impl Limits {
    /// Begins a transaction and sets its limits, for it alone. Each statement of it sees what was committed before that
    /// statement, so that it never works on a position or record that somebody has just changed. A commit is on disk
    /// when it is told, also where the database's own setting is to tell it earlier. Floats are told with all digits.
    /// And a server that has half of a flight notices within half a minute that we have vanished, instead of keeping the
    /// position locked for as long as its own keepalives take (two hours by default).
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn begin(&self, flight: &mut Flight) -> Result<(), String> {
        self.begin_with(flight, concat!("SELECT ", settings!()).into())
    }

    /// The same by a function of our own, which costs less: where that is known to be there.
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn begin_batch(&self, flight: &mut Flight, prepared: Option<&Prepared>) -> Result<(), String> {
        self.begin_with(flight, Text { text: "SELECT outlast_limits($1, $2, $3)", prepared })
    }

    fn begin_with(&self, flight: &mut Flight, settings: Text<'_>) -> Result<(), String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let share = left.mul_f64(OWN_SHARE);
        // The longest that a statement, a wait for a lock and a pause between two statements may take.
        let [statement, lock, idle] = [share, self.lock_timeout.min(share), left].map(milliseconds);
        flight.add(BEGIN, &[])?;
        flight.add(settings, &[Some(&statement), Some(&lock), Some(&idle)])
    }

    /// A transaction of this one statement.
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn around(&self, statement: &str, parameters: &[Option<&str>]) -> Result<Flight, String> {
        let mut flight = Flight::default();
        self.begin(&mut flight)?;
        flight.add(statement, parameters)?;
        flight.add("COMMIT", &[])?;
        Ok(flight)
    }
}

/// 0 would mean without a limit.
fn milliseconds(time: Duration) -> String {
    time.as_millis().clamp(1, i32::MAX as u128).to_string()
}
