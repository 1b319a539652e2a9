//! A connection as somebody makes it who keeps to no rule: TCP and Noise from libp2p's parts, everything above by hand.
//!
//! Multistream is lines behind their lengths. A Yamux frame is twelve bytes (version, kind, flags, stream, length) and, for
//! data, so many more. What the other side may send is told it as a stream is read, unless the line is deaf.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::upgrade::OutboundConnectionUpgrade;
use libp2p::identity::Keypair;
use libp2p::noise;
use libp2p::tcp::tokio::TcpStream;
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

const HEADER: usize = 12;
/// What either side may send on a new stream.
const WINDOW: usize = 256 << 10;
/// The most in one frame: what Noise has room for, with much to spare.
const FRAME_BYTES: usize = 16 << 10;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const UPDATE: u8 = 1;
pub const PING: u8 = 2;
pub const GO_AWAY: u8 = 3;

/// Flags of frames.
pub const SYN: u16 = 1;
pub const ACK: u16 = 2;
pub const FIN: u16 = 4;
pub const RESET: u16 = 8;

type Socket = noise::Output<TcpStream>;

/// The head of a frame.
pub fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &length.to_be_bytes()].concat()
}

fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::ConnectionAborted, why)
}

/// A connection from an address of this machine's own choice: all of 127.0.0.0/8 is here.
pub async fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    timeout(HANDSHAKE, socket.connect(to)).await?
}

/// A line of multistream.
pub fn line(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(text.len() as u64 + 1, &mut bytes);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

const MULTISTREAM: &str = "/multistream/1.0.0";

async fn read_line(io: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut length = [0];
    io.read_exact(&mut length).await?;
    let mut text = vec![0; usize::from(length[0])];
    io.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// Asks for a protocol below the streams.
async fn ask_for(io: &mut (impl AsyncRead + AsyncWrite + Unpin), protocol: &str) -> Result<()> {
    io.write_all(&[line(MULTISTREAM), line(protocol)].concat()).await?;
    io.flush().await?;
    let said = [read_line(io).await?, read_line(io).await?];
    (said == [MULTISTREAM, protocol]).then_some(()).ok_or_else(|| broken(format!("{said:?}")))
}

/// What the other side sent on one stream, and how much more it would take.
struct Mailbox {
    came: mpsc::UnboundedSender<Vec<u8>>,
    credit: Arc<Semaphore>,
}

struct Inner {
    out: mpsc::Sender<Vec<u8>>,
    /// What answers the other side's frames: it overtakes the rest, and reading never waits for it.
    replies: mpsc::UnboundedSender<Vec<u8>>,
    mailboxes: Mutex<HashMap<u32, Mailbox>>,
    next: AtomicU32,
    deaf: AtomicBool,
    ended: AtomicBool,
}

/// A connection that is shut when it is dropped.
pub struct Line {
    inner: Arc<Inner>,
    came: Option<mpsc::Receiver<Stream>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Line {
    pub async fn dial(key: &Keypair, from: Ipv4Addr, to: SocketAddr) -> Result<Self> {
        let made = async {
            let mut tcp = TcpStream(connect(from, to).await?);
            ask_for(&mut tcp, "/noise").await?;
            let noise = noise::Config::new(key).map_err(broken)?;
            let (_, mut socket) = noise.upgrade_outbound(tcp, "/noise").await.map_err(broken)?;
            ask_for(&mut socket, "/yamux/1.0.0").await?;
            Ok(Self::over(socket))
        };
        timeout(HANDSHAKE, made).await?
    }

    fn over(socket: Socket) -> Self {
        let (read, write) = socket.split();
        let (out, frames) = mpsc::channel(64);
        let (replies, replied) = mpsc::unbounded_channel();
        let (accept, came) = mpsc::channel(4096);
        let inner = Arc::new(Inner {
            out,
            replies,
            mailboxes: Mutex::default(),
            next: AtomicU32::new(1),
            deaf: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let writing = tokio::spawn(send_all(write, frames, replied)).abort_handle();
        let reading = tokio::spawn(read_all(read, inner.clone(), accept)).abort_handle();
        Self { inner, came: Some(came), tasks: [writing, reading] }
    }

    /// From now on nothing is said to have been read.
    pub fn turn_deaf(&self) {
        self.inner.deaf.store(true, Ordering::Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::Relaxed) || self.inner.out.is_closed()
    }

    /// Sends bytes below the streams.
    pub async fn raw(&self, bytes: Vec<u8>) -> Result<()> {
        self.inner.out.send(bytes).await.map_err(|_| broken("the connection is shut"))
    }

    pub async fn open(&self) -> Result<Stream> {
        let id = self.inner.next.fetch_add(2, Ordering::Relaxed);
        let stream = self.inner.stream(id);
        self.raw(frame(UPDATE, SYN, id, 0)).await?;
        Ok(stream)
    }

    /// A stream on which a protocol is spoken.
    pub async fn speak(&self, protocol: &str) -> Result<Stream> {
        let mut stream = self.open().await?;
        stream.send(&[line(MULTISTREAM), line(protocol)].concat()).await?;
        let said = [stream.read_line().await?, stream.read_line().await?];
        (said == [MULTISTREAM, protocol]).then_some(stream).ok_or_else(|| broken(format!("{said:?}")))
    }

    /// One request of the house's protocols: a message and the end, then a message behind its length and the end. What is empty
    /// is no answer.
    pub async fn ask(&self, protocol: &str, request: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.speak(protocol).await?;
        stream.send(request).await?;
        stream.finish().await?;
        let answer = stream.read_to_end().await?;
        match answer.split_first_chunk() {
            None if answer.is_empty() => Ok(answer),
            Some((length, message)) if u32::from_le_bytes(*length) as usize == message.len() => {
                Ok(message.to_vec())
            }
            _ => Err(broken("an answer is shorter or longer than it says")),
        }
    }

    /// The streams that the other side opens; once.
    pub fn incoming(&mut self) -> mpsc::Receiver<Stream> {
        self.came.take().expect("asked once")
    }
}

impl Inner {
    fn stream(self: &Arc<Self>, id: u32) -> Stream {
        let (came, events) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(WINDOW));
        let mailbox = Mailbox { came, credit: credit.clone() };
        self.mailboxes.lock().expect("no panic while held").insert(id, mailbox);
        Stream { id, line: self.clone(), events, credit, left: Vec::new() }
    }
}

async fn send_all(
    mut write: WriteHalf<Socket>,
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut replies: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    loop {
        let bytes = tokio::select! {
            biased;
            Some(bytes) = replies.recv() => bytes,
            Some(bytes) = frames.recv() => bytes,
            else => return,
        };
        if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
}

async fn read_all(mut read: ReadHalf<Socket>, line: Arc<Inner>, accept: mpsc::Sender<Stream>) {
    while let Ok(()) = read_frame(&mut read, &line, &accept).await {}
    line.ended.store(true, Ordering::Relaxed);
    line.mailboxes.lock().expect("no panic while held").clear();
}

async fn read_frame(
    read: &mut ReadHalf<Socket>,
    line: &Arc<Inner>,
    accept: &mpsc::Sender<Stream>,
) -> Result<()> {
    let mut head = [0; HEADER];
    read.read_exact(&mut head).await?;
    let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = head;
    let (flags, id) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([s0, s1, s2, s3]));
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if kind == PING {
        if flags & SYN != 0 {
            line.replies.send(frame(PING, ACK, 0, length)).ok();
        }
        return Ok(());
    }
    if kind == GO_AWAY {
        return Err(broken("sent away"));
    }
    if flags & SYN != 0 {
        let stream = line.stream(id);
        line.replies.send(frame(UPDATE, ACK, id, 0)).ok();
        accept.try_send(stream).ok();
    }
    let mut body = Vec::new();
    if kind == DATA {
        body.resize(length as usize, 0);
        read.read_exact(&mut body).await?;
    }
    let mut mailboxes = line.mailboxes.lock().expect("no panic while held");
    let Some(mailbox) = mailboxes.get(&id) else { return Ok(()) };
    if kind == UPDATE {
        mailbox.credit.add_permits((length as usize).min(1 << 24));
    } else if length > 0 && !line.deaf.load(Ordering::Relaxed) {
        mailbox.came.send(body).ok();
        line.replies.send(frame(UPDATE, 0, id, length)).ok();
    }
    if flags & (FIN | RESET) != 0 {
        mailboxes.remove(&id);
    }
    Ok(())
}

/// A stream. One that is dropped is neither ended nor reset: the other side keeps it.
pub struct Stream {
    pub id: u32,
    line: Arc<Inner>,
    events: mpsc::UnboundedReceiver<Vec<u8>>,
    credit: Arc<Semaphore>,
    left: Vec<u8>,
}

impl Stream {
    /// Sends as the other side says that it reads.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(FRAME_BYTES) {
            let part_bytes = u32::try_from(part.len()).map_err(broken)?;
            self.credit.acquire_many(part_bytes).await.map_err(broken)?.forget();
            self.raw([&frame(DATA, 0, self.id, part_bytes)[..], part].concat()).await?;
        }
        Ok(())
    }

    /// Sends whatever it is, in the middle of this stream or not.
    pub async fn raw(&self, bytes: Vec<u8>) -> Result<()> {
        self.line.out.send(bytes).await.map_err(|_| broken("the connection is shut"))
    }

    pub async fn finish(&self) -> Result<()> {
        self.raw(frame(DATA, FIN, self.id, 0)).await
    }

    pub async fn reset(&self) -> Result<()> {
        self.raw(frame(DATA, RESET, self.id, 0)).await
    }

    async fn more(&mut self) -> bool {
        let came = self.events.recv().await;
        came.map(|bytes| self.left.extend(bytes)).is_some()
    }

    pub async fn read_exact(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.left.len() < length {
            if !self.more().await {
                return Err(broken("the stream ended"));
            }
        }
        let rest = self.left.split_off(length);
        Ok(std::mem::replace(&mut self.left, rest))
    }

    pub async fn read_line(&mut self) -> Result<String> {
        let length = usize::from(self.read_exact(1).await?[0]);
        let text = self.read_exact(length).await?;
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    pub async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        while self.more().await {}
        Ok(std::mem::take(&mut self.left))
    }

    /// Agrees on the first protocol asked for that is one of these.
    pub async fn agree(&mut self, protocols: &[&str]) -> Result<String> {
        self.read_line().await?;
        self.send(&line(MULTISTREAM)).await?;
        loop {
            let asked = self.read_line().await?;
            if protocols.contains(&asked.as_str()) {
                self.send(&line(&asked)).await?;
                return Ok(asked);
            }
            self.send(&line("na")).await?;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.line.mailboxes.lock().expect("no panic while held").remove(&self.id);
    }
}
