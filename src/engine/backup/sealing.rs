//! The workers: hash, look up, compress, seal, and hand on what became of each item.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_channel::{Receiver, Sender};

use super::feed::{Batch, FileEnd, Item};
use super::packer::Packer;
use crate::base::ChunkId;
use crate::crypto::{Kind, Sealer};
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::vault::Vault;
use crate::store::PackNumber;

/// What became of an item.
pub(super) enum Step {
    Chunk { id: ChunkId, length: u32 },
    Hole(u64),
    Again,
    End(FileEnd),
}

/// A batch's steps, in order.
pub(super) struct Done {
    pub(super) number: u64,
    /// `None` when the worker failed: it says why when it ends.
    pub(super) steps: Option<Vec<Step>>,
    /// The buffer, to be used again.
    pub(super) buffer: Vec<u8>,
}

/// Seals every batch that comes; returns the packs in which known chunks were found.
pub(super) fn run(
    vault: &Vault,
    packer: &Packer<'_>,
    monitor: &Monitor,
    batches: &Receiver<Batch>,
    done: &Sender<Done>,
) -> Result<HashSet<PackNumber>, EngineError> {
    let mut used = HashSet::new();
    let mut worker = Worker { vault, packer, sealer: Sealer::new(packer.options.level)?, sealed: Vec::new() };
    for batch in batches {
        // Even a panic is reported for this batch: a number that never came would keep the assembler waiting.
        let result = catch_unwind(AssertUnwindSafe(|| {
            monitor.go_on().and_then(|()| worker.batch(&batch, &mut used, monitor))
        }));
        let (steps, failure) = match result {
            Ok(Ok(steps)) => (Some(steps), None),
            Ok(Err(error)) => (None, Some(Ok(error))),
            Err(panic) => (None, Some(Err(panic))),
        };
        let message = Done { number: batch.number, steps, buffer: batch.buffer };
        let sent = done.send(message);
        match failure {
            None => sent.map_err(|_| EngineError::Stopped)?,
            Some(Ok(error)) => return Err(error),
            Some(Err(panic)) => resume_unwind(panic),
        }
    }
    Ok(used)
}

struct Worker<'a> {
    vault: &'a Vault,
    packer: &'a Packer<'a>,
    sealer: Sealer,
    sealed: Vec<u8>,
}

impl Worker<'_> {
    fn batch(
        &mut self,
        batch: &Batch,
        used: &mut HashSet<PackNumber>,
        monitor: &Monitor,
    ) -> Result<Vec<Step>, EngineError> {
        let keys = &self.vault.keyring.vault;
        let plain = batch.items.iter().filter_map(|item| match item {
            Item::Chunk { start, end } => Some(&batch.buffer[*start..*end]),
            _ => None,
        });
        let chunks: Vec<(ChunkId, &[u8])> =
            plain.map(|plain| (keys.chunk_id(Kind::Data, plain), plain)).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let fresh = self.packer.claim(Kind::Data, &ids, used)?;
        for ((id, plain), fresh) in chunks.iter().zip(fresh) {
            if fresh {
                self.seal(Kind::Data, *id, plain)?;
            }
        }
        Monitor::add(&monitor.bytes_done, chunks.iter().map(|(_, plain)| plain.len() as u64).sum());
        let mut chunks = chunks.into_iter();
        let steps = batch.items.iter().map(|item| match item {
            Item::Chunk { .. } => {
                let (id, plain) = chunks.next().expect("one for each chunk item");
                Step::Chunk { id, length: plain.len() as u32 }
            }
            Item::Hole(length) => Step::Hole(*length),
            Item::Again => Step::Again,
            Item::End(end) => Step::End(end.clone()),
        });
        Ok(steps.collect())
    }

    fn seal(&mut self, kind: Kind, id: ChunkId, plain: &[u8]) -> Result<(), EngineError> {
        seal_chunk(self.vault, self.packer, &mut self.sealer, &mut self.sealed, kind, id, plain)
    }
}

/// Seals one chunk into its lane.
pub(super) fn seal_chunk(
    vault: &Vault,
    packer: &Packer<'_>,
    sealer: &mut Sealer,
    sealed: &mut Vec<u8>,
    kind: Kind,
    id: ChunkId,
    plain: &[u8],
) -> Result<(), EngineError> {
    let lane = packer.lane(kind, id);
    sealed.clear();
    let made = sealer.seal(&vault.keyring.vault, &packer.salt(lane), kind, id, plain, sealed)?;
    packer.push(lane, kind, id, plain.len() as u32, made, sealed)
}
