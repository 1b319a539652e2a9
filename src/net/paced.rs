//! What peers ask of a behaviour that answers by itself: each has its rate, and who is over it waits for its turn.
//!
//! Kademlia answers as fast as it is asked, and nobody above it is asked first. So here its connections' news wait before
//! it hears of them. A question that waits holds its stream, of which a connection has few: who asks too much is answered
//! at its rate and is kept from nothing else.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId as Libp2pId};
use tokio::time::{Instant, Sleep, sleep};

use crate::base::limit;
use crate::policy::Flow;

/// News of connections, and whose turn it is. `now` is the time since any fixed moment.
struct Turns<E> {
    peers: HashMap<Libp2pId, Turn<E>>,
}

struct Turn<E> {
    flow: Flow,
    waiting: VecDeque<(ConnectionId, E)>,
}

impl<E> Turns<E> {
    fn new() -> Self {
        Self { peers: HashMap::new() }
    }

    /// Gives the news back when it is its turn now; else it waits.
    fn take(&mut self, now: Duration, peer: Libp2pId, id: ConnectionId, news: E) -> Option<E> {
        let rate = NonZeroU64::from(limit::KAD_PER_SECOND_MAX);
        let turn = self.peers.entry(peer).or_insert_with(|| Turn {
            flow: Flow::new(rate, limit::KAD_BURST_MAX),
            waiting: VecDeque::new(),
        });
        if turn.waiting.is_empty() && turn.flow.wait(now).is_zero() {
            turn.flow.charge(now, 1);
            return Some(news);
        }
        // More than its streams can bring, so that none of an honest peer is lost.
        if turn.waiting.len() < limit::KAD_WAITING_MAX {
            turn.waiting.push_back((id, news));
        }
        None
    }

    /// News whose turn has come.
    fn due(&mut self, now: Duration) -> Option<(Libp2pId, ConnectionId, E)> {
        let is_due = |turn: &Turn<E>| !turn.waiting.is_empty() && turn.flow.wait(now).is_zero();
        let (peer, turn) = self.peers.iter_mut().find(|(_, turn)| is_due(turn))?;
        let (id, news) = turn.waiting.pop_front()?;
        turn.flow.charge(now, 1);
        Some((*peer, id, news))
    }

    /// How long until the next turn comes.
    fn next(&self, now: Duration) -> Option<Duration> {
        let waiting = self.peers.values().filter(|turn| !turn.waiting.is_empty());
        waiting.map(|turn| turn.flow.wait(now)).min()
    }

    /// A connection is gone, and what it brought. Who comes back at once finds its rate as it left it.
    fn gone(&mut self, now: Duration, peer: &Libp2pId, id: ConnectionId) {
        if let Some(turn) = self.peers.get_mut(peer) {
            turn.waiting.retain(|(of, _)| *of != id);
        }
        self.peers.retain(|_, turn| !turn.waiting.is_empty() || !turn.flow.is_rested(now));
    }
}

/// Gives `B` news of its connections at each peer's rate.
pub(super) struct Paced<B: NetworkBehaviour> {
    inner: B,
    began: Instant,
    turns: Turns<THandlerOutEvent<B>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: NetworkBehaviour> Paced<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner, began: Instant::now(), turns: Turns::new(), sleep: None }
    }

    pub(super) fn inner(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Paced<B> {
    type ConnectionHandler = THandler<B>;
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
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<Libp2pId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Libp2pId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let FromSwarm::ConnectionClosed(closed) = &event {
            self.turns.gone(self.began.elapsed(), &closed.peer_id, closed.connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: Libp2pId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some(event) = self.turns.take(self.began.elapsed(), peer, id, event) {
            self.inner.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            while let Some((peer, id, event)) = self.turns.due(self.began.elapsed()) {
                self.inner.on_connection_handler_event(peer, id, event);
            }
            if let Poll::Ready(action) = self.inner.poll(cx) {
                return Poll::Ready(action);
            }
            let Some(next) = self.turns.next(self.began.elapsed()) else {
                self.sleep = None;
                return Poll::Pending;
            };
            let mut wake = Box::pin(sleep(next));
            if wake.as_mut().poll(cx).is_pending() {
                self.sleep = Some(wake);
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members had 38,800 questions answered in ten seconds.
    #[test]
    fn who_asks_without_end_is_answered_at_its_rate_and_others_at_once() {
        let mut turns = Turns::new();
        let (one, other) = (Libp2pId::random(), Libp2pId::random());
        let id = ConnectionId::new_unchecked(1);
        let (second, mut answered) = (Duration::from_secs(1), 0);
        for tenth in 0..100u32 {
            let now = second * tenth / 10;
            answered += (0..400).filter(|n| turns.take(now, one, id, *n).is_some()).count();
            answered += std::iter::from_fn(|| turns.due(now)).count();
        }
        let most = limit::KAD_BURST_MAX as usize + 10 * limit::KAD_PER_SECOND_MAX.get() as usize;
        assert!((most / 2..=most).contains(&answered), "{answered}");
        assert!(turns.peers[&one].waiting.len() <= limit::KAD_WAITING_MAX);
        assert_eq!(turns.take(10 * second, other, id, 7), Some(7));
        assert!(turns.next(10 * second).is_some_and(|wait| wait <= second));
    }

    #[test]
    fn what_waits_goes_with_its_connection_and_the_rate_stays_until_it_is_rested() {
        let mut turns = Turns::new();
        let (one, id) = (Libp2pId::random(), ConnectionId::new_unchecked(1));
        (0..1000).for_each(|n| drop(turns.take(Duration::ZERO, one, id, n.to_string())));
        turns.gone(Duration::ZERO, &one, id);
        assert!(turns.due(Duration::from_secs(100)).is_none());
        assert!(turns.take(Duration::ZERO, one, id, String::new()).is_none(), "it came back at once");
        turns.gone(Duration::from_secs(100), &one, id);
        assert!(turns.peers.is_empty());
    }
}
