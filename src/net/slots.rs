//! Bounded concurrency: so many at one time in all, so many of them for one peer, and some for those who have few.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::base::{PeerId, limit};

/// One place or several, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _peer: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    _first: Option<OwnedSemaphorePermit>,
    _held: Holding,
}

/// Places that one peer holds, of whichever kind.
#[derive(Debug, Default)]
struct Held {
    places: AtomicUsize,
    fewer: Notify,
}

impl Held {
    /// Waits until they are so few that another one may be of those that are kept.
    async fn few(&self) {
        loop {
            let mut fewer = std::pin::pin!(self.fewer.notified());
            fewer.as_mut().enable();
            if self.places.load(Ordering::Acquire) < limit::KEPT_PLACES_PER_PEER_MAX {
                return;
            }
            fewer.await;
        }
    }
}

/// Counts as held until it is dropped.
#[derive(Debug)]
struct Holding(Arc<Held>, usize);

impl Holding {
    fn new(held: &Arc<Held>, places: usize) -> Self {
        held.places.fetch_add(places, Ordering::AcqRel);
        Self(Arc::clone(held), places)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.places.fetch_sub(self.1, Ordering::AcqRel);
        self.0.fewer.notify_waiters();
    }
}

/// The places there are. Some are kept for peers that have few: whoever holds many cannot take those.
#[derive(Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    per_peer: usize,
    peers: Mutex<HashMap<PeerId, Own>>,
    /// Peers that have one place only, until then.
    restricted: Mutex<HashMap<PeerId, Instant>>,
}

/// One peer's places, and how many of those may be kept ones.
#[derive(Debug, Clone)]
struct Own {
    places: Arc<Semaphore>,
    first: Arc<Semaphore>,
    held: Arc<Held>,
}

impl Own {
    fn new(places: usize) -> Self {
        let first = places.min(limit::KEPT_PLACES_PER_PEER_MAX);
        let [places, first] = [places, first].map(|places| Arc::new(Semaphore::new(places)));
        Self { places, first, held: Arc::default() }
    }
}

impl Slots {
    pub(super) fn new(all: usize, per_peer: usize) -> Self {
        Self::keeping(0, all, per_peer)
    }

    /// Of all places, so many are kept.
    pub(super) fn keeping(kept: usize, all: usize, per_peer: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all - kept)),
            kept: Arc::new(Semaphore::new(kept)),
            per_peer,
            peers: Mutex::default(),
            restricted: Mutex::default(),
        }
    }

    /// Waits for a place. First the peer's own queue, so that those who wait for a slow peer block no other.
    /// `None` never happens while the node runs: the semaphores are not closed.
    pub(super) async fn take(&self, peer: PeerId) -> Option<Slot> {
        let own = self.of(peer);
        let _peer = own.places.acquire_owned().await.ok()?;
        let kept = async {
            own.held.few().await;
            let first = own.first.acquire_owned().await.ok()?;
            Some((Arc::clone(&self.kept).acquire_owned().await.ok()?, first))
        };
        let (_all, _first) = tokio::select! {
            biased;
            all = Arc::clone(&self.all).acquire_owned() => (all.ok()?, None),
            kept = kept => kept.map(|(all, first)| (all, Some(first)))?,
        };
        Some(Slot { _peer, _all, _first, _held: Holding::new(&own.held, 1) })
    }

    /// So many places now, or none.
    pub(super) fn try_take_many(&self, peer: PeerId, places: u32) -> Option<Slot> {
        let own = self.of(peer);
        let _peer = own.places.try_acquire_many_owned(places).ok()?;
        let _all = Arc::clone(&self.all).try_acquire_many_owned(places).ok()?;
        Some(Slot { _peer, _all, _first: None, _held: Holding::new(&own.held, places as usize) })
    }

    /// Whether no place is left but kept ones.
    pub(super) fn is_crowded(&self) -> bool {
        self.all.available_permits() == 0
    }

    /// From now on the peer has one place only, for some time. Those that it holds it gives back as always.
    pub(super) fn restrict(&self, peer: PeerId) {
        let until = Instant::now() + limit::SLOW_READER_RESTRICTED;
        self.restricted().insert(peer, until);
        self.lock().remove(&peer);
    }

    /// Forgets peers that hold no place and wait for none.
    pub(super) fn prune(&self) {
        let now = Instant::now();
        self.restricted().retain(|_, until| *until > now);
        self.lock().retain(|_, own| Arc::strong_count(&own.places) > 1);
    }

    fn of(&self, peer: PeerId) -> Own {
        let is_restricted = self.restricted().contains_key(&peer);
        let places = if is_restricted { 1 } else { self.per_peer };
        self.lock().entry(peer).or_insert_with(|| Own::new(places)).clone()
    }

    fn restricted(&self) -> MutexGuard<'_, HashMap<PeerId, Instant>> {
        self.restricted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Own>> {
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

    /// Two that read nothing held all places; those that are kept too, when they came in turns.
    #[tokio::test]
    async fn who_holds_many_leaves_some_to_those_who_have_few() {
        use futures::FutureExt;
        let slots = Slots::keeping(4, 16, 10);
        let peer = |n: u8| PeerId::new([n; 32]);
        let take = |n: u8| slots.take(peer(n)).now_or_never().flatten();
        let (mut one, mut two): (Vec<Slot>, Vec<Slot>) = Default::default();
        for _ in 0..20 {
            one.extend(take(1));
            two.extend(take(2));
        }
        assert_eq!((one.len(), two.len()), (6, 6));
        assert!(slots.is_crowded());
        let mut three: Vec<Slot> = (0..20).map_while(|_| take(3)).collect();
        assert_eq!(three.len(), limit::KEPT_PLACES_PER_PEER_MAX);
        // Who waits for the next one gets it, however many of its own wait with it.
        let waiting = futures::future::select_all((0..5).map(|_| Box::pin(slots.take(peer(3)))));
        three.pop();
        assert!(waiting.now_or_never().is_some());
        drop((one, two, three));
        assert!(!slots.is_crowded());
        slots.restrict(peer(1));
        assert_eq!((0..20).map_while(|_| take(1)).collect::<Vec<Slot>>().len(), 1);
        slots.prune();
        let _held = take(1).unwrap();
        assert!(take(1).is_none());
    }
}
