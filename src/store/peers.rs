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
    /// Bytes that it may store here, as agreed when it joined or was joined; absent: what this node lends in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Bytes that it agreed to lend this node when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lends: Option<u64>,
}

impl PeerEntry {
    /// One of which nothing else is known.
    pub fn new(peer: PeerId, added: Moment) -> Self {
        Self {
            peer,
            name: None,
            addresses: Vec::new(),
            added,
            proved: None,
            last_seen: None,
            quota: None,
            lends: None,
        }
    }
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
    /// Turned away: not listed as pending again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<PeerId>,
}

impl PeerBook {
    /// The entry of an allowed peer.
    pub fn find(&self, peer: PeerId) -> Option<&PeerEntry> {
        self.allowed.iter().find(|entry| entry.peer == peer)
    }

    /// What peers were promised by ticket, together, in bytes.
    pub fn promised(&self) -> u64 {
        self.allowed.iter().filter_map(|entry| entry.quota).fold(0, u64::saturating_add)
    }

    /// A name that no other peer has yet: `name`, or with a number behind it.
    pub fn free_name(&self, peer: PeerId, name: &str) -> String {
        let taken = |name: &str| {
            self.allowed.iter().any(|entry| entry.peer != peer && entry.name.as_deref() == Some(name))
        };
        let numbered = (2u32..).map(|n| format!("{name}-{n}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).expect("the list of peers is finite")
    }

    /// Turns a stranger away for good; the one turned away first makes room.
    pub fn reject(&mut self, peer: PeerId) {
        self.pending.retain(|pending| pending.peer != peer);
        self.rejected.retain(|known| *known != peer);
        if self.rejected.len() >= limit::REJECTED_PEERS_MAX {
            self.rejected.remove(0);
        }
        self.rejected.push(peer);
    }

    /// Notes a stranger; the one waiting longest makes room. One that was turned away is not noted, and one that was let in
    /// since it knocked is no stranger.
    pub fn knock(&mut self, peer: PeerId, addresses: Vec<String>, now: Moment) {
        if self.rejected.contains(&peer) || self.find(peer).is_some() {
            return;
        }
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
        Ok(self.read_state(FILE)?.unwrap_or_default())
    }

    /// Durably replaces the peer book.
    pub fn publish_peers(&self, book: &PeerBook) -> Result<(), StoreError> {
        self.publish_state(FILE, book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its knock was noted after its ticket had let it in: it was listed twice, and no name or id meant it any more.
    #[test]
    fn whoever_was_let_in_since_it_knocked_is_not_listed_as_a_stranger() {
        let (mut book, peer, now) = (PeerBook::default(), PeerId::new([1; 32]), Moment::from_millis(1));
        book.knock(peer, Vec::new(), now);
        book.knock(peer, Vec::new(), now);
        assert_eq!(book.pending.len(), 1);
        book.pending.clear();
        book.allowed.push(PeerEntry::new(peer, now));
        book.knock(peer, Vec::new(), now);
        assert!(book.pending.is_empty());
    }
}
