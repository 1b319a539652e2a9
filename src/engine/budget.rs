//! How an operation's buffers are cut from the memory that it may take.

use super::reader::SPAN_BYTES_MAX;
use super::restore::WINDOW_BYTES;
use crate::base::limit::{self, CELL_BYTES, KIB, MIB, PACK_BYTES_MAX};

/// Open packs of data chunks, over which chunks are dealt at random.
pub(super) const DATA_LANES: usize = 2;
/// Plaintext in one batch, in bytes; at most one largest chunk comes on top.
pub(super) const BATCH_BYTES: usize = MIB;
/// What is read of a pack at one time when it is checked, in bytes; whole cells.
pub(super) const VERIFY_BYTES: usize = MIB;
/// Finished packs on their way to the disk; they are in files already.
pub(super) const PACKS_UNDER_WAY: usize = 2;
/// What an open pack keeps in memory before it is written, in bytes, the wish first.
const LANE_BYTES: [usize; 3] = [MIB, 256 * KIB, CELL_BYTES];

/// The buffers of one backup.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct BackupPlan {
    /// Threads that hash, compress and seal.
    pub(super) workers: usize,
    /// An open pack is written out whenever it has this many bytes in memory.
    pub(super) lane_bytes: usize,
    /// Batches of plaintext under way. Two for each worker and two around them keep all busy; two is the least.
    pub(super) batches: usize,
}

impl BackupPlan {
    /// The plan with the most workers, then the largest writes, that stays within `memory` bytes; the smallest there is
    /// when none does.
    pub(super) fn new(memory: usize, workers: usize, chunk_bytes_max: usize) -> Self {
        let plans = (1..=workers.max(1)).rev().flat_map(|workers| {
            LANE_BYTES.map(|lane_bytes| Self { workers, lane_bytes, batches: workers * 2 + 2 })
        });
        let smallest = Self { workers: 1, lane_bytes: CELL_BYTES, batches: 2 };
        plans.into_iter().find(|plan| plan.bytes(chunk_bytes_max) <= memory).unwrap_or(smallest)
    }

    /// What it takes at most.
    pub(super) fn bytes(&self, chunk_bytes_max: usize) -> usize {
        let batches = self.batches * (BATCH_BYTES + chunk_bytes_max);
        // A worker's chunk: sealed, and twice while it is opened again.
        let scratch = self.workers * 3 * chunk_bytes_max;
        // An open pack may be just short of being written when one more chunk comes.
        let lanes = (DATA_LANES + 1) * self.lane_bytes + DATA_LANES * chunk_bytes_max;
        batches + scratch + lanes + limit::PACK_ROWS_BYTES
    }
}

/// What a restore's walk and the jobs that wait take, in bytes: trees on the way down, records of entries.
const RESTORE_WALK_BYTES: usize = 8 * MIB;
/// Plaintext of small files that one worker of a restore writes together, in bytes.
const RESTORE_BATCH_BYTES: usize = MIB;

/// Workers that restore from packs on this disk: each has a chunk sealed, decrypted and in plain, neighbours in a pack
/// that are read together, a batch of small files, and a window of a large one.
pub(super) fn restore_workers(memory: usize, workers: usize, chunk_bytes_max: usize) -> usize {
    let each = 4 * chunk_bytes_max + SPAN_BYTES_MAX + RESTORE_BATCH_BYTES + WINDOW_BYTES;
    (memory.saturating_sub(RESTORE_WALK_BYTES) / each).clamp(1, workers.max(1))
}

/// Workers that check packs: each has a stretch of the pack, a directory of up to an eighth of it, sealed and open, and a
/// chunk that is being opened.
pub(super) fn verify_workers(memory: usize, workers: usize, chunk_bytes_max: usize) -> usize {
    (memory / (VERIFY_BYTES + PACK_BYTES_MAX / 4 + 3 * chunk_bytes_max)).clamp(1, workers.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_takes_the_most_workers_that_its_memory_allows() {
        let table = [
            // memory, workers, largest chunk, then: workers, KiB in memory of an open pack, batches
            (24 * MIB, 2, 256 * KIB, 2, 1024, 6),
            (24 * MIB, 16, 256 * KIB, 4, 256, 10),
            (1024 * MIB, 16, 256 * KIB, 16, 1024, 34),
            (18 * MIB, 2, 256 * KIB, 2, 256, 6),
            (10 * MIB, 8, 256 * KIB, 1, 64, 2),
            (72 * MIB, 2, 8 * MIB, 1, 64, 2),
        ];
        for (memory, workers, chunk, expected, lane, batches) in table {
            let plan = BackupPlan::new(memory, workers, chunk);
            let found = (plan.workers, plan.lane_bytes / KIB, plan.batches);
            assert_eq!(found, (expected, lane, batches), "{memory} bytes, {workers} workers");
            assert!(plan.bytes(chunk) <= memory, "{plan:?} takes {}", plan.bytes(chunk));
        }
    }

    #[test]
    fn every_configuration_that_is_accepted_has_a_plan_within_its_memory() {
        for chunk in [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB] {
            let memory = limit::backup_bytes_min(chunk);
            for workers in [1, 2, 4, 16] {
                let plan = BackupPlan::new(memory, workers, chunk);
                assert!(plan.bytes(chunk) <= memory, "{chunk}: {plan:?}, {} of {memory}", plan.bytes(chunk));
            }
        }
    }

    #[test]
    fn readers_have_at_least_one_worker_and_no_more_than_fit() {
        assert_eq!(restore_workers(48 * MIB, 16, 256 * KIB), 12);
        assert_eq!(restore_workers(24 * MIB, 16, 8 * MIB), 1);
        assert_eq!(verify_workers(24 * MIB, 2, 256 * KIB), 2);
        assert_eq!(verify_workers(8 * MIB, 16, 8 * MIB), 1);
    }
}
