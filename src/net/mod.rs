//! The node on the network: the only module that knows libp2p.
//!
//! Owns the swarm, who may speak which protocol, what is known of every peer's addresses, and the bounds on
//! all of it. One task drives the swarm and only shuffles; requests are answered by the [`Server`] in tasks of
//! their own, a bounded number of them. It keeps nothing on disk and trusts nothing a peer says but its identity.
//!
//! - **Members** ([`Members`]) get every protocol. **Strangers** get the door (`/shadowvault/door/1`) and
//!   nothing else: which of the two a connection is for is decided once, when it is established, so a peer
//!   whose standing changes is disconnected and comes back with other rights. Each side decides for itself.
//! - Kademlia finds the addresses of members, never data, and only what each of them signed about itself.
//! - An invariant: nothing here waits without a deadline, and nothing queues without a bound.

mod address;
mod backlog;
mod behaviour;
mod calling;
mod codec;
mod cork;
#[cfg(test)]
mod crowd_test;
mod dial;
mod error;
mod events;
mod finding;
mod gate;
mod handle;
mod hold;
mod lane;
mod members;
mod meter;
mod nearby;
mod paced;
mod peers;
mod ration;
mod readers;
mod router;
mod slots;
mod standing;
mod streams;
mod swarm;
#[cfg(test)]
mod tests;
mod unread;
mod whereabouts;

pub use address::{AddressError, parse_peer_address};
pub use error::{NetError, Tried};
pub use handle::{CalledBack, Net, NetConfig, Outside};
pub use lane::{BoxFuture, Server};
pub use members::Members;
pub use meter::Limits;
pub use peers::{AddressState, Claim, PeerState, Router, Transport};

use crate::base::PeerId;

/// What happened on the network. A hint to look: a receiver that falls behind misses some, and
/// [`Net::peers`] tells the present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// A member is connected, and it serves this node.
    Connected(PeerId),
    /// The last connection to such a member closed.
    Disconnected(PeerId),
    /// One of several connections to such a member closed. It may have died and come again before that was noticed, as with
    /// QUIC it is after seconds: what was said to it is said anew.
    Renewed(PeerId),
    /// A peer that is not a member knocked.
    Stranger {
        /// Who.
        peer: PeerId,
        /// Where it came from; it may not listen there.
        addresses: Vec<String>,
    },
    /// This node can be reached at a new address.
    Listening(String),
}
