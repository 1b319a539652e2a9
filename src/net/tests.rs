//! Nodes that talk to each other over loopback.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, Message, OutboundFailure, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::address::{from_libp2p, to_libp2p};
use super::codec::{Codec, Fetch, Protocol};
use super::*;
use crate::base::{Code, Coded, limit, random_bytes};
use crate::crypto::NodeKey;
use crate::wire::{self, Bound, Status};

pub(super) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
/// Longer than anything here takes; a test that waits this long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers everything: fetches with as many bytes as were asked.
#[derive(Default)]
pub(super) struct Answers {
    members: Arc<Members>,
    admits: bool,
    hangs: AtomicBool,
    panics: AtomicBool,
    pub(super) served: AtomicUsize,
    /// Given when it is to call back.
    net: OnceLock<Net>,
}

impl Answers {
    fn ready<T: Send + 'static>(&self, answer: T) -> BoxFuture<'static, T> {
        self.served.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "a server with a bug");
        if self.hangs.load(Ordering::Relaxed) {
            Box::pin(std::future::pending())
        } else {
            Box::pin(async { answer })
        }
    }
}

impl Server for Answers {
    fn sync(&self, from: PeerId, request: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse> {
        if let (Some(wire::sync_request::Ask::CallBack(call)), Some(net)) =
            (request.ask, self.net.get().cloned())
        {
            return Box::pin(async move {
                let busy = || wire::SyncResponse { status: Status::Busy.into(), answer: None };
                let Some((seen_at, reached)) = net.call_back(from, &call.addresses).await else {
                    return busy();
                };
                let said =
                    wire::CalledBack { seen_at: seen_at.to_string(), reached: reached.unwrap_or_default() };
                let answer = Some(wire::sync_response::Answer::CalledBack(said));
                wire::SyncResponse { status: Status::Ok.into(), answer }
            });
        }
        let answer = Some(wire::sync_response::Answer::Record(from.as_bytes().to_vec()));
        self.ready(wire::SyncResponse { status: Status::Ok.into(), answer })
    }

    fn fetch(&self, _: PeerId, request: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse> {
        let slice = |r: &wire::Range| wire::Slice {
            offset: r.offset,
            data: vec![7; r.length as usize].into(),
            proof: vec![],
        };
        let slices = request.ranges.iter().map(slice).collect();
        self.ready(wire::FetchResponse { status: Status::Ok.into(), pack_length: 1 << 24, slices })
    }

    fn door(&self, from: PeerId, request: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse> {
        let proves = matches!(request.ask, Some(wire::door_request::Ask::Proof(_)));
        let admitted = self.admits && proves;
        if admitted {
            self.members.insert(from);
        }
        self.ready(wire::DoorResponse {
            status: Status::Ok.into(),
            nonce: vec![1; 32],
            admitted,
            ..Default::default()
        })
    }
}

/// A node under test.
pub(super) struct Peer {
    pub(super) net: Net,
    pub(super) events: mpsc::Receiver<NetEvent>,
    pub(super) members: Arc<Members>,
    pub(super) server: Arc<Answers>,
    key: Zeroizing<[u8; 32]>,
}

pub(super) fn config(listen: &[&str]) -> NetConfig {
    NetConfig {
        node_key: Zeroizing::new(random_bytes()),
        listen: listen.iter().map(|a| (*a).to_owned()).collect(),
        announce: vec![],
        max_peers: 10,
        connection_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_secs(5),
        reconnect_backoff: Duration::from_millis(100),
        max_reconnect_backoff: Duration::from_secs(1),
        serve_relay: false,
        use_relays: true,
        punch_holes: true,
        search_nearby: false,
        map_ports: false,
        discovery_interval: Duration::from_secs(300),
        fetch_timeout: Duration::from_secs(5),
        turn_wait: limit::TURN_WAIT,
        max_concurrent_fetch: 16,
        limits: Limits::default(),
    }
}

impl Peer {
    pub(super) async fn start(config: NetConfig) -> Self {
        Self::start_with(config, true).await
    }

    pub(super) async fn start_with(config: NetConfig, admits: bool) -> Self {
        let members = Arc::new(Members::default());
        let server = Arc::new(Answers { members: Arc::clone(&members), admits, ..Answers::default() });
        let key = config.node_key.clone();
        let (net, events) = Net::start(config, Arc::clone(&members), server.clone()).await.unwrap();
        Self { net, events, members, server, key }
    }

    pub(super) fn id(&self) -> PeerId {
        self.net.peer_id()
    }

    pub(super) async fn knows(&self, other: &Self) {
        self.members.insert(other.id());
        for address in other.net.addresses() {
            self.net.add_address(other.id(), &address).await.unwrap();
        }
    }

    pub(super) async fn expect(&mut self, wanted: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the network runs");
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("the event comes")
    }

    pub(super) fn state(&self, other: PeerId) -> PeerState {
        self.net.peers().into_iter().find(|s| s.id == other).expect("it is listed")
    }
}

/// Two nodes that list each other, connected.
pub(super) async fn pair(one: NetConfig, two: NetConfig) -> (Peer, Peer) {
    let (mut one, mut two) = (Peer::start(one).await, Peer::start(two).await);
    two.members.insert(one.id());
    one.knows(&two).await;
    let (a, b) = (one.id(), two.id());
    one.expect(|e| *e == NetEvent::Connected(b)).await;
    two.expect(|e| *e == NetEvent::Connected(a)).await;
    (one, two)
}

pub(super) fn heads() -> wire::SyncRequest {
    let query = wire::HeadQuery { vault: vec![1; 32], ..wire::HeadQuery::default() };
    wire::SyncRequest { ask: Some(wire::sync_request::Ask::Heads(query)) }
}

/// A question that counts as 65.
fn receipts() -> wire::SyncRequest {
    let query =
        wire::ReceiptQuery { packs: vec![vec![1; 32]; limit::RECEIPT_PACKS_MAX], ..Default::default() };
    wire::SyncRequest { ask: Some(wire::sync_request::Ask::Receipts(query)) }
}

pub(super) fn range(length: u64) -> wire::FetchRequest {
    wire::FetchRequest { pack: vec![2; 32], ranges: vec![wire::Range { offset: 0, length }] }
}

pub(super) fn hello() -> wire::DoorRequest {
    let hello = wire::DoorHello { name: "n".to_owned() };
    wire::DoorRequest { ask: Some(wire::door_request::Ask::Hello(hello)) }
}

pub(super) fn proof() -> wire::DoorRequest {
    wire::DoorRequest { ask: Some(wire::door_request::Ask::Proof(wire::DoorProof::default())) }
}

pub(super) fn data(response: &wire::FetchResponse) -> usize {
    response.slices.iter().map(|s| s.data.len()).sum()
}

async fn check_exchange(listen: &str, transport: Transport) {
    let (one, two) = pair(config(&[]), config(&[listen])).await;
    let answer = one.net.sync(two.id(), heads()).await.unwrap();
    let expected = wire::sync_response::Answer::Record(one.id().as_bytes().to_vec());
    assert_eq!(answer.answer, Some(expected), "the server learns who asks");
    let answer = one.net.fetch(two.id(), range(1 << 20)).await.unwrap();
    assert_eq!(data(&answer), 1 << 20);
    // And the other way over the same connection.
    assert_eq!(data(&two.net.fetch(one.id(), range(65_536)).await.unwrap()), 65_536);
    let state = one.state(two.id());
    assert_eq!((state.transport, state.serves_us, state.member), (Some(transport), true, true));
    assert!(state.agent_version.unwrap().starts_with("shadowvault/"));
    assert!(state.last_seen.is_some() && state.addresses[0].last_good.is_some());
}

#[tokio::test]
async fn members_exchange_requests_over_tcp() {
    check_exchange(TCP, Transport::Tcp).await;
}

#[tokio::test]
async fn members_exchange_requests_over_quic() {
    check_exchange(QUIC, Transport::Quic).await;
}

#[tokio::test]
async fn tcp_is_preferred_when_both_are_known() {
    let mut one = Peer::start(config(&[])).await;
    let two = Peer::start(config(&[QUIC, TCP])).await;
    two.members.insert(one.id());
    one.members.insert(two.id());
    one.net.dial(two.id(), &two.net.addresses()).await.unwrap();
    let b = two.id();
    one.expect(|e| *e == NetEvent::Connected(b)).await;
    assert_eq!(one.state(b).transport, Some(Transport::Tcp));
}

#[tokio::test]
async fn stranger_reaches_the_door_and_nothing_else() {
    let (mut holder, third) = pair(config(&[TCP]), config(&[TCP])).await;
    let one = Peer::start(config(&[])).await;
    // `one` lists the others; the holder does not list it.
    one.members.insert(third.id());
    one.members.insert(holder.id());
    one.net.dial(holder.id(), &holder.net.addresses()).await.unwrap();
    for error in [
        one.net.sync(holder.id(), heads()).await.unwrap_err(),
        one.net.fetch(holder.id(), range(1)).await.unwrap_err(),
    ] {
        assert!(matches!(error, NetError::NotAdmitted(p) if p == holder.id()), "{error}");
        assert_eq!(error.code(), Code::Unauthorized);
    }
    assert!(one.net.find(third.id()).await.is_empty(), "Kademlia answers members only");
    assert_eq!(one.net.door(holder.id(), hello()).await.unwrap().nonce.len(), 32);
    assert!(!one.state(holder.id()).serves_us);
    let a = one.id();
    holder.expect(|e| matches!(e, NetEvent::Stranger { peer, .. } if *peer == a)).await;
    assert_eq!(holder.server.served.load(Ordering::Relaxed), 1, "the server saw the door request only");
    let error = holder.net.sync(one.id(), heads()).await.unwrap_err();
    assert!(matches!(error, NetError::NotMember(_)), "{error}");
}

#[tokio::test]
async fn door_works_between_two_that_do_not_know_each_other() {
    let holder = Peer::start_with(config(&[TCP]), false).await;
    let one = Peer::start(config(&[])).await;
    one.net.dial(holder.id(), &holder.net.addresses()).await.unwrap();
    let answer = one.net.door(holder.id(), proof()).await.unwrap();
    assert!(!answer.admitted);
    let error = one.net.sync(holder.id(), heads()).await.unwrap_err();
    assert!(matches!(error, NetError::NotMember(_)), "{error}");
}

#[tokio::test]
async fn admitted_stranger_is_served_at_once() {
    for listed_before in [true, false] {
        let holder = Peer::start(config(&[TCP, QUIC])).await;
        let mut one = Peer::start(config(&[])).await;
        if listed_before {
            one.members.insert(holder.id());
        }
        one.net.dial(holder.id(), &holder.net.addresses()).await.unwrap();
        assert!(one.net.door(holder.id(), proof()).await.unwrap().admitted);
        one.members.insert(holder.id());
        let answer = one.net.sync(holder.id(), heads()).await.unwrap();
        assert_eq!(answer.status, i32::from(Status::Ok));
        let b = holder.id();
        one.expect(|e| *e == NetEvent::Connected(b)).await;
    }
}

#[tokio::test]
async fn accepted_peer_comes_back_by_itself() {
    let holder = Peer::start(config(&[TCP])).await;
    let mut one = Peer::start(config(&[])).await;
    one.knows(&holder).await;
    assert!(one.net.sync(holder.id(), heads()).await.is_err());
    holder.members.insert(one.id());
    let b = holder.id();
    one.expect(|e| *e == NetEvent::Connected(b)).await;
    one.net.sync(b, heads()).await.unwrap();
}

#[tokio::test]
async fn removed_member_is_disconnected() {
    let (mut one, mut two) = pair(config(&[]), config(&[TCP])).await;
    let (a, b) = (one.id(), two.id());
    two.members.remove(&a);
    one.expect(|e| *e == NetEvent::Disconnected(b)).await;
    two.expect(|e| *e == NetEvent::Disconnected(a)).await;
    let error = one.net.sync(b, heads()).await.unwrap_err();
    assert!(matches!(error, NetError::NotAdmitted(_) | NetError::Broken { .. }), "{error}");
    assert_eq!(two.server.served.load(Ordering::Relaxed), 0);
    one.members.remove(&b);
    one.net.forget(b).await;
    assert!(matches!(one.net.dial(b, &[]).await, Err(NetError::NoAddress(_))));
}

#[tokio::test]
async fn lost_member_is_dialled_again() {
    let (mut one, two) = pair(config(&[]), config(&[TCP])).await;
    let b = two.id();
    one.net.disconnect(b).await;
    one.expect(|e| *e == NetEvent::Disconnected(b)).await;
    one.expect(|e| *e == NetEvent::Connected(b)).await;
}

/// A member that died and came again within seconds was taken for the old one, whose connection nobody had seen end: what it
/// had been offered before was waited for.
#[tokio::test]
async fn a_member_that_came_again_before_its_end_was_noticed_is_told_of() {
    let (mut one, before) = pair(config(&[TCP]), config(&[TCP])).await;
    let b = before.id();
    let again = Peer::start(NetConfig { node_key: before.key.clone(), ..config(&[]) }).await;
    assert_eq!(again.id(), b);
    again.knows(&one).await;
    again.net.sync(one.id(), heads()).await.unwrap();
    before.net.disconnect(one.id()).await;
    one.expect(|e| *e == NetEvent::Renewed(b)).await;
    one.net.sync(b, heads()).await.unwrap();
}

#[tokio::test]
async fn third_peer_is_found_through_a_common_member() {
    let (one, hub) = pair(config(&[TCP]), config(&[TCP])).await;
    let mut three = Peer::start(config(&[TCP])).await;
    hub.members.insert(three.id());
    three.knows(&hub).await;
    let h = hub.id();
    three.expect(|e| *e == NetEvent::Connected(h)).await;
    one.members.insert(three.id());
    three.members.insert(one.id());
    // The hub learns where the third one is a moment after the third one is connected to the hub.
    let found = async {
        loop {
            let found = one.net.find(three.id()).await;
            if !found.is_empty() {
                return found;
            }
        }
    };
    let found = timeout(PATIENCE, found).await.unwrap();
    assert!(found.contains(&three.net.addresses()[0]), "{found:?}");
    one.net.sync(three.id(), heads()).await.unwrap();
}

/// Over the rate one was told to come again, and what had come until then was thrown away: at small limits nothing moved.
#[tokio::test]
async fn requests_over_the_rate_wait_for_their_turn_and_are_all_served() {
    let limits = Limits {
        requests_per_second: 50,
        burst: 1,
        peer_bytes_per_second: 8 << 20,
        upload_bytes_per_second: 16 << 20,
        ..Limits::default()
    };
    let patient = |listen| NetConfig { fetch_timeout: 2 * PATIENCE, ..config(listen) };
    let (one, two) = pair(patient(&[]), NetConfig { limits, ..patient(&[TCP]) }).await;
    let other = Peer::start(patient(&[])).await;
    two.members.insert(other.id());
    other.knows(&two).await;
    let b = two.id();
    for net in [&one.net, &other.net] {
        let asked = futures::future::join_all((0..20).map(|_| net.sync(b, heads())));
        let fetched = futures::future::join_all((0..12).map(|_| net.fetch(b, range(1 << 20))));
        let (asked, fetched) = futures::future::join(asked, fetched).await;
        asked.into_iter().for_each(|answer| drop(answer.unwrap()));
        assert!(fetched.into_iter().all(|answer| data(&answer.unwrap()) == 1 << 20));
    }
}

/// What passes is what is paid for, and who waits longer than an answer may take is told to come again.
#[tokio::test]
async fn who_cannot_be_served_in_time_is_told_to_come_again() {
    let limits = Limits { requests_per_second: 1, burst: 1, peer_bytes_per_second: 1, ..Limits::default() };
    let patient = |listen| NetConfig { fetch_timeout: PATIENCE, ..config(listen) };
    let limited = NetConfig { limits, turn_wait: Duration::from_millis(200), ..patient(&[TCP]) };
    let (one, two) = pair(patient(&[]), limited).await;
    let b = two.id();
    // Each takes longer to pay for than this test takes, however busy the machine is.
    one.net.fetch(b, range(1 << 20)).await.unwrap();
    one.net.sync(b, receipts()).await.unwrap();
    let (fetched, asked) = futures::future::join(one.net.fetch(b, range(1)), one.net.sync(b, heads())).await;
    assert!(matches!(fetched, Err(NetError::Busy(_))), "{fetched:?}");
    let error = asked.unwrap_err();
    assert!(matches!(error, NetError::Busy(p) if p == b), "{error}");
    assert_eq!(error.code(), Code::PeerBusy);
    assert_eq!(two.server.served.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn server_that_never_answers_ends_in_a_timeout() {
    let short = NetConfig { fetch_timeout: Duration::from_millis(500), ..config(&[]) };
    let (one, two) = pair(short, config(&[TCP])).await;
    two.server.hangs.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let error = one.net.fetch(two.id(), range(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::NetworkTimeout, "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
    // Its place is free again, and the connection still works.
    two.server.hangs.store(false, Ordering::Relaxed);
    one.net.fetch(two.id(), range(1)).await.unwrap();
}

#[tokio::test]
async fn server_that_panics_fails_that_request_only() {
    let (one, two) = pair(config(&[]), config(&[TCP])).await;
    two.server.panics.store(true, Ordering::Relaxed);
    // More often than there are places.
    for _ in 0..2 * limit::FETCH_SERVED_PER_PEER_MAX {
        let error = one.net.fetch(two.id(), range(1)).await.unwrap_err();
        assert_eq!(error.code(), Code::ConnectionFailed, "{error}");
    }
    two.server.panics.store(false, Ordering::Relaxed);
    one.net.fetch(two.id(), range(1)).await.unwrap();
}

#[tokio::test]
async fn more_requests_than_places_are_all_served_in_time() {
    let (one, two) = pair(config(&[]), config(&[TCP])).await;
    let fetches = (0..64).map(|_| one.net.fetch(two.id(), range(1 << 20)));
    let answers = futures::future::join_all(fetches).await;
    assert!(answers.into_iter().all(|a| data(&a.unwrap()) == 1 << 20));
}

#[tokio::test]
async fn shutdown_answers_those_who_wait() {
    let (one, two) = pair(config(&[TCP]), config(&[TCP])).await;
    two.server.hangs.store(true, Ordering::Relaxed);
    let net = one.net.clone();
    let b = two.id();
    let waits = tokio::spawn(async move { net.fetch(b, range(1)).await });
    // The request is on its way once the other side has seen it.
    while two.server.served.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    timeout(PATIENCE, one.net.clone().shutdown()).await.unwrap();
    let error = timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, NetError::Stopped), "{error}");
    assert!(matches!(one.net.sync(b, heads()).await, Err(NetError::Stopped)));
    assert!(one.net.addresses().is_empty() && !one.state(b).connected);
    one.net.shutdown().await;
}

#[tokio::test]
async fn callers_are_answered_when_the_peer_goes_away() {
    let (one, two) = pair(config(&[]), config(&[TCP])).await;
    two.server.hangs.store(true, Ordering::Relaxed);
    let asked = one.net.fetch(two.id(), range(1));
    let served = Arc::clone(&two.server);
    let leaves = async {
        while served.served.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        two.net.clone().shutdown().await;
    };
    let (answer, ()) = tokio::join!(asked, leaves);
    assert_eq!(answer.unwrap_err().code(), Code::ConnectionFailed);
}

#[tokio::test]
async fn taken_port_is_named() {
    let one = Peer::start(config(&[TCP, QUIC])).await;
    for full in one.net.addresses() {
        let (_, address) = parse_peer_address(&full).unwrap();
        let members = Arc::new(Members::default());
        let error = Net::start(config(&[&address]), members, one.server.clone()).await.err().unwrap();
        assert!(error.to_string().contains(&address), "{error}");
        assert!(error.hint().unwrap().contains("another program uses this port"), "{error}");
    }
}

#[tokio::test]
async fn dial_errors_say_what_happened_at_each_address() {
    let one = Peer::start(config(&[TCP])).await;
    let two = Peer::start(config(&[TCP])).await;
    let me = one.id();
    assert!(matches!(one.net.dial(me, &one.net.addresses()).await, Err(NetError::Myself(p)) if p == me));
    assert!(matches!(one.net.sync(me, heads()).await, Err(NetError::Myself(_))));

    let nobody = PeerId::new(random_bytes());
    assert!(matches!(one.net.dial(nobody, &[]).await, Err(NetError::NoAddress(_))));
    let closed = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("/ip4/127.0.0.1/tcp/{}", socket.local_addr().unwrap().port())
    };
    let place = |full: &str| parse_peer_address(full).unwrap().1;
    let (mine, theirs) = (place(&one.net.addresses()[0]), place(&two.net.addresses()[0]));
    let error = one.net.dial(nobody, &[mine.clone(), closed.clone(), theirs.clone()]).await.unwrap_err();
    let NetError::Unreachable { tried, .. } = &error else { panic!("{error}") };
    let at = |address: &str| {
        &tried.iter().find(|t| t.address == address).unwrap_or_else(|| panic!("{address}: {error}")).reason
    };
    assert!(at(&theirs).contains(&two.id().to_string()), "{error}");
    assert!(at(&closed).contains("refused"), "{error}");
    assert!(at(&mine).contains("this node itself"), "{error}");
    assert_eq!(error.code(), Code::NetworkUnreachable);
    // A right address among wrong ones is found all the same.
    one.net.dial(two.id(), &[mine, closed, theirs]).await.unwrap();
}

#[tokio::test]
async fn unusable_node_addresses_are_refused() {
    let one = Peer::start(config(&[TCP])).await;
    let error = one.net.add_address(PeerId::new(random_bytes()), "10.0.0.1").await.unwrap_err();
    assert_eq!(error.code(), Code::UsageInvalid);
    assert!(error.hint().unwrap().contains("shadowvault id"));
}

// ---- A peer of another version ---------------------------------------------------------------------------

#[derive(libp2p::swarm::NetworkBehaviour)]
struct Newer {
    identify: libp2p::identify::Behaviour,
    fetch: request_response::Behaviour<Codec<Second>>,
}

/// The fetch protocol of a time to come.
enum Second {}

impl Protocol for Second {
    const NAME: &'static str = "/shadowvault/chunk-fetch/2";
    type Request = wire::FetchRequest;
    type Response = wire::FetchResponse;
    const REQUEST: Bound = Fetch::REQUEST;
    const RESPONSE: Bound = Fetch::RESPONSE;
}

#[tokio::test]
async fn a_newer_peer_is_named_and_both_keep_running() {
    let target = Peer::start(config(&[TCP])).await;
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Newer {
            identify: libp2p::identify::Behaviour::new(
                libp2p::identify::Config::new("/shadowvault/2".to_owned(), key.public())
                    .with_agent_version("shadowvault/9.0.0".to_owned()),
            ),
            fetch: request_response::Behaviour::new(
                [(StreamProtocol::new(Second::NAME), ProtocolSupport::Full)],
                request_response::Config::default(),
            ),
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
        .build();
    let newer = from_libp2p(swarm.local_peer_id()).unwrap();
    target.members.insert(newer);
    swarm.dial(target.net.addresses()[0].parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    let running = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let named = async {
        while !target.state(newer).other_version {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, named).await.expect("it is noticed");
    let state = target.state(newer);
    assert_eq!((state.serves_us, state.agent_version.as_deref()), (false, Some("shadowvault/9.0.0")));
    let error = target.net.sync(newer, heads()).await.unwrap_err();
    assert_eq!(error.code(), Code::PeerIncompatible);
    assert!(error.hint().unwrap().contains("update"), "{error}");
    assert!(!running.is_finished() && target.state(newer).connected);
}

// ---- A peer whose answers are cut off ---------------------------------------------------------------------

/// Writes half of each answer, as one does whose time is over.
#[derive(Clone, Default)]
struct Halved(Codec<Fetch>);

impl request_response::Codec for Halved {
    type Protocol = StreamProtocol;
    type Request = <Codec<Fetch> as request_response::Codec>::Request;
    type Response = <Codec<Fetch> as request_response::Codec>::Response;

    async fn read_request<T>(&mut self, name: &StreamProtocol, io: &mut T) -> std::io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.0.read_request(name, io).await
    }

    async fn read_response<T>(&mut self, name: &StreamProtocol, io: &mut T) -> std::io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.0.read_response(name, io).await
    }

    async fn write_request<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
        request: Self::Request,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.0.write_request(name, io, request).await
    }

    async fn write_response<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
        response: Self::Response,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let mut bytes = Vec::new();
        self.0.write_response(name, &mut bytes, response).await?;
        io.write_all(&bytes[..bytes.len() / 2]).await
    }
}

#[tokio::test]
async fn answer_that_was_cut_off_is_held_against_nobody() {
    let one = Peer::start(config(&[TCP])).await;
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new(Fetch::NAME), ProtocolSupport::Full)];
            request_response::Behaviour::<Halved>::new(protocols, request_response::Config::default())
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
        .build();
    let cut = from_libp2p(swarm.local_peer_id()).unwrap();
    one.members.insert(cut);
    swarm.dial(one.net.addresses()[0].parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(request_response::Event::Message {
                message: Message::Request { channel, .. },
                ..
            }) = swarm.select_next_some().await
            {
                let slice = wire::Slice { offset: 0, data: vec![7; 1 << 16].into(), proof: vec![] };
                let answer = wire::FetchResponse { status: 1, pack_length: 1 << 24, slices: vec![slice; 2] };
                swarm.behaviour_mut().send_response(channel, answer.into()).ok();
            }
        }
    }));
    let connected = async {
        while !one.net.peers().iter().any(|peer| peer.id == cut && peer.connected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, connected).await.expect("it comes");
    let error = one.net.fetch(cut, range(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::ConnectionFailed, "{error}");
}

// ---- A peer that keeps no limits -------------------------------------------------------------------------

/// The fetch protocol as someone speaks it who means no good.
enum Loud {}

impl Protocol for Loud {
    const NAME: &'static str = Fetch::NAME;
    type Request = wire::FetchRequest;
    type Response = wire::FetchResponse;
    const REQUEST: Bound = Bound::new(64 << 20, usize::MAX);
    const RESPONSE: Bound = Bound::new(64 << 20, usize::MAX);
}

type LoudSwarm = Swarm<request_response::Behaviour<Codec<Loud>>>;

async fn loud(target: &Peer) -> (LoudSwarm, PeerId) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new(Loud::NAME), ProtocolSupport::Full)];
            request_response::Behaviour::<Codec<Loud>>::new(protocols, request_response::Config::default())
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
        .build();
    let id = from_libp2p(swarm.local_peer_id()).unwrap();
    target.members.insert(id);
    swarm.add_peer_address(to_libp2p(target.id()), target.net.addresses()[0].parse().unwrap());
    (swarm, id)
}

/// Sends a request and waits for what becomes of it; the connection must outlive it.
async fn shout(
    swarm: &mut LoudSwarm,
    to: PeerId,
    request: wire::FetchRequest,
) -> Result<wire::FetchResponse, OutboundFailure> {
    swarm.behaviour_mut().send_request(&to_libp2p(to), Ok(request));
    let answer = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: Message::Response { response, .. },
                    ..
                }) => return Ok(response.message),
                SwarmEvent::Behaviour(request_response::Event::OutboundFailure { error, .. }) => {
                    return Err(error);
                }
                SwarmEvent::ConnectionClosed { .. } => panic!("the connection closed"),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, answer).await.expect("an outcome")
}

#[tokio::test]
async fn over_long_requests_are_refused_and_the_connection_goes_on() {
    let target = Peer::start(config(&[TCP])).await;
    let (mut swarm, _) = loud(&target).await;
    let to = target.id();
    let long = wire::FetchRequest { pack: vec![0; 32 << 20], ranges: vec![] };
    let outcome = shout(&mut swarm, to, long).await;
    assert!(matches!(outcome, Err(OutboundFailure::Io(_))), "{outcome:?}");
    let many = wire::FetchRequest { pack: vec![], ranges: vec![wire::Range::default(); 1000] };
    assert_eq!(shout(&mut swarm, to, many).await.unwrap().status, i32::from(Status::Refused));
    assert_eq!(target.server.served.load(Ordering::Relaxed), 0);
    assert_eq!(data(&shout(&mut swarm, to, range(10)).await.unwrap()), 10);
}

#[tokio::test]
async fn over_long_answers_are_refused_and_the_connection_goes_on() {
    let target = Peer::start(config(&[TCP])).await;
    let (mut swarm, id) = loud(&target).await;
    shout(&mut swarm, target.id(), range(1)).await.unwrap();
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(request_response::Event::Message {
                message: Message::Request { request, channel, .. },
                ..
            }) = swarm.select_next_some().await
            {
                let length = request.unwrap().ranges[0].length as usize;
                let slices = match length {
                    0 => vec![wire::Slice::default(); 100_000],
                    n => vec![wire::Slice { offset: 0, data: vec![1; n].into(), proof: vec![] }],
                };
                let response = wire::FetchResponse { status: 1, pack_length: 0, slices };
                swarm.behaviour_mut().send_response(channel, response.into()).unwrap();
            }
        }
    });
    for length in [32 << 20, 0] {
        let error = target.net.fetch(id, range(length)).await.unwrap_err();
        assert!(matches!(error, NetError::Malformed { .. }), "{error}");
        assert_eq!(error.code(), Code::PeerMisbehaved);
    }
    assert_eq!(data(&target.net.fetch(id, range(limit::MIB as u64)).await.unwrap()), limit::MIB);
}

/// A relay, a node that can only be reached through it, and that node's address there.
async fn behind_a_relay(relay: NetConfig, hidden: NetConfig) -> (Peer, Peer, String) {
    let mut relay = Peer::start(NetConfig { serve_relay: true, ..relay }).await;
    let mut hidden = Peer::start(hidden).await;
    relay.members.insert(hidden.id());
    hidden.knows(&relay).await;
    relay.expect(|e| *e == NetEvent::Connected(hidden.id())).await;
    let event = hidden.expect(|e| matches!(e, NetEvent::Listening(a) if a.contains("/p2p-circuit"))).await;
    let NetEvent::Listening(address) = event else { unreachable!("it was matched") };
    (relay, hidden, address)
}

/// Connects a third node to the hidden one by that address alone.
async fn meet(relay: &Peer, hidden: &mut Peer, address: &str, config: NetConfig) -> Peer {
    let mut caller = Peer::start(config).await;
    caller.members.insert(hidden.id());
    hidden.members.insert(caller.id());
    // Only members are carried.
    relay.members.insert(caller.id());
    caller.members.insert(relay.id());
    caller.net.add_address(hidden.id(), address).await.unwrap();
    let (there, here) = (hidden.id(), caller.id());
    caller.expect(|e| *e == NetEvent::Connected(there)).await;
    hidden.expect(|e| *e == NetEvent::Connected(here)).await;
    caller
}

#[tokio::test]
async fn members_reach_each_other_through_a_relay() {
    let still = |listen: &[&str]| NetConfig { punch_holes: false, ..config(listen) };
    let (relay, mut hidden, address) = behind_a_relay(still(&[TCP]), still(&[])).await;
    let caller = meet(&relay, &mut hidden, &address, still(&[])).await;
    assert_eq!(caller.state(hidden.id()).transport, Some(Transport::Relay));
    assert_eq!(hidden.state(caller.id()).transport, Some(Transport::Relay));
    for _ in 0..4 {
        let answer = caller.net.fetch(hidden.id(), range(1 << 20)).await.unwrap();
        assert_eq!(data(&answer), 1 << 20, "more than libp2p's own limit of 128 KiB");
    }
}

#[tokio::test]
async fn a_connection_through_a_relay_becomes_a_direct_one() {
    let (relay, mut hidden, address) = behind_a_relay(config(&[TCP]), config(&[TCP])).await;
    // Both dial at one moment, which goes wrong now and then: whoever connects next tries anew.
    for _ in 0..8 {
        let caller = meet(&relay, &mut hidden, &address, config(&[TCP])).await;
        let direct = async {
            while caller.state(hidden.id()).transport != Some(Transport::Tcp) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE / 8, direct).await.is_ok() {
            let answer = caller.net.fetch(hidden.id(), range(1 << 20)).await.unwrap();
            assert_eq!(data(&answer), 1 << 20);
            return;
        }
    }
    panic!("nobody finds a direct way");
}

#[tokio::test]
async fn a_member_calls_back_and_nothing_else_changes() {
    let (one, mut two) = pair(config(&[TCP]), config(&[TCP])).await;
    two.server.net.get_or_init(|| two.net.clone());
    let called = one.net.ask_call(two.id()).await.unwrap();
    let place = one.net.addresses()[0].split("/p2p/").next().unwrap().to_owned();
    assert_eq!(called, CalledBack { from_outside: false, reached: Some(place) });
    // Neither took the call for a stranger or for a connection to send requests on.
    for _ in 0..20 {
        one.net.sync(two.id(), heads()).await.unwrap();
        two.net.sync(one.id(), heads()).await.unwrap();
    }
    assert!(two.events.try_recv().is_err());
    let again = one.net.ask_call(two.id()).await;
    assert!(matches!(again, Err(NetError::Busy(_))), "{again:?}");
}

/// Both ways used to be tried at once, and who was called took the second for a connection of a member: requests on it
/// met nobody.
#[tokio::test]
async fn a_call_over_one_of_two_ways_leaves_no_other_behind() {
    for _ in 0..10 {
        let (one, two) = pair(config(&[TCP, QUIC]), config(&[TCP, QUIC])).await;
        two.server.net.get_or_init(|| two.net.clone());
        assert!(one.net.ask_call(two.id()).await.unwrap().reached.is_some());
        for _ in 0..10 {
            one.net.sync(two.id(), heads()).await.unwrap();
            two.net.sync(one.id(), heads()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_listens_nowhere_is_not_reached() {
    let (one, two) = pair(config(&[]), config(&[TCP])).await;
    two.server.net.get_or_init(|| two.net.clone());
    let called = one.net.ask_call(two.id()).await.unwrap();
    assert_eq!(called.reached, None);
}

/// What is said about a third peer counts only if that peer signed it.
#[tokio::test]
async fn a_member_cannot_say_where_another_is() {
    let (one, hub) = pair(config(&[TCP]), config(&[TCP])).await;
    let three = NodeKey::generate().peer_id();
    for member in [&one, &hub] {
        member.members.insert(three);
    }
    // The hub knows an address, but has nothing signed.
    hub.net.add_address(three, "/ip4/127.0.0.1/tcp/9").await.unwrap();
    assert!(one.net.find(three).await.is_empty());
    assert!(one.state(three).addresses.is_empty());
}

#[tokio::test]
async fn who_wants_no_relay_asks_for_none() {
    let mut relay = Peer::start(NetConfig { serve_relay: true, ..config(&[TCP]) }).await;
    let mut shy = Peer::start(NetConfig { use_relays: false, ..config(&[]) }).await;
    relay.members.insert(shy.id());
    shy.knows(&relay).await;
    relay.expect(|e| *e == NetEvent::Connected(shy.id())).await;
    shy.expect(|e| *e == NetEvent::Connected(relay.id())).await;
    shy.net.fetch(relay.id(), range(1)).await.unwrap();
    assert!(shy.net.addresses().is_empty(), "{:?}", shy.net.addresses());
}

/// Without their names, the addresses of two behind one relay are the same.
#[tokio::test]
async fn two_behind_one_relay_reach_each_other() {
    let still = |listen: &[&str]| NetConfig { punch_holes: false, ..config(listen) };
    let (relay, mut hidden, address) = behind_a_relay(still(&[TCP]), still(&[])).await;
    let mut caller = Peer::start(still(&[])).await;
    relay.members.insert(caller.id());
    hidden.members.insert(caller.id());
    caller.knows(&relay).await;
    caller.expect(|e| matches!(e, NetEvent::Listening(a) if a.contains("/p2p-circuit"))).await;
    caller.members.insert(hidden.id());
    caller.net.add_address(hidden.id(), &address).await.unwrap();
    hidden.expect(|e| *e == NetEvent::Connected(caller.id())).await;
}

#[tokio::test]
async fn strangers_are_not_carried() {
    let still = |listen: &[&str]| NetConfig { punch_holes: false, ..config(listen) };
    let (_relay, hidden, address) = behind_a_relay(still(&[TCP]), still(&[])).await;
    let caller = Peer::start(still(&[])).await;
    caller.members.insert(hidden.id());
    hidden.members.insert(caller.id());
    caller.net.add_address(hidden.id(), &address).await.unwrap();
    let refused = caller.net.fetch(hidden.id(), range(1)).await;
    assert!(matches!(refused, Err(NetError::Unreachable { .. })), "{refused:?}");
}
