//! Hearing other nodes on the local network (mDNS).
//!
//! libp2p's behaviour for that keeps whatever names it is told for as long as it is told to, so it is dropped once there
//! are too many, and made anew after a rest or when this machine gets another address. What it says about others'
//! addresses goes to the swarm's task and to nobody else. It tells this node's peer id and addresses, and no more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use libp2p::core::Endpoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewListenAddr, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId as Libp2pId, mdns};
use tokio::time::{Sleep, sleep};
use tracing::warn;

use super::address::is_relayed;
use crate::base::limit;

/// mDNS at work or at rest. Says which peers it heard at which addresses.
pub(super) struct Nearby {
    me: Libp2pId,
    inner: Option<mdns::tokio::Behaviour>,
    /// What a new one has to be told.
    listening: Vec<(ListenerId, Multiaddr)>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Nearby {
    pub(super) fn new(me: Libp2pId) -> Self {
        Self { me, inner: start(me), listening: Vec::new(), rest: None }
    }

    fn begin(&mut self) {
        self.inner = start(self.me);
        let Some(inner) = &mut self.inner else { return };
        for (listener_id, addr) in &self.listening {
            inner.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: *listener_id, addr }));
        }
    }

    fn note(&mut self, new: NewListenAddr<'_>) {
        self.listening.push((new.listener_id, new.addr.clone()));
        if self.inner.is_none() {
            self.rest = Some(Box::pin(sleep(limit::LOCAL_REST)));
        }
    }
}

fn start(me: Libp2pId) -> Option<mdns::tokio::Behaviour> {
    let started = mdns::tokio::Behaviour::new(mdns::Config::default(), me);
    started
        .inspect_err(|error| warn!(target: "net", %error, "members are not looked for on the local network"))
        .ok()
}

impl NetworkBehaviour for Nearby {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Vec<(Libp2pId, Multiaddr)>;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: Libp2pId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Libp2pId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            // An address at a relay says nothing about the network around.
            FromSwarm::NewListenAddr(new) if is_relayed(new.addr) => return,
            FromSwarm::NewListenAddr(new) => self.note(new),
            FromSwarm::ExpiredListenAddr(gone) => {
                self.listening.retain(|(id, address)| *id != gone.listener_id || address != gone.addr);
            }
            _ => return,
        }
        if let Some(inner) = &mut self.inner {
            inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, _: Libp2pId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
                self.begin();
            }
            let Some(inner) = &mut self.inner else { return Poll::Pending };
            // Where others are is for the swarm's task to believe or not; that they fell silent tells nothing.
            let ToSwarm::GenerateEvent(mdns::Event::Discovered(found)) = ready!(inner.poll(cx)) else {
                continue;
            };
            let names = inner.discovered_nodes().len();
            if names > limit::NEARBY_MAX {
                warn!(target: "net", names, "too many names on the local network; not listening to them for a while");
                self.inner = None;
                self.rest = Some(Box::pin(sleep(limit::NEARBY_REST)));
            }
            return Poll::Ready(ToSwarm::GenerateEvent(found));
        }
    }
}
