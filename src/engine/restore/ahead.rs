//! Packs that are not here and that jobs will need are pulled before a worker has to wait for them, so that the lines of
//! those who have them stay busy while what came is written.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::{ChunkId, limit};
use crate::engine::monitor::Monitor;
use crate::engine::pull::PackSource;
use crate::engine::reader::heal_pack;
use crate::engine::vault::Vault;
use crate::store::{PackNumber, PackRow};

/// Packs that were looked at last: jobs that follow each other need the same ones.
const SEEN_MAX: usize = 32;

/// Sees which packs jobs will need. Of the walk.
pub(super) struct Ahead<'a> {
    vault: &'a Vault,
    monitor: &'a Monitor,
    queue: Sender<PackRow>,
    seen: VecDeque<PackNumber>,
}

impl<'a> Ahead<'a> {
    /// What is missing comes out of the other end, for [`pull_all`]. What finds no room there is left to whoever needs it.
    pub(super) fn new(vault: &'a Vault, monitor: &'a Monitor) -> (Self, Receiver<PackRow>) {
        let (queue, rows) = bounded(limit::PACKS_HEALED_MAX);
        (Self { vault, monitor, queue, seen: VecDeque::new() }, rows)
    }

    /// A job that needs these chunks is about to wait for a worker. Costs nothing until something had to be pulled.
    pub(super) fn look(&mut self, chunks: impl Iterator<Item = ChunkId>) {
        if self.monitor.bytes_fetched.load(Ordering::Relaxed) == 0 {
            return;
        }
        let ids: Vec<ChunkId> = chunks.collect();
        // Whoever reads the chunks tells what is wrong with the index.
        let Ok(places) = self.vault.store.lookup_many(&ids) else { return };
        for place in places.into_iter().flatten() {
            if !self.seen.contains(&place.pack) && self.is_settled(place.pack) {
                self.seen.truncate(SEEN_MAX - 1);
                self.seen.push_front(place.pack);
            }
        }
    }

    /// Whether nothing more is to be done about a pack: it is here, or will be pulled.
    fn is_settled(&self, number: PackNumber) -> bool {
        let store = &self.vault.store;
        let Ok(Some(row)) = store.pack_by_number(number) else { return true };
        let is_missing = matches!(store.pack_length(row.id), Ok(None));
        !is_missing || self.queue.try_send(row).is_ok()
    }
}

/// Pulls what is missing until nothing more will be. Several threads may; `Vault::healing` bounds them.
pub(super) fn pull_all(vault: &Vault, source: &dyn PackSource, monitor: &Monitor, rows: &Receiver<PackRow>) {
    for row in rows {
        // Whoever needs it tries again, and tells.
        if let Err(error) = heal_pack(vault, source, monitor, row.id, row.bytes) {
            tracing::debug!(target: "restore", pack = %row.id.short(), %error, "not pulled ahead");
        }
    }
}
