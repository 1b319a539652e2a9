//! Dialling: which addresses, in which order, and what came of each.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::core::transport::TransportError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::sync::oneshot;

use super::address::{from_libp2p, is_relayed, is_tcp, strip_peer, to_libp2p};
use super::swarm::Node;
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
        let known = self.table().records.get(&peer).map(|r| r.dialable()).unwrap_or_default();
        for address in known {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(limit::PEER_ADDRESSES_MAX);
        if addresses.is_empty() {
            return tell(waiter, Err(NetError::NoAddress(peer)));
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
                .map(|a| Tried { address: a.to_string(), reason: OWN_ADDRESS.to_owned() })
                .collect(),
        };
        self.dials.insert(peer, attempt);
        if first.is_empty() {
            return self.next_stage(peer);
        }
        self.start_dial(peer, first);
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
        let tried = reasons(peer, error, own.as_deref().unwrap_or_default());
        if let Some(record) = self.table().records.get_mut(&peer) {
            tried.iter().for_each(|t| record.failed(t));
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
        if !attempt.live.is_empty() {
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
    };
    match error {
        DialError::Transport(errors) => errors.iter().map(|(a, e)| at(a, transport_reason(e))).collect(),
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

/// The innermost message of a chain of errors.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    text.chars().take(300).collect()
}
