//! [`Connection`]: a way to a database, to a server or into the embedded engine.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ciborium::Value as Cbor;
use tokio::time::Instant;

use crate::address::{Address, Place};
use crate::fault::Fault;
use crate::socket::Socket;

/// Why a connection could not be made.
#[derive(Debug, Clone)]
pub(crate) enum ConnectError {
    /// No server there, or not in time.
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

/// Why a request has no result.
#[derive(Debug, Clone)]
pub(crate) enum RequestError {
    /// It was sent, or may have been, and no answer came.
    Lost(String),
    /// The server answered with an error for the request as a whole.
    Fault(Fault),
    /// Not sent: it has more bytes than the server takes.
    TooLarge(usize),
    /// Not sent: it cannot be put into a request.
    Unsendable(String),
}

impl RequestError {
    /// In words.
    pub(crate) fn into_message(self) -> String {
        match self {
            Self::Lost(reason) | Self::Unsendable(reason) => reason,
            Self::Fault(fault) => fault.message,
            Self::TooLarge(bytes) => format!("a request of {bytes} bytes is too large"),
        }
    }
}

/// The rows that a query answered: one for each statement, but their number differs between versions.
pub(crate) type Rows = Vec<Result<Cbor, Fault>>;

/// A way to a database, used by one call at a time.
pub(crate) enum Connection {
    /// To a server.
    Server(Box<Socket>),
    /// Into the engine within this process.
    #[cfg(feature = "surrealdb-embedded")]
    Engine(crate::engine::Session),
}

impl Connection {
    /// Opens it within `limit`. `level` remembers where the user was found.
    pub(crate) async fn open(
        address: &Arc<Address>,
        level: &Arc<AtomicUsize>,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        match &address.place {
            Place::Server(server) => {
                let socket = Socket::open(address, server, level, limit).await?;
                Ok(Self::Server(Box::new(socket)))
            }
            #[cfg(feature = "surrealdb-embedded")]
            Place::Engine(engine) => Ok(Self::Engine(engine.session(limit).await?)),
        }
    }

    /// True when nothing is half done and the other side has not hung up meanwhile.
    pub(crate) async fn is_alive(&mut self) -> bool {
        match self {
            Self::Server(socket) => socket.is_alive().await,
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(session) => session.is_usable(),
        }
    }

    /// True between a complete answer and the next request.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Server(socket) => socket.is_usable(),
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(session) => session.is_usable(),
        }
    }

    /// Makes sure that nobody uses it again.
    pub(crate) fn abandon(&mut self) {
        match self {
            Self::Server(socket) => socket.abandon(),
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(session) => session.abandon(),
        }
    }

    /// Runs statements with values bound to names (without `$`).
    pub(crate) async fn query(
        &mut self,
        statements: &str,
        values: Vec<(String, Cbor)>,
        deadline: Instant,
    ) -> Result<Rows, RequestError> {
        self.prepare(statements, values)?;
        self.run(deadline).await
    }

    /// Makes ready what [`Connection::run`] sends. Nothing is sent yet.
    pub(crate) fn prepare(
        &mut self,
        statements: &str,
        values: Vec<(String, Cbor)>,
    ) -> Result<(), RequestError> {
        match self {
            Self::Server(socket) => socket.prepare(statements, values),
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(session) => session.prepare(statements, values),
        }
    }

    /// Runs the statements that were made ready.
    pub(crate) async fn run(&mut self, deadline: Instant) -> Result<Rows, RequestError> {
        match self {
            Self::Server(socket) => socket.run(deadline).await,
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(session) => session.run(deadline).await,
        }
    }

    /// Which server it is: `surrealdb-3.3.5`. Nothing for the engine within this process, which comes with this crate.
    pub(crate) async fn version(&mut self, deadline: Instant) -> Result<Option<String>, RequestError> {
        match self {
            Self::Server(socket) => socket.version(deadline).await.map(Some),
            #[cfg(feature = "surrealdb-embedded")]
            Self::Engine(_) => Ok(None),
        }
    }
}
