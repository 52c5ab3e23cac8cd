//! [`Proxy`]: stands between the drill's server and a database server, and takes that away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A port of this machine behind which a database server seems to be. It ends, with its connections, when it is dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    cut: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `HOST:PORT`, which must answer now.
    pub(super) async fn start(upstream: String) -> io::Result<Self> {
        TcpStream::connect(&upstream).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, open, cut) =
            (listener.local_addr()?, watch::Sender::new(true), Arc::<AtomicU64>::default());
        let accepting = tokio::spawn(accept(listener, upstream, open.subscribe(), Arc::clone(&cut)));
        Ok(Self { address, open, cut, accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections through from now on, or cuts all of them and every new one.
    pub(super) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// How many connections were cut so far.
    pub(super) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set_open(false);
    }
}

async fn accept(listener: TcpListener, upstream: String, open: watch::Receiver<bool>, cut: Arc<AtomicU64>) {
    loop {
        // An error is that of one connection, which is gone before it was accepted.
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, upstream.clone(), open.clone(), Arc::clone(&cut)));
        }
    }
}

/// One connection, until either side ends it or it is cut.
async fn pass(mut client: TcpStream, upstream: String, mut open: watch::Receiver<bool>, cut: Arc<AtomicU64>) {
    let passing = async {
        let mut server = TcpStream::connect(upstream).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    let closed = tokio::select! {
        biased;
        // The sender is gone only when the drill is over.
        _ = open.wait_for(|open| !open) => true,
        _ = passing => false,
    };
    if closed {
        // As when a server dies: a reset, not an orderly end.
        let _ = client.set_zero_linger();
        cut.fetch_add(1, Ordering::Relaxed);
    }
}
