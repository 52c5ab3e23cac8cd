//! One connection to a server: one flight at a time, each with a deadline, nothing sent twice.
//!
//! A connection is usable only between a complete answer and the next flight. A time limit, a dropped future, a socket
//! error or a message that makes no sense leaves it unusable: it is closed, so that nothing more can be sent or half
//! sent on it, and the next caller opens another.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::address::{Address, Host};
use crate::flight::{Flight, Landing, Lost};
use crate::login;
use crate::prepared::Prepared;
use crate::wire::Wire;

/// A transaction that failed is rolled back within this time, or its connection is closed.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// Why a connection could not be made.
#[derive(Debug, Clone)]
pub(crate) enum ConnectError {
    /// No server there that takes writes, or not in time.
    Unavailable(String),
    /// The server would not have us: wrong credentials, or no right to the database.
    Refused(String),
}

impl ConnectError {
    /// In words.
    pub(crate) fn into_reason(self) -> String {
        match self {
            Self::Unavailable(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// A session in a database that takes writes.
pub(crate) struct Connection {
    wire: Wire,
    /// The last flight was answered completely, and no transaction is open.
    usable: bool,
    /// The server has said that it takes reads only.
    demoted: bool,
    /// What the server keeps for us, where the session is ours alone.
    prepared: Option<Prepared>,
}

impl Connection {
    /// Tries the servers in their order, and takes the first that takes writes, all within `limit`. `tcp_user_timeout`:
    /// how long the other side may leave bytes unacknowledged.
    pub(crate) async fn open(
        address: &Arc<Address>,
        limit: Duration,
        tcp_user_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + limit;
        let mut refusal = None;
        let mut reasons = Vec::new();
        for (tried, host) in address.hosts.iter().enumerate() {
            // One that does not answer leaves the others their share of the time.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(address.hosts.len() - tried).unwrap_or(1);
            match timeout(share, Self::open_at(address, host, tcp_user_timeout)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(ConnectError::Refused(reason))) => refusal = Some(format!("{host}: {reason}")),
                Ok(Err(ConnectError::Unavailable(reason))) => reasons.push(format!("{host}: {reason}")),
                Err(_) => reasons.push(format!("{host}: no session within {share:?}")),
            }
        }
        // One that refuses us may be out of date, as long as the others cannot be asked.
        match refusal {
            Some(reason) if reasons.is_empty() => Err(ConnectError::Refused(reason)),
            refusal => {
                reasons.extend(refusal);
                Err(ConnectError::Unavailable(reasons.join("; ")))
            }
        }
    }

    async fn open_at(
        address: &Address,
        host: &Host,
        tcp_user_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let mut wire = Wire::connect(host, address.tls, tcp_user_timeout).await?;
        let end_point = wire.end_point();
        let login::Session { parameters, process_id } = login::begin(&mut wire, address, end_point).await?;
        if parameters.get("server_encoding").is_some_and(|encoding| encoding != "UTF8") {
            return Err(ConnectError::Refused(format!(
                "the database \"{}\" is not encoded in UTF8: it cannot hold every text",
                address.database
            )));
        }
        let mut connection = Self { wire, usable: true, demoted: false, prepared: None };
        connection.ask(process_id).await?;
        Ok(connection)
    }

    /// Asks what matters of the session. A pooler has told a process that is not the one that answers: it has to find
    /// out by it whom to break off.
    async fn ask(&mut self, process_id: Option<i32>) -> Result<(), ConnectError> {
        let question = "SELECT pg_backend_pid(), \
             pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";
        let flight = Flight::of(question, &[]).map_err(ConnectError::Unavailable)?;
        // The caller's limit ends it.
        let row = match self.fly(flight, Instant::now() + Duration::from_hours(1)).await {
            Ok(Landing::Done(answers)) => {
                answers.into_iter().next().and_then(|answer| answer.rows.into_iter().next())
            }
            Ok(Landing::Failed(_, fault)) => return Err(ConnectError::Unavailable(fault.message)),
            Err(lost) => return Err(ConnectError::Unavailable(lost.into_message())),
        };
        let row = row.unwrap_or_default();
        let said = |at: usize| row.get(at).and_then(Option::as_deref);
        if said(1) != Some("f") {
            return Err(ConnectError::Unavailable("this server takes reads only".to_owned()));
        }
        let answering = said(0).and_then(|number| number.parse().ok());
        if answering.is_some() && answering == process_id {
            self.prepared = Some(Prepared::new(fastrand::u32(..)));
        }
        Ok(())
    }

    /// Where statements are found that the server has read already. `None` where it cannot keep any for us.
    pub(crate) fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// True when nothing is half done and the other side has not hung up meanwhile: a batch sent to a server that is
    /// gone would have an unknown outcome.
    pub(crate) fn is_alive(&self) -> bool {
        // A server sends nothing unasked but its farewell, and notices that nobody waits for.
        self.usable && self.wire.is_quiet()
    }

    /// True between a complete answer and the next flight.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable
    }

    /// Makes sure that nobody uses it again.
    pub(crate) fn abandon(&mut self) {
        self.usable = false;
    }

    /// The server takes reads only by now: this connection is of no use, and neither are others to it.
    pub(crate) fn note_demotion(&mut self) {
        self.usable = false;
        self.demoted = true;
    }

    /// True when the server has said that it takes reads only.
    pub(crate) fn is_demoted(&self) -> bool {
        self.demoted
    }

    /// Sends statements and waits for their answers. A transaction that they leave open is rolled back.
    ///
    /// # Errors
    /// Whether the last statement may have run.
    pub(crate) async fn fly(&mut self, flight: Flight, deadline: Instant) -> Result<Landing, Lost> {
        let (landing, open) = self.exchange(flight, deadline).await?;
        if open {
            self.roll_back().await;
        }
        Ok(landing)
    }

    async fn roll_back(&mut self) {
        let Ok(flight) = Flight::of("ROLLBACK", &[]) else { return };
        let deadline = Instant::now() + ROLLBACK_LIMIT;
        // Whatever becomes of it: the server rolls back a transaction whose connection closes.
        if !matches!(self.exchange(flight, deadline).await, Ok((Landing::Done(_), false))) {
            self.usable = false;
        }
    }

    /// Tells also whether a transaction is open now.
    async fn exchange(&mut self, flight: Flight, deadline: Instant) -> Result<(Landing, bool), Lost> {
        // From here on until the answer is complete nobody else may use the connection, also when this future is
        // dropped in the middle.
        self.usable = false;
        let obsolete = self.prepared.as_ref().map_or(&[][..], Prepared::obsolete);
        let (bytes, end, mut heard) = flight.into_bytes(obsolete).map_err(Lost::NotSent)?;
        let sent = AtomicUsize::new(0);
        let answered = timeout_at(deadline, self.wire.exchange(&bytes, &sent, &mut heard)).await;
        let sent = sent.into_inner();
        let lost = match answered {
            Ok(Ok(status)) => {
                self.usable = true;
                if let Some(prepared) = &mut self.prepared {
                    heard.note_kept(prepared);
                }
                return Ok((heard.landing(), status != b'I'));
            }
            Ok(Err(reason)) => format!("the connection was lost: {reason}"),
            Err(_) => "no answer in time".to_owned(),
        };
        heard.broken_off(sent >= end, lost).map(|landing| (landing, false))
    }
}
