//! How fast peers take the answers that they asked for.
//!
//! An answer holds its place, and its memory, until its last byte is taken. A slow line harms nobody while there are places;
//! when there are none left, who takes too little is disconnected, and has few places for some time afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::{PeerId, limit};

/// Bytes that a peer has taken of all its answers.
pub(super) type Taken = Arc<AtomicU64>;

/// Peers that answers are on their way to.
#[derive(Default)]
pub(super) struct Readers {
    peers: HashMap<PeerId, Reader>,
}

#[derive(Default)]
struct Reader {
    taken: Taken,
    watched: Option<Watched>,
}

/// One to whom there have been answers on their way all the time.
#[derive(Clone, Copy)]
struct Watched {
    /// Since when, and what it had taken by then.
    since: (Instant, u64),
    /// When it last took something, and what it had taken by then.
    moved: (Instant, u64),
}

impl Watched {
    fn begin(now: Instant, taken: u64) -> Self {
        Self { since: (now, taken), moved: (now, taken) }
    }
}

impl Readers {
    /// Counts what this peer takes.
    pub(super) fn of(&mut self, peer: PeerId) -> Taken {
        Arc::clone(&self.peers.entry(peer).or_default().taken)
    }

    /// Those that take too little of what they asked for, while `crowded` says that others wait for a place.
    /// `awaited` are all to whom an answer is on its way.
    pub(super) fn slow(&mut self, now: Instant, awaited: &HashSet<PeerId>, crowded: bool) -> Vec<PeerId> {
        self.peers.retain(|peer, _| awaited.contains(peer));
        let is_slow = |(peer, reader): (&PeerId, &mut Reader)| {
            let taken = reader.taken.load(Ordering::Relaxed);
            let watched = reader.watched.get_or_insert(Watched::begin(now, taken));
            if watched.moved.1 != taken {
                watched.moved = (now, taken);
            }
            let for_time = now.saturating_duration_since(watched.since.0);
            let too_little = if for_time >= limit::SLOW_READER_TIME {
                let least = limit::SLOW_READER_BYTES_PER_SECOND * for_time.as_secs();
                let little = taken.saturating_sub(watched.since.1) < least;
                watched.since = (now, taken);
                little
            } else {
                false
            };
            let stands: Duration = now.saturating_duration_since(watched.moved.0);
            (crowded && (too_little || stands >= limit::STALLED_READER_TIME)).then_some(*peer)
        };
        self.peers.iter_mut().filter_map(is_slow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId::new([1; 32]);

    /// Whether a peer that takes so many bytes every so often is found to be slow within five minutes.
    fn is_found(bytes: u64, every: u64, crowded: bool) -> bool {
        let (mut readers, begin) = (Readers::default(), Instant::now());
        let (taken, awaited) = (readers.of(A), HashSet::from([A]));
        (1..300).any(|second| {
            if second % every == 0 {
                taken.fetch_add(bytes, Ordering::Relaxed);
            }
            !readers.slow(begin + Duration::from_secs(second), &awaited, crowded).is_empty()
        })
    }

    #[test]
    fn who_takes_too_little_is_found_while_others_wait() {
        let kib = 1 << 10;
        let table = [
            (0, 1, true, true),
            (8 * kib, 1, true, true),
            (32 * kib, 1, true, false),
            // A line with long buffers takes much at a time.
            (256 * kib, 8, true, false),
            (0, 1, false, false),
        ];
        for (bytes, every, crowded, found) in table {
            assert_eq!(is_found(bytes, every, crowded), found, "{bytes} every {every} s, crowded: {crowded}");
        }
    }

    #[test]
    fn who_has_nothing_to_take_is_not_slow() {
        let (mut readers, begin) = (Readers::default(), Instant::now());
        let awaited = HashSet::from([A]);
        for minute in 0..10 {
            readers.of(A);
            let at = begin + Duration::from_secs(60 * minute);
            assert!(readers.slow(at, &awaited, true).is_empty());
            assert!(readers.slow(at + Duration::from_secs(1), &HashSet::new(), true).is_empty());
            assert!(readers.peers.is_empty());
        }
    }
}
