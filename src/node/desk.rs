//! Where peers' costly questions are worked on: one of each peer at a time, few in all, and never on the network's threads.
//!
//! A question may want thousands of rows or hundreds of signatures. Who asks many of those waits for its own; whoever asks
//! next after it has its turn after one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::PeerId;
use crate::wire::sync_request::Ask;

/// Places for costly questions.
pub(super) struct Desk {
    all: Arc<Semaphore>,
    peers: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

/// The turn of one question; over when it is dropped.
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Default for Desk {
    fn default() -> Self {
        // Half of the machine is left to what its owner and everybody else want of it.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self::new(cores.div_ceil(2))
    }
}

impl Desk {
    fn new(places: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(places)), peers: Mutex::default() }
    }

    /// Waits for a turn. `None` never happens: the semaphores are not closed.
    pub(super) async fn turn(&self, peer: PeerId) -> Option<Turn> {
        let own = {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|of, own| *of == peer || Arc::strong_count(own) > 1);
            Arc::clone(peers.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let _own = own.acquire_owned().await.ok()?;
        Some(Turn { _all: Arc::clone(&self.all).acquire_owned().await.ok()?, _own })
    }
}

/// Whether a question is a costly one: signatures to check, or rows and files to look up, by the thousand.
pub(super) fn is_costly(ask: &Ask) -> bool {
    match ask {
        Ask::Records(_)
        | Ask::Receipts(_)
        | Ask::Receipt(_)
        | Ask::Damage(_)
        | Ask::Offer(_)
        | Ask::Heads(_) => true,
        Ask::Record(_) | Ask::Batch(_) | Ask::Inventory(_) | Ask::CallBack(_) | Ask::Release(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// Eight questions of one member at a time cut all others to a sixth.
    #[test]
    fn who_asks_much_waits_for_itself_and_others_are_next() {
        let desk = Desk::new(1);
        let peer = |n: u8| PeerId::new([n; 32]);
        let first = desk.turn(peer(1)).now_or_never().flatten().unwrap();
        let mut of_one: Vec<_> = (0..8).map(|_| Box::pin(desk.turn(peer(1)))).collect();
        assert!(of_one.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let mut other = Box::pin(desk.turn(peer(2)));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        assert!(of_one.iter_mut().all(|turn| turn.now_or_never().is_none()), "it came before");
        let second = other.now_or_never().flatten().unwrap();
        drop(second);
        assert!(of_one[0].as_mut().now_or_never().is_some());
        drop(of_one);
        desk.turn(peer(3)).now_or_never().flatten().unwrap();
        assert_eq!(desk.peers.lock().unwrap().len(), 1);
    }
}
