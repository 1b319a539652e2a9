//! Whether this node can be reached from outside: members are asked to call back, and try.
//!
//! A call is a connection from a new port, so that a router which only lets answers in does not let it in. Both sides
//! know it for what it is: it carries no protocol, so no request goes lost in it; who is called closes it. A member is
//! called at the address that it is seen at and nowhere else, so that nobody can make this node dial others.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::address::{ip_of, is_dialable, is_relayed, strip_peer, to_libp2p};
use super::peers::Router;
use super::swarm::Node;
use crate::base::{PeerId, limit};

/// What came of a call to a member.
pub(super) struct Outcome {
    /// Where the member is seen.
    pub(super) seen_at: IpAddr,
    /// Where it answered, if it did.
    pub(super) reached: Option<Multiaddr>,
}

/// A call under way.
pub(super) struct Call {
    seen_at: IpAddr,
    reply: oneshot::Sender<Outcome>,
}

impl Node {
    /// Calls a member back at the ports that it says it listens on. A dropped reply says that this is not the time.
    pub(super) fn call_back(&mut self, peer: PeerId, claimed: &[Multiaddr], reply: oneshot::Sender<Outcome>) {
        let seen_at = {
            let mut table = self.table();
            let Some(record) = table.records.get_mut(&peer) else { return };
            let Some(seen_at) = record.place().as_ref().and_then(ip_of) else { return };
            if record.called.is_some_and(|at| at.elapsed() < limit::CALL_PAUSE) {
                return;
            }
            record.called = Some(Instant::now());
            seen_at
        };
        let addresses = at_place(seen_at, claimed);
        if addresses.is_empty() {
            let _ = reply.send(Outcome { seen_at, reached: None });
            return;
        }
        if self.calls.len() >= limit::CALLS_MAX {
            return;
        }
        let options = DialOpts::peer_id(to_libp2p(peer))
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .allocate_new_port()
            // One after the other: of two that arrive, who is called would take the second for one to send requests on.
            .override_dial_concurrency_factor(NonZeroU8::MIN)
            .build();
        let id = options.connection_id();
        self.swarm.behaviour_mut().admission.call(id);
        self.calls.insert(id, Call { seen_at, reply });
        if let Err(error) = self.swarm.dial(options) {
            self.on_call_failed(id, &error);
        }
    }

    /// Whether this connection is a call of this node; then it is answered for.
    pub(super) fn on_called(&mut self, id: ConnectionId, peer: PeerId, remote: &Multiaddr) -> bool {
        let Some(Call { seen_at, reply }) = self.calls.remove(&id) else { return false };
        // A caller that left does not want to know.
        let _ = reply.send(Outcome { seen_at, reached: Some(strip_peer(remote.clone(), peer)) });
        true
    }

    /// Whether this was a call of this node; then it is answered for.
    pub(super) fn on_call_failed(&mut self, id: ConnectionId, error: &DialError) -> bool {
        let Some(Call { seen_at, reply }) = self.calls.remove(&id) else { return false };
        debug!(target: "net", %error, "a call back found nobody");
        // A caller that left does not want to know.
        let _ = reply.send(Outcome { seen_at, reached: None });
        true
    }

    /// The next incoming connection of this member is a call that it was asked for; `waiter` is told of it.
    pub(super) fn expect_call(&mut self, peer: PeerId, waiter: oneshot::Sender<()>) {
        self.swarm.behaviour_mut().admission.expect(peer, waiter);
    }

    /// No call is expected any longer.
    pub(super) fn end_call(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().admission.end(peer);
    }

    /// What the router does now. What it forwards is announced.
    pub(super) fn on_router(&mut self, state: Router<Multiaddr>) {
        let before = self.table().mapped();
        if self.table().router.as_ref() != Some(&state) {
            info!(target: "net", router = ?state, "asked the router for open ports");
        }
        self.table().router = Some(state);
        let now = self.table().mapped();
        let confirmed = self.table().outside.clone();
        self.announce(&before, &now, &confirmed);
    }

    /// Announces where members reached this node, and nothing else that it thought so before.
    pub(super) fn confirm_outside(&mut self, confirmed: Vec<Multiaddr>) {
        let before = std::mem::replace(&mut self.table().outside, confirmed.clone());
        let forwarded = self.table().mapped();
        self.announce(&before, &confirmed, &forwarded);
    }

    /// Announces `now` instead of `before`; what else is announced stays.
    fn announce(&mut self, before: &[Multiaddr], now: &[Multiaddr], others: &[Multiaddr]) {
        let configured = self.shared.announce.clone();
        let stays = |address: &Multiaddr| others.contains(address) || configured.contains(address);
        for address in before.iter().filter(|old| !now.contains(old) && !stays(old)) {
            self.swarm.remove_external_address(address);
        }
        for address in now.iter().filter(|new| !before.contains(new)) {
            self.swarm.add_external_address(address.clone());
        }
        self.moved |= before != now;
    }
}

/// Claimed addresses moved to where the peer is seen, each port once.
fn at_place(seen_at: IpAddr, claimed: &[Multiaddr]) -> Vec<Multiaddr> {
    let place = Protocol::from(seen_at);
    let mut out: Vec<Multiaddr> = Vec::new();
    for address in claimed.iter().filter(|address| is_dialable(address) && !is_relayed(address)) {
        let moved = address.replace(0, |_| Some(place.clone()));
        if let Some(moved) = moved
            && !out.contains(&moved)
            && out.len() < limit::CALL_ADDRESSES_MAX
        {
            out.push(moved);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that named others' addresses could have had this node dial them.
    #[test]
    fn calls_go_where_the_peer_is_seen_and_nowhere_else() {
        let claimed = [
            "/ip4/192.168.1.5/tcp/9000",
            "/ip4/198.51.100.9/tcp/9000",
            "/dns4/victim.example/udp/53/quic-v1",
            "/ip4/10.0.0.1/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit",
        ];
        let claimed: Vec<Multiaddr> = claimed.iter().map(|text| text.parse().unwrap()).collect();
        let called: Vec<String> =
            at_place([203, 0, 113, 7].into(), &claimed).iter().map(ToString::to_string).collect();
        assert_eq!(called, ["/ip4/203.0.113.7/tcp/9000", "/ip4/203.0.113.7/udp/53/quic-v1"]);
        let many: Vec<Multiaddr> =
            (1..100).map(|n| format!("/ip4/1.1.1.1/tcp/{n}").parse().unwrap()).collect();
        assert_eq!(at_place([203, 0, 113, 7].into(), &many).len(), limit::CALL_ADDRESSES_MAX);
    }
}
