//! The engine of SurrealDB 2.x behind the parts of its server that the tests of Outlast use: `GET /health`, `POST /sql`
//! and the methods of `/rpc` in CBOR over a WebSocket. Engine, methods and encoding are upstream's; sockets and HTTP are
//! axum's. Called like `surreal start`.

// The engine's futures nest deeply: optimising them asks for more than the default.
#![recursion_limit = "256"]

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use surrealdb_core::dbs::{Capabilities, Session};
use surrealdb_core::iam::verify;
use surrealdb_core::kvs::Datastore;
use surrealdb_core::rpc::format::cbor;
use surrealdb_core::rpc::{Data, RpcContext, RpcError, RpcProtocolV1, RpcProtocolV2};
use surrealdb_core::sql::{Object, Value};
use tokio::sync::Semaphore;

/// Largest message, as in the server.
const MESSAGE_BYTES_MAX: usize = 128 << 20;

/// What `surreal start` is told.
#[derive(Default)]
struct Arguments {
    bind: String,
    user: String,
    pass: String,
    path: String,
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let mut read = Self::default();
        let mut rest = std::env::args().skip(1);
        if rest.next().as_deref() != Some("start") {
            return Err(
                "usage: surreal2 start --user USER --pass PASSWORD --bind ADDRESS memory|surrealkv://PATH"
                    .into(),
            );
        }
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--no-banner" => {}
                "--log" => drop(value()?),
                "--bind" => read.bind = value()?,
                "--user" => read.user = value()?,
                "--pass" => read.pass = value()?,
                _ if argument.starts_with('-') => return Err(format!("{argument} is not known here")),
                _ => read.path = argument,
            }
        }
        Ok(read)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::read()?;
    let store = Datastore::new(&arguments.path).await?;
    let store = store.with_auth_enabled(true).with_capabilities(Capabilities::all());
    store.check_version().await?;
    store.initialise_credentials(&arguments.user, &arguments.pass).await?;
    store.bootstrap().await?;
    let routes = Router::new()
        .route("/health", get(async || StatusCode::OK))
        .route("/sql", post(sql))
        .route("/rpc", get(rpc))
        .layer(axum::extract::DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .with_state(Arc::new(store));
    let listener = tokio::net::TcpListener::bind(&arguments.bind).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}

/// Statements as root, with the answers as JSON.
async fn sql(
    State(store): State<Arc<Datastore>>,
    headers: HeaderMap,
    statements: String,
) -> Result<String, (StatusCode, String)> {
    let refused = |status, error: &dyn std::fmt::Display| (status, error.to_string());
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut session = Session::default();
    let login = header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let login = login.and_then(|login| String::from_utf8(STANDARD.decode(login).ok()?).ok());
    let (user, pass) = login.as_deref().and_then(|login| login.split_once(':')).unwrap_or_default();
    verify::basic(&store, &mut session, user, pass, None, None)
        .await
        .map_err(|error| refused(StatusCode::UNAUTHORIZED, &error))?;
    session.ns = header("surreal-ns").map(str::to_owned);
    session.db = header("surreal-db").map(str::to_owned);
    let answers = store.execute(&statements, &session, None).await;
    let answers = answers.map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?;
    let answers = Value::try_from(Data::Query(answers));
    let answers = answers.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    Ok(answers.into_json().to_string())
}

async fn rpc(State(store): State<Arc<Datastore>>, upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade.protocols(["cbor"]);
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    upgrade.on_upgrade(move |socket| Connection::new(store).serve(socket))
}

/// One client's session.
struct Connection {
    store: Arc<Datastore>,
    session: Mutex<Arc<Session>>,
    lock: Arc<Semaphore>,
}

impl Connection {
    fn new(store: Arc<Datastore>) -> Self {
        Self { store, session: Mutex::default(), lock: Arc::new(Semaphore::new(1)) }
    }

    async fn serve(self, mut socket: WebSocket) {
        while let Some(Ok(message)) = socket.recv().await {
            let Message::Binary(bytes) = message else { continue };
            let Ok(answer) = cbor::res(self.answer(bytes).await) else { return };
            if socket.send(Message::Binary(answer.into())).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, bytes: Bytes) -> Value {
        let (id, result) = match cbor::req(bytes.to_vec()) {
            Ok(request) => {
                let result = RpcContext::execute(self, request.version, request.method, request.params).await;
                (request.id, result.and_then(|data| Ok(Value::try_from(data)?)))
            }
            Err(error) => (None, Err(error)),
        };
        let mut members = Object::default();
        if let Some(id) = id {
            members.insert("id".to_owned(), id);
        }
        match result {
            Ok(value) => members.insert("result".to_owned(), value),
            Err(error) => members.insert("error".to_owned(), failure(&error)),
        };
        members.into()
    }
}

/// As the server puts it.
fn failure(error: &RpcError) -> Value {
    let code = match error {
        RpcError::ParseError => -32700,
        RpcError::InvalidRequest => -32600,
        RpcError::MethodNotFound => -32601,
        RpcError::MethodNotAllowed => -32602,
        RpcError::InvalidParams => -32603,
        _ => -32000,
    };
    let mut members = Object::default();
    members.insert("code".to_owned(), Value::from(code));
    members.insert("message".to_owned(), Value::from(error.to_string()));
    members.into()
}

impl RpcContext for Connection {
    fn kvs(&self) -> &Datastore {
        &self.store
    }

    fn lock(&self) -> Arc<Semaphore> {
        Arc::clone(&self.lock)
    }

    fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_session(&self, session: Arc<Session>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    fn version_data(&self) -> Data {
        Value::from(format!("surrealdb-{}", surrealdb_core::env::VERSION)).into()
    }
}

impl RpcProtocolV1 for Connection {}
impl RpcProtocolV2 for Connection {}
