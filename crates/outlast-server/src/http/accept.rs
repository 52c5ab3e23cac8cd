//! The accept loop: limits of time, size and number on every connection, and a graceful end.

use std::fmt::Write as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use http::{Request, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use super::app::App;
use super::framing;
use super::history;
use super::problem::{Problem, TOO_MANY_CONNECTIONS};
use super::router::{refuse, router};
use super::timed::{Limits, Notes, Timed, Turn};
use super::tls::Tls;

/// Largest head of a request. A larger one gets 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most header fields. More get 431.
const HEADERS_MAX: usize = 100;
/// How many connections beyond the limit are told so at once; further ones are just closed.
const TURNED_AWAY_MAX: usize = 64;
/// Pause after an accept that failed for want of file descriptors or memory: they do not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` resolves, then lets requests under way finish for at most `server.shutdown_deadline`. With `tls`
/// nothing else is spoken.
///
/// Returns how many connections had to be cut at the deadline.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    stop: impl Future<Output = ()>,
) -> usize {
    let server = Arc::new(Server::new(Arc::clone(&app), tls));
    let graceful = GracefulShutdown::new();
    tokio::spawn(history::keep(Arc::clone(&app)));
    let mut stop = pin!(stop);
    let mut failing = false;
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    server.take(stream, &graceful);
                }
                Err(error) => {
                    // One line when it begins, not ten a second.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    app.stop();
    let open = graceful.count();
    let deadline = app.server.shutdown_deadline;
    tracing::info!(
        event = "closing",
        connections = open,
        deadline_seconds = deadline.as_secs(),
        "no longer listening"
    );
    let watching = Arc::clone(&server);
    let closing = async {
        graceful.shutdown().await;
        // A run ends where it is; what came of it is noted first.
        app.runs.ended().await;
    };
    if tokio::time::timeout(deadline, closing).await.is_ok() {
        return 0;
    }
    watching.open()
}

struct Server {
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    router: Router,
    http: http1::Builder,
    connections: Arc<Semaphore>,
    connections_max: usize,
    turned_away: Arc<Semaphore>,
    limits: Limits,
}

impl Server {
    fn new(app: Arc<App>, tls: Option<Arc<Tls>>) -> Self {
        let connections_max = usize::try_from(app.server.max_connections).unwrap_or(Semaphore::MAX_PERMITS);
        let limits = Limits { header: app.server.header_timeout, idle: app.server.idle_timeout };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            // Timed does this with fewer timers.
            .header_read_timeout(None)
            .keep_alive(true)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            // No pipeline_flush: it holds an answer back as long as bytes of another request wait to be read.
            .max_buf_size(2 * HEAD_BYTES_MAX);
        Self {
            router: router(Arc::clone(&app)),
            app,
            tls,
            http,
            connections: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            limits,
        }
    }

    fn open(&self) -> usize {
        self.connections_max - self.connections.available_permits()
    }

    fn take(self: &Arc<Self>, stream: TcpStream, graceful: &GracefulShutdown) {
        // Small answers must not wait for more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the connection is gone already");
            return;
        }
        match Arc::clone(&self.connections).try_acquire_owned() {
            Ok(permit) => {
                let connection = Arc::clone(self).begin(stream, permit, graceful.watcher());
                tokio::spawn(connection);
            }
            // Over TLS saying so would take a handshake: it is only closed.
            Err(_) if self.tls.is_some() => {}
            Err(_) => {
                if let Ok(permit) = Arc::clone(&self.turned_away).try_acquire_owned() {
                    tokio::spawn(turn_away(stream, permit));
                }
            }
        }
    }

    /// Agrees on TLS first, if the server speaks it, within the time for a head.
    async fn begin(self: Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit, watcher: Watcher) {
        let Some(tls) = &self.tls else { return self.connection(stream, permit, watcher).await };
        let agreeing = tokio::time::timeout(self.limits.header, tls.acceptor().accept(stream));
        let agreed = tokio::select! {
            agreed = agreeing => agreed,
            () = self.app.stopped() => return,
        };
        match agreed {
            Ok(Ok(stream)) => self.connection(stream, permit, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "a connection did not come to TLS"),
            Err(_) => tracing::debug!("a connection was cut: its peer took too long over TLS"),
        }
    }

    async fn connection<S>(self: Arc<Self>, stream: S, permit: OwnedSemaphorePermit, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let notes = Notes::new();
        let io = TokioIo::new(Timed::new(stream, notes.clone()));
        let (router, noting, app) = (self.router.clone(), notes.clone(), Arc::clone(&self.app));
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let turn = noting.begin();
            let is_last = framing::is_last(&request);
            let answering = match framing::refusal(&request) {
                Some(problem) => Err(refuse(&app, request.method(), problem)),
                None => Ok(router.clone().call(request)),
            };
            async move {
                let response = match answering {
                    Ok(answering) => answering.await?,
                    Err(refused) => refused,
                };
                let response = if is_last { framing::last(response) } else { response };
                Ok::<_, std::convert::Infallible>(finish(response, turn))
            }
        });
        let connection = watcher.watch(self.http.serve_connection(io, service));
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            },
            () = notes.watch(self.limits) => tracing::debug!("a connection was cut: its peer took too long"),
        }
        drop(permit);
    }
}

/// The request ends with its answer, or with the end of its stream.
fn finish(response: Response, turn: Turn) -> Response {
    if response.body().size_hint().exact().is_some() {
        drop(turn);
        return response;
    }
    response.map(|body| Body::new(Streamed { body, _turn: turn }))
}

/// A body without a known length: its request lasts as long as it does.
struct Streamed {
    body: Body,
    _turn: Turn,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Says why in full before closing: a connection that just ends looks like a crash.
async fn turn_away(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let problem = Problem::new(TOO_MANY_CONNECTIONS, "all of server.max_connections are open");
    let (parts, body) =
        problem.retry_after(Duration::from_secs(fastrand::u64(1..=3))).into_response().into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status);
    for (name, value) in &parts.headers {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    let length = (header::CONTENT_LENGTH, body.len());
    let _ = write!(head, "{}: {}\r\n{}: close\r\n\r\n", length.0, length.1, header::CONNECTION);
    let answering = async {
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the answer with it.
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), answering).await;
    drop(permit);
}
