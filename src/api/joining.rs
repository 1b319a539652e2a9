//! Pairing two machines by ticket, and looking at one peer closely.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::report::{PeerInfo, Reachability};
use crate::base::PeerId;

/// A ticket as people pass it on. It holds a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketText(pub String);

impl fmt::Debug for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketText")
    }
}

/// What the two machines are to each other.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The joiner stores for the inviter.
    #[default]
    Storage,
    /// Both store for each other.
    Mutual,
    /// Another machine of the same owner.
    Device,
}

/// `invite`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteRequest {
    /// A name for the joiner; its own when absent.
    pub name: Option<String>,
    /// Bytes that the joiner lends; 100 GiB when absent.
    pub quota: Option<u64>,
    /// Life of the ticket; a day when absent.
    pub expires_seconds: Option<u64>,
    /// What the joiner is to be.
    pub role: Role,
}

/// A fresh invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// To be given to `join`, once.
    pub ticket: TicketText,
    /// The invitation's number, for following it.
    pub id: String,
    /// When it ends, RFC 3339.
    pub expires: String,
    /// What the joiner is to be.
    pub role: Role,
    /// Bytes that the joiner lends.
    pub quota: u64,
}

/// What became of an invitation.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InviteState {
    /// It can be redeemed.
    Open,
    /// It was redeemed.
    Used,
    /// Its time is over.
    Expired,
}

/// One invitation, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InviteInfo {
    /// Its number.
    pub id: String,
    /// The name it gives the joiner.
    pub name: Option<String>,
    /// What the joiner is to be.
    pub role: Role,
    /// Bytes that the joiner lends.
    pub quota: u64,
    /// When it ends, RFC 3339.
    pub expires: String,
    /// What became of it.
    pub state: InviteState,
    /// Who redeemed it.
    pub peer: Option<PeerId>,
    /// Four words that both screens show, once it is redeemed.
    pub words: Option<String>,
}

/// `join`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// What `invite` printed.
    pub ticket: TicketText,
}

/// What `join` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The inviter.
    pub peer: PeerId,
    /// What it is called here.
    pub name: Option<String>,
    /// Four words that both screens show.
    pub words: String,
    /// What this node is to it.
    pub role: Role,
    /// Bytes that it may store here.
    pub quota: u64,
    /// Bytes that this node lends now in all.
    pub lend: u64,
    /// Whether the two are connected and serve each other already.
    pub connected: bool,
}

/// `peers show`, `ping` and `why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerDetail {
    /// What the list says of it.
    #[serde(flatten)]
    pub peer: PeerInfo,
    /// Four words that its screen shows for this node too.
    pub words: String,
    /// `tcp` or `quic`, while connected.
    pub transport: Option<String>,
    /// Milliseconds that a request and its answer just took.
    pub round_trip_ms: Option<f64>,
    /// What it says it runs.
    pub agent: Option<String>,
    /// Bytes that it agreed to lend this node.
    pub lends: Option<u64>,
    /// Bytes that it may store here, where that was agreed.
    pub quota: Option<u64>,
    /// Every address with what is known of it.
    pub ways: Vec<PeerWay>,
    /// What helps, when it is not connected.
    pub advice: Option<String>,
    /// How this node itself looks from outside.
    #[serde(default)]
    pub here: Reachability,
}

/// One address of a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerWay {
    /// The multiaddr.
    pub address: String,
    /// When it last led to the peer, RFC 3339.
    pub last_good: Option<String>,
    /// Why it did not, the last time it was tried.
    pub error: Option<String>,
    /// What to do about that.
    pub advice: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_ticket() {
        let ticket = TicketText("svt1secret".to_owned());
        assert!(!format!("{:?}", JoinRequest { ticket }).contains("secret"));
    }
}
