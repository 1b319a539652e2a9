//! Content-defined cutting: FastCDC with a gear table that only the vault knows.
//!
//! The table comes from the chunker seed through BLAKE3, so cut points differ from vault to vault. That alone
//! hides nothing (eprint 2025/558); packs and padding hide the lengths.

use std::fmt;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Smallest, wished and largest chunk in bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    min: usize,
    avg: usize,
    max: usize,
}

/// Sizes the cutter cannot honour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunk sizes {min}/{avg}/{max}: {rule}")]
pub struct SizesError {
    min: usize,
    avg: usize,
    max: usize,
    rule: &'static str,
}

impl Default for ChunkSizes {
    /// 16/64/256 KiB: with an index on disk we can afford chunks an order below the field's 1 MiB, and
    /// 85 % of them survive 1 % of scattered 4 KiB writes, against 8 % at 1 MiB.
    fn default() -> Self {
        Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 }
    }
}

impl ChunkSizes {
    /// # Errors
    /// Unless all are even, 64 B ≤ min ≤ 1 MiB, 256 B ≤ avg ≤ 4 MiB, 1 KiB ≤ max ≤ 8 MiB, min ≤ avg ≤ max.
    pub fn new(min: usize, avg: usize, max: usize) -> Result<Self, SizesError> {
        let wrong = |rule| Err(SizesError { min, avg, max, rule });
        if !(min.is_multiple_of(2) && avg.is_multiple_of(2) && max.is_multiple_of(2)) {
            return wrong("all three must be even");
        }
        if !(64..=1 << 20).contains(&min) {
            return wrong("min must be between 64 B and 1 MiB");
        }
        if !(256..=4 << 20).contains(&avg) {
            return wrong("avg must be between 256 B and 4 MiB");
        }
        if !(1024..=8 << 20).contains(&max) {
            return wrong("max must be between 1 KiB and 8 MiB");
        }
        if min > avg || avg > max {
            return wrong("min ≤ avg ≤ max must hold");
        }
        Ok(Self { min, avg, max })
    }

    /// Largest chunk in bytes: how much look-ahead a cut needs.
    pub fn max(&self) -> usize {
        self.max
    }
}

/// Cuts byte streams of one vault. Cheap to share between threads.
pub struct Cutter {
    sizes: ChunkSizes,
    mask_small: u64,
    mask_large: u64,
    gear: Box<[u64]>,
    gear_shifted: Box<[u64]>,
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cutter").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl Cutter {
    /// `seed` is the vault's chunker seed.
    pub fn new(sizes: ChunkSizes, seed: &[u8; 32]) -> Self {
        let mut bytes = [0u8; 256 * 8];
        blake3::Hasher::new_keyed(seed).update(b"gear").finalize_xof().fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        let gear: Box<[u64]> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let gear_shifted = gear.iter().map(|word| word << 1).collect();
        let (mask_small, mask_large) = select_masks(sizes.avg, Normalization::Level1);
        Self { sizes, mask_small, mask_large, gear, gear_shifted }
    }

    /// The sizes in force.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Length of the first chunk of `source`; all of it when no cut point comes earlier. Unless `source` ends the
    /// stream it must be at least [`ChunkSizes::max`] bytes long, or the cut is not where the stream has it.
    pub fn cut(&self, source: &[u8]) -> usize {
        let (_, length) = cut_gear(
            source,
            self.sizes.min,
            self.sizes.avg,
            self.sizes.max,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::frozen;
    use proptest::prelude::*;

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
        out
    }

    fn lengths(cutter: &Cutter, mut source: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        while !source.is_empty() {
            let length = cutter.cut(source);
            out.push(length);
            source = &source[length..];
        }
        out
    }

    #[test]
    fn cut_points_match_the_frozen_vector() {
        let source = noise(1 << 20, 1);
        let mut text = String::new();
        for sizes in [ChunkSizes::default(), ChunkSizes::new(4096, 32768, 131_072).unwrap()] {
            text.push_str(&format!("{:?}\n", lengths(&Cutter::new(sizes, &[9; 32]), &source)));
        }
        frozen("cuts.txt", text.as_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_cover_the_source_within_bounds(length in 0usize..400_000, seed: u8) {
            let sizes = ChunkSizes::new(2048, 8192, 32768).unwrap();
            let source = noise(length, seed);
            let cuts = lengths(&Cutter::new(sizes, &[seed; 32]), &source);
            prop_assert_eq!(cuts.iter().sum::<usize>(), length);
            for (i, cut) in cuts.iter().enumerate() {
                prop_assert!(*cut <= 32768 && (*cut >= 2048 || i + 1 == cuts.len()));
            }
        }
    }

    #[test]
    fn an_insertion_moves_few_cut_points() {
        let cutter = Cutter::new(ChunkSizes::new(2048, 8192, 32768).unwrap(), &[3; 32]);
        let before = noise(1 << 20, 2);
        let after = [&before[..500_000], b"inserted", &before[500_000..]].concat();
        let ids = |source: &[u8]| {
            let mut at = 0;
            let mut set = std::collections::HashSet::new();
            for length in lengths(&cutter, source) {
                set.insert(blake3::hash(&source[at..at + length]));
                at += length;
            }
            set
        };
        let (old, new) = (ids(&before), ids(&after));
        assert!(new.difference(&old).count() <= 4, "{}", new.difference(&old).count());
    }

    #[test]
    fn gear_table_depends_on_the_vault() {
        let source = noise(1 << 20, 1);
        let cuts = |seed| lengths(&Cutter::new(ChunkSizes::default(), &[seed; 32]), &source);
        assert_ne!(cuts(1), cuts(2));
    }

    #[test]
    fn sizes_are_checked() {
        for (min, avg, max) in [(4096, 32768, 131_072), (64, 256, 1024), (1 << 20, 4 << 20, 8 << 20)] {
            assert!(ChunkSizes::new(min, avg, max).is_ok());
        }
        for (min, avg, max) in [
            (63, 256, 1024),
            (64, 255, 1024),
            (64, 256, 1023),
            (4096, 2048, 8192),
            (62, 256, 1024),
            (64, 256, 16 << 20),
        ] {
            assert!(ChunkSizes::new(min, avg, max).is_err(), "{min} {avg} {max}");
        }
    }
}
