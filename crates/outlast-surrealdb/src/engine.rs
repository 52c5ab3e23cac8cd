//! The engine within this process (feature `surrealdb-embedded`): the same statements, without a server between.
//!
//! Values and errors go through the engine's own CBOR, so that they are exactly what a server would send.

use std::fmt;
use std::time::Duration;

use ciborium::Value as Cbor;
use surrealdb::engine::any::{Any, connect};
use surrealdb::types::{SurrealValue, Value};
use surrealdb::{Error, IndexedResults, Surreal};
use surrealdb_core::rpc::format::cbor;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{ConnectError, RequestError, Rows};
use crate::fault::Fault;

/// Namespace and database within the engine.
const NAME: &str = "outlast";
/// Deepest nesting of values.
const DEPTH_MAX: usize = 256;

/// An engine, opened when it is first needed: all sessions share it. It stays open until the adapter is dropped, since
/// it lets go of its files some time after it was closed, and could not be opened again before.
pub(crate) struct Engine {
    endpoint: String,
    opened: Mutex<Option<Surreal<Any>>>,
}

/// One user's way into the engine.
pub(crate) struct Session {
    database: Surreal<Any>,
    /// The statements that [`Session::run`] runs next, with their values.
    prepared: Option<(String, Value)>,
    usable: bool,
}

impl Engine {
    /// The engine that a URL names: `surrealkv://PATH` or `mem://`.
    pub(crate) fn named(url: &str) -> Option<Self> {
        let known = url.starts_with("surrealkv://") || url.starts_with("mem://");
        known.then(|| Self { endpoint: url.to_owned(), opened: Mutex::new(None) })
    }

    /// A session of its own, within `limit`.
    pub(crate) async fn session(&self, limit: Duration) -> Result<Session, ConnectError> {
        let unavailable = |error: Error| ConnectError::Unavailable(format!("{self}: {error}"));
        let opening = async {
            let mut opened = self.opened.lock().await;
            let database = match opened.as_ref() {
                Some(database) => database.clone(),
                None => opened.insert(connect(self.endpoint.as_str()).await.map_err(unavailable)?).clone(),
            };
            database.use_ns(NAME).use_db(NAME).await.map_err(unavailable)?;
            Ok(Session { database, prepared: None, usable: true })
        };
        let opened = timeout(limit, opening).await;
        opened.map_err(|_| ConnectError::Unavailable(format!("{self} did not open within {limit:?}")))?
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)
    }
}

impl Session {
    /// True between a complete answer and the next request.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable
    }

    /// Makes sure that nobody uses it again.
    pub(crate) fn abandon(&mut self) {
        self.usable = false;
    }

    /// Makes statements ready, with values bound to names (without `$`).
    pub(crate) fn prepare(
        &mut self,
        statements: &str,
        values: Vec<(String, Cbor)>,
    ) -> Result<(), RequestError> {
        let members = values.into_iter().map(|(name, value)| (Cbor::Text(name), value)).collect();
        let bound = into_engine(&Cbor::Map(members)).map_err(RequestError::Unsendable)?;
        self.prepared = Some((statements.to_owned(), bound));
        Ok(())
    }

    /// Runs the statements that were made ready.
    pub(crate) async fn run(&mut self, deadline: Instant) -> Result<Rows, RequestError> {
        let nothing = || RequestError::Unsendable("nothing was made ready".to_owned());
        let (statements, bound) = self.prepared.take().ok_or_else(nothing)?;
        self.usable = false;
        let running = self.database.query(statements).bind(bound);
        let answered = timeout_at(deadline, running).await;
        let answered = answered.map_err(|_| RequestError::Lost("no answer in time".to_owned()))?;
        self.usable = true;
        match answered {
            Ok(answer) => rows(answer).map_err(RequestError::Lost),
            Err(error) => Err(RequestError::Fault(fault(error))),
        }
    }
}

fn rows(mut answer: IndexedResults) -> Result<Rows, String> {
    let count = answer.num_statements();
    let one = |index| match answer.take::<Value>(index) {
        Ok(value) => Ok(Ok(from_engine(value)?)),
        Err(error) => Ok(Err(fault(error))),
    };
    (0..count).map(one).collect()
}

/// An error as a server would send it.
fn fault(error: Error) -> Fault {
    let message = error.message().to_owned();
    let sent = from_engine(error.into_value())
        .unwrap_or_else(|_| crate::value::object([("message", Cbor::Text(message))]));
    Fault::read(&sent)
}

fn into_engine(value: &Cbor) -> Result<Value, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| error.to_string())?;
    cbor::decode(&bytes, DEPTH_MAX).map_err(|error| error.to_string())
}

fn from_engine(value: Value) -> Result<Cbor, String> {
    let bytes = cbor::encode(value).map_err(|error| error.to_string())?;
    ciborium::from_reader(bytes.as_slice()).map_err(|error| error.to_string())
}
