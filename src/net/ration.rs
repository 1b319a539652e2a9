//! What a connection may bring, whoever is at its other end.
//!
//! Every byte costs a little before anybody knows what it means: it is decrypted, and frames are taken apart. A frame takes
//! twelve bytes, so a line's worth of the smallest ones kept a thread busy for seconds before another connection had its
//! turn; and a stranger, who has next to nothing to say, could go on like that for as long as it was there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId as Libp2pId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tokio::task::coop;

use super::Members;
use super::address::from_libp2p;
use crate::base::{PeerId, limit};

/// Who is at the other end, once it has said so.
pub(super) struct Guest {
    members: Arc<Members>,
    /// `None` inside when it has no identity that a member could have.
    peer: OnceLock<Option<PeerId>>,
}

impl Guest {
    /// Whoever comes next.
    fn unknown(members: &Arc<Members>) -> Self {
        Self { members: Arc::clone(members), peer: OnceLock::new() }
    }

    pub(super) fn of(members: &Arc<Members>, peer: &Libp2pId) -> Self {
        let guest = Self::unknown(members);
        guest.is(peer);
        guest
    }

    fn is(&self, peer: &Libp2pId) {
        self.peer.get_or_init(|| from_libp2p(peer).ok());
    }

    /// Asked each time: it may have been let in since.
    pub(super) fn is_member(&self) -> bool {
        self.peer.get().copied().flatten().is_some_and(|peer| self.members.allows(&peer))
    }
}

/// A connection that ends when a stranger has sent too much, and of which nobody's bytes keep others from their turn.
pub(super) struct Rationed<T> {
    io: T,
    guest: Arc<Guest>,
    /// What is read before it is looked at again who it is, in bytes.
    left: usize,
}

impl<T> Rationed<T> {
    fn new(io: T, members: &Arc<Members>) -> Self {
        Self { io, guest: Arc::new(Guest::unknown(members)), left: limit::STRANGER_BYTES_MAX }
    }
}

/// One turn of a task has a hundred and some steps, whatever they are.
pub(super) fn takes_steps(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / limit::BYTES_OF_A_STEP {
        if let Poll::Ready(step) = coop::poll_proceed(cx) {
            step.made_progress();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rationed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let step = ready!(coop::poll_proceed(cx));
        let read = ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        step.made_progress();
        takes_steps(cx, read);
        if read > this.left {
            if !this.guest.is_member() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "too much of a stranger",
                )));
            }
            this.left = limit::STRANGER_BYTES_MAX;
        }
        this.left = this.left.saturating_sub(read);
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rationed<T> {
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

/// A handshake over a connection that is rationed from its first byte, and told who came.
#[derive(Clone)]
pub(super) struct Rationing<U> {
    handshake: U,
    members: Arc<Members>,
}

impl<U> Rationing<U> {
    pub(super) fn new(handshake: U, members: &Arc<Members>) -> Self {
        Self { handshake, members: Arc::clone(members) }
    }
}

impl<U: UpgradeInfo> UpgradeInfo for Rationing<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.handshake.protocol_info()
    }
}

/// A handshake that is under way.
type Shaking<O, E> = Pin<Box<dyn Future<Output = Result<(Libp2pId, O), E>> + Send>>;

fn introduced<O, E>(
    guest: Arc<Guest>,
    handshake: impl Future<Output = Result<(Libp2pId, O), E>> + Send + 'static,
) -> Shaking<O, E> {
    Box::pin(async move {
        let (peer, io) = handshake.await?;
        guest.is(&peer);
        Ok((peer, io))
    })
}

impl<T, U, O> InboundConnectionUpgrade<T> for Rationing<U>
where
    U: InboundConnectionUpgrade<Rationed<T>, Output = (Libp2pId, O)>,
    U::Future: Send + 'static,
{
    type Output = (Libp2pId, O);
    type Error = U::Error;
    type Future = Shaking<O, U::Error>;

    fn upgrade_inbound(self, io: T, info: U::Info) -> Self::Future {
        let io = Rationed::new(io, &self.members);
        introduced(Arc::clone(&io.guest), self.handshake.upgrade_inbound(io, info))
    }
}

impl<T, U, O> OutboundConnectionUpgrade<T> for Rationing<U>
where
    U: OutboundConnectionUpgrade<Rationed<T>, Output = (Libp2pId, O)>,
    U::Future: Send + 'static,
{
    type Output = (Libp2pId, O);
    type Error = U::Error;
    type Future = Shaking<O, U::Error>;

    fn upgrade_outbound(self, io: T, info: U::Info) -> Self::Future {
        let io = Rationed::new(io, &self.members);
        introduced(Arc::clone(&io.guest), self.handshake.upgrade_outbound(io, info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::AsyncReadExt;
    use futures::future::poll_fn;

    /// One that sends without end.
    fn flood(members: &Arc<Members>) -> Rationed<futures::io::Repeat> {
        Rationed::new(futures::io::repeat(7), members)
    }

    async fn read(from: &mut Rationed<futures::io::Repeat>, bytes: usize) -> io::Result<()> {
        from.read_exact(&mut vec![0; bytes]).await
    }

    /// Strangers that opened streams by the thousand left a member a hundredth of its rate, for as long as they liked.
    #[tokio::test]
    async fn who_is_no_member_is_cut_off_when_it_has_sent_too_much() {
        let key = crate::crypto::NodeKey::generate().peer_id();
        let (members, peer) = (Arc::new(Members::default()), super::super::address::to_libp2p(key));
        let most = limit::STRANGER_BYTES_MAX;
        for is_known in [false, true] {
            let mut stranger = flood(&members);
            if is_known {
                stranger.guest.is(&peer);
            }
            read(&mut stranger, most).await.unwrap();
            assert!(read(&mut stranger, 1).await.is_err(), "known: {is_known}");
        }
        // One that is let in may go on where it was.
        let mut guest = flood(&members);
        guest.guest.is(&peer);
        read(&mut guest, most).await.unwrap();
        members.insert(key);
        read(&mut guest, 3 * most).await.unwrap();
        members.remove(&key);
        assert!(read(&mut guest, 2 * most).await.is_err());
    }

    /// A connection's task went on for as long as there was something to read: megabytes of the smallest frames.
    #[tokio::test]
    async fn who_sends_without_end_lets_others_have_their_turn() {
        let key = crate::crypto::NodeKey::generate().peer_id();
        let members = Arc::new(Members::new([key]));
        let mut member = flood(&members);
        member.guest.is(&super::super::address::to_libp2p(key));
        let task = tokio::spawn(async move {
            let (mut turn, mut turns) = (0, Vec::new());
            poll_fn(|cx| {
                while let Poll::Ready(read) = Pin::new(&mut member).poll_read(cx, &mut [0; 8 * limit::KIB]) {
                    turn += read.unwrap();
                    assert!(turn <= limit::MIB, "its turn never ends");
                }
                turns.push(std::mem::take(&mut turn));
                if turns.len() == 4 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            turns
        });
        let turns = task.await.unwrap();
        assert!(turns.iter().all(|bytes| *bytes >= limit::CORK_BYTES), "{turns:?}");
    }
}
