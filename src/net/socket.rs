//! The socket under a connection: TCP, or a Unix socket from a proxy on the same machine.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! either {
    ($self:expr, $s:ident => $e:expr) => {
        match $self {
            Socket::Tcp($s) => $e,
            Socket::Unix($s) => $e,
        }
    };
}

impl Socket {
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, s => s.try_write(bytes))
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, s => s.try_write_vectored(slices))
    }

    /// What the kernel takes and has not sent yet, in bytes. Without a limit it takes megabytes for
    /// one who does not read, out of sight of every other limit (tcp(7), TCP_NOTSENT_LOWAT).
    pub fn set_unsent_limit(&self, bytes: u32) {
        if let Socket::Tcp(stream) = self
            && let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(bytes)
        {
            tracing::debug!("a socket keeps its own limit of unsent bytes: {error}");
        }
    }

    /// One task at a time may wait: the connection's own.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_write_ready(cx))
    }

    /// The first byte that waits, without taking it; 0 where the peer has closed.
    pub async fn peek_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let taken = match self {
            Socket::Tcp(s) => s.peek(&mut byte).await?,
            // Only TLS listeners look ahead, and those are TCP.
            Socket::Unix(_) => return Ok(None),
        };
        Ok((taken == 1).then_some(byte[0]))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}
