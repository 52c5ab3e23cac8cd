//! [`Wire`]: bytes to and from a server, with or without TLS, and the messages in them.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::frontend;
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::address::Host;
use crate::connection::ConnectError;
use crate::flight::{ANSWER_BYTES_MAX, Heard};
use crate::tls;

/// A peer that vanished is noticed while nothing is under way: first question, interval, and how many without answer.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// Bytes to and from a server.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream with what was read of it and not looked at yet.
pub(crate) struct Wire {
    stream: Stream,
    input: BytesMut,
}

impl Wire {
    /// Connects. `tcp_user_timeout`: how long the other side may leave bytes unacknowledged.
    pub(crate) async fn connect(
        host: &Host,
        tls: bool,
        tcp_user_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let unavailable = |error: std::io::Error| ConnectError::Unavailable(error.to_string());
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await.map_err(unavailable)?;
        set_options(&stream, tcp_user_timeout).map_err(unavailable)?;
        let wire = Self { stream: Stream::Plain(stream), input: BytesMut::new() };
        if tls { wire.into_tls(&host.name).await } else { Ok(wire) }
    }

    /// What binds a login to this connection, if it goes through TLS.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => tls::end_point(stream),
        }
    }

    /// True when nothing was received that nobody has looked at, and the other side has not hung up. The system is
    /// asked itself, since the runtime may not have noticed yet.
    pub(crate) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let waiting = rustix::net::recv(self.stream.below(), &mut [0_u8; 1], flags);
        self.input.is_empty() && waiting.err() == Some(Errno::WOULDBLOCK)
    }

    /// Asks for TLS, as PostgreSQL does: in the open, before anything else.
    async fn into_tls(mut self, host: &str) -> Result<Self, ConnectError> {
        let unavailable = |error: std::io::Error| ConnectError::Unavailable(error.to_string());
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        self.send(&request).await.map_err(unavailable)?;
        let mut answer = [0_u8; 1];
        // One byte and no more: what somebody else put behind it must not be taken for the server's.
        self.stream.read_exact(&mut answer).await.map_err(unavailable)?;
        let Stream::Plain(stream) = self.stream else { return Ok(self) };
        if answer != *b"S" {
            return Err(ConnectError::Refused("the server does not speak TLS".to_owned()));
        }
        let stream = tls::handshake(host, stream).await.map_err(ConnectError::Unavailable)?;
        Ok(Self { stream: Stream::Tls(Box::new(stream)), input: BytesMut::new() })
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next message.
    pub(crate) async fn receive(&mut self) -> Result<Message, String> {
        loop {
            if let Some(message) = next_message(&mut self.input)? {
                return Ok(message);
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err("the server closed it".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Sends bytes and listens meanwhile, since a server that cannot send its answers stops reading. Counts what left.
    pub(crate) async fn exchange(
        &mut self,
        bytes: &[u8],
        sent: &AtomicUsize,
        heard: &mut Heard,
    ) -> Result<u8, String> {
        let Self { stream, input } = self;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = async {
            let mut rest = bytes;
            while !rest.is_empty() {
                let some = writer.write(rest).await?;
                if some == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::WriteZero));
                }
                sent.fetch_add(some, Ordering::Relaxed);
                rest = rest.get(some..).unwrap_or_default();
            }
            writer.flush().await
        };
        tokio::pin!(writing);
        let mut written = false;
        loop {
            while let Some(message) = next_message(input)? {
                if let Some(status) = heard.take(message)? {
                    let done = written && input.is_empty();
                    return done.then_some(status).ok_or_else(|| "an answer out of turn".to_owned());
                }
            }
            tokio::select! {
                biased;
                result = &mut writing, if !written => {
                    result.map_err(|error| error.to_string())?;
                    written = true;
                }
                read = reader.read_buf(input) => match read {
                    Ok(0) => return Err("the server closed it".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                },
            }
        }
    }
}

/// The next whole message in the bytes read so far. A length that makes no sense reserves no memory.
fn next_message(input: &mut BytesMut) -> Result<Option<Message>, String> {
    let header = Header::parse(input).map_err(|error| error.to_string())?;
    if header
        .is_some_and(|header| usize::try_from(header.len()).is_ok_and(|length| length > ANSWER_BYTES_MAX))
    {
        return Err(format!("a message of more than {ANSWER_BYTES_MAX} bytes"));
    }
    Message::parse(input).map_err(|error| error.to_string())
}

fn set_options(stream: &TcpStream, tcp_user_timeout: Duration) -> std::io::Result<()> {
    // A flight waits for its answer: Nagle's algorithm would only delay it.
    stream.set_nodelay(true)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    // While something is under way it is this that notices; elsewhere than on Linux, our own time limits.
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, u32::try_from(tcp_user_timeout.as_millis()).unwrap_or(u32::MAX))?;
    #[cfg(not(target_os = "linux"))]
    let _ = tcp_user_timeout;
    Ok(())
}

impl Stream {
    /// The TCP connection.
    fn below(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a server that vanishes while a batch is under way is noticed by the request's deadline only.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_asks_the_system_to_notice_a_peer_that_vanished() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = Host { name: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let wire = Wire::connect(&host, false, Duration::from_millis(12_345)).await.unwrap();
        let stream = wire.stream.below();
        assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), 12_345);
        let (idle, interval, count) = KEEPALIVE;
        assert!(sockopt::socket_keepalive(stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(stream).unwrap(), idle);
        assert_eq!(sockopt::tcp_keepintvl(stream).unwrap(), interval);
        assert_eq!(sockopt::tcp_keepcnt(stream).unwrap(), count);
    }
}
