//! What keeps members' connections open between requests.

use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SubstreamProtocol, ToSwarm,
};
use libp2p::{Multiaddr, PeerId as Libp2pId};

/// Holds connections open: behind a [`Gate`](super::gate::Gate), those of members. libp2p's ping finds out when one is dead.
pub(super) struct Hold;

impl NetworkBehaviour for Hold {
    type ConnectionHandler = Held;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: Libp2pId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Held, ConnectionDenied> {
        Ok(Held)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Libp2pId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Held, ConnectionDenied> {
        Ok(Held)
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: Libp2pId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

/// Speaks no protocol and does not let the connection idle out.
pub(super) struct Held;

impl ConnectionHandler for Held {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }

    fn on_connection_event(&mut self, _: ConnectionEvent<DeniedUpgrade, DeniedUpgrade>) {}
}
