//! What a stranger's connection may make this node hold.
//!
//! Whatever was sent on a stream and is not read yet lies in this node's memory: 256 KiB a stream over TCP, and more where a
//! peer makes the window grow by being read for a while. A member's connection has many streams; a stranger gets a few at a
//! time, on each of which little is read: the door needs no more. What comes beyond that is reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

use super::Members;
use super::ration::{Guest, takes_steps};
use crate::base::limit;

/// Who is at the other end, and how many streams it has opened that are still there.
struct Opener {
    guest: Guest,
    streams: AtomicUsize,
}

/// A connection on which strangers have few streams, and which ends when one opens more than it may again and again.
pub(super) struct Guarded<M> {
    inner: M,
    opener: Arc<Opener>,
    /// Streams that were reset because they were too many.
    reset: usize,
}

impl<M> Guarded<M> {
    pub(super) fn new(inner: M, peer: &libp2p::PeerId, members: &Arc<Members>) -> Self {
        let opener = Opener { guest: Guest::of(members, peer), streams: AtomicUsize::new(0) };
        Self { inner, opener: Arc::new(opener), reset: 0 }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Guarded<M>
where
    M::Substream: Unpin,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    type Substream = Stream<M::Substream>;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        loop {
            let io = ready!(Pin::new(&mut self.inner).poll_inbound(cx)).map_err(io::Error::other)?;
            takes_steps(cx, limit::BYTES_OF_A_STEP);
            if self.opener.streams.load(Ordering::Relaxed) < limit::STRANGER_STREAMS_MAX
                || self.opener.guest.is_member()
            {
                self.opener.streams.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Ok(Stream::new(io, Arc::clone(&self.opener), true)));
            }
            self.reset += 1;
            if self.reset > limit::STRANGER_STREAMS_RESET_MAX {
                return Poll::Ready(Err(too_much("too many streams of a stranger")));
            }
        }
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let io = ready!(Pin::new(&mut self.inner).poll_outbound(cx)).map_err(io::Error::other)?;
        Poll::Ready(Ok(Stream::new(io, Arc::clone(&self.opener), false)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(io::Error::other)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx).map_err(io::Error::other)
    }
}

fn too_much(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A stream of such a connection.
pub(super) struct Stream<S> {
    io: S,
    opener: Arc<Opener>,
    inbound: bool,
    /// What is read of a stranger before it is looked at again who it is, in bytes.
    left: usize,
}

impl<S> Stream<S> {
    fn new(io: S, opener: Arc<Opener>, inbound: bool) -> Self {
        Self { io, opener, inbound, left: limit::STRANGER_STREAM_BYTES_MAX }
    }

    /// What may be read now.
    fn take(&mut self) -> io::Result<usize> {
        if self.left == 0 {
            if !self.opener.guest.is_member() {
                return Err(too_much("too much of a stranger"));
            }
            self.left = usize::MAX;
        }
        Ok(self.left)
    }

    fn took(&mut self, bytes: usize) {
        if self.left != usize::MAX {
            self.left -= bytes;
        }
    }
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        if self.inbound {
            self.opener.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.take()?.min(buffer.len());
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer[..most]))?;
        self.took(read);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use futures::{AsyncReadExt, future};
    use std::convert::Infallible;

    /// A peer that opens streams without end, each with a MiB in it.
    struct Pushy;

    impl StreamMuxer for Pushy {
        type Substream = Cursor<Vec<u8>>;
        type Error = Infallible;

        fn poll_inbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            OPENED.with(|opened| match opened.get() {
                0 => Poll::Pending,
                left => {
                    opened.set(left - 1);
                    Poll::Ready(Ok(Cursor::new(vec![0; limit::MIB])))
                }
            })
        }

        fn poll_outbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Infallible>> {
            Poll::Pending
        }
    }

    thread_local!(static OPENED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

    /// All streams that are let in of so many.
    fn open(guarded: &mut Guarded<Pushy>, count: usize) -> Vec<Stream<Cursor<Vec<u8>>>> {
        OPENED.set(count);
        let mut streams = Vec::new();
        block_on(future::poll_fn(|cx| {
            while let Poll::Ready(Ok(stream)) = Pin::new(&mut *guarded).poll_inbound(cx) {
                streams.push(stream);
            }
            Poll::Ready(())
        }));
        streams
    }

    /// Sixteen connections of strangers with 128 streams each, none of them ever read, took 600 MiB.
    #[test]
    fn a_stranger_has_few_streams_and_little_is_read_of_each() {
        let peer = crate::crypto::NodeKey::generate().peer_id();
        let members = Arc::new(Members::default());
        let mut guarded = Guarded::new(Pushy, &super::super::address::to_libp2p(peer), &members);
        let mut streams = open(&mut guarded, 16);
        assert_eq!(streams.len(), limit::STRANGER_STREAMS_MAX);
        let mut bytes = Vec::new();
        let mut first = streams.swap_remove(0);
        block_on(first.read_to_end(&mut bytes)).unwrap_err();
        assert_eq!(bytes.len(), limit::STRANGER_STREAM_BYTES_MAX);
        drop(first);
        assert_eq!(open(&mut guarded, 16).len(), 1, "one ended, and makes room");
        // Who was let in is a member from then on, on the same connection.
        members.set([peer]);
        assert_eq!(open(&mut guarded, 100).len(), 100);
        bytes.clear();
        block_on(streams[0].read_to_end(&mut bytes)).unwrap();
        assert_eq!(bytes.len(), limit::MIB);
    }
    /// They were reset for as long as they came, and a member had a hundredth of its rate meanwhile.
    #[test]
    fn a_stranger_that_opens_streams_without_end_is_cut_off() {
        let peer = super::super::address::to_libp2p(crate::crypto::NodeKey::generate().peer_id());
        let mut guarded = Guarded::new(Pushy, &peer, &Arc::new(Members::default()));
        let streams = open(&mut guarded, 1000);
        let more = 1000 - OPENED.get() - streams.len();
        assert_eq!(more, limit::STRANGER_STREAMS_RESET_MAX + 1);
        let ended = block_on(future::poll_fn(|cx| Poll::Ready(Pin::new(&mut guarded).poll_inbound(cx))));
        assert!(matches!(ended, Poll::Ready(Err(_))));
    }
}
