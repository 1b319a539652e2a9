//! Somebody on the network with a key of its own, who answers as it is told to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use prost::Message;
use shadowvault::base::PeerId;
use shadowvault::crypto::NodeKey;
use shadowvault::wire::{self, Status, door_request, sync_request, sync_response};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::line::{Line, Stream};

pub const SYNC: &str = "/shadowvault/sync/1";
pub const FETCH: &str = "/shadowvault/chunk-fetch/1";
pub const DOOR: &str = "/shadowvault/door/1";
pub const KAD: &str = "/shadowvault/kad/1";
const IDENTIFY: &str = "/ipfs/id/1.0.0";
const PING: &str = "/ipfs/ping/1.0.0";

/// What somebody does with a request.
pub enum Answer {
    Says(Vec<u8>),
    /// Never, and the stream stays open.
    Never,
    /// So many bytes at a time, with that pause before each.
    Drips(Vec<u8>, usize, Duration),
    /// Breaks off after these bytes.
    Breaks(Vec<u8>),
}

pub fn says(message: &impl Message) -> Answer {
    Answer::Says(message.encode_to_vec())
}

/// An answer behind its length, of which so many bytes are not there; an empty one is no answer.
fn framed(answer: &[u8], lacking: u32) -> Vec<u8> {
    let length = (answer.len() as u32 + lacking).to_le_bytes();
    if answer.is_empty() { Vec::new() } else { [&length, answer].concat() }
}

/// How somebody answers: the protocol, the request.
pub type Manner = Arc<dyn Fn(&str, &[u8]) -> Answer + Send + Sync>;

/// Answers nothing.
pub fn silent() -> Manner {
    Arc::new(|_, _| Answer::Never)
}

pub fn ask_sync(ask: sync_request::Ask) -> Vec<u8> {
    wire::SyncRequest { ask: Some(ask) }.encode_to_vec()
}

pub fn ask_door(ask: door_request::Ask) -> Vec<u8> {
    wire::DoorRequest { ask: Some(ask) }.encode_to_vec()
}

pub fn answers(answer: sync_response::Answer) -> Answer {
    says(&wire::SyncResponse { status: Status::Ok.into(), answer: Some(answer) })
}

/// Each calls from a host and a network of its own.
fn next_host() -> Ipv4Addr {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let n = HOSTS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 16 + (n / 250) as u8, (n % 250) as u8, 7)
}

#[derive(Clone)]
pub struct Raw {
    pub node: Arc<NodeKey>,
    pub id: PeerId,
    pub from: Ipv4Addr,
    key: Keypair,
    /// Where it says that it listens, as multiaddrs.
    claims: Vec<Vec<u8>>,
}

impl Raw {
    pub fn new() -> Self {
        let node = NodeKey::generate();
        let key = Keypair::ed25519_from_bytes(*node.seed().expose()).expect("32 bytes are a key");
        Self { id: node.peer_id(), node: Arc::new(node), from: next_host(), key, claims: Vec::new() }
    }

    /// Says that it listens there.
    pub fn claiming(mut self, addresses: &[String]) -> Self {
        let parsed =
            addresses.iter().map(|address| address.parse::<Multiaddr>().expect("an address").to_vec());
        self.claims = parsed.collect();
        self
    }

    pub async fn dial(&self, to: SocketAddr) -> std::io::Result<Line> {
        Line::dial(&self.key, self.from, to).await
    }

    /// A connection on which the other side's questions are answered, so that it takes this one for a holder.
    pub async fn meet(
        &self,
        to: SocketAddr,
        manner: &Manner,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<Line> {
        let mut line = self.dial(to).await?;
        tasks.spawn(self.clone().serve(line.incoming(), manner.clone()));
        Ok(line)
    }

    async fn serve(self, mut incoming: tokio::sync::mpsc::Receiver<Stream>, manner: Manner) {
        let mut serving = JoinSet::new();
        while let Some(stream) = incoming.recv().await {
            let (me, manner) = (self.clone(), manner.clone());
            serving.spawn(async move { me.serve_one(stream, manner).await.ok() });
        }
    }

    async fn serve_one(self, mut stream: Stream, manner: Manner) -> std::io::Result<()> {
        let protocol = stream.agree(&[SYNC, FETCH, DOOR, IDENTIFY, PING]).await?;
        match protocol.as_str() {
            IDENTIFY => {
                stream.send(&self.identity()).await?;
                stream.finish().await
            }
            PING => loop {
                let came = stream.read_exact(32).await?;
                stream.send(&came).await?;
            },
            _ => {
                let request = stream.read_to_end().await?;
                match manner(&protocol, &request) {
                    Answer::Never => std::future::pending().await,
                    Answer::Says(bytes) => {
                        stream.send(&framed(&bytes, 0)).await?;
                        stream.finish().await
                    }
                    Answer::Breaks(bytes) => {
                        stream.send(&framed(&bytes, 1)).await?;
                        stream.reset().await
                    }
                    Answer::Drips(bytes, each, pause) => {
                        for part in framed(&bytes, 0).chunks(each) {
                            sleep(pause).await;
                            stream.send(part).await?;
                        }
                        stream.finish().await
                    }
                }
            }
        }
    }

    /// What libp2p's identify says of it: key, protocols, version.
    fn identity(&self) -> Vec<u8> {
        let mut told = Vec::new();
        let mut field = |tag, bytes: &[u8]| super::field(tag, bytes, &mut told);
        field(1, &self.key.public().encode_protobuf());
        self.claims.iter().for_each(|address| field(2, address));
        [SYNC, FETCH, DOOR].iter().for_each(|protocol| field(3, protocol.as_bytes()));
        field(5, b"/shadowvault/1");
        field(6, b"shadowvault/0.1.0");
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(told.len() as u64, &mut bytes);
        bytes.extend(told);
        bytes
    }
}
