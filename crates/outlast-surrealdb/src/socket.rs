//! One WebSocket connection to a server: one request at a time, each with a deadline, nothing sent twice.
//!
//! A connection is usable only between a complete answer and the next request. A time limit, a dropped future, a
//! socket error or a frame that makes no sense leaves it unusable: it is closed, so that nothing more can be sent or
//! half sent on it, and the next caller opens another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ciborium::Value as Cbor;
use futures_util::{SinkExt, StreamExt};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::address::{Address, Server};
use crate::connection::{ConnectError, RequestError, Rows};
use crate::fault::{Fault, Meaning};
use crate::value::{member, object, text};

/// Bytes that arrived while a connection was idle are read within this time, or it is not used again.
const LEFTOVERS_LIMIT: Duration = Duration::from_millis(100);
/// Largest answer: the server's own limit for a message.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Largest request: half the server's limit, and what older ones and proxies take.
pub(crate) const REQUEST_BYTES_MAX: usize = 60 << 20;

/// A signed-in connection that uses the namespace and database.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    address: Arc<Address>,
    level: Arc<AtomicUsize>,
    last_id: u64,
    /// The request that [`Socket::run`] sends next, with its id.
    prepared: Option<(u64, Bytes)>,
    /// The last request was answered completely.
    usable: bool,
}

impl Socket {
    /// Connects, signs in and chooses the database within `limit`. `level` remembers where the user was found.
    pub(crate) async fn open(
        address: &Arc<Address>,
        server: &Server,
        level: &Arc<AtomicUsize>,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + limit;
        let opening = upgraded(address, server);
        let socket = timeout_at(deadline, opening).await.map_err(|_| {
            ConnectError::Unavailable(format!("no connection to {address} within {limit:?}"))
        })??;
        let (address, level) = (Arc::clone(address), Arc::clone(level));
        let mut opened = Self { stream: socket, address, level, last_id: 0, prepared: None, usable: true };
        opened.begin_session(deadline).await?;
        Ok(opened)
    }

    /// Signs in and chooses the database.
    async fn begin_session(&mut self, deadline: Instant) -> Result<(), ConnectError> {
        let address = Arc::clone(&self.address);
        self.sign_in(&address, deadline).await?;
        let names = vec![text(address.namespace.as_str()), text(address.database.as_str())];
        match self.request("use", names, deadline).await {
            Ok(_) => Ok(()),
            Err(RequestError::Fault(fault)) => Err(ConnectError::Refused(format!(
                "the server does not let us use {address}: {}",
                fault.message
            ))),
            Err(error) => Err(ConnectError::Unavailable(error.into_message())),
        }
    }

    /// Tries the user at the level of the server, of the namespace and of the database; first where it was found before.
    async fn sign_in(&mut self, address: &Address, deadline: Instant) -> Result<(), ConnectError> {
        let Some((user, password)) = &address.user else { return Ok(()) };
        let scope = [("NS", text(address.namespace.as_str())), ("DB", text(address.database.as_str()))];
        let known = self.level.load(Ordering::Relaxed);
        let mut reason = String::new();
        for names in (0..=scope.len()).map(|turn| (known + turn) % (scope.len() + 1)) {
            let login = [("user", text(user.as_str())), ("pass", text(password.as_str()))];
            let members = object(login.into_iter().chain(scope.iter().take(names).cloned()));
            match self.request("signin", vec![members], deadline).await {
                Ok(_) => {
                    self.level.store(names, Ordering::Relaxed);
                    return Ok(());
                }
                Err(RequestError::Fault(fault)) => match fault.meaning() {
                    // A server that cannot look the user up has not refused it.
                    Meaning::Unavailable | Meaning::Unknown | Meaning::Conflict => {
                        return Err(ConnectError::Unavailable(format!("signing in: {}", fault.message)));
                    }
                    _ => reason = fault.message,
                },
                Err(error) => return Err(ConnectError::Unavailable(error.into_message())),
            }
        }
        Err(ConnectError::Refused(format!("the server refused the user \"{user}\" at {address}: {reason}")))
    }

    /// True when nothing is half done and the other side has not hung up meanwhile. The system is asked itself, since
    /// the runtime may not have noticed yet: a batch sent to a server that is gone would have an unknown outcome.
    pub(crate) async fn is_alive(&mut self) -> bool {
        let deadline = Instant::now() + LEFTOVERS_LIMIT;
        while self.usable {
            let Some(stream) = self.tcp() else { return false };
            match rustix::net::recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Err(Errno::WOULDBLOCK) => return true,
                // Bytes that nobody waits for: the server's pings, or a farewell.
                Ok((_, 1..)) => match timeout_at(deadline, self.stream.next()).await {
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                    _ => self.usable = false,
                },
                _ => self.usable = false,
            }
        }
        false
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self.stream.get_ref() {
            MaybeTlsStream::Plain(stream) => Some(stream),
            MaybeTlsStream::Rustls(stream) => Some(stream.get_ref().0),
            _ => None,
        }
    }

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
        self.prepared = Some(self.frame("query", vec![text(statements), named(values)])?);
        Ok(())
    }

    /// Runs the statements that were made ready.
    pub(crate) async fn run(&mut self, deadline: Instant) -> Result<Rows, RequestError> {
        let nothing = || RequestError::Unsendable("nothing was made ready".to_owned());
        let (id, frame) = self.prepared.take().ok_or_else(nothing)?;
        let answer = match self.exchange(id, frame.clone(), deadline).await {
            // The session was over (`DURATION FOR SESSION`): the server has looked at nothing, so that this is not a
            // second attempt but the first one, on a new session.
            Err(RequestError::Fault(fault)) if fault.meaning() == Meaning::Session => {
                self.begin_session(deadline).await.map_err(|_| RequestError::Fault(fault))?;
                self.exchange(id, frame, deadline).await?
            }
            answer => answer?,
        };
        let Cbor::Array(rows) = answer else {
            return Err(self.nonsense("the answer to a query is not a list"));
        };
        rows.into_iter().map(|row| self.row(row)).collect()
    }

    fn row(&mut self, row: Cbor) -> Result<Result<Cbor, Fault>, RequestError> {
        if member(&row, "status").and_then(Cbor::as_text) != Some("OK") {
            return Ok(Err(Fault::read(&row)));
        }
        let Cbor::Map(members) = row else { return Err(self.nonsense("a row is not an object")) };
        let result = members.into_iter().find(|(name, _)| name.as_text() == Some("result"));
        result.map(|(_, value)| Ok(value)).ok_or_else(|| self.nonsense("a row has no result"))
    }

    /// What the server says that it is.
    pub(crate) async fn version(&mut self, deadline: Instant) -> Result<String, RequestError> {
        let answer = self.request("version", Vec::new(), deadline).await?;
        Ok(answer.as_text().unwrap_or_default().to_owned())
    }

    fn nonsense(&mut self, what: &str) -> RequestError {
        self.usable = false;
        RequestError::Lost(format!("the server's answer makes no sense: {what}"))
    }

    async fn request(
        &mut self,
        method: &str,
        parameters: Vec<Cbor>,
        deadline: Instant,
    ) -> Result<Cbor, RequestError> {
        let (id, frame) = self.frame(method, parameters)?;
        self.exchange(id, frame, deadline).await
    }

    /// A request with an id of its own, as it goes over the wire.
    fn frame(&mut self, method: &str, parameters: Vec<Cbor>) -> Result<(u64, Bytes), RequestError> {
        self.last_id += 1;
        let frame = object([
            ("id", Cbor::Integer(self.last_id.into())),
            ("method", text(method)),
            ("params", Cbor::Array(parameters)),
        ]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&frame, &mut bytes)
            .map_err(|error| RequestError::Unsendable(error.to_string()))?;
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge(bytes.len()));
        }
        Ok((self.last_id, bytes.into()))
    }

    /// Sends a request and waits for its answer.
    async fn exchange(&mut self, id: u64, frame: Bytes, deadline: Instant) -> Result<Cbor, RequestError> {
        // From here on until the answer is complete nobody else may use the connection, also when this future is
        // dropped in the middle.
        self.usable = false;
        let answer = timeout_at(deadline, self.send(id, frame)).await;
        let answer = answer.map_err(|_| RequestError::Lost("no answer in time".to_owned()))??;
        self.usable = true;
        let Cbor::Map(members) = answer else { return Err(self.nonsense("it is not an object")) };
        for (name, value) in members {
            match name.as_text() {
                Some("result") => return Ok(value),
                Some("error") if value.is_map() => return Err(RequestError::Fault(Fault::read(&value))),
                _ => {}
            }
        }
        Err(self.nonsense("it has neither a result nor an error"))
    }

    async fn send(&mut self, id: u64, frame: Bytes) -> Result<Cbor, RequestError> {
        let lost = |reason: String| RequestError::Lost(format!("the connection was lost: {reason}"));
        self.stream.send(Message::Binary(frame)).await.map_err(|error| lost(error.to_string()))?;
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    let answer: Cbor =
                        ciborium::from_reader(bytes.as_ref()).map_err(|error| lost(error.to_string()))?;
                    match member(&answer, "id").and_then(Cbor::as_integer) {
                        Some(answered) if i128::from(answered) == i128::from(id) => return Ok(answer),
                        // A notification of a live query has no id; we start none, and need none.
                        None => {}
                        Some(_) => return Err(lost("an answer to another request".to_owned())),
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(reason))) => {
                    let reason = reason.map(|close| close.reason.to_string()).filter(|text| !text.is_empty());
                    return Err(lost(reason.unwrap_or_else(|| "the server closed it".to_owned())));
                }
                Some(Ok(_)) => return Err(lost("a frame that is not CBOR".to_owned())),
                Some(Err(error)) => return Err(lost(error.to_string())),
                None => return Err(lost("the server closed it".to_owned())),
            }
        }
    }
}

/// Connects, and upgrades the connection to a WebSocket.
async fn upgraded(
    address: &Address,
    server: &Server,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, ConnectError> {
    let unavailable =
        |error: &dyn std::fmt::Display| ConnectError::Unavailable(format!("{address}: {error}"));
    let scheme = if server.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}:{}/rpc", server.host, server.port);
    let mut request =
        url.into_client_request().map_err(|error| ConnectError::Refused(format!("{address}: {error}")))?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("cbor"));
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, server.port)).await.map_err(|error| unavailable(&error))?;
    // A request is one small frame that waits for its answer: Nagle's algorithm would only delay it.
    stream.set_nodelay(true).map_err(|error| unavailable(&error))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(ANSWER_BYTES_MAX))
        .max_frame_size(Some(ANSWER_BYTES_MAX));
    crate::tls::handshake(request, stream, config, server.tls).await.map_err(|error| unavailable(&error))
}

fn named(values: Vec<(String, Cbor)>) -> Cbor {
    Cbor::Map(values.into_iter().map(|(name, value)| (Cbor::Text(name), value)).collect())
}
