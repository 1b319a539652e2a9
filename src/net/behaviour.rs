//! The behaviours of the node and the swarm that they run in.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Transport;
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::upgrade::Version;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::request_response::ProtocolSupport;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, connection_limits, dcutr, identify, identity, kad,
    memory_connection_limits, noise, ping, quic, relay, request_response, tcp, yamux,
};

use rustix::net::sockopt::set_tcp_user_timeout;
use tracing::warn;

use super::backlog::{Backlog, Barred, KnownHosts};
use super::codec::{Codec, Door, Fetch, Protocol, Sync};
use super::cork::Corked;
use super::gate::{Admission, Gate, Verdict};
use super::hold::Hold;
use super::nearby::Nearby;
use super::paced::Paced;
use super::ration::Rationing;
use super::streams::Guarded;
use super::unread::{Accounting, Ceiling};
use super::{Limits, Members, NetConfig, NetError};
use crate::base::limit;

/// The least time that a peer has to answer a ping.
const PING_ANSWER: Duration = Duration::from_secs(5);

/// Everything the node speaks. The order matters: limits refuse first, [`Admission`] decides next, and after it
/// no behaviour refuses a connection that another one has already taken note of.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) admission: Admission,
    hold: Gate<Hold>,
    /// Carries members' connections to each other, if this node serves as a relay.
    relay: Toggle<Gate<relay::Behaviour>>,
    /// Being reached, and reaching others, through members that do.
    circuits: Gate<relay::client::Behaviour>,
    /// Turns connections through relays into direct ones.
    punching: Toggle<Gate<dcutr::Behaviour>>,
    /// Hears members on the local network.
    nearby: Toggle<Nearby>,
    identify: Gate<identify::Behaviour>,
    ping: Gate<ping::Behaviour>,
    kad: Paced<Gate<kad::Behaviour<MemoryStore>>>,
    pub(super) sync: Gate<request_response::Behaviour<Codec<Sync>>>,
    pub(super) fetch: Gate<request_response::Behaviour<Codec<Fetch>>>,
    pub(super) door: request_response::Behaviour<Codec<Door>>,
}

impl Behaviour {
    fn new(
        key: &identity::Keypair,
        circuits: relay::client::Behaviour,
        config: &NetConfig,
        members: Arc<Members>,
        barred: Barred,
    ) -> Self {
        let verdict = Verdict::default();
        let me = key.public().to_peer_id();
        let identify = identify::Config::new("/shadowvault/1".to_owned(), key.public())
            .with_agent_version(concat!("shadowvault/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        let ping =
            ping::Config::new().with_interval(config.heartbeat_interval).with_timeout(ping_answer(config));
        Self {
            limits: connection_limits::Behaviour::new(connection_limits(config)),
            memory: memory_bound(&config.limits),
            admission: Admission::new(members, verdict.clone(), config.max_peers),
            hold: Gate::new(Hold, verdict.clone()),
            relay: gated(config.serve_relay, || relay::Behaviour::new(me, relaying()), &verdict),
            circuits: Gate::new(circuits, verdict.clone()),
            punching: config
                .punch_holes
                .then(|| Gate::choosy(dcutr::Behaviour::new(me), verdict.clone(), barred))
                .into(),
            nearby: config.search_nearby.then(|| Nearby::new(me)).into(),
            identify: Gate::new(identify::Behaviour::new(identify), verdict.clone()),
            ping: Gate::new(ping::Behaviour::new(ping), verdict.clone()),
            // What it hears of others' addresses is signed by nobody.
            kad: Paced::new(Gate::unheard(kademlia(me, config), verdict.clone())),
            sync: Gate::new(protocol(config.fetch_timeout), verdict.clone()),
            fetch: Gate::new(protocol(config.fetch_timeout), verdict),
            door: protocol(config.connection_timeout),
        }
    }
}

impl Behaviour {
    /// The members' Kademlia.
    pub(super) fn kad(&mut self) -> &mut kad::Behaviour<MemoryStore> {
        self.kad.inner().inner()
    }

    /// Another limit of memory from now on.
    pub(super) fn bound_memory(&mut self, limits: &Limits) {
        self.memory = memory_bound(limits);
    }
}

fn memory_bound(limits: &Limits) -> memory_connection_limits::Behaviour {
    memory_connection_limits::Behaviour::with_max_bytes(limits.memory_bytes_max.unwrap_or(usize::MAX))
}

/// How long a peer may take to answer a ping. A short heartbeat is there to notice silence soon; a slow line still gets five
/// seconds.
fn ping_answer(config: &NetConfig) -> Duration {
    config.connection_timeout.min(config.heartbeat_interval.max(PING_ANSWER))
}

/// Ends a connection when nothing of what was sent arrives for `time`. Pings find out too, but all they can do is close it,
/// and that waits for what is still to be sent: into a dead line, for as long as the kernel tries, a quarter of an hour.
fn give_up_after(io: &tcp::tokio::TcpStream, time: Duration) {
    let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = set_tcp_user_timeout(&io.0, millis) {
        warn!(target: "net", %error, "a connection that dies may be noticed late");
    }
}

fn gated<B: NetworkBehaviour>(wanted: bool, make: impl FnOnce() -> B, verdict: &Verdict) -> Toggle<Gate<B>> {
    wanted.then(|| Gate::new(make(), verdict.clone())).into()
}

/// What members may have carried through this node. libp2p's own limits of 128 KiB and two minutes are for finding a direct
/// way; here a whole backup may have to pass.
fn relaying() -> relay::Config {
    relay::Config {
        max_reservations: limit::RELAY_RESERVATIONS_MAX,
        max_circuits: limit::RELAY_CIRCUITS_MAX,
        max_circuits_per_peer: limit::RELAY_CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: limit::RELAY_CIRCUIT_LIFE,
        max_circuit_bytes: limit::RELAY_CIRCUIT_BYTES_MAX,
        ..relay::Config::default()
    }
}

fn protocol<P: Protocol>(timeout: Duration) -> request_response::Behaviour<Codec<P>> {
    let config = request_response::Config::default()
        .with_request_timeout(timeout)
        .with_max_concurrent_streams(limit::PROTOCOL_STREAMS_MAX);
    request_response::Behaviour::new([(StreamProtocol::new(P::NAME), ProtocolSupport::Full)], config)
}

/// Keeps what members signed about their addresses. A server from the start: behind a private address the automatic
/// mode would stay a client for ever. What is put is looked at before it is kept; providers of anything are not.
fn kademlia(me: libp2p::PeerId, config: &NetConfig) -> kad::Behaviour<MemoryStore> {
    let mut kademlia = kad::Config::new(StreamProtocol::new("/shadowvault/kad/1"));
    kademlia
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(config.discovery_interval))
        .set_query_timeout(config.connection_timeout)
        .set_max_packet_size(limit::KAD_BYTES_MAX);
    let store = MemoryStoreConfig {
        max_records: limit::WHEREABOUTS_MAX,
        max_value_bytes: limit::WHEREABOUTS_BYTES_MAX,
        max_provided_keys: 0,
        ..Default::default()
    };
    let mut behaviour = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), kademlia);
    behaviour.set_mode(Some(kad::Mode::Server));
    behaviour
}

/// Incoming connections that still shake hands are bounded by each transport's [`Backlog`].
fn connection_limits(config: &NetConfig) -> connection_limits::ConnectionLimits {
    let total = u32::try_from(limit::connections_max(config.max_peers)).unwrap_or(u32::MAX);
    connection_limits::ConnectionLimits::default()
        .with_max_pending_outgoing(Some(limit::CONNECTIONS_PENDING_MAX))
        .with_max_established_per_peer(Some(limit::CONNECTIONS_PER_PEER_MAX))
        .with_max_established(Some(total))
}

/// A swarm that does not listen yet.
pub(super) fn build(
    key: identity::Keypair,
    config: &NetConfig,
    members: Arc<Members>,
    known: &KnownHosts,
) -> Result<Swarm<Behaviour>, NetError> {
    let start = |e: &dyn std::error::Error| NetError::Start(e.to_string());
    let barred = Barred::default();
    let ceiling = Arc::new(Ceiling::default());
    let muxer = || {
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(limit::STREAMS_PER_CONNECTION_MAX);
        Accounting::new(muxer, &ceiling)
    };
    let settings = |swarm: libp2p::swarm::Config| {
        swarm
            .with_idle_connection_timeout(limit::STRANGER_IDLE)
            .with_max_negotiating_inbound_streams(limit::STREAMS_PER_CONNECTION_MAX)
            // The request goes out with the protocol's name: a round trip less, and yamux then widens the stream's window at
            // once, which it only does for data that come within two round trips.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_dial_concurrency_factor(NonZeroU8::MIN.saturating_add(limit::PEER_ADDRESSES_MAX as u8 - 1))
    };
    // Two pings that are missed end a connection.
    let silence = 2 * ping_answer(config);
    let noise = || {
        let noise = noise::Config::new(&key).map_err(|e| start(&e))?;
        Ok::<_, NetError>(Rationing::new(noise, &members))
    };
    let transports = || {
        let mut settings = quic::Config::new(&key);
        settings.max_concurrent_stream_limit = limit::STREAMS_PER_CONNECTION_MAX as u32;
        settings.max_stream_data = limit::QUIC_STREAM_WINDOW_BYTES;
        settings.max_connection_data = limit::QUIC_CONNECTION_WINDOW_BYTES;
        settings.handshake_timeout = config.connection_timeout;
        let over_quic = quic::tokio::Transport::new(settings)
            .map(guarded(&members))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
        let over_quic = Backlog::new(known.clone()).before(over_quic.boxed(), &barred);
        let backlog = Backlog::new(known.clone());
        let waiting = backlog.clone();
        let over_tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .map(move |io, point| {
                give_up_after(&io, silence);
                let ear = match &point {
                    ConnectedPoint::Listener { send_back_addr, .. } => waiting.ear(send_back_addr),
                    ConnectedPoint::Dialer { .. } => None,
                };
                Corked::new(io).heard_by(ear)
            })
            .upgrade(Version::V1Lazy)
            .authenticate(noise()?)
            .multiplex(muxer())
            .map(guarded(&members))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
        let over_tcp = backlog.before(over_tcp.boxed(), &barred);
        let (through_members, circuits) = relay::client::new(key.public().to_peer_id());
        let through_members = through_members
            .upgrade(Version::V1Lazy)
            .authenticate(noise()?)
            .multiplex(muxer())
            .map(guarded(&members));
        let all = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_other_transport(|_| through_members)
            .and_then(|all| all.with_other_transport(|_| over_quic))
            .and_then(|all| all.with_other_transport(|_| over_tcp))
            .map_err(|e| start(&e))?;
        Ok::<_, NetError>((all, circuits))
    };
    let timeout = config.connection_timeout;
    let (all, circuits) = transports()?;
    let behaviour = |circuits| {
        let (members, barred) = (Arc::clone(&members), barred.clone());
        move |key: &identity::Keypair| Behaviour::new(key, circuits, config, members, barred)
    };
    Ok(match all.with_dns() {
        Ok(all) => all
            .with_behaviour(behaviour(circuits))
            .map_err(|e| start(&e))?
            .with_swarm_config(settings)
            .with_connection_timeout(timeout)
            .build(),
        Err(error) => {
            // A machine without a resolver still reaches peers by IP address.
            warn!(target: "net", %error, "names in addresses will not be resolved");
            let (all, circuits) = transports()?;
            let all = all.with_behaviour(behaviour(circuits)).map_err(|e| start(&e))?;
            all.with_swarm_config(settings).with_connection_timeout(timeout).build()
        }
    })
}

/// Whoever comes, and however: a stranger's streams are few.
fn guarded<M>(
    members: &Arc<Members>,
) -> impl FnOnce((libp2p::PeerId, M), ConnectedPoint) -> (libp2p::PeerId, Guarded<M>) + Clone + use<M> {
    let members = Arc::clone(members);
    move |(peer, inner), _| (peer, Guarded::new(inner, &peer, &members))
}
