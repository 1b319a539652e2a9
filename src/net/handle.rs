//! The handle that the rest of the program holds.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use prost::Message;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::address::{
    from_libp2p, ip_of, is_claimable, is_global, is_relayed, parse_for, parse_own, with_peer,
};
use super::backlog::KnownHosts;
use super::codec::{Door, Fetch, Sync};
use super::lane::{Lane, Places, fetch_cost};
use super::meter::{Limits, Meter, Paces};
use super::peers::Table;
use super::swarm::{Act, Node};
use super::{Claim, Members, NetError, NetEvent, PeerState, Router, Server};
use crate::base::{Moment, PeerId, limit, meter};
use crate::wire::{self, Status};

/// What the network needs to know at its start. Times that would make it spin are raised: the intervals and
/// `connection_timeout` to a second, the waits to 100 ms.
pub struct NetConfig {
    /// The seed of the node's Ed25519 key.
    pub node_key: Zeroizing<[u8; 32]>,
    /// Multiaddrs to listen on, such as `/ip4/0.0.0.0/tcp/9000` and `/ip4/0.0.0.0/udp/9000/quic-v1`.
    pub listen: Vec<String>,
    /// Multiaddrs that others should dial.
    pub announce: Vec<String>,
    /// Peers that may be connected at one time.
    pub max_peers: usize,
    /// Bounds a dial and its handshake, and a door request.
    pub connection_timeout: Duration,
    /// Between pings.
    pub heartbeat_interval: Duration,
    /// First wait before a lost member is dialled again.
    pub reconnect_backoff: Duration,
    /// Longest such wait.
    pub max_reconnect_backoff: Duration,
    /// Carry connections of other members.
    pub serve_relay: bool,
    /// Be reachable through members that do.
    pub use_relays: bool,
    /// Turn connections through relays into direct ones.
    pub punch_holes: bool,
    /// Look for members on the local network.
    pub search_nearby: bool,
    /// Ask the router to forward the ports that this node listens on.
    pub map_ports: bool,
    /// Between searches for members that cannot be reached.
    pub discovery_interval: Duration,
    /// Bounds one sync or fetch request, from its sending to the last byte of its answer.
    pub fetch_timeout: Duration,
    /// How long a request of a peer waits for its turn under a limit, and at most half as long as its answer may take.
    pub turn_wait: Duration,
    /// Chunk-fetch requests in flight at one time.
    pub max_concurrent_fetch: usize,
    /// How much peers may ask; [`Net::configure`] changes it.
    pub limits: Limits,
}

impl NetConfig {
    fn calm(&mut self) {
        for interval in
            [&mut self.connection_timeout, &mut self.heartbeat_interval, &mut self.discovery_interval]
        {
            *interval = (*interval).max(Duration::from_secs(1));
        }
        for wait in [&mut self.reconnect_backoff, &mut self.max_reconnect_backoff, &mut self.fetch_timeout] {
            *wait = (*wait).max(Duration::from_millis(100));
        }
    }
}

/// What came of a call that a member was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledBack {
    /// Whether the member looks at this node from outside: from another network, or at an address on the internet.
    pub from_outside: bool,
    /// The address without the peer id at which it reached this node, if it did.
    pub reached: Option<String>,
}

/// How a node looks from outside. Full multiaddrs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Where members reached it.
    pub reached: Vec<String>,
    /// Through relays.
    pub relayed: Vec<String>,
    /// What the router does; `None` until that is known, or when it is not asked.
    pub router: Option<Router>,
}

/// The running network. Clones share it; it ends with [`Net::shutdown`] or with the last clone.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
    acts: mpsc::Sender<Act>,
}

/// What the handle and the swarm's task both see.
pub(super) struct Shared {
    pub(super) me: PeerId,
    pub(super) config: NetConfig,
    pub(super) members: Arc<Members>,
    pub(super) outgoing: Places,
    pub(super) table: Mutex<Table>,
    pub(super) announce: Vec<Multiaddr>,
    /// This node listens at another address.
    pub(super) moved: Notify,
    pub(super) paces: Paces,
    /// Where members were seen.
    pub(super) known: KnownHosts,
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Net {
    /// Starts listening and runs the network on a task of its own. Fails when an address cannot be listened on.
    /// The receiver gets [`NetEvent`]s; those that it does not take in time are lost.
    pub async fn start(
        mut config: NetConfig,
        members: Arc<Members>,
        server: Arc<dyn Server>,
    ) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        config.calm();
        let start = |e: &dyn std::error::Error| NetError::Start(e.to_string());
        let key = Keypair::ed25519_from_bytes(config.node_key.clone()).map_err(|e| start(&e))?;
        let me = from_libp2p(&key.public().to_peer_id()).map_err(|e| start(&e))?;
        let listen = config.listen.iter().map(|a| parse_own(a, me)).collect::<Result<Vec<_>, _>>()?;
        let announce = config.announce.iter().map(|a| parse_own(a, me)).collect::<Result<Vec<_>, _>>()?;
        let known = KnownHosts::default();
        let swarm = super::behaviour::build(key, &config, Arc::clone(&members), &known)?;
        let (acts, acts_in) = mpsc::channel(limit::NET_QUEUE_MAX);
        let (events, events_in) = mpsc::channel(limit::NET_QUEUE_MAX);
        let fetches = config.max_concurrent_fetch;
        let shared = Arc::new(Shared {
            me,
            paces: Paces::new(&config.limits),
            config,
            members,
            outgoing: Places::outgoing(fetches),
            table: Mutex::default(),
            announce: announce.clone(),
            moved: Notify::new(),
            known,
        });
        let mut node = Node::new(swarm, Arc::clone(&shared), server, events);
        node.listen(listen, announce).await?;
        if shared.config.map_ports {
            let asking = tokio::spawn(super::router::run(Arc::clone(&shared), acts.downgrade()));
            node.asking = Some(AbortOnDropHandle::new(asking));
        }
        tokio::spawn(node.run(acts_in));
        Ok((Self { shared, acts }, events_in))
    }

    /// This node.
    pub fn peer_id(&self) -> PeerId {
        self.shared.me
    }

    /// Full multiaddrs of this node: the announced ones first, then those that work from outside, then those it listens
    /// on, loopback last.
    pub fn addresses(&self) -> Vec<String> {
        let own = self.shared.table().own(&self.shared.announce);
        own.iter().map(|address| with_peer(address, self.shared.me)).collect()
    }

    /// Where a peer is connected from; nothing is known of one that comes through a relay.
    pub fn seen_at(&self, peer: PeerId) -> Option<IpAddr> {
        let table = self.shared.table();
        table.records.get(&peer)?.links.values().find_map(|link| ip_of(&link.remote))
    }

    /// How this node looks from outside.
    pub fn outside(&self) -> Outside {
        let full = |all: &[Multiaddr]| all.iter().map(|address| with_peer(address, self.shared.me)).collect();
        let table = self.shared.table();
        let relayed: Vec<Multiaddr> = table.listening.iter().filter(|a| is_relayed(a)).cloned().collect();
        Outside {
            reached: full(&table.outside),
            relayed: full(&relayed),
            router: table.router.as_ref().map(|router| match router {
                Router::Silent => Router::Silent,
                Router::Hidden => Router::Hidden,
                Router::Refuses => Router::Refuses,
                Router::Forwards(mapped) => Router::Forwards(full(mapped)),
            }),
        }
    }

    /// Asks a member to call this node back, on a connection of its own.
    pub async fn ask_call(&self, peer: PeerId) -> Result<CalledBack, NetError> {
        let own = self.shared.table().own(&self.shared.announce);
        let direct = own.iter().filter(|address| !is_relayed(address));
        let addresses: Vec<String> =
            direct.map(Multiaddr::to_string).take(limit::PEER_ADDRESSES_MAX).collect();
        let (waiter, came) = oneshot::channel();
        self.act(move |node| node.expect_call(peer, waiter)).await?;
        let said = self.call_of(peer, addresses).await;
        let came = match &said {
            // The answer that tells of the call may have been faster than the call.
            Ok(said) if !said.reached.is_empty() => {
                matches!(timeout(limit::CALL_ARRIVAL, came).await, Ok(Ok(())))
            }
            _ => false,
        };
        self.act(move |node| node.end_call(peer)).await?;
        self.judge_call(peer, &said?, came)
    }

    async fn call_of(&self, peer: PeerId, addresses: Vec<String>) -> Result<wire::CalledBack, NetError> {
        let ask = Some(wire::sync_request::Ask::CallBack(wire::CallBack { addresses }));
        match self.sync(peer, wire::SyncRequest { ask }).await?.answer {
            Some(wire::sync_response::Answer::CalledBack(said)) => Ok(said),
            _ => Err(NetError::Malformed { peer, reason: "it does not call back".to_owned() }),
        }
    }

    /// Its word alone would have this node announce what nobody can reach.
    fn judge_call(&self, peer: PeerId, said: &wire::CalledBack, came: bool) -> Result<CalledBack, NetError> {
        let odd = |what: &str| NetError::Malformed { peer, reason: what.to_owned() };
        let seen_at: IpAddr = said.seen_at.parse().map_err(|_| odd("not an IP address"))?;
        let reached = if came {
            let address =
                parse_for(self.shared.me, &said.reached).map_err(|error| odd(&error.to_string()))?;
            (ip_of(&address) == Some(seen_at)).then(|| address.to_string())
        } else {
            None
        };
        let here = self.shared.table().listening.iter().filter_map(ip_of).any(|ip| ip == seen_at);
        Ok(CalledBack { from_outside: is_global(seen_at) || !here, reached })
    }

    /// Calls a member back, as it asked: where it is seen, and where it answered. `None` when this is not the time.
    pub async fn call_back(&self, peer: PeerId, addresses: &[String]) -> Option<(IpAddr, Option<String>)> {
        let claimed: Vec<Multiaddr> =
            addresses.iter().filter_map(|text| parse_for(peer, text).ok()).collect();
        let (reply, outcome) = oneshot::channel();
        self.act(move |node| node.call_back(peer, &claimed, reply)).await.ok()?;
        let outcome = outcome.await.ok()?;
        Some((outcome.seen_at, outcome.reached.map(|address| address.to_string())))
    }

    /// From now on these addresses are announced as those that work from outside; others that were are no longer. At
    /// most `limit::OUTSIDE_ADDRESSES_MAX`.
    pub async fn confirm_outside(&self, addresses: &[String]) {
        let me = self.shared.me;
        let confirmed: Vec<Multiaddr> =
            addresses.iter().filter_map(|text| parse_for(me, text).ok()).collect();
        let confirmed: Vec<Multiaddr> = confirmed.into_iter().take(limit::OUTSIDE_ADDRESSES_MAX).collect();
        // An error means that the network has stopped.
        self.act(move |node| node.confirm_outside(confirmed)).await.ok();
    }

    /// All members, and every other peer that is connected or was given an address; in order of id.
    pub fn peers(&self) -> Vec<PeerState> {
        self.shared.table().states(&self.shared.members)
    }

    /// Remembers where a peer is and dials it in the background; a member is dialled again whenever it is lost.
    pub async fn add_address(&self, peer: PeerId, address: &str) -> Result<(), NetError> {
        if peer == self.shared.me {
            return Err(NetError::Myself(peer));
        }
        let address = parse_for(peer, address)?;
        self.act(move |node| node.add_address(peer, address)).await
    }

    /// Remembers where a peer said that it is, in an earlier run of the program, and when that last led to it. None of it
    /// becomes the owner's word.
    pub async fn recall(
        &self,
        peer: PeerId,
        claims: &[(String, Claim, Option<Moment>)],
    ) -> Result<(), NetError> {
        let claims = claims.iter().filter_map(|(text, claim, good)| {
            let address = parse_for(peer, text).ok().filter(is_claimable)?;
            Some((address, *claim, *good))
        });
        let claims = claims.take(limit::PEER_ADDRESSES_MAX).collect();
        self.act(move |node| node.recall(peer, claims)).await
    }

    /// Connects, over the given addresses and those already known; the ones given are remembered if they work.
    pub async fn dial(&self, peer: PeerId, addresses: &[String]) -> Result<(), NetError> {
        let addresses = addresses.iter().map(|a| parse_for(peer, a)).collect::<Result<Vec<_>, _>>()?;
        let (reply, outcome) = oneshot::channel();
        self.act(move |node| node.dial(peer, addresses, Some(reply))).await?;
        // Two stages, and a new start for each address where somebody else answered.
        let after = self.shared.config.connection_timeout.saturating_mul(2) + limit::DIAL_HEAD_START;
        match timeout(after, outcome).await {
            Ok(outcome) => outcome.unwrap_or(Err(NetError::Stopped)),
            Err(_) => Err(NetError::Timeout { peer, after }),
        }
    }

    /// Closes all connections to a peer. A member with a known address is dialled again later.
    pub async fn disconnect(&self, peer: PeerId) {
        // When the network is gone, so are its connections.
        let _ = self.act(move |node| node.disconnect(peer)).await;
    }

    /// Closes all connections to a peer and forgets its addresses, for one that left the list for good.
    pub async fn forget(&self, peer: PeerId) {
        // When the network is gone, so is what it knew.
        let _ = self.act(move |node| node.forget(peer)).await;
    }

    /// Asks a member about heads, records, offers, receipts.
    pub async fn sync(
        &self,
        peer: PeerId,
        request: wire::SyncRequest,
    ) -> Result<wire::SyncResponse, NetError> {
        self.ask::<Sync>(peer, request).await
    }

    /// Asks a member for ranges of a pack, as soon as the pace of downloads allows. What comes back is not verified yet.
    pub async fn fetch(
        &self,
        peer: PeerId,
        request: wire::FetchRequest,
    ) -> Result<wire::FetchResponse, NetError> {
        let fare = self.shared.paces.down.take(fetch_cost(&request)).await;
        let began = Instant::now();
        let response = self.ask::<Fetch>(peer, request).await?;
        fare.keep(response.slices.iter().map(|slice| slice.data.len() as u64).sum());
        meter::CHUNK_FETCH_SECONDS.note(began.elapsed().as_secs_f64());
        meter::CHUNKS_FETCHED.add(response.slices.len() as u64);
        meter::FETCH_BYTES.add(response.slices.iter().map(|slice| slice.data.len() as u64).sum());
        Ok(response)
    }

    /// Meters otherwise from now on. What peers have used up of the old rates is forgotten.
    pub async fn configure(&self, limits: Limits) {
        self.shared.paces.change(&limits);
        // An error means that the network has stopped.
        self.act(move |node| {
            node.meter = Arc::new(Meter::new(&limits));
            node.swarm.behaviour_mut().bound_memory(&limits);
        })
        .await
        .ok();
    }

    /// Knocks at a peer's door, whether it knows this node or not. When it answers that this node is admitted
    /// now, the connection is closed: the next request makes one with the new rights.
    pub async fn door(
        &self,
        peer: PeerId,
        request: wire::DoorRequest,
    ) -> Result<wire::DoorResponse, NetError> {
        let response = self.ask::<Door>(peer, request).await?;
        if response.admitted {
            let (gone, parted) = oneshot::channel();
            self.act(move |node| node.come_again(peer, gone)).await?;
            // Closed in either case: an error says that there was nothing to close.
            let _ = timeout(self.shared.config.connection_timeout, parted).await;
        }
        Ok(response)
    }

    /// Asks the members that are connected where another member is. Whoever is found is dialled on the way.
    /// Full multiaddrs; empty when nobody knows.
    pub async fn find(&self, peer: PeerId) -> Vec<String> {
        let (reply, found) = oneshot::channel();
        if self.act(move |node| node.find(peer, reply)).await.is_err() {
            return Vec::new();
        }
        found.await.unwrap_or_default().iter().map(|a| with_peer(a, peer)).collect()
    }

    /// Answers everyone who waits with [`NetError::Stopped`], closes all connections and ends the task, within
    /// `limit::NET_SHUTDOWN`.
    pub async fn shutdown(self) {
        let (reply, ended) = oneshot::channel();
        if self.act(move |node| node.stop(reply)).await.is_ok() {
            // An error means that the task has ended already.
            let _ = ended.await;
        }
    }

    /// Sends one request, after connecting when need be. A caller that goes away leaves the request to end by
    /// itself; its place is free again when it has.
    async fn ask<P: Lane>(&self, peer: PeerId, request: P::Request) -> Result<P::Response, NetError> {
        if peer == self.shared.me {
            return Err(NetError::Myself(peer));
        }
        if P::MEMBERS_ONLY && !self.shared.members.allows(&peer) {
            return Err(NetError::NotMember(peer));
        }
        let length = request.encoded_len();
        if length > P::REQUEST.bytes {
            return Err(NetError::TooLong { length, limit: P::REQUEST.bytes });
        }
        let slot = P::places(&self.shared.outgoing).take(peer).await.ok_or(NetError::Stopped)?;
        if !self.is_linked(peer) {
            self.dial(peer, &[]).await?;
        }
        if P::MEMBERS_ONLY && self.speaks_otherwise(peer) {
            return Err(NetError::OtherVersion(peer));
        }
        let (reply, answer) = oneshot::channel();
        self.act(move |node| node.send::<P>(peer, request, slot, reply)).await?;
        let after = P::timeout(&self.shared.config);
        // libp2p's own timeout starts when the stream is open; this one also covers the opening.
        meter::MESSAGES_SENT.add(1);
        let response = match timeout(after, answer).await {
            Ok(outcome) => outcome.unwrap_or(Err(NetError::Stopped))?,
            Err(_) => return Err(NetError::Timeout { peer, after }),
        };
        meter::MESSAGES_RECEIVED.add(1);
        match Status::try_from(P::status(&response)) {
            Ok(Status::Busy) => Err(NetError::Busy(peer)),
            Ok(Status::Unavailable) => Err(NetError::Unavailable(peer)),
            _ => Ok(response),
        }
    }

    /// Whether there is a connection with the rights that this node would give a new one.
    fn is_linked(&self, peer: PeerId) -> bool {
        let member = self.shared.members.allows(&peer);
        let table = self.shared.table();
        table.records.get(&peer).is_some_and(|r| r.links.values().any(|l| l.member == member))
    }

    fn speaks_otherwise(&self, peer: PeerId) -> bool {
        self.shared.table().records.get(&peer).is_some_and(|record| record.other_version)
    }

    async fn act(&self, act: impl FnOnce(&mut Node) + Send + 'static) -> Result<(), NetError> {
        self.acts.send(Box::new(act)).await.map_err(|_| NetError::Stopped)
    }
}
