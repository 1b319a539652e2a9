//! What came on streams over TCP and nobody has read yet, of all connections together.
//!
//! Yamux lets each stream bring 256 KiB before anything of it is read, and it holds all of that: a member that opens a hundred
//! streams and fills them, on each of its connections, makes a node hold a hundred megabytes, and several members do so together.
//! Nothing above or below tells how much it is. So the frames are looked at on their way to yamux, where each says how many bytes it
//! brings to which stream, and the streams say what is read of them. Over the ceiling the connection that holds most is ended.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

use crate::base::limit;

/// How many bytes a yamux frame's head has: version, kind, flags (2), stream (4), length (4); big-endian.
const HEAD: usize = 12;
/// Streams of one connection that are remembered. Yamux has fewer; ones that are reset as soon as they are opened it forgets
/// before anybody takes them.
const STREAMS_MAX: usize = 4 * limit::STREAMS_PER_CONNECTION_MAX;
const DATA: u8 = 0;
const OPENS: u16 = 1;

// ---- The accounts -----------------------------------------------------------------------------------------

/// What all connections hold together.
#[derive(Default)]
pub(super) struct Ceiling {
    bytes: AtomicUsize,
    accounts: Mutex<Vec<Weak<Account>>>,
}

impl Ceiling {
    fn open(self: &Arc<Self>, is_dialer: bool) -> Arc<Account> {
        let account = Arc::new(Account {
            ceiling: Arc::clone(self),
            // Whoever dialled opens streams with odd numbers.
            own_parity: u32::from(is_dialer),
            streams: Mutex::default(),
            bytes: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        });
        let mut accounts = locked(&self.accounts);
        accounts.retain(|known| known.strong_count() > 0);
        accounts.push(Arc::downgrade(&account));
        account
    }

    /// Ends connections, the one that holds most first, until the others hold no more than they may.
    fn look(&self) {
        if self.bytes.load(Ordering::Relaxed) <= limit::UNREAD_BYTES_MAX {
            return;
        }
        let accounts = locked(&self.accounts);
        let mut live: Vec<(usize, Arc<Account>)> = accounts
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|account| !account.is_over.load(Ordering::Relaxed))
            .map(|account| (account.bytes.load(Ordering::Relaxed), account))
            .collect();
        live.sort_by_key(|(bytes, _)| *bytes);
        let mut together: usize = live.iter().map(|(bytes, _)| *bytes).sum();
        while together > limit::UNREAD_BYTES_MAX
            && let Some((bytes, account)) = live.pop()
        {
            account.end();
            together -= bytes;
        }
    }
}

/// What one connection holds.
struct Account {
    ceiling: Arc<Ceiling>,
    own_parity: u32,
    streams: Mutex<Streams>,
    bytes: AtomicUsize,
    is_over: AtomicBool,
    /// Who reads the connection.
    reader: AtomicWaker,
}

#[derive(Default)]
struct Streams {
    /// Of those that are there, what came and was not read.
    unread: HashMap<u32, usize>,
    /// Those that the other side has opened and nobody has taken yet, in that order.
    opened: VecDeque<u32>,
}

impl Account {
    /// A frame's head came.
    fn frame(&self, kind: u8, flags: u16, stream: u32) {
        if flags & OPENS != 0 && kind <= 1 && stream != 0 && stream % 2 != self.own_parity {
            let mut streams = locked(&self.streams);
            if streams.unread.len() >= STREAMS_MAX {
                drop(streams);
                return self.end();
            }
            // A second time it is an error, which yamux finds.
            if streams.unread.insert(stream, 0).is_none() {
                streams.opened.push_back(stream);
            }
        }
    }

    fn came(&self, stream: u32, bytes: usize) {
        match locked(&self.streams).unread.get_mut(&stream) {
            Some(unread) => *unread += bytes,
            // Of one that is gone yamux keeps nothing.
            None => return,
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.ceiling.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self, stream: u32, bytes: usize) {
        let mut streams = locked(&self.streams);
        let Some(unread) = streams.unread.get_mut(&stream) else { return };
        let bytes = bytes.min(*unread);
        *unread -= bytes;
        drop(streams);
        self.less(bytes);
    }

    /// The stream that the other side opened first of those that nobody has taken.
    fn taken(&self) -> u32 {
        locked(&self.streams).opened.pop_front().unwrap_or_default()
    }

    fn opened_here(&self, stream: u32) {
        locked(&self.streams).unread.insert(stream, 0);
    }

    fn gone(&self, stream: u32) {
        let unread = locked(&self.streams).unread.remove(&stream);
        self.less(unread.unwrap_or_default());
    }

    fn less(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.ceiling.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.is_over.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too much on its streams is not read")),
            false => Ok(()),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ceiling.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- On the way to yamux ------------------------------------------------------------------------------------

/// A connection whose frames are counted as they are read.
pub(super) struct Counted<T> {
    io: T,
    account: Arc<Account>,
    frames: Frames,
}

/// Where in a frame it is.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    /// How much of the head is here.
    filled: usize,
    stream: u32,
    /// What of the frame's data is to come.
    left: usize,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], account: &Account) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                account.came(self.stream, part);
                self.left -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled == HEAD {
                self.filled = 0;
                let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = self.head;
                self.stream = u32::from_be_bytes([s0, s1, s2, s3]);
                account.frame(kind, u16::from_be_bytes([f0, f1]), self.stream);
                if kind == DATA {
                    self.left = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.account.reader.register(cx.waker());
        this.account.check()?;
        let read = ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        this.frames.take(&buffer[..read], &this.account);
        this.account.ceiling.look();
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.account.check()?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.account.check()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

// ---- Above yamux --------------------------------------------------------------------------------------------

/// What makes a connection with streams of one without, and keeps its account.
#[derive(Clone)]
pub(super) struct Accounting<U> {
    muxer: U,
    ceiling: Arc<Ceiling>,
}

impl<U> Accounting<U> {
    pub(super) fn new(muxer: U, ceiling: &Arc<Ceiling>) -> Self {
        Self { muxer, ceiling: Arc::clone(ceiling) }
    }
}

impl<U: UpgradeInfo> UpgradeInfo for Accounting<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.muxer.protocol_info()
    }
}

/// An upgrade that is under way.
type Upgrading<M, E> = Pin<Box<dyn Future<Output = Result<Kept<M>, E>> + Send>>;

impl<T, U, M> InboundConnectionUpgrade<T> for Accounting<U>
where
    U: InboundConnectionUpgrade<Counted<T>, Output = M>,
    U::Future: Send + 'static,
{
    type Output = Kept<M>;
    type Error = U::Error;
    type Future = Upgrading<M, U::Error>;

    fn upgrade_inbound(self, io: T, info: U::Info) -> Self::Future {
        let account = self.ceiling.open(false);
        let io = Counted { io, account: Arc::clone(&account), frames: Frames::default() };
        let upgrade = self.muxer.upgrade_inbound(io, info);
        Box::pin(async move { Ok(Kept { inner: upgrade.await?, account, next: 2 }) })
    }
}

impl<T, U, M> OutboundConnectionUpgrade<T> for Accounting<U>
where
    U: OutboundConnectionUpgrade<Counted<T>, Output = M>,
    U::Future: Send + 'static,
{
    type Output = Kept<M>;
    type Error = U::Error;
    type Future = Upgrading<M, U::Error>;

    fn upgrade_outbound(self, io: T, info: U::Info) -> Self::Future {
        let account = self.ceiling.open(true);
        let io = Counted { io, account: Arc::clone(&account), frames: Frames::default() };
        let upgrade = self.muxer.upgrade_outbound(io, info);
        Box::pin(async move { Ok(Kept { inner: upgrade.await?, account, next: 1 }) })
    }
}

/// A connection whose streams say what is read of them.
pub(super) struct Kept<M> {
    inner: M,
    account: Arc<Account>,
    /// Number of the next stream that is opened here: yamux counts them in twos.
    next: u32,
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Kept<M>
where
    M::Substream: Unpin,
{
    type Substream = KeptStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let io = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        let account = Arc::clone(&self.account);
        Poll::Ready(Ok(KeptStream { io, stream: account.taken(), account }))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let io = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        let (account, stream) = (Arc::clone(&self.account), self.next);
        self.next = self.next.wrapping_add(2);
        account.opened_here(stream);
        Poll::Ready(Ok(KeptStream { io, stream, account }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// A stream of such a connection.
pub(super) struct KeptStream<S> {
    io: S,
    stream: u32,
    account: Arc<Account>,
}

impl<S> Drop for KeptStream<S> {
    fn drop(&mut self) {
        self.account.gone(self.stream);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for KeptStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.account.read(self.stream, read);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for KeptStream<S> {
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
    use futures::AsyncReadExt;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u16, stream: u32, bytes: usize) -> Vec<u8> {
        let length = bytes as u32;
        let head =
            [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &length.to_be_bytes()].concat();
        let data = vec![7; if kind == DATA { bytes } else { 0 }];
        [head, data].concat()
    }

    fn counted(ceiling: &Arc<Ceiling>, came: Vec<u8>) -> Counted<Cursor<Vec<u8>>> {
        Counted { io: Cursor::new(came), account: ceiling.open(false), frames: Frames::default() }
    }

    proptest! {
        /// However frames are cut on their way, and whatever else comes between them: what each stream brought counts until
        /// it is read or the stream is gone.
        #[test]
        fn what_came_counts_until_it_is_read(
            frames in prop::collection::vec((0u8..4, 0u32..6, 0usize..400), 0..40),
            cut in 1usize..300,
            reads in prop::collection::vec((0u32..6, 0usize..500), 0..20),
        ) {
            let ceiling = Arc::new(Ceiling::default());
            let (mut bytes, mut model) = (Vec::new(), HashMap::new());
            for (kind, stream, length) in &frames {
                // Streams of the other side are odd, and begin with their first frame.
                let is_new = *kind <= 1 && stream % 2 == 1 && !model.contains_key(stream);
                bytes.extend(frame(*kind, u16::from(is_new), *stream, *length));
                if is_new {
                    model.insert(*stream, 0);
                }
                if let (DATA, Some(unread)) = (*kind, model.get_mut(stream)) {
                    *unread += length;
                }
            }
            let mut counted = counted(&ceiling, bytes);
            block_on(async {
                let mut part = vec![0; cut];
                while counted.read(&mut part).await.unwrap() > 0 {}
            });
            let account = Arc::clone(&counted.account);
            for (stream, length) in reads {
                if let Some(unread) = model.get_mut(&stream) {
                    let read = length.min(*unread);
                    *unread -= read;
                    account.read(stream, read);
                }
            }
            let sum: usize = model.values().sum();
            prop_assert_eq!(account.bytes.load(Ordering::Relaxed), sum);
            prop_assert_eq!(ceiling.bytes.load(Ordering::Relaxed), sum);
            for _ in 0..model.len() {
                let stream = account.taken();
                prop_assert!(model.remove(&stream).is_some(), "{} was never opened", stream);
                account.gone(stream);
            }
            prop_assert_eq!(ceiling.bytes.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn streams_that_nobody_takes_are_bounded() {
        let opened = |count: usize| (0..count as u32).flat_map(|n| frame(1, OPENS, 2 * n + 1, 0)).collect();
        for (count, holds) in [(STREAMS_MAX, true), (STREAMS_MAX + 1, false)] {
            let mut counted = counted(&Arc::new(Ceiling::default()), opened(count));
            block_on(counted.read_to_end(&mut Vec::new())).ok();
            assert_eq!(counted.account.check().is_ok(), holds, "{count}");
        }
    }

    /// Members that filled streams and had nothing of them read made a node hold all of it.
    #[test]
    fn over_the_ceiling_the_connection_ends_that_holds_most() {
        let ceiling = Arc::new(Ceiling::default());
        let filled = |bytes: usize| counted(&ceiling, frame(DATA, OPENS, 1, bytes));
        let read = |counted: &mut Counted<_>| block_on(counted.read_to_end(&mut Vec::new()));
        let (mut small, mut large) = (filled(limit::KIB), filled(limit::UNREAD_BYTES_MAX - 2 * limit::KIB));
        assert!(read(&mut small).is_ok() && read(&mut large).is_ok());
        let mut last = filled(2 * limit::KIB);
        // It comes to what may be held, and one byte more.
        assert!(read(&mut last).is_ok());
        assert!(large.account.check().is_err() && read(&mut large).is_err());
        assert!(small.account.check().is_ok() && last.account.check().is_ok());
        drop(large);
        assert_eq!(ceiling.bytes.load(Ordering::Relaxed), 3 * limit::KIB);
        drop((small, last));
        assert_eq!(ceiling.bytes.load(Ordering::Relaxed), 0);
    }
}
