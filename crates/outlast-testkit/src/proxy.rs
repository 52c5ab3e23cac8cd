//! [`Proxy`]: stands between a client and any TCP server, and breaks the connection in chosen ways.
//!
//! It counts every fault that it causes, so that a test can prove that the fault which it is about has happened.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CHUNK_BYTES: usize = 64 * 1024;

/// What becomes of connections and bytes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// All goes through.
    #[default]
    Pass,
    /// Nobody listens: connecting is refused. Open connections are cut.
    Refuse,
    /// Connections are accepted, but no byte goes through, either way. Open connections fall silent.
    BlackHole,
    /// Requests go through, answers are kept back until the mode changes: to `Pass`, which delivers them, or by
    /// [`Proxy::cut`], which drops them.
    HoldAnswers,
    /// Every chunk of bytes waits this long, either way.
    Delay(Duration),
}

/// How often each fault has happened.
#[derive(Debug, Default)]
pub struct Faults {
    /// Connections that were cut: by [`Proxy::cut`], [`Proxy::cut_before_answer`] or `Refuse`, or because the server
    /// could not be reached.
    pub cut: AtomicU64,
    /// Chunks of a request that fell into the black hole.
    pub swallowed: AtomicU64,
    /// Chunks of answers that were kept back.
    pub held: AtomicU64,
    /// Chunks that were delayed.
    pub delayed: AtomicU64,
    /// Answers that were thrown away by a cut that waited for them: the server had the request.
    pub answers_dropped: AtomicU64,
}

impl Faults {
    /// The value of a counter.
    pub fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    /// The port is open.
    listening: watch::Sender<bool>,
    /// Raised by each cut: connections that began before it end.
    cuts: watch::Sender<u64>,
    /// Answers that are still to be waited for before cutting: chunks from the server to skip, then cut.
    cut_before_answer: Mutex<Option<u64>>,
    faults: Arc<Faults>,
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// A fault proxy in front of one server. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, in front of `upstream`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            mode: watch::Sender::new(Mode::Pass),
            listening: watch::Sender::new(true),
            cuts: watch::Sender::new(0),
            cut_before_answer: Mutex::new(None),
            faults: Arc::default(),
            connections: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, acceptor })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens from now on. When it returns, the port is closed (`Refuse`) or open (all others).
    pub async fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        // The sender lives as long as `shared`.
        let _ = self
            .shared
            .listening
            .subscribe()
            .wait_for(|listening| *listening == (mode != Mode::Refuse))
            .await;
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Another server for connections made from now on.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Cuts all open connections now. Answers that are kept back are lost.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts a connection in the moment when the next answer comes back from the server, and drops that answer: the
    /// server has done what was asked, and the client does not learn it. `skip` answers go through before.
    pub fn cut_before_answer(&self, skip: u64) {
        *self.shared.cut_before_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(skip);
    }

    /// What has happened so far.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes passed on to the server so far.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::SeqCst)
    }

    /// Bytes passed on to clients so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

/// Accepts while the mode is not `Refuse`; then there is no listener at all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut mode = shared.mode.subscribe();
    let mut listener = Some(listener);
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            // The port may be taken for a moment by a connection that is going away.
            listener = TcpListener::bind(address).await.ok();
        }
        shared.listening.send_replace(listener.is_some());
        let Some(open) = &listener else {
            if *mode.borrow() == Mode::Refuse {
                if mode.changed().await.is_err() {
                    return;
                }
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(client, Arc::clone(&shared)));
            },
            changed = mode.changed() => if changed.is_err() { return },
        }
    }
}

/// One connection, until either side or a cut ends it.
async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let _ = client.set_nodelay(true);
    let is_cut = tokio::select! {
        is_cut = pass(&mut client, &shared) => is_cut,
        _ = cuts.changed() => true,
    };
    if is_cut {
        // The client must see a reset and not an orderly end.
        let _ = client.set_zero_linger();
        shared.faults.cut.fetch_add(1, Ordering::SeqCst);
    }
}

/// Passes bytes both ways until a side ends; true when a cut was waiting for the answer that came.
async fn pass(client: &mut TcpStream, shared: &Shared) -> bool {
    wait_while(shared, |mode| mode == Mode::BlackHole, None).await;
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut server) = TcpStream::connect(upstream).await else { return true };
    let _ = server.set_nodelay(true);
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    tokio::select! {
        () = requests(client_read, server_write, shared) => false,
        is_cut = answers(server_read, client_write, shared) => is_cut,
    }
}

async fn requests(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        delay(shared).await;
        wait_while(shared, |mode| mode == Mode::BlackHole, Some(&shared.faults.swallowed)).await;
        let Some(part) = chunk.get(..bytes) else { return };
        if to.write_all(part).await.is_err() {
            return;
        }
        shared.to_server.fetch_add(bytes as u64, Ordering::SeqCst);
    }
}

/// True when it ended because of a cut that waited for this answer.
async fn answers(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) -> bool {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        let Some(part) = chunk.get(..bytes) else { return false };
        if must_cut(shared, part) {
            shared.faults.answers_dropped.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        delay(shared).await;
        let kept = |mode| matches!(mode, Mode::BlackHole | Mode::HoldAnswers);
        wait_while(shared, kept, Some(&shared.faults.held)).await;
        if to.write_all(part).await.is_err() {
            return false;
        }
        shared.to_client.fetch_add(bytes as u64, Ordering::SeqCst);
    }
    false
}

/// Whether this answer is the one to be cut at. A WebSocket ping (two bytes, opcode 9) answers nothing.
fn must_cut(shared: &Shared, part: &[u8]) -> bool {
    if part == [0x89, 0x00] {
        return false;
    }
    let mut left = shared.cut_before_answer.lock().unwrap_or_else(PoisonError::into_inner);
    match *left {
        Some(0) => {
            *left = None;
            true
        }
        Some(skip) => {
            *left = Some(skip - 1);
            false
        }
        None => false,
    }
}

async fn delay(shared: &Shared) {
    let mode = *shared.mode.borrow();
    if let Mode::Delay(time) = mode {
        shared.faults.delayed.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(time).await;
    }
}

/// Waits until the mode is another one, and counts once if it had to.
async fn wait_while(shared: &Shared, waits: impl Fn(Mode) -> bool, counter: Option<&AtomicU64>) {
    let mut mode = shared.mode.subscribe();
    if !waits(*mode.borrow_and_update()) {
        return;
    }
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::SeqCst);
    }
    // The sender lives as long as `shared`.
    let _ = mode.wait_for(|mode| !waits(*mode)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back each byte, plus one.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        let _ = stream.write_u8(byte + 1).await;
                    }
                });
            }
        });
        address
    }

    async fn ask(client: &mut TcpStream, byte: u8) -> io::Result<u8> {
        client.write_u8(byte).await?;
        client.read_u8().await
    }

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert_eq!((proxy.connections(), proxy.bytes_to_server(), proxy.bytes_to_client()), (1, 1, 1));
    }

    #[tokio::test]
    async fn refusing_closes_the_port_and_passing_opens_it_again() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        proxy.set(Mode::Refuse).await;
        assert!(ask(&mut client, 2).await.is_err());
        assert_eq!(Faults::count(&proxy.faults().cut), 1);
        assert!(TcpStream::connect(proxy.address()).await.is_err());
        proxy.set(Mode::Pass).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 3).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn held_answers_come_late_or_never() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(Mode::HoldAnswers).await;
        late.write_u8(1).await.unwrap();
        while Faults::count(&proxy.faults().held) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((proxy.bytes_to_server(), proxy.bytes_to_client()), (1, 0));
        proxy.set(Mode::Pass).await;
        assert_eq!(late.read_u8().await.unwrap(), 2);
        proxy.set(Mode::HoldAnswers).await;
        late.write_u8(3).await.unwrap();
        while Faults::count(&proxy.faults().held) == 1 {
            tokio::task::yield_now().await;
        }
        proxy.cut();
        assert!(late.read_u8().await.is_err());
        assert_eq!(proxy.bytes_to_client(), 1);
    }

    #[tokio::test]
    async fn a_black_hole_takes_requests_and_gives_nothing() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        proxy.set(Mode::BlackHole).await;
        client.write_u8(5).await.unwrap();
        while Faults::count(&proxy.faults().swallowed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(proxy.bytes_to_server(), 1);
        proxy.set(Mode::Pass).await;
        assert_eq!(client.read_u8().await.unwrap(), 6);
    }

    #[tokio::test]
    async fn a_cut_before_the_answer_lets_the_request_through() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.cut_before_answer(1);
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert!(ask(&mut client, 2).await.is_err());
        assert_eq!((proxy.bytes_to_server(), proxy.bytes_to_client()), (2, 1));
        assert_eq!(Faults::count(&proxy.faults().answers_dropped), 1);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2, "it cuts once");
    }

    #[tokio::test]
    async fn delayed_bytes_arrive() {
        let proxy = Proxy::start(server().await).await.unwrap();
        proxy.set(Mode::Delay(Duration::from_millis(1))).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert_eq!(Faults::count(&proxy.faults().delayed), 2);
    }
}
