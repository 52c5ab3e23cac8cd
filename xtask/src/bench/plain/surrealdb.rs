//! SurrealDB over the protocol that the adapter speaks.

use ciborium::Value as Cbor;
use futures_util::{SinkExt, StreamExt};
use outlast::{Document, RecordId};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::place::NAMESPACE;
use super::Row;
use crate::Result;

/// SurrealDB's CBOR tag of a record id.
const TAG_RECORD: u64 = 8;

/// A connection for each caller, over the protocol that the adapter speaks.
pub(crate) struct PlainSurreal(Vec<tokio::sync::Mutex<Socket>>);

impl PlainSurreal {
    /// So many connections to a database with this name.
    pub(super) async fn open(port: u16, name: &str, connections: usize) -> Result<Self> {
        let mut sockets = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut socket = Socket::connect(port).await?;
            socket.prepare(name).await?;
            sockets.push(tokio::sync::Mutex::new(socket));
        }
        Ok(Self(sockets))
    }

    /// One CREATE in a request of its own.
    pub(crate) async fn create(&self, caller: usize, document: &Document) -> Result<()> {
        let id = Cbor::Array(vec!["bench".into(), RecordId::generate().as_str().into()]);
        let values =
            vec![("id".into(), Cbor::Tag(TAG_RECORD, Box::new(id))), ("data".into(), content(document))];
        let mut socket = self.0[caller].lock().await;
        socket.query("CREATE $id CONTENT $data RETURN NONE", values).await
    }

    /// All of them by one INSERT of an array, and the position, in one transaction.
    pub(super) async fn bulk(&self, rows: &[Row], position: u64) -> Result<()> {
        let values = vec![
            ("rows".into(), Cbor::Array(rows.iter().map(row).collect())),
            ("at".into(), position.into()),
        ];
        let statements = "BEGIN; INSERT INTO bench $rows RETURN NONE; \
             UPSERT bench_position:bulk SET sequence = $at RETURN NONE; COMMIT";
        self.0[0].lock().await.query(statements, values).await
    }
}

/// A row as a record of its own, with its id among the members.
fn row((id, document): &Row) -> Cbor {
    let mut record = content(document);
    if let Some(members) = record.as_map_mut() {
        members.push(("id".into(), id.as_str().into()));
    }
    record
}

/// The members of a flat document, as the server's numbers and texts.
fn content(document: &Document) -> Cbor {
    let member = |(name, value): (String, Json)| {
        let value = match value {
            Json::String(text) => Cbor::Text(text),
            Json::Bool(flag) => Cbor::Bool(flag),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Cbor::Integer(integer.into()),
                None => number.as_f64().map_or(Cbor::Null, Cbor::Float),
            },
            Json::Null | Json::Array(_) | Json::Object(_) => Cbor::Null,
        };
        (Cbor::Text(name), value)
    };
    Cbor::Map(document.to_map().into_iter().map(member).collect())
}

/// A connection to a SurrealDB server.
struct Socket {
    socket: WebSocketStream<TcpStream>,
    last_id: u64,
}

impl Socket {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://127.0.0.1:{port}/rpc").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("cbor"));
        let (socket, _) = client_async(request, stream).await?;
        Ok(Self { socket, last_id: 0 })
    }

    async fn prepare(&mut self, name: &str) -> Result<()> {
        let login = Cbor::Map(vec![("user".into(), "root".into()), ("pass".into(), "root".into())]);
        self.request("signin", vec![login]).await?;
        self.query(&format!("DEFINE NAMESPACE IF NOT EXISTS {NAMESPACE}"), Vec::new()).await?;
        self.request("use", vec![NAMESPACE.into(), Cbor::Null]).await?;
        self.query(&format!("DEFINE DATABASE IF NOT EXISTS {name}"), Vec::new()).await?;
        self.request("use", vec![NAMESPACE.into(), name.into()]).await?;
        self.query("DEFINE TABLE IF NOT EXISTS bench SCHEMALESS; DEFINE TABLE IF NOT EXISTS bench_position SCHEMALESS", Vec::new()).await
    }

    /// Statements that must succeed.
    async fn query(&mut self, statements: &str, values: Vec<(Cbor, Cbor)>) -> Result<()> {
        let answer = self.request("query", vec![statements.into(), Cbor::Map(values)]).await?;
        let rows = answer.as_array().ok_or("the answer to a query is not a list")?;
        for row in rows {
            if member(row, "status").and_then(Cbor::as_text) != Some("OK") {
                return Err(format!("{statements}: {row:?}").into());
            }
        }
        Ok(())
    }

    async fn request(&mut self, method: &str, parameters: Vec<Cbor>) -> Result<Cbor> {
        self.last_id += 1;
        let frame = Cbor::Map(vec![
            ("id".into(), self.last_id.into()),
            ("method".into(), method.into()),
            ("params".into(), Cbor::Array(parameters)),
        ]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&frame, &mut bytes)?;
        self.socket.send(Message::Binary(bytes.into())).await?;
        loop {
            match self.socket.next().await.ok_or("the server closed the connection")?? {
                Message::Binary(bytes) => {
                    let answer: Cbor = ciborium::from_reader(bytes.as_ref())?;
                    let result = member(&answer, "result").cloned();
                    return result.ok_or_else(|| format!("{method}: {answer:?}").into());
                }
                Message::Close(reason) => {
                    return Err(format!("the server closed the connection: {reason:?}").into());
                }
                _ => {}
            }
        }
    }
}

fn member<'a>(object: &'a Cbor, name: &str) -> Option<&'a Cbor> {
    object.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}
