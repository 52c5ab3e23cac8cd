//! [`Pool`]: connections that wait for their next use, and a bound on how many there are.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::address::Address;
use crate::connection::{ConnectError, Connection};

/// An idle connection that nobody listens to piles up the server's pings: it is not used again after this time.
const IDLE_MAX: Duration = Duration::from_mins(1);

type Idle = Arc<Mutex<Vec<(Connection, Instant)>>>;

/// A bounded number of connections to one database.
pub(crate) struct Pool {
    address: Arc<Address>,
    connect_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Idle,
    /// Where the user was found: how many names its sign-in needs.
    level: Arc<AtomicUsize>,
}

/// A connection out of a pool. It goes back when it is dropped, if it is usable then; otherwise it is closed.
pub(crate) struct Pooled {
    connection: Option<Connection>,
    idle: Idle,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// At most `connections_max` connections at a time.
    pub(crate) fn new(address: Arc<Address>, connect_timeout: Duration, connections_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        Self { address, connect_timeout, permits, idle: Idle::default(), level: Arc::default() }
    }

    /// An idle connection that is still alive, or a new one.
    pub(crate) async fn take(&self, deadline: Instant) -> Result<Pooled, ConnectError> {
        let waiting = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = waiting
            .map_err(|_| ConnectError::Unavailable("all connections to the database are busy".to_owned()))?
            .expect("the semaphore is never closed");
        while let Some((mut connection, since)) = self.pop_idle() {
            if since.elapsed() < IDLE_MAX && connection.is_alive().await {
                return Ok(self.pooled(connection, permit));
            }
        }
        let limit = self.connect_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let connection = Connection::open(&self.address, &self.level, limit).await?;
        Ok(self.pooled(connection, permit))
    }

    fn pop_idle(&self) -> Option<(Connection, Instant)> {
        lock(&self.idle).pop()
    }

    fn pooled(&self, connection: Connection, permit: OwnedSemaphorePermit) -> Pooled {
        Pooled { connection: Some(connection), idle: Arc::clone(&self.idle), _permit: permit }
    }

    /// Closes the idle connections.
    pub(crate) fn close_idle(&self) {
        lock(&self.idle).clear();
    }
}

/// Nothing can panic while the lock is held; a poisoned list would still be a list.
fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<(Connection, Instant)>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only dropping takes the connection out")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only dropping takes the connection out")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.is_usable()
        {
            lock(&self.idle).push((connection, Instant::now()));
        }
    }
}
