//! Dialling: which addresses, in which order, and what came of each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::core::transport::TransportError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::net::lookup_host;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::{from_libp2p, is_relayed, is_tcp, name_of, strip_peer, to_libp2p};
use super::peers::Ways;
use super::swarm::{Act, Node};
use super::{NetError, Tried};
use crate::base::{PeerId, limit};

const OWN_ADDRESS: &str = "this node itself answers there";

/// Who waits to hear how a dial went.
pub(super) type Waiter = oneshot::Sender<Result<(), NetError>>;

/// An attempt to reach one peer: TCP at once, the rest after a head start or when TCP failed.
pub(super) struct Attempt {
    waiters: Vec<Waiter>,
    live: HashMap<ConnectionId, Vec<Multiaddr>>,
    later: Vec<Multiaddr>,
    later_at: Instant,
    tried: Vec<Tried>,
    /// Names that the peer claims are being resolved.
    resolving: bool,
    /// Addresses that such names led to.
    names: HashMap<String, Multiaddr>,
}

impl Node {
    /// Connects to `peer` and tells `waiter`; joins an attempt that is under way.
    pub(super) fn dial(&mut self, peer: PeerId, extra: Vec<Multiaddr>, waiter: Option<Waiter>) {
        if peer == self.me {
            return tell(waiter, Err(NetError::Myself(peer)));
        }
        if self.is_usable(peer) {
            return tell(waiter, Ok(()));
        }
        if let Some(attempt) = self.dials.get_mut(&peer) {
            attempt.waiters.extend(waiter);
            for address in extra {
                if !attempt.later.contains(&address) && attempt.later.len() < limit::PEER_ADDRESSES_MAX {
                    attempt.later.push(address);
                }
            }
            return;
        }
        let mut addresses = extra;
        let Ways { ready, named, left_out } = {
            let table = self.table();
            let known = table.records.get(&peer);
            known.map(|record| record.ways(Instant::now(), &table.own_ips())).unwrap_or_default()
        };
        for address in ready {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(limit::PEER_ADDRESSES_MAX);
        if addresses.is_empty() && named.is_empty() {
            let unreached = NetError::Unreachable { peer, tried: left_out.clone() };
            let error = if left_out.is_empty() { NetError::NoAddress(peer) } else { unreached };
            return tell(waiter, Err(error));
        }
        // libp2p leaves these out without a word. Two behind one relay have the same address there but for their names.
        let (own, addresses): (Vec<_>, Vec<_>) = {
            let table = self.table();
            addresses.into_iter().partition(|a| !is_relayed(a) && table.listening.contains(a))
        };
        let (tcp, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_tcp);
        let (first, later) = if tcp.is_empty() { (rest, tcp) } else { (tcp, rest) };
        let attempt = Attempt {
            waiters: waiter.into_iter().collect(),
            live: HashMap::new(),
            later,
            later_at: Instant::now() + limit::DIAL_HEAD_START,
            tried: own
                .iter()
                .map(|a| Tried { address: a.to_string(), reason: OWN_ADDRESS.to_owned(), hung_up: false })
                .chain(left_out)
                .collect(),
            resolving: !named.is_empty(),
            names: HashMap::new(),
        };
        self.dials.insert(peer, attempt);
        if !named.is_empty() {
            self.serving.spawn(resolve(peer, named));
        }
        if first.is_empty() {
            return self.next_stage(peer);
        }
        self.start_dial(peer, first);
    }

    /// Names that a peer claims lead here. It is dialled where it may be and nowhere else.
    fn resolved(&mut self, peer: PeerId, found: Vec<(Multiaddr, Vec<IpAddr>)>) {
        let shared = Arc::clone(&self.shared);
        let Some(attempt) = self.dials.get_mut(&peer) else { return };
        attempt.resolving = false;
        let (mut addresses, mut nowhere) = (Vec::new(), Vec::new());
        {
            let mut table = shared.table();
            let own = table.own_ips();
            let listening = table.listening.clone();
            let Some(record) = table.records.get_mut(&peer) else {
                drop(table);
                return self.next_stage(peer);
            };
            for (name, ips) in found {
                let mut places = record.plausible(&name, &ips, &own);
                places.retain(|place| !listening.contains(place));
                if places.is_empty() {
                    let reason = "not dialled: the name leads nowhere that the peer can be".to_owned();
                    nowhere.push(Tried { address: name.to_string(), reason, hung_up: false });
                }
                for place in places {
                    attempt.names.insert(place.to_string(), name.clone());
                    addresses.push(place);
                }
            }
            nowhere.iter().for_each(|tried| record.failed(tried, Instant::now()));
        }
        attempt.tried.extend(nowhere);
        addresses.truncate(limit::PEER_ADDRESSES_MAX);
        if addresses.is_empty() {
            return self.next_stage(peer);
        }
        self.start_dial(peer, addresses);
    }

    /// The attempt to reach `peer` has come to its end.
    pub(super) fn dial_succeeded(&mut self, peer: PeerId) {
        for waiter in self.dials.remove(&peer).into_iter().flat_map(|a| a.waiters) {
            tell(Some(waiter), Ok(()));
        }
    }

    /// libp2p reports that a dial failed, ours or Kademlia's.
    pub(super) fn on_dial_error(&mut self, id: ConnectionId, peer: PeerId, error: &DialError) {
        if self.on_call_failed(id, error) {
            return;
        }
        let own = self.dials.get_mut(&peer).and_then(|a| a.live.remove(&id));
        let mut tried = reasons(peer, error, own.as_deref().unwrap_or_default());
        if let Some(attempt) = self.dials.get(&peer) {
            for one in &mut tried {
                if let Some(name) = attempt.names.get(&one.address) {
                    one.address = name.to_string();
                }
            }
        }
        if let Some(record) = self.table().records.get_mut(&peer) {
            tried.iter().for_each(|t| record.failed(t, Instant::now()));
        }
        let Some(addresses) = own else { return };
        if let Some(attempt) = self.dials.get_mut(&peer) {
            attempt.tried.extend(tried);
        }
        // One wrong host ends the whole dial, though the other addresses may be right.
        if let DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } = error {
            let wrong = strip_peer(address.clone(), peer);
            let rest: Vec<_> = addresses.iter().filter(|a| **a != wrong).cloned().collect();
            if !rest.is_empty() && rest.len() < addresses.len() {
                return self.start_dial(peer, rest);
            }
        }
        self.next_stage(peer);
    }

    /// Starts what has waited for its head start to pass.
    pub(super) fn dial_later(&mut self, now: Instant) {
        let due = |a: &Attempt| !a.later.is_empty() && a.later_at <= now;
        let peers: Vec<_> = self.dials.iter().filter(|(_, a)| due(a)).map(|(p, _)| *p).collect();
        for peer in peers {
            let later = self.dials.get_mut(&peer).map(|a| std::mem::take(&mut a.later)).unwrap_or_default();
            self.start_dial(peer, later);
        }
    }

    fn start_dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(to_libp2p(peer))
            .condition(PeerCondition::Always)
            .addresses(addresses.clone())
            .build();
        let id = options.connection_id();
        let Some(attempt) = self.dials.get_mut(&peer) else { return };
        attempt.live.insert(id, addresses);
        self.swarm.behaviour_mut().admission.ask(id);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_error(id, peer, &error);
        }
    }

    /// After a failure: the addresses held back, or the end.
    fn next_stage(&mut self, peer: PeerId) {
        let Some(attempt) = self.dials.get_mut(&peer) else { return };
        if !attempt.live.is_empty() || attempt.resolving {
            return;
        }
        let later = std::mem::take(&mut attempt.later);
        if !later.is_empty() {
            return self.start_dial(peer, later);
        }
        let Some(attempt) = self.dials.remove(&peer) else { return };
        self.back_off(peer);
        let error = NetError::Unreachable { peer, tried: attempt.tried };
        for waiter in attempt.waiters {
            tell(Some(waiter), Err(error.clone()));
        }
    }
}

/// Asks where names lead; one that is not known leads nowhere.
async fn resolve(peer: PeerId, names: Vec<Multiaddr>) -> Option<Act> {
    let look = names.into_iter().map(|name| async {
        let mut found = Vec::new();
        if let Some((host, port, only_v4)) = name_of(&name)
            && let Ok(Ok(all)) = timeout(limit::NAME_TIME, lookup_host((host, port))).await
        {
            let wanted = |at: &std::net::SocketAddr| only_v4.is_none_or(|v4| at.is_ipv4() == v4);
            found.extend(all.filter(wanted).map(|at| at.ip()));
        }
        (name, found)
    });
    let found = futures::future::join_all(look).await;
    let act: Act = Box::new(move |node| node.resolved(peer, found));
    Some(act)
}

fn tell(waiter: Option<Waiter>, outcome: Result<(), NetError>) {
    if let Some(waiter) = waiter {
        // A caller that left does not want to know.
        let _ = waiter.send(outcome);
    }
}

/// What happened at each address, in words.
pub(super) fn reasons(peer: PeerId, error: &DialError, addresses: &[Multiaddr]) -> Vec<Tried> {
    let at = |address: &Multiaddr, reason: String| Tried {
        address: strip_peer(address.clone(), peer).to_string(),
        reason,
        hung_up: false,
    };
    let failed = |address: &Multiaddr, error: &TransportError<std::io::Error>| Tried {
        hung_up: hung_up(error),
        ..at(address, transport_reason(error))
    };
    match error {
        DialError::Transport(errors) => errors.iter().map(|(a, e)| failed(a, e)).collect(),
        DialError::WrongPeerId { obtained, address } => {
            let who = from_libp2p(obtained).map_or_else(|_| obtained.to_string(), |p| p.to_string());
            vec![at(address, format!("another node answers there: {who}"))]
        }
        DialError::LocalPeerId { address } => {
            vec![at(address, OWN_ADDRESS.to_owned())]
        }
        DialError::Denied { cause } => {
            let reason = format!("not dialled: {}", root_cause(cause));
            addresses.iter().map(|a| at(a, reason.clone())).collect()
        }
        other => addresses.iter().map(|a| at(a, root_cause(other))).collect(),
    }
}

/// What a transport says, without libp2p's layers around it.
pub(super) fn transport_reason(error: &TransportError<std::io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(_) => "this kind of address is not supported".to_owned(),
        TransportError::Other(error) => root_cause(error),
    }
}

/// Whether something answered there and ended the connection.
pub(super) fn hung_up(error: &TransportError<std::io::Error>) -> bool {
    use std::io::ErrorKind;
    let ends = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
        )
    };
    let TransportError::Other(error) = error else { return false };
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(ends) {
            return true;
        }
        // An I/O error that holds another one passes over it.
        next = match io.and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    false
}

/// The innermost message of a chain of errors.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    text.chars().take(300).collect()
}
