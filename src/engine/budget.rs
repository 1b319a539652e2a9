//! How an operation's buffers are cut from the memory that it may take.

use super::reader::SPAN_BYTES_MAX;
use crate::base::limit::{MIB, PACK_BYTES_MAX};

/// Open packs of data chunks, over which chunks are dealt at random.
pub(super) const DATA_LANES: usize = 2;
/// Plaintext in one batch, in bytes; at most one largest chunk comes on top.
pub(super) const BATCH_BYTES: usize = MIB;
/// Fewer workers than this are only used when memory leaves no choice: rather smaller packs.
const WORKERS_LEAST: usize = 4;

/// The buffers of one backup.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct BackupPlan {
    /// Threads that hash, compress and seal.
    pub(super) workers: usize,
    /// A pack is finished before it grows past this many bytes.
    pub(super) pack_bytes: usize,
    /// The same for packs of tree chunks, of which there is less.
    pub(super) tree_pack_bytes: usize,
    /// Finished packs on their way to the disk.
    pub(super) under_way: usize,
    /// Batches of plaintext under way. Two for each worker and two around them keep all busy; one for each worker
    /// and one more is the least.
    pub(super) batches: usize,
}

impl BackupPlan {
    /// The plan with the largest packs, then the most workers, that stays within `memory` bytes; the smallest there is
    /// when none does. Small packs cost for as long as they are kept, few workers only while the backup runs.
    pub(super) fn new(memory: usize, workers: usize, chunk_bytes_max: usize) -> Self {
        let workers = workers.max(1);
        let plans = [16, 8, 4, 2, 1].into_iter().flat_map(|mebibytes| {
            let least = if mebibytes > 4 { workers.min(WORKERS_LEAST) } else { 1 };
            (least..=workers).rev().flat_map(move |workers| {
                let pack_bytes = mebibytes * MIB;
                let (tree_pack_bytes, batches) = (pack_bytes / 2, workers * 2 + 2);
                let plan = Self { workers, pack_bytes, tree_pack_bytes, under_way: 2, batches };
                [plan, Self { under_way: 1, ..plan }]
            })
        });
        let smallest =
            Self { workers: 1, pack_bytes: MIB, tree_pack_bytes: MIB / 2, under_way: 1, batches: 2 };
        plans.into_iter().find(|plan| plan.bytes(chunk_bytes_max) <= memory).unwrap_or(smallest)
    }

    /// What it takes at most.
    pub(super) fn bytes(&self, chunk_bytes_max: usize) -> usize {
        let batches = self.batches * (BATCH_BYTES + chunk_bytes_max);
        // A worker's compressed and sealed chunk.
        let scratch = self.workers * 2 * chunk_bytes_max;
        batches + scratch + (DATA_LANES + self.under_way) * self.pack_bytes + self.tree_pack_bytes
    }
}

/// What a restore's walk and the jobs that wait take, in bytes: trees on the way down, records of entries.
const RESTORE_WALK_BYTES: usize = 8 * MIB;
/// Plaintext of small files that one worker of a restore writes together, in bytes.
const RESTORE_BATCH_BYTES: usize = MIB;

/// Workers that restore from packs on this disk: each has a chunk sealed, decrypted and in plain, neighbours in a pack
/// that are read together, and a batch of small files.
pub(super) fn restore_workers(memory: usize, workers: usize, chunk_bytes_max: usize) -> usize {
    let each = 3 * chunk_bytes_max + SPAN_BYTES_MAX + RESTORE_BATCH_BYTES;
    (memory.saturating_sub(RESTORE_WALK_BYTES) / each).clamp(1, workers.max(1))
}

/// Workers that read whole packs.
pub(super) fn verify_workers(memory: usize, workers: usize, chunk_bytes_max: usize) -> usize {
    (memory / (PACK_BYTES_MAX + 2 * chunk_bytes_max)).clamp(1, workers.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::KIB;

    #[test]
    fn a_backup_takes_the_largest_packs_that_its_memory_allows() {
        let table = [
            // memory, workers, largest chunk, then: workers, pack, under way
            (72 * MIB, 2, 256 * KIB, 2, 16, 1),
            (96 * MIB, 2, 256 * KIB, 2, 16, 2),
            (48 * MIB, 2, 256 * KIB, 2, 8, 2),
            (72 * MIB, 16, 256 * KIB, 4, 16, 1),
            (1024 * MIB, 16, 256 * KIB, 16, 16, 2),
            (24 * MIB, 2, 256 * KIB, 2, 4, 1),
            (16 * MIB, 8, 256 * KIB, 2, 2, 1),
            (72 * MIB, 2, 8 * MIB, 1, 4, 2),
        ];
        for (memory, workers, chunk, expected, pack, under_way) in table {
            let plan = BackupPlan::new(memory, workers, chunk);
            let found = (plan.workers, plan.pack_bytes / MIB, plan.under_way);
            assert!(plan.bytes(chunk) <= memory, "{plan:?} takes {}", plan.bytes(chunk));
            assert_eq!(found, (expected, pack, under_way), "{memory} bytes, {workers} workers");
        }
    }

    #[test]
    fn every_configuration_that_is_accepted_has_a_plan_within_its_memory() {
        for chunk in [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB] {
            // The least that a backup is ever given: half of the smallest limit that goes with the chunk size.
            let memory = crate::base::limit::memory_bytes_min(chunk) / 2;
            for workers in [1, 2, 4, 16] {
                let plan = BackupPlan::new(memory, workers, chunk);
                assert!(
                    plan.bytes(chunk) <= memory,
                    "{chunk}: {plan:?} takes {} of {memory}",
                    plan.bytes(chunk)
                );
            }
        }
    }

    #[test]
    fn readers_have_at_least_one_worker_and_no_more_than_fit() {
        assert_eq!(restore_workers(48 * MIB, 16, 256 * KIB), 16);
        assert_eq!(restore_workers(24 * MIB, 16, 8 * MIB), 1);
        assert_eq!(verify_workers(48 * MIB, 2, 256 * KIB), 2);
        assert_eq!(verify_workers(8 * MIB, 16, 8 * MIB), 1);
    }
}
