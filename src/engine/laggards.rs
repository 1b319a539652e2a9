//! Owners that hold back what they offered: how that is noticed, and what becomes of their places.
//!
//! Pure. While somebody else waits, one that gave too little for some time loses its place, and from then on shares a few
//! places with all others like it for a while. There it is left alone: a line may just be slow.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::{PeerId, limit};

/// Owners that are served, and those that held back.
#[derive(Default)]
pub struct Laggards {
    served: HashMap<PeerId, Given>,
    slow_until: HashMap<PeerId, Duration>,
}

/// What one gave since it was last looked at.
struct Given {
    since: Duration,
    bytes: u64,
}

impl Laggards {
    /// An owner has a place. `now` is the time since any fixed moment.
    pub fn begin(&mut self, now: Duration, peer: PeerId) {
        self.served.insert(peer, Given { since: now, bytes: 0 });
    }

    /// It has no place any longer.
    pub fn end(&mut self, peer: PeerId) {
        self.served.remove(&peer);
    }

    /// It gave something that was asked of it.
    pub fn give(&mut self, peer: PeerId, bytes: u64) {
        if let Some(given) = self.served.get_mut(&peer) {
            given.bytes = given.bytes.saturating_add(bytes);
        }
    }

    /// Whether it shares the few places.
    pub fn is_slow(&self, now: Duration, peer: PeerId) -> bool {
        self.slow_until.get(&peer).is_some_and(|until| *until > now)
    }

    /// Those that have to give their places up. `awaited`: others wait for them.
    pub fn found(&mut self, now: Duration, awaited: bool) -> Vec<PeerId> {
        self.slow_until.retain(|_, until| *until > now);
        let mut found = Vec::new();
        for (peer, given) in &mut self.served {
            let time = now.saturating_sub(given.since);
            if time < limit::HOLDING_BACK_TIME {
                continue;
            }
            let too_little = given.bytes < limit::HOLDING_BACK_BYTES_PER_SECOND * time.as_secs();
            *given = Given { since: now, bytes: 0 };
            if awaited && too_little && !self.slow_until.contains_key(peer) {
                found.push(*peer);
            }
        }
        let until = now + limit::HOLDING_BACK_SLOW;
        self.slow_until.extend(found.iter().map(|peer| (*peer, until)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId::new([1; 32]);

    #[test]
    fn who_holds_back_while_others_wait_loses_its_place_once() {
        let second = Duration::from_secs(1);
        // Bytes that it gives a second, whether others wait, whether it loses its place.
        let table = [(0, true, true), (1 << 10, true, true), (64 << 10, true, false), (0, false, false)];
        for (bytes, awaited, loses) in table {
            let mut laggards = Laggards::default();
            laggards.begin(Duration::ZERO, A);
            let lost = (1..300).map(|n| {
                laggards.give(A, bytes);
                laggards.found(second * n, awaited).len()
            });
            assert_eq!(lost.sum::<usize>(), usize::from(loses), "{bytes} {awaited}");
            assert_eq!(laggards.is_slow(300 * second, A), loses);
            assert!(!laggards.is_slow(300 * second + limit::HOLDING_BACK_SLOW, A));
        }
    }
}
