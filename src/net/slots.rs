//! Bounded concurrency: so many at one time in all, and so many of them for one peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::PeerId;

/// One place or several, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _peer: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// The places there are.
#[derive(Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    per_peer: usize,
    peers: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl Slots {
    pub(super) fn new(all: usize, per_peer: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_peer, peers: Mutex::default() }
    }

    /// Waits for a place. First the peer's own queue, so that those who wait for a slow peer block no other.
    /// `None` never happens while the node runs: the semaphores are not closed.
    pub(super) async fn take(&self, peer: PeerId) -> Option<Slot> {
        let own = self.of(peer);
        let _peer = own.acquire_owned().await.ok()?;
        let _all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Slot { _peer, _all })
    }

    /// So many places now, or none.
    pub(super) fn try_take_many(&self, peer: PeerId, places: u32) -> Option<Slot> {
        let _peer = self.of(peer).try_acquire_many_owned(places).ok()?;
        let _all = Arc::clone(&self.all).try_acquire_many_owned(places).ok()?;
        Some(Slot { _peer, _all })
    }

    /// Forgets peers that hold no place and wait for none.
    pub(super) fn prune(&self) {
        self.lock().retain(|_, own| Arc::strong_count(own) > 1);
    }

    fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.lock();
        Arc::clone(peers.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.per_peer))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Arc<Semaphore>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_bound_each_peer_and_all_and_come_back() {
        let slots = Slots::new(3, 2);
        let [a, b] = [PeerId::new([1; 32]), PeerId::new([2; 32])];
        let held = [slots.try_take_many(a, 1), slots.try_take_many(a, 1), slots.try_take_many(b, 1)];
        assert!(held.iter().all(Option::is_some));
        assert!(slots.try_take_many(b, 1).is_none(), "three in all");
        drop(held);
        let _one = slots.try_take_many(a, 1).unwrap();
        let _two = slots.try_take_many(a, 1).unwrap();
        assert!(slots.try_take_many(a, 1).is_none(), "two for one peer");
        slots.prune();
        assert!(slots.try_take_many(a, 1).is_none(), "pruning keeps peers that hold a place");
        slots.try_take_many(b, 1).unwrap();
    }
}
