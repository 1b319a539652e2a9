//! Who may speak which protocol on a connection.
//!
//! [`Admission`] decides, once for each connection and before any other behaviour sees it, whether it is a
//! member's or a stranger's. [`Gate`] hides strangers' connections from the behaviour inside it and gives them
//! a handler that speaks nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenAddresses,
    NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId as Libp2pId};
use tokio::sync::oneshot;

use super::Members;
use super::address::{first_ip, from_libp2p, ip_of, is_relayed, may_claim, to_libp2p};
use super::backlog::Barred;
use crate::base::{Origin, PeerId, limit, random_bytes};
use crate::policy::{Crowd, Entry, Room};

/// The latest decision, for the gates that are asked about the same connection right after.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<(ConnectionId, bool)>>>);

impl Verdict {
    fn tell(&self, connection: ConnectionId, member: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((connection, member));
    }

    fn is_member(&self, connection: ConnectionId) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some((connection, true))
    }
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("not an Ed25519 identity")]
    Identity,
    #[error("too many strangers at the door")]
    Crowded,
    #[error("not a member, and nobody asked to dial it")]
    NotAsked,
    #[error("as many members are connected as p2p.max_peers allows")]
    Full,
    #[error("too many connections through relays that say nothing")]
    Relayed,
    #[error("the peer cannot be where it says that it is")]
    NotThere,
}

/// What [`Admission`] knows of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted {
    pub(super) peer: PeerId,
    pub(super) member: bool,
    pub(super) inbound: bool,
    /// A call back, made or asked for.
    call: bool,
    since: Instant,
    /// A stranger asked something at the door.
    asked: bool,
}

impl Admitted {
    /// A call of this node that its peer may not have noticed yet.
    pub(super) fn is_ringing(&self) -> bool {
        self.call && !self.inbound && self.since.elapsed() < limit::CALL_ARRIVAL
    }
}

/// How many strangers may be inside at one time.
const STRANGERS: Room = Room {
    all: limit::STRANGER_CONNECTIONS_MAX,
    host: limit::STRANGER_CONNECTIONS_PER_HOST_MAX,
    network: limit::STRANGER_CONNECTIONS_PER_NETWORK_MAX,
};

/// Decides on every connection. Must stand before every [`Gate`] in the behaviour, and after the limits.
pub(super) struct Admission {
    members: Arc<Members>,
    verdict: Verdict,
    members_max: usize,
    connections: HashMap<ConnectionId, Admitted>,
    /// Incoming connections of strangers.
    strangers: Crowd<ConnectionId>,
    /// Those that have to make room.
    going: VecDeque<(Libp2pId, ConnectionId)>,
    /// Incoming connections through relays that still shake hands.
    relayed: HashSet<ConnectionId>,
    asked: HashSet<ConnectionId>,
    /// Calls back that this node makes, and those that it asked members for.
    calls: HashSet<ConnectionId>,
    expected: HashMap<PeerId, Expected>,
}

/// A call back that a member was asked for.
struct Expected {
    until: Instant,
    /// Who is to be told that it came, until it did.
    waiter: Option<oneshot::Sender<()>>,
}

impl Admission {
    pub(super) fn new(members: Arc<Members>, verdict: Verdict, members_max: usize) -> Self {
        Self {
            members,
            verdict,
            members_max,
            connections: HashMap::new(),
            strangers: Crowd::new(STRANGERS),
            going: VecDeque::new(),
            relayed: HashSet::new(),
            asked: HashSet::new(),
            calls: HashSet::new(),
            expected: HashMap::new(),
        }
    }

    /// Lets this dial go out even to a stranger. Kademlia's own dials reach members only.
    pub(super) fn ask(&mut self, connection: ConnectionId) {
        self.asked.insert(connection);
    }

    /// This dial is a call back: no protocol is spoken on it.
    pub(super) fn call(&mut self, connection: ConnectionId) {
        self.calls.insert(connection);
    }

    /// The next incoming connection of this member is a call that it was asked for.
    pub(super) fn expect(&mut self, peer: PeerId, waiter: oneshot::Sender<()>) {
        let until = Instant::now() + limit::CALL_PAUSE;
        self.expected.insert(peer, Expected { until, waiter: Some(waiter) });
    }

    /// None is expected any longer.
    pub(super) fn end(&mut self, peer: PeerId) {
        self.expected.remove(&peer);
    }

    fn is_call(&mut self, id: ConnectionId, peer: PeerId, inbound: bool) -> bool {
        if !inbound {
            return self.calls.remove(&id);
        }
        let expected = self.expected.get_mut(&peer).filter(|expected| expected.until > Instant::now());
        let Some(waiter) = expected.and_then(|expected| expected.waiter.take()) else { return false };
        // A waiter that left does not want to know.
        let _ = waiter.send(());
        true
    }

    pub(super) fn of(&self, connection: ConnectionId) -> Option<Admitted> {
        self.connections.get(&connection).copied()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (ConnectionId, Admitted)> + '_ {
        self.connections.iter().map(|(id, a)| (*id, *a))
    }

    /// Strangers that have been inside for longer than `life`.
    pub(super) fn overstayed(&self, life: Duration) -> Vec<ConnectionId> {
        self.all()
            .filter(|(_, a)| !a.member && a.inbound && a.since.elapsed() > life)
            .map(|(id, _)| id)
            .collect()
    }

    /// A stranger asked something at the door: it is not the first to make room.
    pub(super) fn note_asked(&mut self, connection: ConnectionId) {
        if let Some(admitted) = self.connections.get_mut(&connection) {
            admitted.asked = true;
        }
    }

    /// A place for a stranger. One that does nothing makes room, so that no number of those keeps out who comes in earnest.
    fn enter(&mut self, id: ConnectionId, peer: PeerId, from: &Multiaddr) -> Result<(), ConnectionDenied> {
        let of_peer = self.connections.values().filter(|a| !a.member && a.inbound && a.peer == peer).count();
        // Behind a relay nobody is told apart: all of them are one host.
        let origin = Origin::of(ip_of(from).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()));
        let worth = |id| Some(self.connections.get(&id).map_or(0, |admitted| u8::from(admitted.asked)));
        let chance = u64::from_le_bytes(random_bytes());
        if of_peer >= limit::STRANGER_CONNECTIONS_PER_PEER_MAX {
            return Err(ConnectionDenied::new(Refusal::Crowded));
        }
        match self.strangers.enter(id, origin, chance, worth) {
            Entry::Free => Ok(()),
            Entry::InsteadOf(goes) => {
                let peer = self.connections.get(&goes).map(|admitted| to_libp2p(admitted.peer));
                self.going.extend(peer.map(|peer| (peer, goes)));
                Ok(())
            }
            Entry::Full => Err(ConnectionDenied::new(Refusal::Crowded)),
        }
    }

    fn decide(
        &mut self,
        id: ConnectionId,
        peer: &Libp2pId,
        inbound: bool,
        at: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let peer = from_libp2p(peer).map_err(|_| ConnectionDenied::new(Refusal::Identity))?;
        let call = self.members.allows(&peer) && self.is_call(id, peer, inbound);
        let member = self.members.allows(&peer) && !call;
        if inbound && !member && !call {
            self.enter(id, peer, at)?;
        }
        if member {
            let connected: HashSet<PeerId> =
                self.connections.values().filter(|a| a.member).map(|a| a.peer).collect();
            if !connected.contains(&peer) && connected.len() >= self.members_max {
                return Err(ConnectionDenied::new(Refusal::Full));
            }
        }
        self.connections
            .insert(id, Admitted { peer, member, inbound, call, since: Instant::now(), asked: false });
        self.verdict.tell(id, member);
        Ok(())
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if is_relayed(local) {
            if self.relayed.len() >= limit::RELAYED_PENDING_MAX {
                return Err(ConnectionDenied::new(Refusal::Relayed));
            }
            self.relayed.insert(id);
        }
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Libp2pId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.relayed.remove(&id);
        self.decide(id, &peer, true, from)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<Libp2pId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let member = peer.and_then(|p| from_libp2p(&p).ok()).is_some_and(|p| self.members.allows(&p));
        if member || self.asked.contains(&id) {
            Ok(Vec::new())
        } else {
            Err(ConnectionDenied::new(Refusal::NotAsked))
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Libp2pId,
        at: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.asked.remove(&id);
        self.decide(id, &peer, false, at)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        let gone = match event {
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            FromSwarm::DialFailure(failure) => failure.connection_id,
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.connections.remove(&gone);
        self.strangers.leave(gone);
        self.relayed.remove(&gone);
        self.asked.remove(&gone);
        self.calls.remove(&gone);
    }

    fn on_connection_handler_event(&mut self, _: Libp2pId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.going.pop_front() {
            Some((peer_id, id)) => {
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}

/// Shows `B` the connections of members only.
pub(super) struct Gate<B> {
    inner: B,
    verdict: Verdict,
    /// How many connections of each peer `B` knows: it is told of these alone.
    shown: HashMap<Libp2pId, HashSet<ConnectionId>>,
    /// Whether dials go where `B` says that a peer is.
    heard: bool,
    /// Looks where `B` dials.
    choosy: Option<Choosy>,
}

impl<B> Gate<B> {
    pub(super) fn new(inner: B, verdict: Verdict) -> Self {
        Self { inner, verdict, shown: HashMap::new(), heard: true, choosy: None }
    }

    /// One that dials where a peer says it is whom nobody sees.
    pub(super) fn choosy(inner: B, verdict: Verdict, barred: Barred) -> Self {
        Self { choosy: Some(Choosy::new(barred)), ..Self::new(inner, verdict) }
    }

    /// One whose word on where others are does not count.
    pub(super) fn unheard(inner: B, verdict: Verdict) -> Self {
        Self { heard: false, ..Self::new(inner, verdict) }
    }

    pub(super) fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    fn shows(&self, peer: &Libp2pId, id: ConnectionId) -> bool {
        self.shown.get(peer).is_some_and(|ids| ids.contains(&id))
    }
}

/// Looks at dials of a behaviour to whom it met through a relay. Where that peer really is nobody here sees, so it is dialled on
/// the internet, or in the inner network that the relay is in; and on this machine when this node listens nowhere else.
struct Choosy {
    barred: Barred,
    dials: HashSet<ConnectionId>,
    listening: ListenAddresses,
    /// Who came through which relay.
    through: HashMap<ConnectionId, (Libp2pId, IpAddr)>,
}

impl Choosy {
    fn new(barred: Barred) -> Self {
        let (dials, listening, through) = Default::default();
        Self { barred, dials, listening, through }
    }

    fn note(&mut self, event: &FromSwarm) {
        self.listening.on_swarm_event(event);
        match event {
            FromSwarm::ConnectionEstablished(e) if e.endpoint.is_relayed() => {
                let at_relay = match e.endpoint {
                    ConnectedPoint::Dialer { address, .. } => address,
                    ConnectedPoint::Listener { local_addr, .. } => local_addr,
                };
                let relay = first_ip(at_relay).map(|relay| (e.peer_id, relay));
                self.through.extend(relay.map(|relay| (e.connection_id, relay)));
            }
            FromSwarm::ConnectionClosed(e) => drop(self.through.remove(&e.connection_id)),
            _ => {}
        }
    }

    /// Has the transports leave out where the peer cannot be; fails when that is everywhere.
    fn look(
        &mut self,
        id: ConnectionId,
        peer: Option<Libp2pId>,
        addresses: &[Multiaddr],
    ) -> Result<(), Refusal> {
        if !self.dials.remove(&id) {
            return Ok(());
        }
        let own: Vec<IpAddr> = self.listening.iter().filter_map(ip_of).map(|ip| ip.to_canonical()).collect();
        let is_alone = !own.is_empty() && own.iter().all(IpAddr::is_loopback);
        let is_here = |ip: &IpAddr| ip.to_canonical().is_loopback() || own.contains(&ip.to_canonical());
        let of_peer = self.through.values().filter(|(who, _)| Some(*who) == peer);
        // A relay on this machine says nothing of where those are whom it carries.
        let relay = of_peer.map(|(_, relay)| *relay).find(|relay| is_alone || !is_here(relay));
        let may_be =
            |address: &&Multiaddr| first_ip(address).is_some_and(|ip| may_claim(ip, relay, &own, false));
        let (right, wrong): (Vec<&Multiaddr>, Vec<&Multiaddr>) = addresses.iter().partition(may_be);
        // Where a name leads is seen too late.
        if right.is_empty() || wrong.iter().any(|address| first_ip(address).is_none()) {
            return Err(Refusal::NotThere);
        }
        self.barred.add(wrong.into_iter().cloned());
        Ok(())
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Libp2pId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.verdict.is_member(id) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        self.shown.entry(peer).or_default().insert(id);
        Ok(Either::Left(handler))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<Libp2pId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(choosy) = &mut self.choosy {
            choosy.look(id, peer, addresses).map_err(ConnectionDenied::new)?;
        }
        let told = self.inner.handle_pending_outbound_connection(id, peer, addresses, role)?;
        Ok(if self.heard { told } else { Vec::new() })
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Libp2pId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.verdict.is_member(id) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_outbound_connection(id, peer, address, role, port)?;
        self.shown.entry(peer).or_default().insert(id);
        Ok(Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let Some(choosy) = &mut self.choosy {
            choosy.note(&event);
        }
        let event = match event {
            FromSwarm::ConnectionEstablished(e) => {
                if !self.shows(&e.peer_id, e.connection_id) {
                    return;
                }
                let other_established = self.shown.get(&e.peer_id).map_or(0, |ids| ids.len() - 1);
                FromSwarm::ConnectionEstablished(ConnectionEstablished { other_established, ..e })
            }
            FromSwarm::ConnectionClosed(e) => {
                let Some(ids) = self.shown.get_mut(&e.peer_id) else { return };
                if !ids.remove(&e.connection_id) {
                    return;
                }
                let remaining_established = ids.len();
                if ids.is_empty() {
                    self.shown.remove(&e.peer_id);
                }
                FromSwarm::ConnectionClosed(ConnectionClosed { remaining_established, ..e })
            }
            FromSwarm::AddressChange(e) if !self.shows(&e.peer_id, e.connection_id) => return,
            other => other,
        };
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: Libp2pId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, id, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let mut action = match self.inner.poll(cx) {
                Poll::Ready(action) => action,
                Poll::Pending => return Poll::Pending,
            };
            // Any connection might be one that the behaviour does not know: its handler there takes no events.
            if let ToSwarm::NotifyHandler { peer_id, handler, .. } = &mut action
                && matches!(handler, NotifyHandler::Any)
            {
                let shown = self.shown.get(peer_id).and_then(|shown| shown.iter().next());
                let Some(connection) = shown else { continue };
                *handler = NotifyHandler::One(*connection);
            }
            if let (ToSwarm::Dial { opts }, Some(choosy)) = (&action, &mut self.choosy) {
                choosy.dials.insert(opts.connection_id());
            }
            return Poll::Ready(action.map_in(Either::Left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::transport::ListenerId;
    use libp2p::swarm::NewListenAddr;

    /// What is left out of a dial to these on the word of a peer that came through that relay; `None` when it is not made.
    fn left_out(listening: &[&str], relay: &str, told: &[&str]) -> Option<Vec<Multiaddr>> {
        let barred = Barred::default();
        let mut choosy = Choosy::new(barred.clone());
        for address in listening {
            let addr: Multiaddr = address.parse().unwrap();
            let event = NewListenAddr { listener_id: ListenerId::next(), addr: &addr };
            choosy.note(&FromSwarm::NewListenAddr(event));
        }
        let told: Vec<Multiaddr> = told.iter().map(|address| address.parse().unwrap()).collect();
        let (id, peer) = (ConnectionId::new_unchecked(1), Libp2pId::random());
        choosy.through.insert(ConnectionId::new_unchecked(2), (peer, relay.parse().unwrap()));
        // Not its own dial.
        assert!(choosy.look(id, Some(peer), &told).is_ok());
        choosy.dials.insert(id);
        choosy.look(id, Some(peer), &told).ok()?;
        Some(told.into_iter().filter(|address| barred.takes(address)).collect())
    }

    /// Of where a hole was to be punched nothing was looked at: a member behind a relay had this node dial its own ports.
    #[test]
    fn holes_are_punched_where_a_peer_can_be() {
        let far = "/ip4/198.51.100.9/tcp/1";
        let wide = ["/ip4/127.0.0.1/tcp/9", "/ip4/192.168.1.5/tcp/9", "/ip4/203.0.113.4/tcp/9"];
        let wrong = [
            "/ip4/127.0.0.1/tcp/9",
            "/ip6/::ffff:127.0.0.1/tcp/9",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/169.254.1.1/udp/9/quic-v1",
            "/ip4/0.0.0.0/tcp/9",
            "/ip4/203.0.113.4/tcp/22",
        ];
        for relay in ["198.51.100.1", "127.0.0.1", "192.168.1.5", "10.99.0.1"] {
            for address in wrong {
                assert_eq!(left_out(&wide, relay, &[far, address]).unwrap(), [address.parse().unwrap()]);
                assert_eq!(left_out(&wide, relay, &[address]), None, "{address}");
            }
            assert_eq!(left_out(&wide, relay, &[far, "/dns4/localhost/tcp/9"]), None);
            assert_eq!(left_out(&wide, relay, &[far]).unwrap(), []);
        }
        // In an office whose relay is on the inner network the peer may be there too.
        let inner = "/ip4/10.99.7.7/tcp/9";
        assert_eq!(left_out(&wide, "10.99.0.1", &[inner]).unwrap(), []);
        assert_eq!(left_out(&wide, "198.51.100.1", &[inner]), None);
        // A node that listens on loopback alone has all its peers here.
        let loopback = "/ip4/127.0.0.1/tcp/7";
        assert_eq!(left_out(&wide[..1], "127.0.0.1", &[loopback]).unwrap(), []);
        assert_eq!(left_out(&[], "127.0.0.1", &[loopback]), None);
    }
}
