//! From sealed chunks to published, indexed packs: lanes that fill, one thread that writes.
//!
//! Order of durability: pack file, then index rows. A chunk is *claimed* from the moment someone decides to seal it
//! until its row is committed, so that nobody seals it twice.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::base::{ChunkId, limit, meter};
use crate::crypto::{Kind, Salt, SealedAs};
use crate::engine::budget::DATA_LANES;
use crate::engine::error::EngineError;
use crate::engine::open_pack::{FinishedPack, OpenPack};
use crate::engine::signing::publish_checkpoint;
use crate::engine::vault::{Vault, VaultOptions};
use crate::pack::pack_sizes_for;
use crate::snapshot::PeerAddress;
use crate::store::{NewPack, PackNumber};

/// The last lane takes tree chunks, which go to packs of their own.
const TREE_LANE: usize = DATA_LANES;

/// Heads in the middle of a long backup: holders pull only what a head lists, and need not wait for its end.
#[derive(Clone, Copy)]
pub(super) struct Checkpoint<'a> {
    /// How often; never when absent.
    pub(super) every: Option<Duration>,
    pub(super) holders: &'a [PeerAddress],
}

/// Where sealed chunks go.
pub(super) struct Packer<'a> {
    vault: &'a Vault,
    lanes: Vec<Mutex<OpenPack>>,
    /// `None` once everything is packed: the writer then ends.
    finished: Mutex<Option<Sender<FinishedPack>>>,
    claimed: Mutex<HashSet<ChunkId>>,
    /// How this backup writes, whatever is configured meanwhile.
    pub(super) options: Arc<VaultOptions>,
    /// A lane is written out whenever it has this many bytes in memory.
    lane_bytes: usize,
    /// Plaintext bytes sealed.
    pub(super) added: AtomicU64,
    /// Bytes of packs published.
    pub(super) packed: AtomicU64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        vault: &'a Vault,
        options: Arc<VaultOptions>,
        lane_bytes: usize,
        finished: Sender<FinishedPack>,
    ) -> Self {
        let epoch = vault.keyring.vault.newest_epoch();
        Self {
            options,
            lane_bytes,
            vault,
            lanes: (0..=DATA_LANES).map(|_| Mutex::new(OpenPack::new(epoch))).collect(),
            finished: Mutex::new(Some(finished)),
            claimed: Mutex::new(HashSet::new()),
            added: AtomicU64::new(0),
            packed: AtomicU64::new(0),
        }
    }

    fn lane_anew(&self) -> OpenPack {
        OpenPack::new(self.vault.keyring.vault.newest_epoch())
    }

    /// Of `ids`, those that the caller must seal now; pack numbers of the others are added to `used`.
    ///
    /// Claims first and looks up then: a row committed in between is seen, so no chunk is sealed twice.
    pub(super) fn claim(
        &self,
        kind: Kind,
        ids: &[ChunkId],
        used: &mut HashSet<PackNumber>,
    ) -> Result<Vec<bool>, EngineError> {
        if !self.options.deduplicate && kind == Kind::Data {
            // A known chunk keeps its place in the index and is read from there, so that pack is needed as well.
            used.extend(self.vault.store.lookup_to_keep(ids)?.into_iter().flatten().map(|place| place.pack));
            return Ok(vec![true; ids.len()]);
        }
        let mut fresh: Vec<bool> = {
            let mut claimed = self.claimed.lock().expect("no panic while held");
            ids.iter().map(|id| claimed.insert(*id)).collect()
        };
        let asked: Vec<ChunkId> =
            ids.iter().zip(&fresh).filter(|(_, fresh)| **fresh).map(|(id, _)| *id).collect();
        let places = self.vault.store.lookup_to_keep(&asked)?;
        let mut places = places.into_iter();
        let mut known = Vec::new();
        for (id, fresh) in ids.iter().zip(&mut fresh).filter(|(_, fresh)| **fresh) {
            if let Some(place) = places.next().flatten() {
                used.insert(place.pack);
                known.push(*id);
                *fresh = false;
            }
        }
        if !known.is_empty() {
            let mut claimed = self.claimed.lock().expect("no panic while held");
            known.iter().for_each(|id| {
                claimed.remove(id);
            });
        }
        meter::DEDUPLICATED_CHUNKS.add(fresh.iter().filter(|fresh| !**fresh).count() as u64);
        Ok(fresh)
    }

    /// The lane and salt for a chunk.
    pub(super) fn lane(&self, kind: Kind, id: ChunkId) -> usize {
        if kind == Kind::Tree { TREE_LANE } else { usize::from(id.as_bytes()[31]) % DATA_LANES }
    }

    /// The salt to seal with for a lane. A pack that is full meanwhile makes no difference: the salt only has to
    /// be random.
    pub(super) fn salt(&self, lane: usize) -> Salt {
        self.lanes[lane].lock().expect("no panic while held").salt()
    }

    /// Puts a sealed chunk into its lane; a full pack is finished by the caller's thread and handed to the writer.
    pub(super) fn push(
        &self,
        lane: usize,
        kind: Kind,
        id: ChunkId,
        length: u32,
        sealed_as: SealedAs,
        sealed: &[u8],
    ) -> Result<(), EngineError> {
        self.added.fetch_add(u64::from(length), Ordering::Relaxed);
        let full = {
            let mut open = self.lanes[lane].lock().expect("no panic while held");
            let full = open
                .is_full_for(sealed.len(), limit::PACK_BYTES_MAX)
                .then(|| std::mem::replace(&mut *open, self.lane_anew()));
            open.push(kind, sealed_as.codec, id, length, sealed);
            open.drain(&self.vault.store, self.lane_bytes)?;
            full
        };
        full.map_or(Ok(()), |lane| self.finish(lane))
    }

    /// Writes the end of a pack and hands it to the writer. Whoever fills a pack waits here for the disk.
    fn finish(&self, lane: OpenPack) -> Result<(), EngineError> {
        let pack = lane.finish(&self.vault.store, &self.vault.keyring.vault)?;
        self.packed.fetch_add(pack.bytes(), Ordering::Relaxed);
        let finished = self.finished.lock().expect("no panic while held").clone();
        finished.and_then(|finished| finished.send(pack).ok()).ok_or(EngineError::Stopped)
    }

    /// Lets the writer end once it has written what it was handed.
    pub(super) fn close(&self) {
        self.finished.lock().expect("no panic while held").take();
    }

    /// Packs what is left: the data lanes' rests together, so that little is padded.
    pub(super) fn flush(&self) -> Result<(), EngineError> {
        let take = |lane: usize| {
            std::mem::replace(&mut *self.lanes[lane].lock().expect("no panic while held"), self.lane_anew())
        };
        self.repack((0..DATA_LANES).map(take).collect())?;
        self.repack(vec![take(TREE_LANE)])
    }

    fn repack(&self, rests: Vec<OpenPack>) -> Result<(), EngineError> {
        let filled = rests.iter().filter(|rest| !rest.is_empty()).map(OpenPack::filled).sum();
        let mut sizes = pack_sizes_for(filled).into_iter();
        let mut size = sizes.next().unwrap_or(limit::PACK_BYTES_MAX);
        let mut open = self.lane_anew();
        let mut buffer = Vec::new();
        for rest in &rests {
            for entry in rest.entries() {
                let sealed = rest.sealed(entry, &mut buffer)?;
                if open.is_full_for(sealed.len(), size) {
                    self.finish(std::mem::replace(&mut open, self.lane_anew()))?;
                    size = sizes.next().unwrap_or(limit::PACK_BYTES_MAX);
                }
                open.push(entry.kind, entry.codec, entry.id, entry.length, sealed);
                open.drain(&self.vault.store, self.lane_bytes)?;
            }
        }
        if open.is_empty() { Ok(()) } else { self.finish(open) }
    }

    /// The writer's loop: publishes each pack, commits index rows in batches. Returns the numbers of all packs.
    ///
    /// What was published before an error stays, with its rows, so that the next run continues there.
    pub(super) fn write(
        &self,
        packs: &Receiver<FinishedPack>,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<HashSet<PackNumber>, EngineError> {
        let mut numbers = HashSet::new();
        let mut waiting: Vec<NewPack> = Vec::new();
        let mut result = Ok(());
        let mut last = self.vault.clock.now();
        for pack in packs {
            match pack.publish(&self.vault.store) {
                Ok(pack) => waiting.push(pack),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            let now = self.vault.clock.now();
            let due = checkpoint.every.is_some_and(|every| now.since(last) >= every);
            let rows: usize = waiting.iter().map(|pack| pack.entries.len()).sum();
            if due || rows >= limit::INDEX_ROWS_PENDING_MAX {
                self.commit(&mut waiting, &mut numbers)?;
            }
            if due {
                publish_checkpoint(self.vault, checkpoint.holders)?;
                last = now;
            }
        }
        let committed = self.commit(&mut waiting, &mut numbers);
        result.and(committed).map(|()| numbers)
    }

    fn commit(
        &self,
        waiting: &mut Vec<NewPack>,
        numbers: &mut HashSet<PackNumber>,
    ) -> Result<(), EngineError> {
        if waiting.is_empty() {
            return Ok(());
        }
        numbers.extend(self.vault.store.index_packs(waiting)?.iter().map(|pack| pack.number));
        let mut claimed = self.claimed.lock().expect("no panic while held");
        for entry in waiting.iter().flat_map(|pack| &pack.entries) {
            claimed.remove(&entry.id);
        }
        waiting.clear();
        Ok(())
    }
}
