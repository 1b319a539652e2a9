//! What the swarm reports, and what follows from it.

use std::sync::Arc;
use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::core::upgrade::NegotiationError;
use libp2p::request_response::{self, InboundRequestId, Message, OutboundFailure, ResponseChannel};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{identify, ping, relay};
use prost::Message as _;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::address::{
    first_ip, from_libp2p, ip_of, is_claimable, is_relayed, may_claim, strip_peer, through, to_libp2p,
    with_peer,
};
use super::behaviour::BehaviourEvent;
use super::codec::{Answer, Asked, Protocol as _, Sync};
use super::dial::{hung_up, transport_reason};
use super::lane::{Answering, Lane, Waiting};
use super::peers::{Claim, Link, Record, Word};
use super::slots::Slot;
use super::swarm::{Act, Node};
use super::{NetError, NetEvent, Tried};
use crate::base::{Clock, Moment, PeerId, SystemClock, limit, meter};
use crate::wire::Status;

type Channel<P> = ResponseChannel<Answer<<P as super::codec::Protocol>::Response>>;
type Event<P> = request_response::Event<
    Asked<<P as super::codec::Protocol>::Request>,
    Answer<<P as super::codec::Protocol>::Response>,
>;

impl Node {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                concurrent_dial_errors,
                ..
            } => {
                let Ok(peer) = from_libp2p(&peer_id) else { return };
                let errors = concurrent_dial_errors.unwrap_or_default();
                let tried = errors.iter().map(|(address, error)| Tried {
                    address: strip_peer(address.clone(), peer).to_string(),
                    reason: transport_reason(error),
                    hung_up: hung_up(error),
                });
                self.on_connected(peer, connection_id, &endpoint, tried.collect());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                if let Ok(peer) = from_libp2p(&peer_id) {
                    self.on_closed(peer, connection_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id: Some(peer), error } => {
                if let Ok(peer) = from_libp2p(&peer) {
                    self.on_dial_error(connection_id, peer, &error);
                }
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                if matches!(error, libp2p::swarm::ListenError::LocalPeerId { .. }) {
                    warn!(target: "net", from = %send_back_addr, "a node with this node's own identity called");
                } else {
                    debug!(target: "net", %error, "an incoming connection failed");
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                // A relay has to say where it is; that others reach it there is what makes it one.
                if self.shared.config.serve_relay && self.shared.config.announce.is_empty() {
                    self.swarm.add_external_address(address.clone());
                }
                let address = strip_peer(address, self.me);
                let text = with_peer(&address, self.me);
                let mut table = self.table();
                if !table.listening.contains(&address) {
                    table.listening.push(address);
                }
                drop(table);
                self.moved = true;
                self.shared.moved.notify_one();
                self.emit(NetEvent::Listening(text));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let address = strip_peer(address, self.me);
                self.table().listening.retain(|a| *a != address);
                self.moved = true;
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, .. }
                if self.relays.remove(&listener_id).is_some() =>
            {
                let addresses: Vec<_> = addresses.into_iter().map(|a| strip_peer(a, self.me)).collect();
                self.table().listening.retain(|a| !addresses.contains(a));
                self.moved = true;
                debug!(target: "net", ?addresses, "no longer reachable through a relay");
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listeners.remove(&listener_id);
                self.table().listening.retain(|a| !addresses.contains(a));
                warn!(target: "net", ?addresses, ?reason, "a listener closed");
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Sync(event) => self.on_lane_event::<super::codec::Sync>(event),
            BehaviourEvent::Fetch(event) => self.on_lane_event::<super::codec::Fetch>(event),
            BehaviourEvent::Door(event) => self.on_lane_event::<super::codec::Door>(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                if let Ok(peer) = from_libp2p(&peer_id) {
                    self.on_identified(peer, connection_id, info);
                }
            }
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Nearby(found) => self.on_nearby(found),
            _ => {}
        }
    }

    // ---- Connections -------------------------------------------------------------------------------------

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, tried: Vec<Tried>) {
        if self.on_called(id, peer, endpoint.get_remote_address()) {
            return;
        }
        let Some(admitted) = self.swarm.behaviour().admission.of(id) else { return };
        let stranger = !admitted.member && !self.shared.members.allows(&peer);
        let remote = match endpoint {
            // All that is told of the other side is its name.
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr.clone(),
            _ => strip_peer(endpoint.get_remote_address().clone(), peer),
        };
        let now = now();
        {
            let mut table = self.table();
            let record = table.record(peer);
            record
                .links
                .insert(id, Link { member: admitted.member, remote: remote.clone(), since: Instant::now() });
            record.last_seen = Some(now);
            if admitted.member {
                record.seen_at = ip_of(&remote).or(record.seen_at);
            }
            tried.iter().for_each(|t| record.failed(t, Instant::now()));
            if endpoint.is_dialer() {
                // A stranger is dialled only at the owner's wish, who may want it again before it is a member.
                let seen_at = ip_of(&remote);
                let found = Word::Claimed(Claim { seen_at, signed: true });
                record.learn(remote.clone(), if stranger { Word::Given } else { found });
                record.worked(&remote, now);
            }
        }
        if admitted.member {
            self.know_hosts();
        }
        if admitted.member || !self.shared.members.allows(&peer) {
            self.dial_succeeded(peer);
        }
        // A member's connection without rights is a call back.
        if stranger && admitted.inbound {
            self.emit(NetEvent::Stranger { peer, addresses: vec![with_peer(&remote, peer)] });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        self.parted(id);
        let gone = {
            let mut table = self.table();
            let Some(record) = table.records.get_mut(&peer) else { return };
            let was_member = record.links.remove(&id).is_some_and(|l| l.member);
            record.last_seen = Some(now());
            let lost = was_member && !record.has_member_link();
            let gone = match (was_member && record.serves_us, lost) {
                (false, _) => None,
                (true, true) => Some(NetEvent::Disconnected(peer)),
                (true, false) => Some(NetEvent::Renewed(peer)),
            };
            record.serves_us &= !lost;
            if lost {
                record.round_trip = None;
                record.other_version = false;
            }
            if !record.is_worth_keeping() && !self.shared.members.allows(&peer) {
                table.records.remove(&peer);
            }
            drop(table);
            if lost {
                self.back_off(peer);
            }
            gone
        };
        if let Some(event) = gone {
            self.emit(event);
        }
    }

    /// The peer told who it is, which it does for its members only: so it serves this node.
    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: identify::Info) {
        if !info.protocols.iter().any(|protocol| protocol.as_ref() == Sync::NAME) {
            return self.on_other_version(peer, &info.agent_version);
        }
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.rely_on(peer);
        }
        let mut told = Vec::new();
        let mut evicted = Vec::new();
        let is_new = {
            let mut table = self.table();
            let own = table.own_ips();
            let Some(record) = table.records.get_mut(&peer) else { return };
            let Some(seen_at) = record.links.get(&id).map(|l| l.remote.clone()) else { return };
            record.agent = Some(plain(&info.agent_version));
            record.other_version = false;
            let word = Word::Claimed(Claim { seen_at: first_ip(&seen_at), signed: false });
            for claimed in info.listen_addrs.into_iter().take(limit::PEER_ADDRESSES_MAX) {
                let address = strip_peer(claimed, peer);
                let may_be =
                    first_ip(&address).is_none_or(|ip| may_claim(ip, first_ip(&seen_at), &own, false));
                if is_claimable(&address) && may_be {
                    evicted.extend(record.learn(address.clone(), word));
                    told.push(address);
                }
            }
            record.settle();
            !std::mem::replace(&mut record.serves_us, true)
        };
        let kad = self.swarm.behaviour_mut().kad();
        let id = to_libp2p(peer);
        told.into_iter().for_each(|address| {
            kad.add_address(&id, address);
        });
        evicted.iter().for_each(|address| {
            kad.remove_address(&id, address);
        });
        if is_new {
            self.met = true;
            self.tell_whereabouts(&[peer]);
            self.emit(NetEvent::Connected(peer));
        }
    }

    /// A member of a version that this one has no protocol in common with. The connection stays: it tells who is there.
    fn on_other_version(&mut self, peer: PeerId, agent: &str) {
        let agent = plain(agent);
        let is_news = {
            let mut table = self.table();
            let Some(record) = table.records.get_mut(&peer) else { return };
            record.agent = Some(agent.clone());
            record.settle();
            !std::mem::replace(&mut record.other_version, true)
        };
        if is_news {
            warn!(target: "net", %peer, agent, "speaks another version of the protocol; update the older of the two");
        }
    }

    /// Asks a member that relays to be reachable through it, unless this node can be reached as it is.
    fn rely_on(&mut self, relay: PeerId) {
        let config = &self.shared.config;
        let wanted = config.use_relays && !config.serve_relay && config.announce.is_empty();
        let known =
            self.relays.len() >= limit::RELAYS_USED_MAX || self.relays.values().any(|used| *used == relay);
        if !wanted || known || !self.shared.members.allows(&relay) {
            return;
        }
        let addresses = {
            let table = self.table();
            let ways = |record: &Record| record.ways(Instant::now(), &table.own_ips()).ready;
            table.records.get(&relay).map(ways).unwrap_or_default()
        };
        let Some(address) = addresses.into_iter().find(|address| !is_relayed(address)) else { return };
        match self.swarm.listen_on(through(address, relay)) {
            Ok(id) => {
                self.relays.insert(id, relay);
            }
            Err(error) => debug!(target: "net", %relay, %error, "the relay cannot be used"),
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        let Ok(peer) = from_libp2p(&event.peer) else { return };
        let dead = {
            let mut table = self.table();
            let Some(record) = table.records.get_mut(&peer) else { return };
            match event.result {
                Ok(round_trip) => {
                    record.round_trip = Some(round_trip);
                    record.last_seen = Some(now());
                }
                // The peer does not list us as a member; its door still works.
                Err(ping::Failure::Unsupported) => return,
                Err(_) => {}
            }
            // libp2p keeps the first failure in a row to itself: this is the second at least.
            event.result.is_err() && record.links.contains_key(&event.connection)
        };
        if dead {
            debug!(target: "net", %peer, "a connection misses its pings");
            self.swarm.close_connection(event.connection);
        }
    }

    fn emit(&self, event: NetEvent) {
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            debug!(target: "net", ?event, "nobody took this event in time");
        }
    }

    // ---- Requests ----------------------------------------------------------------------------------------

    fn on_lane_event<P: Lane>(&mut self, event: Event<P>) {
        match event {
            Event::<P>::Message {
                peer,
                connection_id,
                message: Message::Request { request_id, request, channel },
            } => {
                if !P::MEMBERS_ONLY {
                    self.swarm.behaviour_mut().admission.note_asked(connection_id);
                }
                if let Ok(peer) = from_libp2p(&peer) {
                    self.answer::<P>(peer, request_id, request, channel);
                }
            }
            Event::<P>::Message { message: Message::Response { request_id, response }, .. } => {
                self.settle::<P>(request_id, Ok(response.message));
            }
            Event::<P>::OutboundFailure { request_id, error, .. } => {
                self.settle::<P>(request_id, Err(error));
            }
            Event::<P>::InboundFailure { peer, request_id, error, .. } => {
                debug!(target: "net", %peer, protocol = P::NAME, %error, "a request was not answered");
                P::traffic(&mut self.lanes).inward.remove(&request_id);
            }
            Event::<P>::ResponseSent { request_id, .. } => {
                let answered = P::traffic(&mut self.lanes).inward.remove(&request_id);
                if let Some(answered) = answered
                    && !P::MEMBERS_ONLY
                {
                    self.door_answered.insert(answered.peer, Instant::now());
                }
            }
        }
    }

    /// Tells the caller how a request of ours ended.
    fn settle<P: Lane>(
        &mut self,
        id: request_response::OutboundRequestId,
        outcome: Result<P::Response, OutboundFailure>,
    ) {
        let Some(Waiting { peer, reply, slot }) = P::traffic(&mut self.lanes).out.remove(&id) else { return };
        if outcome.is_ok()
            && let Some(record) = self.table().records.get_mut(&peer)
        {
            record.last_seen = Some(now());
        }
        let after = P::timeout(&self.shared.config);
        // A caller that left does not want to know.
        let _ = reply.send(outcome.map_err(|error| failure(peer, after, error)));
        drop(slot);
    }

    /// Has a request answered elsewhere, or refuses it on the spot.
    fn answer<P: Lane>(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Asked<P::Request>,
        channel: Channel<P>,
    ) {
        P::traffic(&mut self.lanes).inward.insert(id, Answering { peer, slot: None, ready: false });
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                debug!(target: "net", %peer, protocol = P::NAME, %error, "refused a malformed request");
                return self.reply::<P>(id, channel, P::bare(Status::Refused), None);
            }
        };
        meter::MESSAGES_RECEIVED.add(1);
        let exempt = self.is_exempt(peer);
        // Identities are free: strangers wait nowhere.
        let known = P::MEMBERS_ONLY || exempt || self.shared.members.allows(&peer);
        let admitted = known || self.meter.allows_stranger(self.host_of(peer), P::writes(&request));
        let place = self.waiting.enter(peer, request.encoded_len()).filter(|_| admitted);
        let Some(place) = place else {
            meter::RATE_LIMITED.add("peer", 1);
            return self.reply::<P>(id, channel, P::bare(Status::Busy), None);
        };
        let (server, served, shared) =
            (Arc::clone(&self.server), Arc::clone(&self.served), Arc::clone(&self.shared));
        let (meter, after) = (Arc::clone(&self.meter), P::timeout(&shared.config));
        let units = P::units(&request);
        self.serving.spawn(async move {
            let began = Instant::now();
            let turn = async {
                let fares = P::pay(&meter, &shared.paces, peer, exempt, &request).await;
                (fares, P::places(&served).take(peer).await)
            };
            let turn = timeout(shared.config.turn_wait.min(after / 2), turn).await;
            drop(place);
            let Ok((fares, Some(slot))) = turn else {
                meter::RATE_LIMITED.add("peer", 1);
                let act: Act = Box::new(move |node| node.reply::<P>(id, channel, P::bare(Status::Busy), None));
                return Some(act);
            };
            // After that time nobody waits any more: dropping the channel closes the stream.
            let left = after.saturating_sub(began.elapsed());
            let mut response = timeout(left, P::serve(&server, peer, request)).await.ok()?;
            let bytes = P::served(&response);
            meter::SERVE_BYTES.add(bytes);
            // Looking for what is not here costs as well.
            fares.keep(if P::IN_BYTES { bytes.max(limit::CELL_BYTES as u64) } else { units });
            let length = response.encoded_len();
            if length > P::RESPONSE.bytes {
                warn!(target: "net", protocol = P::NAME, length, "an answer of this node is too long to send");
                response = P::bare(Status::Refused);
            }
            let act: Act = Box::new(move |node| node.reply::<P>(id, channel, response, Some(slot)));
            Some(act)
        });
    }

    /// Where a peer calls from.
    fn host_of(&self, peer: PeerId) -> Option<std::net::IpAddr> {
        let table = self.shared.table();
        table.records.get(&peer)?.links.values().find_map(|link| ip_of(&link.remote))
    }

    /// Whether a peer is connected from whitelisted addresses only.
    fn is_exempt(&self, peer: PeerId) -> bool {
        let table = self.shared.table();
        let exempt = |link: &Link| ip_of(&link.remote).is_some_and(|ip| self.meter.exempts(ip));
        let links = table.records.get(&peer).map(|record| &record.links);
        links.is_some_and(|links| !links.is_empty() && links.values().all(exempt))
    }

    /// Sends an answer. Its place stays taken until the last byte is out or the connection is gone.
    fn reply<P: Lane>(
        &mut self,
        id: InboundRequestId,
        channel: Channel<P>,
        response: P::Response,
        slot: Option<Slot>,
    ) {
        meter::MESSAGES_SENT.add(1);
        let inward = &mut P::traffic(&mut self.lanes).inward;
        let taken = inward.get(&id).map(|answering| self.readers.of(answering.peer));
        let answer = Answer { message: response, taken };
        let sent = P::behaviour(self.swarm.behaviour_mut()).send_response(channel, answer).is_ok();
        match inward.get_mut(&id) {
            Some(answering) if sent => (answering.slot, answering.ready) = (slot, true),
            _ => drop(inward.remove(&id)),
        }
    }
}

/// What a peer says it runs, fit to be shown.
fn plain(agent: &str) -> String {
    agent.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// libp2p's reasons in ours.
fn failure(peer: PeerId, after: std::time::Duration, error: OutboundFailure) -> NetError {
    match error {
        OutboundFailure::Timeout => NetError::Timeout { peer, after },
        OutboundFailure::UnsupportedProtocols => NetError::NotAdmitted(peer),
        // The same, told to who had sent its request already.
        OutboundFailure::Io(error) if is_refused(&error) => NetError::NotAdmitted(peer),
        OutboundFailure::DialFailure => NetError::NoAddress(peer),
        OutboundFailure::ConnectionClosed => {
            NetError::Broken { peer, reason: "it was closed before the answer came".to_owned() }
        }
        OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            NetError::Malformed { peer, reason: error.to_string() }
        }
        OutboundFailure::Io(error) => NetError::Broken { peer, reason: error.to_string() },
    }
}

/// Whether the other side has no such protocol for us.
fn is_refused(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<NegotiationError>());
    matches!(cause, Some(NegotiationError::Failed))
}

fn now() -> Moment {
    SystemClock.now()
}
