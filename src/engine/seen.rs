//! Bounded memories for walks over many trees and chunks.

use std::collections::HashSet;

use crate::base::{ChunkId, limit};

/// Trees that were looked at. Takes no more once it is full: what it does not know is looked at again.
#[derive(Default)]
pub(super) struct SeenTrees {
    keys: HashSet<u128>,
}

impl SeenTrees {
    pub(super) fn contains(&self, key: u128) -> bool {
        self.keys.contains(&key)
    }

    /// Whether it is new; one that finds no room is.
    pub(super) fn insert(&mut self, key: u128) -> bool {
        if self.keys.len() >= limit::TREES_REMEMBERED_MAX {
            return !self.contains(key);
        }
        self.keys.insert(key)
    }
}

/// Half of an id: chunk ids are hashes, so that two distinct ones with equal halves do not occur.
pub(super) fn key_of(id: ChunkId) -> u128 {
    let (half, _) = id.as_bytes().split_first_chunk::<16>().expect("an id has 32 bytes");
    u128::from_le_bytes(*half)
}

/// Counts distinct chunks in bounded memory: all of them while they fit, then a sample of every second, fourth, eighth…
///
/// Ids are hashes, so a sample by their bits is a fair one: with 450,000 ids left an estimate is off by some 0.2 %.
pub(super) struct DistinctChunks {
    keys: HashSet<u64>,
    /// The lowest so many bits of a counted key are 0.
    sparsity: u32,
    most: usize,
}

impl Default for DistinctChunks {
    fn default() -> Self {
        Self::with_room(limit::CHUNKS_COUNTED_MAX)
    }
}

impl DistinctChunks {
    fn with_room(most: usize) -> Self {
        Self { keys: HashSet::new(), sparsity: 0, most }
    }

    /// Whether this one is new and in the sample.
    pub(super) fn insert(&mut self, id: ChunkId) -> bool {
        let (word, _) = id.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
        let key = u64::from_le_bytes(*word);
        if !self.counts(key) || !self.keys.insert(key) {
            return false;
        }
        while self.keys.len() > self.most {
            self.sparsity += 1;
            let sparsity = self.sparsity;
            self.keys.retain(|key| key.trailing_zeros() >= sparsity);
        }
        self.counts(key)
    }

    fn counts(&self, key: u64) -> bool {
        key.trailing_zeros() >= self.sparsity
    }

    /// How many distinct ones there were.
    pub(super) fn count(&self) -> u64 {
        (self.keys.len() as u64) << self.sparsity
    }

    /// Whether [`DistinctChunks::count`] is an estimate.
    pub(super) fn is_estimate(&self) -> bool {
        self.sparsity > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn distinct_chunks_are_counted_exactly_and_then_estimated() {
        let mut counted = DistinctChunks::with_room(4096);
        for number in (0..4096).chain(0..4096) {
            counted.insert(id(number));
        }
        assert_eq!((counted.count(), counted.is_estimate()), (4096, false));
        for number in 0..100_000 {
            counted.insert(id(number));
        }
        assert!(counted.is_estimate() && counted.keys.len() <= 4096);
        assert!((90_000..110_000).contains(&counted.count()), "{}", counted.count());
    }
}
