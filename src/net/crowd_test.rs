//! Crowds at the door and at the counter: who comes in earnest gets in, and who takes what it asked for is served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::{Multiaddr, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::{from_libp2p, tcp_socket, to_libp2p};
use super::codec::{Fetch, Protocol};
use super::tests::{PATIENCE, Peer, TCP, config, data, heads, hello, proof, range};
use super::{NetConfig, NetEvent};
use crate::base::{PeerId, limit};
use crate::wire::{self, Status};

/// Connects, says nothing, and connects again as soon as it is cut off.
async fn say_nothing(to: SocketAddr) {
    loop {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(to).await {
            let mut came = [0; 512];
            while stream.read(&mut came).await.is_ok_and(|length| length > 0) {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn socket(peer: &Peer) -> SocketAddr {
    let address: Multiaddr = peer.net.addresses()[0].parse().unwrap();
    tcp_socket(&address).unwrap()
}

/// Thirty-two of them kept every member out for as long as they wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_member_out() {
    let holder = Peer::start(config(&[TCP])).await;
    let mut silent = JoinSet::new();
    for _ in 0..2 * limit::CONNECTIONS_PENDING_MAX {
        silent.spawn(say_nothing(socket(&holder)));
    }
    // They are all there.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..4 {
        let mut member = Peer::start(config(&[])).await;
        holder.members.insert(member.id());
        member.knows(&holder).await;
        let h = holder.id();
        member.expect(|e| *e == NetEvent::Connected(h)).await;
        member.net.sync(h, heads()).await.unwrap();
    }
    silent.shutdown().await;
}

/// One that the holder does not know, connected. Those that are too many are cut off after the handshake; on their side that
/// is a success.
async fn stranger_of(holder: &Peer) -> Peer {
    let stranger = Peer::start(config(&[])).await;
    stranger.net.dial(holder.id(), &holder.net.addresses()).await.unwrap();
    stranger
}

/// Strangers that came, said nothing and stayed kept out who had a ticket, without a reason.
#[tokio::test]
async fn quiet_strangers_make_room_for_who_knocks() {
    let holder = Peer::start(config(&[TCP])).await;
    let mut crowd = Vec::new();
    for n in 0..limit::STRANGER_CONNECTIONS_MAX + 8 {
        let stranger = stranger_of(&holder).await;
        if n % 8 == 0 {
            // Who was cut off meanwhile comes again.
            stranger.net.door(holder.id(), hello()).await.ok();
        }
        crowd.push(stranger);
    }
    for _ in 0..4 {
        let newcomer = stranger_of(&holder).await;
        assert!(newcomer.net.door(holder.id(), proof()).await.unwrap().admitted);
    }
    let strangers = holder.net.peers().iter().filter(|s| s.connected && !s.member).count();
    assert!(strangers <= limit::STRANGER_CONNECTIONS_MAX, "{strangers}");
    assert!(crowd[0].net.door(holder.id(), hello()).await.is_ok());
}

#[tokio::test]
async fn crowd_of_strangers_leaves_room_for_members() {
    let holder = Peer::start(config(&[TCP])).await;
    let mut crowd = Vec::new();
    for _ in 0..limit::STRANGER_CONNECTIONS_MAX + 8 {
        crowd.push(stranger_of(&holder).await);
    }
    let mut member = Peer::start(config(&[])).await;
    holder.members.insert(member.id());
    member.knows(&holder).await;
    let h = holder.id();
    member.expect(|e| *e == NetEvent::Connected(h)).await;
    member.net.sync(h, heads()).await.unwrap();
}

// ---- Answers that are not read ----------------------------------------------------------------------------

/// Asks, and reads no answer.
#[derive(Clone, Default)]
struct Deaf;

impl request_response::Codec for Deaf {
    type Protocol = StreamProtocol;
    type Request = wire::FetchRequest;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, _: &mut T) -> std::io::Result<wire::FetchRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        std::future::pending().await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, _: &mut T) -> std::io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        std::future::pending().await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: wire::FetchRequest,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request.encode_to_vec()).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, _: &mut T, (): ()) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        std::future::pending().await
    }
}

type DeafSwarm = Swarm<request_response::Behaviour<Deaf>>;

fn deaf(target: &Peer) -> (DeafSwarm, PeerId) {
    let settings = request_response::Config::default().with_request_timeout(10 * PATIENCE);
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new(Fetch::NAME), ProtocolSupport::Full)];
            request_response::Behaviour::<Deaf>::new(protocols, settings)
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(10 * PATIENCE))
        .build();
    let id = from_libp2p(swarm.local_peer_id()).unwrap();
    target.members.insert(id);
    swarm.add_peer_address(to_libp2p(target.id()), target.net.addresses()[0].parse().unwrap());
    (swarm, id)
}

/// Two members that read nothing of what they asked for left a third one nothing until they were disconnected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_leave_others_theirs() {
    let settings = |listen| NetConfig { fetch_timeout: 3 * PATIENCE, ..config(listen) };
    let holder = Peer::start(settings(&[TCP])).await;
    let one = Peer::start(settings(&[])).await;
    holder.members.insert(one.id());
    one.knows(&holder).await;
    one.net.fetch(holder.id(), range(1)).await.unwrap();
    let began = Instant::now();
    let mut others = JoinSet::new();
    let mut deaf_ones = Vec::new();
    for _ in 0..2 {
        let (mut swarm, id) = deaf(&holder);
        deaf_ones.push(id);
        for _ in 0..20 {
            swarm.behaviour_mut().send_request(&to_libp2p(holder.id()), range(limit::MIB as u64));
        }
        others.spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
    }
    let served = Arc::clone(&holder.server);
    let all_they_can = 1 + limit::FETCH_SERVED_MAX - limit::KEPT_PLACES;
    let settled = async {
        while served.served.load(Ordering::Relaxed) < all_they_can {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, settled).await.expect("they hold all that they can");
    let answer = one.net.fetch(holder.id(), range(limit::MIB as u64)).await.unwrap();
    assert_eq!((answer.status, data(&answer)), (i32::from(Status::Ok), limit::MIB));
    // They hold what they held: nobody had to go for that. On a machine that took as long as they may stand still they did.
    if began.elapsed() < limit::STALLED_READER_TIME {
        assert_eq!(served.served.load(Ordering::Relaxed), all_they_can + 1);
        assert!(deaf_ones.iter().all(|id| holder.state(*id).connected));
    }
    others.shutdown().await;
}
