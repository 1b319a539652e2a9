//! The allow list as the swarm sees it.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::base::PeerId;

/// The peers that are served. Shared; reading is cheap. A change acts at once: a peer that is removed is
/// disconnected, a stranger that is inserted is asked to come again. Kept on disk by the node, not here.
#[derive(Debug)]
pub struct Members {
    set: RwLock<HashSet<PeerId>>,
    changes: watch::Sender<u64>,
}

impl Default for Members {
    fn default() -> Self {
        Self::new([])
    }
}

impl Members {
    /// A list with these peers on it.
    pub fn new(peers: impl IntoIterator<Item = PeerId>) -> Self {
        Self { set: RwLock::new(peers.into_iter().collect()), changes: watch::Sender::new(0) }
    }

    /// Whether the peer is served.
    pub fn allows(&self, peer: &PeerId) -> bool {
        self.set.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// Everyone on the list, in no order.
    pub fn all(&self) -> Vec<PeerId> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Replaces the list.
    pub fn set(&self, peers: impl IntoIterator<Item = PeerId>) {
        let new = peers.into_iter().collect();
        self.change(|set| std::mem::replace(set, new) != *set);
    }

    /// Adds a peer; false when it was there.
    pub fn insert(&self, peer: PeerId) -> bool {
        self.change(|set| set.insert(peer))
    }

    /// Removes a peer; false when it was not there.
    pub fn remove(&self, peer: &PeerId) -> bool {
        self.change(|set| set.remove(peer))
    }

    /// Resolves on every change after the call.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, edit: impl FnOnce(&mut HashSet<PeerId>) -> bool) -> bool {
        let changed = edit(&mut self.set.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
        changed
    }
}
