//! Fewer and larger reads and writes on a TCP connection.
//!
//! What lies above moves data in small steps: yamux flushes after every frame of 16 KiB, and Noise reads 8 KiB at a time.
//! Each step is a system call, and on the other side a wake-up. Here small writes wait for more until the connection
//! turns to reading, which it does as soon as it has nothing left to send; so nothing waits longer than that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

use crate::base::limit::CORK_BYTES;

/// A connection whose reads and writes are gathered, up to [`CORK_BYTES`] each way.
///
/// A flush alone sends nothing: it takes a read, a full buffer or the end. Every protocol here reads after it has written.
pub(super) struct Corked<T> {
    io: T,
    /// What came and was not yet read begins at `read`. No memory is held while nothing is there.
    came: Vec<u8>,
    read: usize,
    /// What is to go and was not yet sent begins at `sent`.
    going: Vec<u8>,
    sent: usize,
    /// Set when something came.
    ear: Option<Arc<AtomicBool>>,
}

impl<T> Corked<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, came: Vec::new(), read: 0, going: Vec::new(), sent: 0, ear: None }
    }

    /// Sets `ear` as soon as something came.
    pub(super) fn heard_by(self, ear: Option<Arc<AtomicBool>>) -> Self {
        Self { ear, ..self }
    }
}

impl<T: AsyncWrite + Unpin> Corked<T> {
    /// Sends what is to go.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.going.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.going[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        (self.going, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.read == this.came.len() {
            if let Poll::Ready(Err(error)) = this.send(cx) {
                return Poll::Ready(Err(error));
            }
            (this.came, this.read) = (Vec::new(), 0);
            let mut came = vec![0; CORK_BYTES];
            let n = ready!(Pin::new(&mut this.io).poll_read(cx, &mut came))?;
            came.truncate(n);
            this.came = came;
            if let Some(ear) = this.ear.take() {
                ear.store(true, Ordering::Relaxed);
            }
        }
        let n = buffer.len().min(this.came.len() - this.read);
        buffer[..n].copy_from_slice(&this.came[this.read..this.read + n]);
        this.read += n;
        Poll::Ready(Ok(n))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.going.len() == CORK_BYTES {
            ready!(self.send(cx))?;
        }
        if self.going.is_empty() {
            self.going.reserve_exact(CORK_BYTES);
        }
        let n = bytes.len().min(CORK_BYTES - self.going.len());
        self.going.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.going.len() == CORK_BYTES { self.send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
    use libp2p::tcp::tokio::TcpStream;
    use std::time::Duration;

    /// Keeps what is sent, as it was sent; nothing ever comes.
    #[derive(Default)]
    struct Line {
        sent: Vec<Vec<u8>>,
        closed: bool,
    }

    impl AsyncRead for Line {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Line {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.sent.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn write(corked: &mut Corked<Line>, bytes: &[u8]) {
        block_on(async {
            corked.write_all(bytes).await.unwrap();
            corked.flush().await.unwrap();
        });
    }

    #[test]
    fn small_writes_go_together_when_nothing_is_left_to_read() {
        let mut corked = Corked::new(Line::default());
        for part in [b"one", b"two", b"six"] {
            write(&mut corked, part);
        }
        assert!(corked.io.sent.is_empty());
        assert!(corked.read(&mut [0; 8]).now_or_never().is_none());
        assert_eq!(corked.io.sent, [b"onetwosix"]);
    }

    #[test]
    fn a_full_buffer_goes_without_a_read_and_the_end_sends_the_rest() {
        let mut corked = Corked::new(Line::default());
        write(&mut corked, &vec![7; CORK_BYTES]);
        write(&mut corked, &[8; 10]);
        assert_eq!(corked.io.sent, [vec![7; CORK_BYTES]]);
        block_on(corked.close()).unwrap();
        assert_eq!(corked.io.sent[1..], [vec![8; 10]]);
        assert!(corked.io.closed);
    }

    /// Two ends that write, flush and then wait for each other's answer, over a real connection.
    #[tokio::test]
    async fn whoever_waits_for_an_answer_gets_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            let mut end = Corked::new(TcpStream(listener.accept().await.unwrap().0));
            let mut bytes = vec![0; 100_000];
            loop {
                match end.read(&mut bytes).await.unwrap() {
                    0 => return end.close().await.unwrap(),
                    n => end.write_all(&bytes[..n]).await.unwrap(),
                }
                end.flush().await.unwrap();
            }
        });
        let (mut answers, mut asks) =
            Corked::new(TcpStream(tokio::net::TcpStream::connect(address).await.unwrap())).split();
        let talk = async {
            for length in [1, 100, 8191, 65_535, 65_536, 65_537, 1 << 20, 3, 200_000, 5_000_000, 1] {
                let piece: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
                let mut answer = vec![0; piece.len()];
                let ask = async {
                    for part in piece.chunks(16 << 10) {
                        asks.write_all(part).await.unwrap();
                        asks.flush().await.unwrap();
                    }
                };
                futures::join!(ask, async { answers.read_exact(&mut answer).await.unwrap() });
                assert!(answer == piece, "{length} bytes");
            }
            asks.close().await.unwrap();
            assert_eq!(answers.read(&mut [0; 1]).await.unwrap(), 0);
        };
        tokio::time::timeout(Duration::from_secs(60), talk).await.expect("nobody waits for ever");
        echo.await.unwrap();
    }
}
