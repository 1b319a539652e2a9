//! The peer book: who is allowed, where they were last reached, who knocked. A published JSON file, not the index.

use serde::{Deserialize, Serialize};

use super::Store;
use super::error::StoreError;
use crate::base::{Moment, PeerId, VaultId, limit};

const FILE: &str = "peers.json";

/// A peer that may store for us and for whom we may store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Who.
    pub peer: PeerId,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Multiaddrs without the peer id, last good first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// When it was allowed.
    #[serde(default)]
    pub added: Moment,
    /// The vault it proved at the door, if that is how it came.
    #[serde(default)]
    pub proved: Option<VaultId>,
    /// When it was last connected.
    #[serde(default)]
    pub last_seen: Option<Moment>,
}

/// A stranger that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPeer {
    /// Who.
    pub peer: PeerId,
    /// Where from.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// When it last knocked.
    pub seen: Moment,
}

/// All peers; written whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBook {
    /// Allowed.
    #[serde(default)]
    pub allowed: Vec<PeerEntry>,
    /// Knocked and waiting.
    #[serde(default)]
    pub pending: Vec<PendingPeer>,
}

impl PeerBook {
    /// The entry of an allowed peer.
    pub fn find(&self, peer: PeerId) -> Option<&PeerEntry> {
        self.allowed.iter().find(|entry| entry.peer == peer)
    }

    /// Notes a stranger; the one waiting longest makes room.
    pub fn knock(&mut self, peer: PeerId, addresses: Vec<String>, now: Moment) {
        self.pending.retain(|pending| pending.peer != peer);
        if self.pending.len() >= limit::PENDING_PEERS_MAX {
            self.pending.remove(0);
        }
        self.pending.push(PendingPeer { peer, addresses, seen: now });
    }
}

impl Store {
    /// The peer book; empty when there is none yet.
    pub fn read_peers(&self) -> Result<PeerBook, StoreError> {
        let Some(bytes) = self.read_state(FILE)? else { return Ok(PeerBook::default()) };
        serde_json::from_slice(&bytes).map_err(|_| StoreError::DamagedFile(format!("members/{FILE}")))
    }

    /// Durably replaces the peer book.
    pub fn publish_peers(&self, book: &PeerBook) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(book).expect("a peer book is plain data");
        self.publish_state(FILE, &bytes)
    }
}
