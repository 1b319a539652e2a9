//! What can go wrong between this node and a peer, in words for the person who has to mend it.

use std::time::Duration;

use super::AddressError;
use crate::base::{Code, Coded, PeerId, format_duration};

/// One address that was dialled in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where.
    pub address: String,
    /// What happened there.
    pub reason: String,
    /// Something answered and ended the connection before it had said who it is.
    pub hung_up: bool,
}

/// Why something on the network did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// The peer named is this node.
    #[error("{0} is this node itself")]
    Myself(PeerId),
    /// Nothing says where the peer is.
    #[error("no address of {0} is known")]
    NoAddress(PeerId),
    /// Every known address was tried.
    #[error("{peer} cannot be reached{}", list(tried))]
    Unreachable {
        /// Who.
        peer: PeerId,
        /// Each address with its error.
        tried: Vec<Tried>,
    },
    /// The peer answers, but lists this node as a stranger.
    #[error("{0} does not know this node yet")]
    NotAdmitted(PeerId),
    /// It has no version of the protocols in common with this node.
    #[error("{0} speaks another version of the protocol")]
    OtherVersion(PeerId),
    /// This node lists the peer as a stranger.
    #[error("{0} is not on this node's peer list")]
    NotMember(PeerId),
    /// No answer in time.
    #[error("{peer} did not answer within {}", format_duration(*after))]
    Timeout {
        /// Who.
        peer: PeerId,
        /// How long it had.
        after: Duration,
    },
    /// The peer has too much to do, or this node asked too much of it.
    #[error("{0} is busy")]
    Busy(PeerId),
    /// The peer cannot reach its own disk, so it can tell nothing about what it has: as if it were away.
    #[error("{0} cannot reach its disk at present")]
    Unavailable(PeerId),
    /// The connection ended before the answer came.
    #[error("the connection to {peer} broke: {reason}")]
    Broken {
        /// Who.
        peer: PeerId,
        /// What the transport said.
        reason: String,
    },
    /// The peer sent something that is not an answer.
    #[error("{peer} sent a malformed answer: {reason}")]
    Malformed {
        /// Who.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
    /// The request itself is over its limit.
    #[error("a request of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// An address is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        reason: String,
        /// Whether something else listens there.
        taken: bool,
    },
    /// The node key is not a key, or the transports cannot be built.
    #[error("the network cannot start: {0}")]
    Start(String),
    /// The network was shut down.
    #[error("the network is shut down")]
    Stopped,
}

impl NetError {
    /// Whether the peer may be there and have too much to do to shake hands: it may be asked again.
    pub fn is_hung_up(&self) -> bool {
        match self {
            Self::Unreachable { tried, .. } => tried.iter().any(|tried| tried.hung_up),
            Self::Broken { .. } => true,
            _ => false,
        }
    }
}

fn list(tried: &[Tried]) -> String {
    let separators = std::iter::once(": ").chain(std::iter::repeat("; "));
    tried.iter().zip(separators).map(|(t, sep)| format!("{sep}{}: {}", t.address, t.reason)).collect()
}

impl Coded for NetError {
    fn code(&self) -> Code {
        match self {
            Self::Myself(_) => Code::UsageInvalid,
            Self::NoAddress(_) => Code::PeerNotFound,
            Self::Unreachable { .. } | Self::Unavailable(_) => Code::NetworkUnreachable,
            Self::NotAdmitted(_) | Self::NotMember(_) => Code::Unauthorized,
            Self::OtherVersion(_) => Code::PeerIncompatible,
            Self::Timeout { .. } => Code::NetworkTimeout,
            Self::Busy(_) => Code::PeerBusy,
            Self::Broken { .. } => Code::ConnectionFailed,
            Self::Malformed { .. } => Code::PeerMisbehaved,
            Self::TooLong { .. } => Code::ResourceExhausted,
            Self::Address(error) => error.code(),
            Self::Listen { .. } => Code::ConfigInvalid,
            Self::Start(_) => Code::InvalidKey,
            Self::Stopped => Code::Cancelled,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Myself(_) => {
                "give the address of the other machine; if this node was copied from that machine, the copy needs \
                 an identity of its own (`shadowvault init`)"
                    .to_owned()
            }
            Self::NoAddress(peer) => {
                format!("run `shadowvault id` on the other machine, then `shadowvault peers add ADDRESS/p2p/{peer}`")
            }
            Self::Unreachable { .. } => {
                "check that the daemon runs there and that its port is open in the firewall".to_owned()
            }
            Self::Unavailable(_) => "look at `shadowvault status` on that machine: is its disk mounted?".to_owned(),
            Self::NotAdmitted(_) => {
                "add this node there: run `shadowvault id` here and `shadowvault peers add` there".to_owned()
            }
            Self::OtherVersion(_) => {
                "update shadowvault on the older of the two machines (`shadowvault version`)".to_owned()
            }
            Self::NotMember(_) => "add it with `shadowvault peers add`".to_owned(),
            Self::Listen { taken: true, .. } => {
                "another program uses this port, perhaps another shadowvault daemon; change `listen_port`".to_owned()
            }
            Self::Listen { .. } => "check `listen_port` and `p2p.listen`".to_owned(),
            Self::Address(error) => return error.hint(),
            _ => return None,
        })
    }
}
